//! RDB, the snapshot format of Redis: writes what Redis 7.0 reads (version 10 by default), reads every version up to
//! Redis 8 (12) and Valkey 9 (80), old encodings included.
//!
//! Bytes of a file are never trusted: no claim of a length reserves memory, nothing panics, and what is wrong is an
//! [`RdbError`] with its place. Module values are refused as unsupported.

mod dump;
mod listpack;
mod lzf;
mod object;
mod read;
mod stream;
#[cfg(test)]
mod tests;
mod write;
mod ziplist;

pub use dump::{dump, dump_functions, put_footer, restore, restore_functions};
pub use read::{Decoder, Event, LoadOptions, Record, load};
pub use write::{Access, Format, RdbWriter, write_record};

use std::fmt;

/// What is wrong with an RDB file or a DUMP payload.
#[derive(Debug)]
pub enum RdbError {
    /// The bytes are not RDB; `offset` is where the record with the fault begins.
    Corrupt {
        offset: u64,
        what: &'static str,
    },
    /// Well-formed, but of a kind that is not supported.
    Unsupported {
        offset: u64,
        what: String,
    },
    /// The input ended inside the file.
    Truncated {
        offset: u64,
    },
    /// The checksum at the end (or of a DUMP payload) is another.
    Checksum {
        expected: u64,
        computed: u64,
    },
    Io(std::io::Error),
}

impl fmt::Display for RdbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RdbError::Corrupt { offset, what } => write!(f, "corrupt RDB at offset {offset}: {what}"),
            RdbError::Unsupported { offset, what } => {
                write!(f, "unsupported RDB content at offset {offset}: {what}")
            }
            RdbError::Truncated { offset } => write!(f, "RDB ends early, at offset {offset}"),
            RdbError::Checksum { expected, computed } => {
                write!(f, "RDB CRC error: expected {expected:016x}, computed {computed:016x}")
            }
            RdbError::Io(e) => write!(f, "reading RDB: {e}"),
        }
    }
}

impl std::error::Error for RdbError {}

/// Newest version of Redis's numbering that is read.
const VERSION_MAX: u16 = 12;
/// Versions of Valkey's numbering that are read.
const VALKEY_VERSIONS: std::ops::RangeInclusive<u16> = 80..=80;

/// Value types, by their number in the file.
mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const MODULE: u8 = 6;
    pub const MODULE_2: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    /// Redis 7.4 before release; Valkey 9 uses the number for [`VALKEY_HASH_2`].
    pub const HASH_METADATA_EARLY: u8 = 22;
    pub const VALKEY_HASH_2: u8 = 22;
    pub const HASH_LISTPACK_EX_EARLY: u8 = 23;
    pub const HASH_METADATA: u8 = 24;
    pub const HASH_LISTPACK_EX: u8 = 25;
}

/// Marks between records, by their number in the file.
mod op {
    pub const SLOT_IMPORT: u8 = 243;
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION2: u8 = 245;
    pub const FUNCTION_EARLY: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQ: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZE_DB: u8 = 251;
    pub const EXPIRE_MS: u8 = 252;
    pub const EXPIRE_S: u8 = 253;
    pub const SELECT_DB: u8 = 254;
    pub const EOF: u8 = 255;
}

/// Special string encodings, in the low six bits of a length whose top bits are 11.
mod enc {
    pub const INT8: u8 = 0;
    pub const INT16: u8 = 1;
    pub const INT32: u8 = 2;
    pub const LZF: u8 = 3;
}
