//! Keyspace, values and their encodings, snapshots and file formats. No meaning of commands.

pub mod hash;
pub mod intset;
pub mod list;
pub mod packed;
pub mod set;
pub mod thresholds;
pub mod zset;

pub use hash::Hash;
pub use list::List;
pub use set::Set;
pub use thresholds::Thresholds;
pub use zset::ZSet;
