//! Streams in RDB: types 15 (Redis 5), 19 (7.0) and 21 (7.2).
//!
//! ```text
//! count of blocks, each: base id (16 bytes), listpack
//! entries, last id [, first id, highest deleted id, entries added]   in brackets: from 19 on
//! count of groups, each: name, last id [, entries read]
//!     count of pending entries, each: id (16 bytes), time of delivery, deliveries
//!     count of consumers, each: name, time seen {, time active}      in braces: from 21 on
//!         count of pending entries, each: id
//!
//! listpack: entries, deleted entries, count of names, names, 0,
//!     then per entry: flags, ms and seq above the base, [count, names and] values, number of items of the entry
//! ```

use super::listpack::{self, Item, Reader};
use super::object::{Input, Stop};
use super::write::{put_len, put_string};
use super::{Format, kind};
use crate::set::IntText;
use crate::stream::{Entry, Group, Pending, Stream, StreamId};
use crate::thresholds::Thresholds;

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// The type number that a format's readers know.
pub(super) fn stream_kind(format: &Format) -> u8 {
    match format.version {
        ..10 => kind::STREAM,
        10 => kind::STREAM_2,
        11.. => kind::STREAM_3,
    }
}

pub(super) fn put_stream(out: &mut Vec<u8>, stream: &Stream, format: &Format) {
    let number = stream_kind(format);
    let log = &stream.log;
    put_len(out, log.blocks_len() as u64);
    log.each_block(&mut |base, entries| {
        put_string(out, &base.to_be_bytes(), format);
        put_string(out, &block(base, entries), format);
    });
    put_len(out, log.len() as u64);
    put_id(out, log.last_id);
    if number != kind::STREAM {
        put_id(out, log.first_id());
        put_id(out, log.max_deleted_id);
        put_len(out, log.entries_added);
    }
    put_len(out, stream.groups_len() as u64);
    for (name, group) in stream.groups() {
        put_string(out, name, format);
        put_id(out, group.last_id);
        if number != kind::STREAM {
            put_len(out, group.entries_read.unwrap_or(-1) as u64);
        }
        put_group(out, group, number, format);
    }
}

fn put_id(out: &mut Vec<u8>, id: StreamId) {
    put_len(out, id.ms);
    put_len(out, id.seq);
}

fn put_group(out: &mut Vec<u8>, group: &Group, number: u8, format: &Format) {
    put_len(out, group.pending_len() as u64);
    for (id, pending) in group.pending_from(StreamId::MIN) {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&pending.delivered_ms.to_le_bytes());
        put_len(out, pending.deliveries);
    }
    put_len(out, group.consumers_len() as u64);
    for consumer in group.consumers() {
        put_string(out, consumer.name(), format);
        out.extend_from_slice(&consumer.seen_ms.to_le_bytes());
        if number == kind::STREAM_3 {
            out.extend_from_slice(&consumer.active_ms.to_le_bytes());
        }
        put_len(out, consumer.pending_len() as u64);
        for id in consumer.pending_from(StreamId::MIN) {
            out.extend_from_slice(&id.to_be_bytes());
        }
    }
}

/// The listpack of a block.
fn block(base: StreamId, entries: &mut dyn Iterator<Item = Entry<'_>>) -> Vec<u8> {
    let entries: Vec<Entry<'_>> = entries.collect();
    let names: Vec<Vec<u8>> = entries[0].fields.clone().map(|(name, _)| name.to_vec()).collect();
    let mut to = listpack::Writer::new();
    to.push_int(entries.len() as i64);
    to.push_int(0);
    to.push_int(names.len() as i64);
    names.iter().for_each(|name| to.push(name));
    to.push_int(0);
    for Entry { id, fields } in entries {
        let count = fields.len() as i64;
        let is_same = fields.len() == names.len()
            && fields.clone().zip(&names).all(|((name, _), held)| name.with(|name| name == &held[..]));
        to.push_int(if is_same { SAME_FIELDS } else { 0 });
        to.push_int(id.ms.wrapping_sub(base.ms) as i64);
        to.push_int(id.seq.wrapping_sub(base.seq) as i64);
        if !is_same {
            to.push_int(count);
        }
        for (name, value) in fields {
            if !is_same {
                name.with(|name| to.push(name));
            }
            value.with(|value| to.push(value));
        }
        to.push_int(if is_same { count + 3 } else { 2 * count + 4 });
    }
    to.finish()
}

pub(super) fn read_stream(input: &mut Input<'_>, number: u8, t: &Thresholds) -> Result<Stream, Stop> {
    let mut stream = Stream::new();
    for _ in 0..input.len()? {
        let base = input.string()?;
        let base = base[..].try_into().map_err(|_| Stop::Corrupt("a stream's id of another length"))?;
        read_block(&mut stream, StreamId::from_be_bytes(base), &input.string()?, t)?;
    }
    let log = &mut stream.log;
    if input.len()? != log.len() as u64 {
        return Err(Stop::Corrupt("a stream's length other than its entries"));
    }
    let last = read_id(input)?;
    if last < log.last_id {
        return Err(Stop::Corrupt("a stream's last id below its entries"));
    }
    log.last_id = last;
    if number != kind::STREAM {
        read_id(input)?; // the first entry's, which the entries tell themselves
        log.max_deleted_id = read_id(input)?;
        log.entries_added = input.len()?;
    }
    for _ in 0..input.len()? {
        let name = input.string()?;
        let last = read_id(input)?;
        let read = match number {
            kind::STREAM => stream.log.read_counter(last),
            _ => Some(input.len()? as i64).filter(|n| *n >= 0),
        };
        let mut group = Group::new(last, read);
        read_group(input, &mut group, number)?;
        if !stream.add_group(&name, group) {
            return Err(Stop::Corrupt("a consumer group that occurs twice"));
        }
    }
    Ok(stream)
}

