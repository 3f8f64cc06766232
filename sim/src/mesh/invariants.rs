//! What must hold after every step, and what must hold once the faults are over.

use super::node::SimNode;
use gossip::Topology;
use proto::{Epoch, ShardId};
use std::collections::BTreeMap;

/// What has been seen over the whole run.
#[derive(Default)]
pub struct Ledger {
    /// A1..A8: one value per version.
    values: BTreeMap<(u64, Epoch), u64>,
    /// At most one process per (shard, epoch), over all time.
    tenures: BTreeMap<(ShardId, Epoch), gossip::topology::Primary>,
    pub newest: Option<(u64, Epoch)>,
}

impl Ledger {
    /// Checks a version that a node has taken up. True when nobody had it before.
    pub fn on_adopted(&mut self, topo: &Topology) -> Result<bool, String> {
        topo.check().map_err(|e| format!("unsound topology: {e}"))?;
        let hash = topo.hash();
        let is_new = match self.values.get(&topo.order()) {
            None => {
                self.values.insert(topo.order(), hash);
                true
            }
            Some(known) if *known == hash => false,
            Some(_) => return Err(format!("two values for version {:?}", topo.order())),
        };
        for shard in topo.shards.iter().filter(|_| is_new) {
            let known = *self.tenures.entry((shard.id, shard.epoch)).or_insert(shard.primary);
            if known != shard.primary {
                return Err(format!("two primaries of {:?} at epoch {}", shard.id, shard.epoch));
            }
        }
        self.newest = self.newest.max(Some(topo.order()));
        Ok(is_new)
    }
}

/// W1..W13: at no moment of true time two processes may serve one shard, or one slot.
pub fn one_server(nodes: &[SimNode], stepped: usize, now: u64) -> Result<(), String> {
    if !nodes[stepped].is_lease_valid(now) {
        return Ok(());
    }
    let mine = nodes[stepped].core.as_ref().and_then(|c| c.tenure());
    for other in nodes.iter().filter(|n| n.index != stepped && n.is_lease_valid(now)) {
        let theirs = other.core.as_ref().and_then(|c| c.tenure());
        if theirs.map(|t| t.0) == mine.map(|t| t.0) {
            return Err(format!(
                "two lease-valid primaries: {stepped} {mine:?} and {} {theirs:?}",
                other.index
            ));
        }
    }
    Ok(())
}

/// Versions, boots and ballots on disk never go back.
pub fn disk_is_monotonic(node: &SimNode, record: &gossip::Record) -> Result<(), String> {
    let (lineage, ver) = record.topology.order();
    let old = node.disk_order;
    if (lineage, ver) < (old.0, old.1) || record.boot < old.2 {
        return Err(format!(
            "disk of {} went back from {old:?} to {:?} {}",
            node.index,
            (lineage, ver),
            record.boot
        ));
    }
    Ok(())
}

/// After the calm: everybody agrees, somebody leads, every shard is served.
pub fn healed(nodes: &[SimNode], now: u64) -> Result<(), String> {
    let newest = nodes.iter().filter_map(|n| n.core.as_ref()).map(|c| c.topology()).max_by_key(|t| t.order());
    let Some(topo) = newest else { return Err("nobody lives".into()) };
    for node in nodes {
        let core = node.core.as_ref().ok_or(format!("{} is down", node.index))?;
        if core.topology().order() != topo.order() {
            return Err(format!(
                "{} is at {:?}, not {:?}",
                node.index,
                core.topology().order(),
                topo.order()
            ));
        }
    }
    if nodes.iter().filter(|n| n.core.as_ref().is_some_and(|c| c.is_leader())).count() != 1 {
        return Err("not exactly one leader".into());
    }
    for shard in &topo.shards {
        let serving = nodes
            .iter()
            .filter(|n| n.is_lease_valid(now))
            .filter(|n| n.core.as_ref().and_then(|c| c.tenure()) == Some((shard.id, shard.epoch)));
        if serving.count() != 1 {
            return Err(format!("shard {:?} is not served: {:?}", shard.id, shard));
        }
    }
    Ok(())
}

/// After the calm: sets are complete and no move is left over (D, S).
pub fn data_healed(nodes: &[SimNode]) -> Result<(), String> {
    let Some(topo) =
        nodes.iter().filter_map(|n| n.core.as_ref()).map(|c| c.topology()).max_by_key(|t| t.order())
    else {
        return Err("nobody lives".into());
    };
    for shard in &topo.shards {
        for member in &shard.members {
            let generation = nodes.iter().find(|n| n.id == *member).map(|n| n.generation_on_record());
            if !generation.is_some_and(|g| shard.contains_in_sync(*member, g)) {
                return Err(format!("{member:?} {generation:?} is not in the set of {shard:?}"));
            }
        }
    }
    if !topo.moves.is_empty() {
        return Err(format!("moves left over: {:?}", topo.moves));
    }
    Ok(())
}
