//! Histories: which stream of bytes a data set comes from, and up to where an earlier one is the same stream.
//!
//! Follows Redis's PSYNC2. On the wire places count from 1 (the byte that is wanted next), here an [`Offset`] is the
//! number of bytes before.
//! Invariant: two nodes with the same replid and offset hold the same data.

use proto::{Offset, ReplId};

/// The names of a node's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    replid: ReplId,
    /// The name before the last promotion and the end of what both have in common.
    before: Option<(ReplId, Offset)>,
}

impl History {
    /// A history that nobody shares yet.
    pub fn new(replid: ReplId) -> History {
        History { replid, before: None }
    }
    /// A history as it was kept, for instance in a snapshot.
    pub fn restored(replid: ReplId, before: Option<(ReplId, Offset)>) -> History {
        History { replid, before }
    }

    pub fn replid(&self) -> ReplId {
        self.replid
    }
    /// The name before, as INFO shows it: zeros if there is none.
    pub fn replid2(&self) -> ReplId {
        self.before.map_or(ReplId::default(), |(id, _)| id)
    }
    /// The first place (counted from 1) that the name before does not cover, as INFO shows it; -1 if there is none.
    pub fn second_offset(&self) -> i64 {
        self.before.map_or(-1, |(_, end)| end.0 as i64 + 1)
    }
    /// The name before and where it ended.
    pub fn before(&self) -> Option<(ReplId, Offset)> {
        self.before
    }

    /// Whether a replica that followed `replid` up to `offset` may go on with our bytes from there.
    pub fn covers(&self, replid: ReplId, offset: Offset) -> bool {
        replid == self.replid || self.before.is_some_and(|(id, end)| id == replid && offset <= end)
    }

    /// The stream goes on under a new name from `end` on: after a promotion, here or at the primary.
    pub fn shift(&mut self, replid: ReplId, end: Offset) {
        if replid != self.replid {
            *self = History { replid, before: Some((self.replid, end)) };
        }
    }
    /// A stream that has nothing to do with the one before.
    pub fn replace(&mut self, replid: ReplId) {
        *self = History::new(replid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplId = ReplId([1; 20]);
    const B: ReplId = ReplId([2; 20]);
    const C: ReplId = ReplId([3; 20]);

    #[test]
    fn a_promotion_keeps_what_is_common() {
        let mut history = History::new(A);
        history.shift(B, Offset(100));
        assert_eq!((history.replid(), history.replid2(), history.second_offset()), (B, A, 101));
        assert!(history.covers(A, Offset(100)));
        assert!(!history.covers(A, Offset(101)), "the old primary went on by itself");
        assert!(history.covers(B, Offset(5000)));
        assert!(!history.covers(C, Offset(1)));
    }

    #[test]
    fn only_the_last_name_is_remembered() {
        let mut history = History::new(A);
        history.shift(B, Offset(100));
        history.shift(C, Offset(200));
        assert!(history.covers(B, Offset(200)));
        assert!(!history.covers(A, Offset(50)));
    }

    #[test]
    fn the_same_name_again_changes_nothing() {
        let mut history = History::new(A);
        history.shift(B, Offset(100));
        let before = history;
        history.shift(B, Offset(300));
        assert_eq!(history, before);
    }

    #[test]
    fn a_new_stream_shares_nothing() {
        let mut history = History::new(A);
        history.shift(B, Offset(100));
        history.replace(C);
        assert!(!history.covers(A, Offset(1)) && !history.covers(B, Offset(1)));
        assert_eq!((history.replid2(), history.second_offset()), (ReplId::default(), -1));
    }
}
