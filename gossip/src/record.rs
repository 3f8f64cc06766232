//! What a node must remember over a restart: one small file, written whole, synced, renamed. Chapter 2.
//!
//! Invariant: nothing that rests on a record is said before the record is durable (A2).

use crate::topology::{Ballot, ClusterId, Topology};
use crate::wire::crc32c;
use proto::{Boot, Epoch, Generation, NodeId, Offset, StoreId};
use rkyv::{Archive, Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub node: NodeId,
    pub store: StoreId,
    pub boot: Boot,
    pub topology: Arc<Topology>,
    pub promised: Ballot,
    /// A vote for the version after `topology`.
    pub accepted: Option<(Ballot, Arc<Topology>)>,
    pub generation: Generation,
    /// The log reached this far when it was last acknowledged as durable (D7).
    pub high_water: (Epoch, Offset),
    /// How often this node has asked to join another cluster; never goes back.
    pub joins: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordError {
    /// Not a record, or cut short.
    Malformed,
    /// Of a format that this build does not know.
    Version(u8),
    Checksum,
    /// Sound bytes around a topology that breaks its rules.
    Topology(&'static str),
}

#[derive(Archive, Serialize, Deserialize)]
struct Body {
    node: NodeId,
    store: StoreId,
    boot: Boot,
    topology: Topology,
    promised: Ballot,
    accepted: Option<(Ballot, Topology)>,
    generation: Generation,
    high_water: (Epoch, Offset),
    joins: u64,
}

const MAGIC: [u8; 7] = *b"SHOLREC";
const VERSION: u8 = 2; // 1 had no tls_port in Address
const HEAD_BYTES: usize = 12;

impl Record {
    pub fn cluster(&self) -> ClusterId {
        self.topology.cluster
    }

    /// magic (7), version (1), CRC32C of the body (4), body.
    pub fn encode(&self) -> Vec<u8> {
        let body = rkyv::to_bytes::<rkyv::rancor::Error>(&Body {
            node: self.node,
            store: self.store,
            boot: self.boot,
            topology: (*self.topology).clone(),
            promised: self.promised,
            accepted: self.accepted.as_ref().map(|(b, t)| (*b, (**t).clone())),
            generation: self.generation,
            high_water: self.high_water,
            joins: self.joins,
        })
        .expect("a record can be archived");
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&crc32c(&body).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or(RecordError::Malformed)?;
        if head[..7] != MAGIC {
            return Err(RecordError::Malformed);
        }
        if head[7] != VERSION {
            return Err(RecordError::Version(head[7]));
        }
        let body = &bytes[HEAD_BYTES..];
        if crc32c(body).to_le_bytes() != head[8..12] {
            return Err(RecordError::Checksum);
        }
        let body = rkyv::from_bytes::<Body, rkyv::rancor::Error>(body).map_err(|_| RecordError::Malformed)?;
        body.topology.check().map_err(RecordError::Topology)?;
        if let Some((_, accepted)) = &body.accepted {
            accepted.check().map_err(RecordError::Topology)?;
        }
        Ok(Record {
            node: body.node,
            store: body.store,
            boot: body.boot,
            topology: Arc::new(body.topology),
            promised: body.promised,
            accepted: body.accepted.map(|(b, t)| (b, Arc::new(t))),
            generation: body.generation,
            high_water: body.high_water,
            joins: body.joins,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::{cluster, node};

    fn record() -> Record {
        let topology = Arc::new(cluster(&[&[1, 2], &[3, 4]], &[1, 3, 5]));
        let ballot = Ballot { round: 3, node: node(3) };
        Record {
            node: node(1),
            store: StoreId(1),
            boot: Boot(4),
            accepted: Some((ballot, topology.clone())),
            topology,
            promised: ballot,
            generation: Generation(2),
            high_water: (Epoch(5), Offset(6)),
            joins: 1,
        }
    }

    #[test]
    fn record_round_trip() {
        assert_eq!(Record::decode(&record().encode()), Ok(record()));
    }

    #[test]
    fn no_damaged_record_is_believed() {
        let good = record().encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Record::decode(&bad).is_err(), "byte {at}");
            assert!(Record::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_later_format_is_named() {
        let mut bytes = record().encode();
        bytes[7] = 9;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Version(9)));
    }
}
