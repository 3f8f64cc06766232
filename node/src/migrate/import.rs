//! The target's side: a connection that brings slots.

use crate::env::Env;
use crate::host::HostCx;
use engine::{Error, HostOutcome};

/// CLUSTER SYNCSLOTS BEGIN id epoch-from epoch-to: what follows on this connection are writes to the move's slots.
/// BEGIN removes what is left of them here (S5); being writes, removal and data are logged and replicated.
pub fn sync_slots<E: Env>(cx: &mut HostCx<E>) -> Result<HostOutcome, Error> {
    if !cx.is_word(2, "BEGIN") || cx.args.len() != 6 {
        return Err(Error::Syntax);
    }
    let number = |i: usize| engine::number::parse_u64(cx.args[i]).ok_or(Error::NotInteger);
    let (id, from, to) = (number(3)?, number(4)?, number(5)?);
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
    const KEYS_PER_STEP: usize = 1000;
    for slot in mv.slots.iter().flat_map(|r| r.iter()) {
        while engine::purge::purge(&shared.engine, slot, KEYS_PER_STEP) > 0 {}
    }
    cx.session.is_importing = true;
    cx.ok()
}
