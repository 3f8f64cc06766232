//! Keys and values in memory and on disk: the keyspace, its tables, snapshots, RDB, AOF and the disk itself.
//!
//! Invariant: nothing here knows a command. Nothing reads a clock, starts a thread or draws a random number.

mod adopt;
pub mod aof;
mod counters;
mod crc64;
mod db;
mod directory;
pub mod disk;
mod entry;
mod gate;
pub mod hash;
pub mod intset;
mod keyhash;
mod keyspace;
pub mod list;
mod lock;
#[cfg(test)]
mod model_test;
mod pace;
mod packed;
pub mod rdb;
mod segment;
pub mod set;
pub mod slab;
mod slot;
mod snapshot;
pub mod stream;
mod sync;
mod table;
mod thin;
pub mod thresholds;
mod value;
pub mod zset;

pub use crc64::crc64;
pub use db::{Db, DbMut, Due, EntryMut, Expiry, LookAhead, Table};
pub use disk::{Disk, DiskFile, MemDisk, RealDisk};
pub use entry::Entry;
pub use gate::{Gate, GateClosed, GateInside, GateReader};
pub use hash::{FIELD_EXPIRY_MAX, Hash, Live};
pub use keyhash::KeyHasher;
pub use keyspace::{ElementAhead, KeyAhead, Keyspace};
pub use list::List;
pub use pace::free_in_pieces;
pub use segment::is_same_key;
pub use set::{Set, parse_int};
pub use slab::class_size;
pub use slot::{Ownership, SlotGuard, SlotState};
pub use snapshot::{Block, Snapshot, SnapshotBusy, SnapshotOptions};
pub use stream::{Stream, StreamId};
pub use thresholds::Thresholds;
pub use value::{Collection, Kind, Value, ValueMut, ValueRef, str_encoding};
pub use zset::ZSet;
