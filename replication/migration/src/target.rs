//! The target's side of one move: applies items in order through its own stream, and says what of them is safe.
//!
//! Invariant: item 0 is BEGIN, "purge what you hold of these slots", and counts as safe like data (S5).

use super::{Mutation, Tag};
use proto::Offset;
use std::collections::{BTreeMap, VecDeque};

/// Items applied and not yet acknowledged; more are not taken, the source sends them again.
const UNSAFE_MAX: usize = 64 * 1024;

/// The attempts that have begun here, the latest of each move. Fences off what comes late of the others: an item of a
/// former attempt, applied behind the next one's BEGIN, would be taken for a part of it (S6).
#[derive(Debug, Default)]
pub struct Arrivals {
    latest: BTreeMap<u64, Tag>,
}

impl Arrivals {
    /// An attempt shows itself. `false`: a later one has begun, nothing of this one is to be applied.
    pub fn admit(&mut self, tag: Tag) -> bool {
        let latest = self.latest.entry(tag.id).or_insert(tag);
        *latest = tag.max(*latest);
        *latest == tag
    }
    /// Forgets the moves that the topology does not list any more; their items are refused for that.
    pub fn retain(&mut self, is_listed: impl Fn(u64) -> bool) {
        self.latest.retain(|id, _| is_listed(*id));
    }
}

/// See the module's head. One per attempt.
#[derive(Debug)]
pub struct Target {
    tag: Tag,
    applied: u64,
    safe: u64,
    /// Where our stream ends after each item that is not safe yet.
    ends: VecDeque<Offset>,
    mutation: Option<Mutation>,
}

impl Target {
    pub fn new(tag: Tag, mutation: Option<Mutation>) -> Target {
        Target { tag, applied: 0, safe: 0, ends: VecDeque::new(), mutation }
    }
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// Of items numbered from `first` on, how many of the front to skip because they are applied already;
    /// `None` when there is a gap, or no room: nothing is to be applied.
    pub fn skip(&self, tag: Tag, first: u64) -> Option<usize> {
        let has_room = self.ends.len() < UNSAFE_MAX;
        (tag == self.tag && first <= self.applied && has_room).then(|| (self.applied - first) as usize)
    }

    /// The next item was written to our stream, which ends here now.
    pub fn on_applied(&mut self, end: Offset) {
        assert!(self.ends.back().is_none_or(|last| *last <= end), "a stream grows");
        self.applied += 1;
        self.ends.push_back(end);
    }

    /// S4: safe is what our whole in-sync set has acknowledged, adds under way included.
    pub fn on_acknowledged(&mut self, acknowledged: Offset) {
        while self.ends.front().is_some_and(|end| *end <= acknowledged) {
            self.ends.pop_front();
            self.safe += 1;
        }
    }

    /// (applied, safe), for the source.
    pub fn progress(&self) -> (u64, u64) {
        if self.mutation == Some(Mutation::S4) {
            (self.applied, self.applied)
        } else {
            (self.applied, self.safe)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Epoch;

    const TAG: Tag = Tag { id: 7, epoch_from: Epoch(3), epoch_to: Epoch(4), attempt: 0 };

    #[test]
    fn s4_applied_is_not_safe() {
        let mut target = Target::new(TAG, None);
        (1..=3).for_each(|n| target.on_applied(Offset(n * 10)));
        assert_eq!(target.progress(), (3, 0));
        target.on_acknowledged(Offset(20));
        assert_eq!(target.progress(), (3, 2));
    }

    #[test]
    fn items_are_applied_once_and_without_a_gap() {
        let mut target = Target::new(TAG, None);
        assert_eq!(target.skip(TAG, 0), Some(0));
        assert_eq!(target.skip(TAG, 1), None);
        (1..=3).for_each(|n| target.on_applied(Offset(n)));
        assert_eq!(target.skip(TAG, 1), Some(2));
        assert_eq!(target.skip(Tag { epoch_to: Epoch(9), ..TAG }, 3), None, "S6");
    }

    #[test]
    fn s6_an_attempt_is_over_once_a_later_one_has_begun() {
        let mut arrivals = Arrivals::default();
        let again = Tag { attempt: 1, ..TAG };
        let other = Tag { epoch_to: Epoch(5), ..TAG };
        assert!(arrivals.admit(TAG) && arrivals.admit(TAG));
        assert!(arrivals.admit(again) && !arrivals.admit(TAG));
        assert!(arrivals.admit(other) && !arrivals.admit(again));
        assert!(arrivals.admit(Tag { id: 8, ..TAG }), "another move is another matter");
        arrivals.retain(|id| id == 8);
        assert!(arrivals.admit(TAG));
    }
}
