//! Which epoch wrote which bytes of a stream: enough to tell whether one log is a prefix of another (D11).
//!
//! Invariant: one primary writes in an epoch, so (epoch, offset) names a byte and all before it.

use proto::{Epoch, Offset};
use std::collections::VecDeque;

/// Tenures remembered. Choice: a log that ends before the last 256 failovers is synced anew.
const TENURES_MAX: usize = 256;

/// Ascending (epoch, offset of its header).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tenures(VecDeque<(Epoch, Offset)>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// Their log is a prefix of ours: the stream goes on from its end.
    Continues,
    /// Their log holds bytes that are not ours, or is too old to tell.
    Diverged,
}

impl Tenures {
    /// A tenure's header is written at `at`, the end of the log so far. Panics when epochs go back.
    pub fn begin(&mut self, epoch: Epoch, at: Offset) {
        if self.0.back().is_some_and(|(last, _)| *last == epoch) {
            return;
        }
        assert!(self.0.back().is_none_or(|(last, from)| *last < epoch && *from <= at), "epochs go up");
        self.0.push_back((epoch, at));
        while self.0.len() > TENURES_MAX {
            self.0.pop_front();
        }
    }
    /// The log was cut to this length.
    pub fn truncate(&mut self, end: Offset) {
        while self.0.back().is_some_and(|(_, from)| *from >= end) {
            self.0.pop_back();
        }
    }
    /// Epoch of the byte before `offset`; 0 for the beginning.
    pub fn epoch_before(&self, offset: Offset) -> Epoch {
        self.0.iter().rev().find(|(_, from)| *from < offset).map_or(Epoch(0), |(epoch, _)| *epoch)
    }
    /// How a log that ends with `epoch` at `end` fits ours, which ends at `our_end`.
    pub fn judge(&self, epoch: Epoch, end: Offset, our_end: Offset) -> Fit {
        if end == Offset(0) {
            return Fit::Continues;
        }
        let Some(at) = self.0.iter().position(|(e, _)| *e == epoch) else { return Fit::Diverged };
        let until = self.0.get(at + 1).map_or(our_end, |(_, from)| *from);
        if self.0[at].1 < end && end <= until { Fit::Continues } else { Fit::Diverged }
    }
    pub fn iter(&self) -> impl Iterator<Item = (Epoch, Offset)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Tenures {
        let mut tenures = Tenures::default();
        tenures.begin(Epoch(1), Offset(0));
        tenures.begin(Epoch(4), Offset(10));
        tenures.begin(Epoch(9), Offset(30));
        tenures
    }

    #[test]
    fn d11_a_prefix_is_told_by_epoch_and_offset_not_by_length() {
        let judge = |epoch, end| ours().judge(Epoch(epoch), Offset(end), Offset(50));
        assert_eq!(judge(9, 50), Fit::Continues);
        assert_eq!(judge(9, 51), Fit::Diverged);
        assert_eq!(judge(4, 30), Fit::Continues);
        assert_eq!(judge(4, 31), Fit::Diverged, "it wrote more in its tenure than we took over");
        assert_eq!(judge(4, 10), Fit::Diverged, "no byte of that epoch stands there");
        assert_eq!(judge(5, 20), Fit::Diverged);
        assert_eq!(judge(0, 0), Fit::Continues);
    }

    #[test]
    fn epochs_of_bytes_and_truncation() {
        let mut tenures = ours();
        assert_eq!(tenures.epoch_before(Offset(10)), Epoch(1));
        assert_eq!(tenures.epoch_before(Offset(11)), Epoch(4));
        assert_eq!(tenures.epoch_before(Offset(0)), Epoch(0));
        tenures.truncate(Offset(10));
        assert_eq!(tenures.epoch_before(Offset(99)), Epoch(1));
    }

    #[test]
    fn the_oldest_tenures_are_forgotten() {
        let mut tenures = Tenures::default();
        (0..300).for_each(|n| tenures.begin(Epoch(n), Offset(n * 2)));
        assert_eq!(tenures.iter().count(), TENURES_MAX);
        assert_eq!(tenures.judge(Epoch(1), Offset(3), Offset(600)), Fit::Diverged);
    }
}
