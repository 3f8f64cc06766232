//! What two crates or two machines must agree on: slots, identities, time, the cluster view, RESP and limits.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number.

#![forbid(unsafe_code)]

pub mod ids;
pub mod limits;
pub mod resp;
pub mod slot;
pub mod time;
pub mod view;

pub use ids::{Boot, Epoch, Generation, NodeId, Offset, ReplId, ShardId, StoreId};
pub use slot::{Slot, SlotRange};
pub use time::{Mono, Now, WallMs};
pub use view::ClusterView;
