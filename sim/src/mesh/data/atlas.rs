//! Which faults would destroy the last copy of what was acknowledged: those are not struck, for then nothing that a
//! cluster could do would save it. The atlas sees decisions that are still under way (pitfall 10).

use super::super::world::World;
use super::*;
use gossip::DataClass;

impl World {
    /// Whether node `x` may lose what it holds, be it the whole copy or its volatile part.
    pub(in super::super) fn may_lose(&self, x: usize) -> bool {
        let id = self.nodes[x].id;
        self.topologies_in_sight().iter().all(|topo| {
            let Some(shard) = topo.shard_of(id) else { return true };
            if !shard.contains_in_sync(id, self.nodes[x].generation_on_record()) {
                return true;
            }
            shard.in_sync.iter().any(|copy| {
                copy.node != id
                    && self.holds(copy.node, copy.generation)
                    && !self.is_being_dropped(shard.id, copy.node)
            })
        })
    }

    /// Memory class: a copy lives in its process; fsync class: on its disk.
    fn holds(&self, node: NodeId, generation: Generation) -> bool {
        let Some(node) = self.nodes.iter().find(|n| n.id == node) else { return false };
        let is_up = self.plan.data_class == DataClass::Fsync || node.core.is_some();
        is_up
            && !node.is_copy_lost
            && node.discard_pending.is_none()
            && node.generation_on_record() == generation
    }

    /// The newest version, and every value that somebody has voted for.
    fn topologies_in_sight(&self) -> Vec<std::sync::Arc<Topology>> {
        let live = self.nodes.iter().filter_map(|n| n.core.as_ref()).map(|c| c.record());
        let disks = self.nodes.iter().filter_map(|n| n.disk.as_ref());
        let records: Vec<&gossip::Record> = live.chain(disks).collect();
        let Some(newest) = records.iter().map(|r| r.topology.clone()).max_by_key(|t| t.order()) else {
            return Vec::new();
        };
        let order = newest.order();
        let votes = records.iter().filter_map(|r| r.accepted.as_ref()).map(|(_, t)| t.clone());
        let mut seen = vec![newest];
        seen.extend(votes.filter(|t| t.order() > order));
        seen
    }

    fn is_being_dropped(&self, shard: ShardId, node: NodeId) -> bool {
        // Dead once rev has moved: Drop is a compare-and-set (D5).
        let newest =
            self.nodes.iter().filter_map(|n| n.core.as_ref()).map(|c| c.topology()).max_by_key(|t| t.order());
        let rev = newest.and_then(|t| t.shard(shard)).map(|s| s.rev);
        rev.is_some_and(|rev| self.drops_in_flight.get(&(shard, node)) == Some(&rev))
    }
}
