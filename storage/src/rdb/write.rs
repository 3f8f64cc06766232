//! Writing RDB: single values and records into any buffer, and whole files piece by piece.
//!
//! Small collections are written in the packed encodings of their version (none before 10, where the plain forms are
//! as good: every Redis packs small ones again while loading).

use super::stream::{put_stream, stream_kind};
use super::{enc, kind, listpack, lzf, op};
use crate::crc64::crc64;
use crate::set::parse_int;
use crate::value::ValueRef;
use crate::{Hash, List, Set, ZSet};

/// How to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// 9 (Redis 5) to 12 (Redis 8); 10 is what Redis 7.0 writes.
    pub version: u16,
    /// `rdbcompression`: LZF for strings above 20 bytes.
    pub compress: bool,
    /// `rdbchecksum`: a checksum at the end of a file; zero means none.
    pub checksum: bool,
}

impl Default for Format {
    fn default() -> Format {
        Format { version: 10, compress: true, checksum: true }
    }
}

/// Access information to store with a key, by the eviction policy in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    None,
    /// LRU: seconds since the last access.
    IdleSeconds(u64),
    /// LFU: the logarithmic counter.
    Frequency(u8),
}

/// Writes a key with its value, expiry (ms since 1970) and access information.
pub fn write_record(
    out: &mut Vec<u8>,
    format: &Format,
    key: &[u8],
    value: ValueRef<'_>,
    expire_ms: Option<i64>,
    access: Access,
) {
    if let Some(at) = expire_ms {
        out.push(op::EXPIRE_MS);
        out.extend_from_slice(&at.to_le_bytes());
    }
    match access {
        Access::None => {}
        Access::IdleSeconds(seconds) => {
            out.push(op::IDLE);
            put_len(out, seconds);
        }
        Access::Frequency(count) => out.extend_from_slice(&[op::FREQ, count]),
    }
    out.push(type_of(value, format));
    put_string(out, key, format);
    put_value(out, value, format);
}

/// The type byte of a value.
pub(super) fn type_of(value: ValueRef<'_>, format: &Format) -> u8 {
    let packed = format.version >= 10;
    match value {
        ValueRef::Str(_) => kind::STRING,
        ValueRef::List(_) if packed => kind::LIST_QUICKLIST_2,
        ValueRef::List(_) => kind::LIST,
        ValueRef::Set(set) if set.as_intset().is_some() => kind::SET_INTSET,
        ValueRef::Set(_) => kind::SET,
        // Whatever version is asked for: an expiry is not lost, and only readers that know of them meet such hashes.
        ValueRef::Hash(hash) if hash.next_expiry().is_some() => kind::HASH_METADATA,
        ValueRef::Hash(hash) if packed && hash.encoding() == "listpack" => kind::HASH_LISTPACK,
        ValueRef::Hash(_) => kind::HASH,
        ValueRef::ZSet(zset) if packed && zset.encoding() == "listpack" => kind::ZSET_LISTPACK,
        ValueRef::ZSet(_) => kind::ZSET_2,
        ValueRef::Stream(_) => stream_kind(format),
    }
}

/// A value without its type byte.
pub(super) fn put_value(out: &mut Vec<u8>, value: ValueRef<'_>, format: &Format) {
    let kind = type_of(value, format);
    match value {
        ValueRef::Str(bytes) => put_string(out, bytes, format),
        ValueRef::List(list) if kind == kind::LIST_QUICKLIST_2 => put_quicklist(out, list, format),
        ValueRef::List(list) => {
            put_len(out, list.len() as u64);
            list.iter().for_each(|element| put_string(out, element, format));
        }
        ValueRef::Set(set) => put_set(out, set, format),
        ValueRef::Hash(hash) => put_hash(out, hash, kind, format),
        ValueRef::ZSet(zset) => put_zset(out, zset, kind, format),
        ValueRef::Stream(stream) => put_stream(out, stream, format),
    }
}

