//! Slot owners as ranges: sorted, disjoint, and as few as possible.

use super::Topology;
use proto::{ShardId, Slot, SlotRange};
use rkyv::{Archive, Deserialize, Serialize};

/// Slots of one shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Owned {
    pub range: SlotRange,
    pub shard: ShardId,
}

impl Topology {
    pub fn owner(&self, slot: Slot) -> Option<ShardId> {
        let at = self.owners.partition_point(|o| o.range.last < slot);
        self.owners.get(at).filter(|o| o.range.contains(slot)).map(|o| o.shard)
    }

    pub fn slots_of(&self, shard: ShardId) -> Vec<SlotRange> {
        self.owners.iter().filter(|o| o.shard == shard).map(|o| o.range).collect()
    }
    pub fn has_slots(&self, shard: ShardId) -> bool {
        self.owners.iter().any(|o| o.shard == shard)
    }
    pub fn slots_assigned(&self) -> usize {
        self.owners.iter().map(|o| o.range.last.index() - o.range.first.index() + 1).sum()
    }

    /// Gives slots to a shard, or to nobody.
    pub fn assign(&mut self, ranges: &[SlotRange], shard: Option<ShardId>) {
        for range in ranges {
            self.carve(*range);
            if let Some(shard) = shard {
                let at = self.owners.partition_point(|o| o.range.first < range.first);
                self.owners.insert(at, Owned { range: *range, shard });
            }
        }
        self.join_neighbours();
    }

    /// Frees a range, cutting those that reach over its ends.
    fn carve(&mut self, cut: SlotRange) {
        let mut kept = Vec::with_capacity(self.owners.len() + 1);
        for owned in &self.owners {
            let (first, last) = (owned.range.first, owned.range.last);
            if last < cut.first || cut.last < first {
                kept.push(*owned);
                continue;
            }
            if first < cut.first {
                let range = SlotRange { first, last: neighbour(cut.first, -1) };
                kept.push(Owned { range, shard: owned.shard });
            }
            if cut.last < last {
                let range = SlotRange { first: neighbour(cut.last, 1), last };
                kept.push(Owned { range, shard: owned.shard });
            }
        }
        self.owners = kept;
    }

    fn join_neighbours(&mut self) {
        self.owners.dedup_by(|next, prev| {
            let joins = prev.shard == next.shard && prev.range.last.number() + 1 == next.range.first.number();
            if joins {
                prev.range.last = next.range.last;
            }
            joins
        });
    }
}

fn neighbour(slot: Slot, step: i32) -> Slot {
    Slot::new((slot.number() as i32 + step) as u16).expect("a cut lies inside a range")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cluster, shard_id};
    use super::*;

    fn range(first: u16, last: u16) -> SlotRange {
        SlotRange::new(Slot::new(first).unwrap(), Slot::new(last).unwrap()).unwrap()
    }

    #[test]
    fn assign_agrees_with_an_array() {
        let mut topo = cluster(&[&[1], &[2], &[3]], &[1]);
        let mut model: Vec<Option<ShardId>> = Slot::all().map(|s| topo.owner(s)).collect();
        let mut x = 12345u64;
        for _ in 0..300 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let first = (x >> 20) as u16 % 16384;
            let last = (first + (x >> 40) as u16 % 900).min(16383);
            let shard = match (x >> 60) % 4 {
                0 => None,
                n => Some(shard_id(n as u8)),
            };
            topo.assign(&[range(first, last)], shard);
            model[first as usize..=last as usize].fill(shard);
            topo.check().unwrap();
        }
        assert!(Slot::all().all(|s| topo.owner(s) == model[s.index()]));
        assert_eq!(topo.slots_assigned(), model.iter().flatten().count());
    }

    #[test]
    fn neighbours_of_one_shard_become_one_range() {
        let mut topo = cluster(&[&[1], &[2]], &[1]);
        topo.assign(&[range(0, 16383)], Some(shard_id(2)));
        assert_eq!(topo.owners, [Owned { range: range(0, 16383), shard: shard_id(2) }]);
    }
}
