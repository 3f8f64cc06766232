//! The append-only file as Redis 7.0 keeps it: a manifest that names a base (RDB or commands) and increments, and the
//! single file of older versions.
//!
//! Invariant: commands are handed out in whole units. A transaction that the file does not close is no unit: it
//! belongs to the torn tail, as half a command does.

mod load;
mod manifest;
mod parse;

pub use load::{AofOptions, Item, LoadReport, TornTail, load_file, load_manifest};
pub use manifest::{AofFile, FileKind, Manifest};
pub use parse::{Command, encode_command};

use crate::rdb::RdbError;
use std::fmt;

/// Why an append-only file was not loaded.
#[derive(Debug)]
pub enum AofError {
    /// The manifest is not one.
    Manifest {
        line: usize,
        what: &'static str,
    },
    /// Bytes that are no command, in the middle or beyond what may be cut off.
    Corrupt {
        file: String,
        offset: u64,
        what: &'static str,
    },
    /// The file ends inside a unit that begins at `offset`, and it may not be cut there.
    Truncated {
        file: String,
        offset: u64,
    },
    Rdb {
        file: String,
        error: RdbError,
    },
    Io {
        file: String,
        error: std::io::Error,
    },
}

impl fmt::Display for AofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AofError::Manifest { line, what } => write!(f, "AOF manifest, line {line}: {what}"),
            AofError::Corrupt { file, offset, what } => {
                write!(f, "corrupt AOF {file} at offset {offset}: {what}")
            }
            AofError::Truncated { file, offset } => {
                write!(f, "AOF {file} ends inside the unit at offset {offset}")
            }
            AofError::Rdb { file, error } => write!(f, "AOF {file}: {error}"),
            AofError::Io { file, error } => write!(f, "AOF {file}: {error}"),
        }
    }
}

impl std::error::Error for AofError {}
