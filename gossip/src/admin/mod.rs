//! What operators, primaries and joining nodes ask for, and what becomes of it. Chapter 8 of the protocol.

mod apply;
mod failover;
mod meet;
mod moves;
mod refusal;
mod request;
mod reset;
mod shards;
mod slots;
mod submit;

pub(crate) use apply::{Change, Context, apply, successor, with_voters};
pub(crate) use meet::Meets;
pub use refusal::Refusal;
pub use request::{Command, FailoverMode, Outcome, Request};
pub(crate) use shards::promote;
pub(crate) use submit::Submissions;
