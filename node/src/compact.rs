//! Gives memory back that deleting left scattered: spans of the slab with few objects are emptied by moving these, slot by
//! slot, under the slot's lock, and go back to the kernel.
//!
//! Whole spans that are free and stay so go back by the way, within a second or two.
//!
//! Runs on the control thread in short slices, when more than an eighth of the spans' memory is free, and at most for
//! about a fifth of the time. What stands inside big collections stays where it is.

use crate::env::Env;
use crate::shared::Shared;
use proto::Slot;
use std::sync::Arc;
use std::time::Duration;
use storage::slab;

/// Between looks at how much is free.
const INTERVAL: Duration = Duration::from_secs(1);
/// Segments (of at most 62 keys) moved before others have their turn: some 100 us.
const SLICE_SEGMENTS: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);

/// Compacts whenever it pays, until the node stops.
pub async fn run<E: Env>(shared: Arc<Shared<E>>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        slab::give_back_idle();
        if shared.env.is_memory_sparse() && slab::begin_compaction() > 0 {
            walk(&shared).await;
            slab::end_compaction();
        }
    }
}

async fn walk<E: Env>(shared: &Shared<E>) {
    let keyspace = &shared.engine.keyspace;
    let mut left = SLICE_SEGMENTS;
    for db in 0..keyspace.databases() {
        let mut next = keyspace.next_occupied(db, Slot::default());
        while let Some(slot) = next {
            let mut cursor = 0;
            loop {
                // What a script holds for long is left as it is.
                let Some(mut guard) = keyspace.lock_soon(slot) else { break };
                cursor = guard.db_mut(db).leave_spans(cursor);
                drop(guard);
                left -= 1;
                if left == 0 {
                    left = SLICE_SEGMENTS;
                    tokio::time::sleep(PAUSE).await;
                }
                if cursor == 0 {
                    break;
                }
            }
            next = Slot::new(slot.number() + 1).and_then(|slot| keyspace.next_occupied(db, slot));
        }
    }
}
