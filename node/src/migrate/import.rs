//! The target's side: a connection that brings slots.

use crate::env::Env;
use crate::host::HostCx;
use engine::{Error, HostOutcome};
use migration::Tag;
use migration::target::Arrivals;
use proto::Epoch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The connections that bring slots. Those of a former attempt may still hold commands that came late: they are fenced
/// off when the next attempt begins, before it purges (S6).
#[derive(Default)]
pub struct Arriving {
    attempts: Arrivals,
    /// By move: false fences the connection of its latest attempt off.
    connections: BTreeMap<u64, Arc<AtomicBool>>,
}

impl Arriving {
    /// `None`: a later attempt has begun.
    fn begin(&mut self, tag: Tag) -> Option<Arc<AtomicBool>> {
        if !self.attempts.admit(tag) {
            return None;
        }
        let connection = Arc::new(AtomicBool::new(true));
        if let Some(former) = self.connections.insert(tag.id, connection.clone()) {
            former.store(false, Ordering::Release);
        }
        Some(connection)
    }

    /// Ends what came for moves that are over.
    pub fn retain(&mut self, is_listed: impl Fn(u64) -> bool) {
        self.attempts.retain(&is_listed);
        self.connections.retain(|id, connection| {
            let stays = is_listed(*id);
            connection.store(stays, Ordering::Release);
            stays
        });
    }
}

/// CLUSTER SYNCSLOTS BEGIN id epoch-from epoch-to attempt: what follows on this connection are writes to the move's slots.
/// BEGIN removes what is left of them here (S5); being writes, removal and data are logged and replicated.
pub fn sync_slots<E: Env>(cx: &mut HostCx<E>) -> Result<HostOutcome, Error> {
    if !cx.is_word(2, "BEGIN") || cx.args.len() != 7 {
        return Err(Error::Syntax);
    }
    let number = |i: usize| engine::number::parse_u64(cx.args[i]).ok_or(Error::NotInteger);
    let (id, from, to) = (number(3)?, number(4)?, number(5)?);
    let attempt = u32::try_from(number(6)?).map_err(|_| Error::NotInteger)?;
    let tag = Tag { id, epoch_from: Epoch(from), epoch_to: Epoch(to), attempt };
    let shared = cx.shared().clone();
    let topology = shared.topology.load_full().ok_or(Error::text("CLUSTERDOWN The cluster is down"))?;
    let view = cx.host.setting.view.ok_or(Error::text("CLUSTERDOWN The cluster is down"))?;
    // The source may have heard of the move first.
    let mv = topology.find_move(id).ok_or(Error::text("TRYAGAIN No such slot migration here yet"))?;
    let epoch = |shard| topology.shard(shard).map(|s| s.epoch.0);
    // S6: both sides must mean the same tenures.
    if epoch(mv.from) != Some(from) || epoch(mv.to) != Some(to) {
        return Err(Error::text("TRYAGAIN The slot migration belongs to other tenures"));
    }
    let is_target = topology.shard(mv.to).is_some_and(|s| s.primary.node == view.myself);
    if !is_target || !cx.host.setting.status.has_lease {
        return Err(Error::text("CLUSTERDOWN This node does not serve the target of the slot migration"));
    }
    let Some(connection) = shared.migrations.arriving().begin(tag) else {
        return Err(Error::text("TRYAGAIN A later attempt of the slot migration has begun"));
    };
    const KEYS_PER_STEP: usize = 1000;
    for slot in mv.slots.iter().flat_map(|r| r.iter()) {
        // Commands look at the fence under the slot's lock: what is not refused by now is purged.
        drop(shared.engine.keyspace.lock_wait(slot));
        while engine::purge::purge(&shared.engine, slot, KEYS_PER_STEP) > 0 {}
    }
    cx.session.importing = Some(connection);
    // S5: the reply, which makes BEGIN safe, waits for the purge like that of a write.
    cx.session.written = shared.feed.end().0;
    cx.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_attempt_and_the_end_of_the_move_fence_a_connection_off() {
        let tag = Tag { id: 7, epoch_from: Epoch(1), epoch_to: Epoch(2), attempt: 0 };
        let is_open = |c: &Arc<AtomicBool>| c.load(Ordering::Acquire);
        let mut arriving = Arriving::default();
        let first = arriving.begin(tag).unwrap();
        let second = arriving.begin(Tag { attempt: 1, ..tag }).unwrap();
        assert!(!is_open(&first) && is_open(&second));
        assert!(arriving.begin(tag).is_none() && is_open(&second), "late");
        arriving.retain(|id| id == 7);
        assert!(is_open(&second));
        arriving.retain(|_| false);
        assert!(!is_open(&second));
    }
}
