//! Slot migration: the source's side and the target's, as state machines. Rules S1..S8 of the protocol.
//!
//! A move is replication of some slots: BEGIN, what the slots hold, what is written to them meanwhile, a short pause,
//! and one decision of the quorum that gives them to the other shard.
//! Invariant: between the pause and that decision nobody serves the slots.

#![forbid(unsafe_code)]

pub mod source;
pub mod target;

use proto::Epoch;

/// S6: names one attempt of a move. A change of either primary or a failed link makes it another attempt, which begins
/// anew; the greater tag is the later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tag {
    pub id: u64,
    pub epoch_from: Epoch,
    pub epoch_to: Epoch,
    /// Counts from 0 between one pair of tenures.
    pub attempt: u32,
}

/// A rule taken out. For the simulator's tests of itself; never set in a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Commits without a pause.
    S1,
    /// A time-out after the commit was sent resumes the slots.
    S2,
    /// What the target has applied counts as safe.
    S4,
}