/// Bytes of a list node's listpack, as `list-max-listpack-size -2`.
const NODE_BYTES: usize = 8192;
const NODE_PACKED: u64 = 2;

fn put_quicklist(out: &mut Vec<u8>, list: &List, format: &Format) {
    // Nodes are counted before they are written, by the same rule.
    let mut breaks = NodeBreaks::default();
    let nodes = list.iter().filter(|element| breaks.before(element.len())).count();
    put_len(out, nodes as u64);
    let mut breaks = NodeBreaks::default();
    let mut node: Option<listpack::Writer> = None;
    let mut flush = |node: Option<listpack::Writer>| {
        if let Some(node) = node {
            put_len(out, NODE_PACKED);
            put_string(out, &node.finish(), format);
        }
    };
    for element in list.iter() {
        if breaks.before(element.len()) {
            flush(node.take());
        }
        node.get_or_insert_with(listpack::Writer::new).push(element);
    }
    flush(node);
}

/// Where one node ends and the next begins.
#[derive(Default)]
struct NodeBreaks {
    bytes: usize,
}

impl NodeBreaks {
    /// Whether a new node begins before an element of `len` bytes.
    fn before(&mut self, len: usize) -> bool {
        let bytes = listpack::entry_bytes(len);
        let new = self.bytes == 0 || self.bytes + bytes > NODE_BYTES;
        self.bytes = if new { bytes } else { self.bytes + bytes };
        new
    }
}

fn put_set(out: &mut Vec<u8>, set: &Set, format: &Format) {
    let Some(ints) = set.as_intset() else {
        put_len(out, set.len() as u64);
        set.iter().for_each(|member| put_string(out, &member, format));
        return;
    };
    let width = ints.width();
    let mut blob = Vec::with_capacity(8 + width * ints.len());
    blob.extend_from_slice(&(width as u32).to_le_bytes());
    blob.extend_from_slice(&(ints.len() as u32).to_le_bytes());
    ints.iter().for_each(|v| blob.extend_from_slice(&v.to_le_bytes()[..width]));
    put_string(out, &blob, format);
}

fn put_hash(out: &mut Vec<u8>, hash: &Hash, kind: u8, format: &Format) {
    if kind == kind::HASH_LISTPACK {
        let mut packed = listpack::Writer::new();
        for (field, value) in hash.iter() {
            packed.push(field);
            packed.push(value);
        }
        put_string(out, &packed.finish(), format);
        return;
    }
    let soonest = hash.next_expiry();
    if let Some(soonest) = soonest {
        out.extend_from_slice(&(soonest as u64).to_le_bytes());
    }
    put_len(out, hash.len() as u64);
    for (field, value) in hash.iter() {
        if let Some(soonest) = soonest {
            // Counted from the soonest, which is 1; 0 is none.
            put_len(out, hash.expiry(field).map_or(0, |at| (at - soonest + 1) as u64));
        }
        put_string(out, field, format);
        put_string(out, value, format);
    }
}

fn put_zset(out: &mut Vec<u8>, zset: &ZSet, kind: u8, format: &Format) {
    if kind == kind::ZSET_LISTPACK {
        let mut packed = listpack::Writer::new();
        for (member, score) in zset.iter() {
            packed.push(member);
            // Below 2^53 every integral double is the integer it prints as.
            if score.fract() == 0.0 && score.abs() < 9_007_199_254_740_992.0 {
                packed.push_int(score as i64);
            } else {
                packed.push(score_text(score).as_bytes());
            }
        }
        put_string(out, &packed.finish(), format);
        return;
    }
    put_len(out, zset.len() as u64);
    // From the highest down: Redis then inserts at the head of its skiplist each time.
    for (member, score) in zset.iter().rev() {
        put_string(out, member, format);
        out.extend_from_slice(&score.to_le_bytes());
    }
}

