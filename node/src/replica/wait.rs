//! WAIT: a client waits until enough replicas have what it wrote.

use super::append;
use crate::env::Env;
use crate::mail::Letter;
use crate::shared::Shared;
use proto::Offset;
use replication::acks::Finished;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Answers at once with the number of replicas that have everything before `offset` if they are enough or the client
/// may not wait; else asks them to acknowledge and answers `None`: the reply comes as a letter.
/// `timeout_ms` 0: waits for ever.
pub fn wait_for_replicas<E: Env>(
    shared: &Shared<E>,
    client: u64,
    offset: Offset,
    needed: usize,
    timeout_ms: u64,
    may_wait: bool,
) -> Option<usize> {
    let mut state = shared.replication.state();
    let count = state.acks.count(offset);
    if count >= needed || !may_wait {
        return Some(count);
    }
    let now = shared.env.now().mono;
    let deadline = (timeout_ms > 0).then(|| now + Duration::from_millis(timeout_ms));
    state.acks.wait(client, offset, needed, deadline);
    drop(state);
    shared.replication.wait_added.notify_one();
    ask_for_acks(shared);
    None
}

/// Asks all replicas to acknowledge what they have, sooner than they would by themselves. Not during a hand-over: its
/// candidate must reach the feed's end, which therefore stands still.
pub fn ask_for_acks<E: Env>(shared: &Shared<E>) {
    if !shared.state.is_paused.load(Ordering::Relaxed) {
        ask_for_last_acks(shared);
    }
}

/// As [`ask_for_acks`], at the beginning of a hand-over.
pub fn ask_for_last_acks<E: Env>(shared: &Shared<E>) {
    if !shared.replication.state().replicas.is_empty() {
        append(shared, &[b"REPLCONF", b"GETACK", b"*"]);
    }
}

/// Tells clients how many replicas have what they wrote.
pub(super) fn answer<E: Env>(shared: &Shared<E>, finished: Vec<Finished>) {
    for Finished { client, count } in finished {
        let bytes = format!(":{count}\r\n").into_bytes();
        shared.post_to(client, Letter::Reply { client, bytes, written: 0 });
    }
}

/// The node is no primary any more: nobody will acknowledge.
pub(super) fn end_all<E: Env>(shared: &Shared<E>) {
    const TEXT: &[u8] =
        b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";
    let clients = shared.replication.state().acks.take_waits();
    for client in clients {
        shared.post_to(client, Letter::Reply { client, bytes: TEXT.to_vec(), written: 0 });
    }
}
