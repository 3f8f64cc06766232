//! Slot moves: which step follows which, at the source. The data's way is the driver's, the decisions are the quorum's.
//!
//! Invariant: nothing here does I/O, reads a clock or starts a thread.

#![forbid(unsafe_code)]

pub mod outgoing;
