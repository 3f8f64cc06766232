//! Identities and counters of the cluster. Each is its own type, so that two of them are never mixed up.
//!
//! Three identities are kept apart: a tenure belongs to (`NodeId`, `Boot`), membership of an in-sync set to
//! (`NodeId`, `Generation`), a vote to (`NodeId`, `StoreId`).

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// Name of a node: 20 random bytes, shown as 40 hex digits, as in Redis Cluster.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub [u8; 20]);

/// Name of a shard. Never changes, whichever nodes serve the shard.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardId(pub [u8; 20]);

/// Name of a replication history: 20 bytes, 40 hex digits on the wire.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplId(pub [u8; 20]);

macro_rules! hex_id {
    ($t:ty) => {
        impl $t {
            /// Parses 40 hex digits of either case; `None` for anything else.
            pub fn from_hex(text: &[u8]) -> Option<Self> {
                parse_hex(text).map(Self)
            }
        }
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    };
}
hex_id!(NodeId);
hex_id!(ShardId);
hex_id!(ReplId);

fn parse_hex(text: &[u8]) -> Option<[u8; 20]> {
    if text.len() != 40 {
        return None;
    }
    let mut out = [0u8; 20];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(out)
}

macro_rules! counter {
    ($(#[$doc:meta])* $t:ident) => {
        $(#[$doc])*
        #[derive(
            Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
        )]
        pub struct $t(pub u64);

        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
counter! {
    /// A version of the topology. Redis calls the newest one `currentEpoch` and a shard's own `configEpoch`.
    Epoch
}
counter! {
    /// A position in a replication stream, in bytes from its beginning.
    Offset
}
counter! {
    /// How often a store was opened. Raised and made durable before a node says anything.
    Boot
}
counter! {
    /// Names one life of a data set on a node. Ends whenever acknowledged bytes may have been lost.
    Generation
}
counter! {
    /// Random name of a durable store. A node whose store was lost comes back with another.
    StoreId
}

impl Offset {
    pub fn plus(self, bytes: u64) -> Offset {
        Offset(self.0 + bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip() {
        let text = "00ff10203040506070809a0b0c0d0e0f11121314";
        let id = NodeId::from_hex(text.as_bytes()).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(NodeId::from_hex(text.to_uppercase().as_bytes()), Some(id));
    }

    #[test]
    fn hex_refuses_what_is_not_forty_digits() {
        assert_eq!(NodeId::from_hex(b"00"), None);
        assert_eq!(NodeId::from_hex(&[b'g'; 40]), None);
        assert_eq!(NodeId::from_hex(&[b'+'; 40]), None);
    }
}