fn score_text(score: f64) -> String {
    if score.is_infinite() {
        return if score > 0.0 { "inf" } else { "-inf" }.into();
    }
    // Shortest text that reads back equal; with an exponent where plain digits would be hundreds.
    if score.abs() < 1e17 && score.abs() > 1e-5 { format!("{score}") } else { format!("{score:e}") }
}

pub(super) fn put_len(out: &mut Vec<u8>, len: u64) {
    match len {
        0..=0x3F => out.push(len as u8),
        0x40..=0x3FFF => out.extend_from_slice(&[0x40 | (len >> 8) as u8, len as u8]),
        0x4000..=0xFFFF_FFFF => {
            out.push(0x80);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
}

pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8], format: &Format) {
    if bytes.len() <= 11
        && let Some(value) = parse_int(bytes)
        && let Ok(value) = i32::try_from(value)
    {
        let le = value.to_le_bytes();
        if i8::try_from(value).is_ok() {
            out.extend_from_slice(&[0xC0 | enc::INT8, le[0]]);
        } else if i16::try_from(value).is_ok() {
            out.extend_from_slice(&[0xC0 | enc::INT16, le[0], le[1]]);
        } else {
            out.push(0xC0 | enc::INT32);
            out.extend_from_slice(&le);
        }
        return;
    }
    if format.compress
        && bytes.len() > 20
        && let Some(small) = lzf::compress(bytes)
    {
        out.push(0xC0 | enc::LZF);
        put_len(out, small.len() as u64);
        put_len(out, bytes.len() as u64);
        out.extend_from_slice(&small);
        return;
    }
    put_len(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a file: [`RdbWriter::header`], then any of the others, then [`RdbWriter::finish`]. Every method appends to
/// `out`, whose bytes before are none of its business.
pub struct RdbWriter {
    format: Format,
    crc: u64,
    db: Option<u16>,
}

impl RdbWriter {
    pub fn new(format: Format) -> RdbWriter {
        assert!((9..=12).contains(&format.version), "a version we know how to write");
        RdbWriter { format, crc: 0, db: None }
    }

    fn append(&mut self, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>, &Format)) {
        let from = out.len();
        fill(out, &self.format);
        if self.format.checksum {
            self.crc = crc64(self.crc, &out[from..]);
        }
    }

    /// Magic, version and AUX fields.
    pub fn header(&mut self, aux: &[(&[u8], &[u8])], out: &mut Vec<u8>) {
        self.append(out, |out, format| {
            out.extend_from_slice(format!("REDIS{:04}", format.version).as_bytes());
            for (name, value) in aux {
                out.push(op::AUX);
                put_string(out, name, format);
                put_string(out, value, format);
            }
        });
    }

    /// A function library's code. Nothing in versions before 10, which have no functions.
    pub fn function(&mut self, code: &[u8], out: &mut Vec<u8>) {
        if self.format.version >= 10 {
            self.append(out, |out, format| {
                out.push(op::FUNCTION2);
                put_string(out, code, format);
            });
        }
    }

    /// Selects a database and says how many keys to expect in it.
    pub fn select(&mut self, db: u16, keys: u64, expires: u64, out: &mut Vec<u8>) {
        self.select_only(db, out);
        self.append(out, |out, _| {
            out.push(op::RESIZE_DB);
            put_len(out, keys);
            put_len(out, expires);
        });
    }

    fn select_only(&mut self, db: u16, out: &mut Vec<u8>) {
        self.db = Some(db);
        self.append(out, |out, _| {
            out.push(op::SELECT_DB);
            put_len(out, db as u64);
        });
    }

    /// Records that [`write_record`] made in this format, selecting their database if it is not yet.
    pub fn records(&mut self, db: u16, records: &[u8], out: &mut Vec<u8>) {
        if self.db != Some(db) {
            self.select_only(db, out);
        }
        self.append(out, |out, _| out.extend_from_slice(records));
    }

    /// The end mark and the checksum.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.append(out, |out, _| out.push(op::EOF));
        out.extend_from_slice(&self.crc.to_le_bytes());
    }
}