fn read_id(input: &mut Input<'_>) -> Result<StreamId, Stop> {
    Ok(StreamId::new(input.len()?, input.len()?))
}

fn read_raw_id(input: &mut Input<'_>) -> Result<StreamId, Stop> {
    Ok(StreamId::from_be_bytes(input.take(16)?.try_into().expect("sixteen bytes")))
}

fn read_group(input: &mut Input<'_>, group: &mut Group, number: u8) -> Result<(), Stop> {
    // Owners are named by the consumers behind; until then the entries are kept aside.
    let mut waiting = std::collections::BTreeMap::new();
    for _ in 0..input.len()? {
        let id = read_raw_id(input)?;
        let delivery = (input.i64_le()?, input.len()?);
        if waiting.insert(id, delivery).is_some() {
            return Err(Stop::Corrupt("a pending entry that occurs twice"));
        }
    }
    for _ in 0..input.len()? {
        let name = input.string()?;
        let seen_ms = input.i64_le()?;
        let owner =
            group.add_consumer(&name, seen_ms).ok_or(Stop::Corrupt("a consumer that occurs twice"))?;
        group.by_id_mut(owner).active_ms = match number {
            kind::STREAM_3 => input.i64_le()?,
            _ => seen_ms,
        };
        for _ in 0..input.len()? {
            let id = read_raw_id(input)?;
            let (delivered_ms, deliveries) =
                waiting.remove(&id).ok_or(Stop::Corrupt("a pending entry that its group does not have"))?;
            group.assign(id, Pending { owner, delivered_ms, deliveries });
        }
    }
    if waiting.is_empty() { Ok(()) } else { Err(Stop::Corrupt("a pending entry without an owner")) }
}

const BROKEN: Stop = Stop::Corrupt("a broken block of a stream");

/// Items of a block's listpack, in turn.
struct Items<'a>(Reader<'a>);

/// An item as bytes, without an allocation.
enum Text<'a> {
    Int(IntText),
    Bytes(&'a [u8]),
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Text::Int(text) => text,
            Text::Bytes(bytes) => bytes,
        }
    }
}

impl<'a> Items<'a> {
    fn item(&mut self) -> Result<Item<'a>, Stop> {
        self.0.next().flatten().ok_or(BROKEN)
    }
    fn int(&mut self) -> Result<i64, Stop> {
        match self.item()? {
            Item::Int(value) => Ok(value),
            Item::Bytes(_) => Err(BROKEN),
        }
    }
    fn count(&mut self) -> Result<u64, Stop> {
        u64::try_from(self.int()?).map_err(|_| BROKEN)
    }
    fn text(&mut self) -> Result<Text<'a>, Stop> {
        self.item().map(text_of)
    }
}

fn read_block(stream: &mut Stream, base: StreamId, blob: &[u8], t: &Thresholds) -> Result<(), Stop> {
    let mut items = Items(Reader::new(blob).ok_or(BROKEN)?);
    let (live, deleted, fields) = (items.count()?, items.count()?, items.count()?);
    let mut names = Vec::new();
    for _ in 0..fields {
        names.push(items.item()?);
    }
    if items.int()? != 0 {
        return Err(BROKEN);
    }
    let before = stream.log.len() as u64;
    let mut pairs: Vec<Text<'_>> = Vec::new();
    for _ in 0..live.checked_add(deleted).ok_or(BROKEN)? {
        let flags = items.int()?;
        let ms = base.ms.wrapping_add(items.int()? as u64);
        let id = StreamId::new(ms, base.seq.wrapping_add(items.int()? as u64));
        let is_same = flags & SAME_FIELDS != 0;
        let count = if is_same { fields } else { items.count()? };
        pairs.clear();
        for n in 0..count {
            let name = if is_same { text_of(names[n as usize]) } else { items.text()? };
            pairs.push(name);
            pairs.push(items.text()?);
        }
        if items.count()? != if is_same { count + 3 } else { 2 * count + 4 } {
            return Err(BROKEN);
        }
        if flags & DELETED == 0 {
            if id <= stream.log.last_id {
                return Err(Stop::Corrupt("entries of a stream out of order"));
            }
            stream.log.append(id, &pairs, t);
        }
    }
    if items.0.next().is_some() || stream.log.len() as u64 - before != live {
        return Err(BROKEN);
    }
    Ok(())
}

fn text_of(item: Item<'_>) -> Text<'_> {
    match item {
        Item::Int(value) => Text::Int(IntText::new(value)),
        Item::Bytes(bytes) => Text::Bytes(bytes),
    }
}
