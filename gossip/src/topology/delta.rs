//! The difference between a version and the one after it, which is what travels.
//!
//! Invariant: applied to the value whose hash it names, a delta gives the value whose hash it names.

use super::{Ballot, Departed, Hint, Member, Move, Seal, Shard, Topology, Voter};
use proto::{Epoch, NodeId, ShardId, SlotRange};
use rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Delta {
    pub parent: Epoch,
    pub parent_hash: u64,
    pub hash: u64,
    pub ver: Epoch,
    pub cfg: Epoch,
    pub by: Ballot,
    pub voters: Option<Vec<Voter>>,
    pub members_set: Vec<Member>,
    pub members_gone: Vec<NodeId>,
    pub shards_set: Vec<Shard>,
    pub shards_gone: Vec<ShardId>,
    pub slots: Vec<(SlotRange, Option<ShardId>)>,
    pub moves: Option<Vec<Move>>,
    pub hints: Option<Vec<Hint>>,
    pub settings: Option<Vec<(String, String)>>,
    pub departed: Option<Vec<Departed>>,
    pub seal: Option<Option<Seal>>,
}

impl Delta {
    pub fn between(old: &Topology, old_hash: u64, new: &Topology) -> Delta {
        Delta {
            parent: old.ver,
            parent_hash: old_hash,
            hash: new.hash(),
            ver: new.ver,
            cfg: new.cfg,
            by: new.by,
            voters: changed(&old.voters, &new.voters),
            members_set: new.members.iter().filter(|m| old.member(m.id) != Some(*m)).cloned().collect(),
            members_gone: gone(old.members.iter().map(|m| m.id), |id| new.member(id).is_some()),
            shards_set: new.shards.iter().filter(|s| old.shard(s.id) != Some(*s)).cloned().collect(),
            shards_gone: gone(old.shards.iter().map(|s| s.id), |id| new.shard(id).is_some()),
            slots: slot_changes(old, new),
            moves: changed(&old.moves, &new.moves),
            hints: changed(&old.hints, &new.hints),
            settings: changed(&old.settings, &new.settings),
            departed: changed(&old.departed, &new.departed),
            seal: changed(&old.seal, &new.seal),
        }
    }

    /// `None` when this is no delta to `old`, or the result is not what it claims to be.
    pub fn apply(&self, old: &Topology, old_hash: u64) -> Option<Topology> {
        if self.parent != old.ver || self.parent_hash != old_hash || self.ver <= old.ver {
            return None;
        }
        let mut new = old.clone();
        (new.ver, new.cfg, new.by) = (self.ver, self.cfg, self.by);
        set(&mut new.voters, &self.voters);
        new.members.retain(|m| !self.members_gone.contains(&m.id));
        self.members_set.iter().for_each(|m| new.insert_member(m.clone()));
        new.shards.retain(|s| !self.shards_gone.contains(&s.id));
        self.shards_set.iter().for_each(|s| new.insert_shard(s.clone()));
        for (range, shard) in &self.slots {
            if range.first > range.last || range.last.index() >= proto::Slot::COUNT {
                return None;
            }
            new.assign(&[*range], *shard);
        }
        set(&mut new.moves, &self.moves);
        set(&mut new.hints, &self.hints);
        set(&mut new.settings, &self.settings);
        set(&mut new.departed, &self.departed);
        set(&mut new.seal, &self.seal);
        (new.check().is_ok() && new.hash() == self.hash).then_some(new)
    }
}

fn changed<T: Clone + PartialEq>(old: &T, new: &T) -> Option<T> {
    (old != new).then(|| new.clone())
}

fn set<T: Clone>(field: &mut T, to: &Option<T>) {
    if let Some(value) = to {
        field.clone_from(value);
    }
}

fn gone<I: Copy>(ids: impl Iterator<Item = I>, remains: impl Fn(I) -> bool) -> Vec<I> {
    ids.filter(|id| !remains(*id)).collect()
}

/// Ranges whose owner differs: what was freed first, then what was given.
fn slot_changes(old: &Topology, new: &Topology) -> Vec<(SlotRange, Option<ShardId>)> {
    let lost = old.owners.iter().filter(|o| !new.owners.contains(o)).map(|o| (o.range, None));
    let won = new.owners.iter().filter(|o| !old.owners.contains(o)).map(|o| (o.range, Some(o.shard)));
    lost.chain(won).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cluster, member, node, primary, shard_id};
    use super::*;
    use proto::Slot;

    fn changed_topology(old: &Topology) -> Topology {
        let mut new = old.clone();
        new.ver = Epoch(7);
        new.cfg = Epoch(7);
        new.voters.pop();
        new.insert_member(member(9));
        new.leave_shard(node(2), Epoch(7));
        new.shards[1].primary = primary(4, 3);
        let range = SlotRange::new(Slot::new(100).unwrap(), Slot::new(9000).unwrap()).unwrap();
        new.assign(&[range], Some(shard_id(1)));
        new.settings.push(("maxmemory".into(), "1gb".into()));
        new.seal = Some(Seal { join: 1, ip: "::1".into(), bus_port: 1 });
        new
    }

    #[test]
    fn delta_round_trip() {
        let old = cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]);
        let new = changed_topology(&old);
        let delta = Delta::between(&old, old.hash(), &new);
        assert_eq!(delta.apply(&old, old.hash()), Some(new.clone()));
        let back = Topology { ver: Epoch(8), ..old.clone() };
        assert_eq!(Delta::between(&new, new.hash(), &back).apply(&new, new.hash()), Some(back));
    }

    #[test]
    fn a_delta_to_another_value_is_refused() {
        let old = cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]);
        let new = changed_topology(&old);
        let mut delta = Delta::between(&old, old.hash(), &new);
        let mut twin = old.clone();
        twin.by.round = 77;
        assert_eq!(delta.apply(&twin, twin.hash()), None);
        delta.slots.clear();
        assert_eq!(delta.apply(&old, old.hash()), None);
    }
}
