//! The replica's side: what to do with a copy whose bytes are not the primary's (D10), and whose stream to take (D15).

use super::ShardState;
use proto::{Epoch, Generation, NodeId, Offset};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FollowerEffect {
    /// End the data generation, durably, and only then throw the copy away and sync anew.
    DiscardAndSync,
}

/// See the module's head.
#[derive(Debug)]
pub struct Follower {
    me: NodeId,
    /// The tenure in which our log was found to have diverged.
    diverged: Option<Epoch>,
}

impl Follower {
    pub fn new(me: NodeId) -> Follower {
        Follower { me, diverged: None }
    }
    /// Whether acknowledgements must say that our bytes are other ones.
    pub fn is_diverged(&self) -> bool {
        self.diverged.is_some()
    }

    /// D15: a stream is taken from the primary and the epoch of our own topology only.
    pub fn may_take(&self, shard: &ShardState, from: NodeId, tenure: Epoch) -> bool {
        shard.primary == from && shard.epoch == tenure && from != self.me && !self.is_diverged()
    }

    /// The primary of this tenure has judged our log to be no prefix of its own.
    pub fn on_diverged(
        &mut self,
        shard: &ShardState,
        generation: Generation,
        tenure: Epoch,
        end: Offset,
        out: &mut Vec<FollowerEffect>,
    ) {
        if shard.epoch == tenure && end > Offset(0) {
            self.diverged = Some(tenure);
            self.on_topology(shard, generation, out);
        }
    }

    /// A version was adopted. D10: the copy may be the last full one as long as the set lists it.
    pub fn on_topology(&mut self, shard: &ShardState, generation: Generation, out: &mut Vec<FollowerEffect>) {
        let Some(tenure) = self.diverged else { return };
        if shard.epoch != tenure || shard.primary == self.me {
            // Another primary judges anew; it may be this very node.
            self.diverged = None;
        } else if !shard.strict || !shard.in_sync.contains(&(self.me, generation)) {
            self.diverged = None;
            out.push(FollowerEffect::DiscardAndSync);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId([2; 20]);
    const G: Generation = Generation(3);

    fn shard(epoch: u64, is_listed: bool) -> ShardState {
        ShardState {
            epoch: Epoch(epoch),
            primary: NodeId([1; 20]),
            in_sync: if is_listed { vec![(ME, G)] } else { Vec::new() },
            strict: true,
            ..ShardState::default()
        }
    }

    #[test]
    fn diverged_member_keeps_copy_until_dropped() {
        let (mut follower, mut out) = (Follower::new(ME), Vec::new());
        follower.on_diverged(&shard(5, true), G, Epoch(5), Offset(9), &mut out);
        assert_eq!((out.len(), follower.is_diverged()), (0, true));
        follower.on_topology(&shard(5, false), G, &mut out);
        assert_eq!((out, follower.is_diverged()), (vec![FollowerEffect::DiscardAndSync], false));
    }

    #[test]
    fn another_tenure_judges_anew() {
        let (mut follower, mut out) = (Follower::new(ME), Vec::new());
        follower.on_diverged(&shard(5, true), G, Epoch(5), Offset(9), &mut out);
        follower.on_topology(&shard(7, false), G, &mut out);
        assert_eq!((out.len(), follower.is_diverged()), (0, false));
        follower.on_diverged(&shard(7, false), G, Epoch(6), Offset(9), &mut out);
        assert!(out.is_empty(), "the word of a former primary");
    }

    #[test]
    fn d15_stream_of_our_own_primary_and_epoch_only() {
        let follower = Follower::new(ME);
        assert!(follower.may_take(&shard(5, true), NodeId([1; 20]), Epoch(5)));
        assert!(!follower.may_take(&shard(5, true), NodeId([1; 20]), Epoch(4)));
        assert!(!follower.may_take(&shard(5, true), NodeId([3; 20]), Epoch(5)));
    }
}
