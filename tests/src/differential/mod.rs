//! The same commands to Shoal and to Redis, and what they answer differently.
//!
//! Commands are drawn from the command table (COMMAND DOCS of our server: [`grammar`]), filled with arguments that are
//! likely to meet ([`draw`]), sent to both in pipelines ([`peer`]) and compared reply by reply and, at the end, key by key
//! ([`judge`]). Differences that are meant are written down ([`accepted`]); any other is cut down to the fewest commands
//! that still show it ([`shrink`]).

pub mod accepted;
pub mod draw;
pub mod grammar;
pub mod judge;
pub mod peer;
pub mod shrink;
