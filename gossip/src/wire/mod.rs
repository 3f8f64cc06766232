//! What travels between nodes: a fixed header, then an archive of the version that the header names.
//!
//! Invariant: bytes that were not made by a holder of the cluster's secret never reach a core.

mod crc32c;
mod frame;
pub mod v2;

pub use crc32c::crc32c;
pub use frame::{
    FRAME_BODY_BYTES_MAX, FrameError, HEADER_BYTES, Header, KIND_CONTROL, KIND_DATA, decode, decode_body,
    encode, encode_body,
};
pub use v2::{Message, Packet};
