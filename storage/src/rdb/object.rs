//! Reading values from a slice that may not hold them whole yet.

use super::listpack::{Item, Reader};
use super::stream::read_stream;
use super::ziplist::{intset, ziplist, zipmap};
use super::{enc, kind, lzf};
use crate::entry::LENGTH_MAX;
use crate::set::IntText;
use crate::value::Value;
use crate::{FIELD_EXPIRY_MAX, Hash, List, Set, Thresholds, ZSet};
use std::borrow::Cow;

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// At least this many bytes, from the slice's begin, are needed.
    More(usize),
    Corrupt(&'static str),
    Unsupported(String),
}

/// A position in bytes that may go on later.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { bytes, at: 0 }
    }
    pub(super) fn at(&self) -> usize {
        self.at
    }
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(n).ok_or(Stop::Corrupt("a length beyond all memory"))?;
        let bytes = self.bytes.get(self.at..end).ok_or(Stop::More(end))?;
        self.at = end;
        Ok(bytes)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        Ok(self.take(N)?.try_into().expect("N bytes"))
    }
    pub(super) fn u8(&mut self) -> Result<u8, Stop> {
        Ok(self.array::<1>()?[0])
    }
    pub(super) fn u32_le(&mut self) -> Result<u32, Stop> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(super) fn u64_le(&mut self) -> Result<u64, Stop> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(super) fn i64_le(&mut self) -> Result<i64, Stop> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A length, or the number of a special encoding.
    fn len_or_encoding(&mut self) -> Result<Result<u64, u8>, Stop> {
        let first = self.u8()?;
        Ok(Ok(match first >> 6 {
            0 => (first & 63) as u64,
            1 => ((first & 63) as u64) << 8 | self.u8()? as u64,
            3 => return Ok(Err(first & 63)),
            _ => match first {
                0x80 => u32::from_be_bytes(self.array()?) as u64,
                0x81 => u64::from_be_bytes(self.array()?),
                _ => return Err(Stop::Corrupt("an unknown form of length")),
            },
        }))
    }
    pub(super) fn len(&mut self) -> Result<u64, Stop> {
        self.len_or_encoding()?.map_err(|_| Stop::Corrupt("a special encoding in place of a length"))
    }
    fn byte_len(&mut self) -> Result<usize, Stop> {
        check_len(self.len()?)
    }

    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, Stop> {
        let int = match self.len_or_encoding()? {
            Ok(len) => return Ok(Cow::Borrowed(self.take(check_len(len)?)?)),
            Err(enc::INT8) => i8::from_le_bytes(self.array()?) as i64,
            Err(enc::INT16) => i16::from_le_bytes(self.array()?) as i64,
            Err(enc::INT32) => i32::from_le_bytes(self.array()?) as i64,
            Err(enc::LZF) => {
                let (small, len) = (self.byte_len()?, self.byte_len()?);
                let bytes = lzf::decompress(self.take(small)?, len);
                return bytes
                    .map(Cow::Owned)
                    .ok_or(Stop::Corrupt("a compressed string that does not expand"));
            }
            Err(_) => return Err(Stop::Corrupt("an unknown encoding of a string")),
        };
        Ok(Cow::Owned(IntText::new(int).to_vec()))
    }

    /// The double of the oldest sorted sets: a length byte and text, or a mark.
    fn ascii_double(&mut self) -> Result<f64, Stop> {
        match self.u8()? {
            253 => Ok(f64::NAN),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            len => parse_score(self.take(len as usize)?),
        }
    }
}

fn check_len(len: u64) -> Result<usize, Stop> {
    if len > LENGTH_MAX as u64 { Err(Stop::Corrupt("a string above 4 GiB")) } else { Ok(len as usize) }
}

fn parse_score(bytes: &[u8]) -> Result<f64, Stop> {
    let text = std::str::from_utf8(bytes).map_err(|_| Stop::Corrupt("a score that is not a number"))?;
    text.trim().parse().map_err(|_| Stop::Corrupt("a score that is not a number"))
}

/// What a value is built with.
pub(super) struct Build<'a> {
    pub thresholds: &'a Thresholds,
    /// Whether numbers 22 and up have Valkey's meaning.
    pub is_valkey: bool,
}

const DUPLICATE: Stop = Stop::Corrupt("an element that occurs twice");

/// Reads a value of the type with number `number`; `None`: a collection without elements.
pub(super) fn read_value(
    input: &mut Input<'_>,
    number: u8,
    build: &Build<'_>,
) -> Result<Option<Value>, Stop> {
    let t = build.thresholds;
    let value = match number {
        kind::STRING => Value::str(&input.string()?),
        kind::LIST => {
            let mut list = List::new();
            for _ in 0..input.len()? {
                list.push_back(&input.string()?, t);
            }
            Value::List(list)
        }
        kind::SET => {
            let mut set = Set::new();
            for _ in 0..input.len()? {
                if !set.insert(&input.string()?, t) {
                    return Err(DUPLICATE);
                }
            }
            Value::Set(set)
        }
        kind::ZSET | kind::ZSET_2 => {
            let mut zset = ZSet::new();
            for _ in 0..input.len()? {
                let member = input.string()?;
                let score = if number == kind::ZSET {
                    input.ascii_double()?
                } else {
                    f64::from_bits(input.u64_le()?)
                };
                add_scored(&mut zset, &member, score, t)?;
            }
            Value::ZSet(zset)
        }
        kind::HASH => {
            let mut hash = Hash::new();
            for _ in 0..input.len()? {
                let field = input.string()?;
                add_field(&mut hash, &field, &input.string()?, t)?;
            }
            Value::Hash(hash)
        }
        kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => read_list(input, number, t)?,
        kind::SET_INTSET | kind::SET_LISTPACK => read_set(input, number, t)?,
        kind::ZSET_ZIPLIST | kind::ZSET_LISTPACK => {
            let blob = input.string()?;
            let mut zset = ZSet::new();
            for_pairs(&blob, number == kind::ZSET_LISTPACK, &mut |member, score| {
                let score = match score {
                    Item::Int(value) => value as f64,
                    Item::Bytes(bytes) => parse_score(bytes)?,
                };
                member.with(|member| add_scored(&mut zset, member, score, t))
            })?;
            Value::ZSet(zset)
        }
        kind::HASH_ZIPLIST | kind::HASH_LISTPACK => {
            let blob = input.string()?;
            let mut hash = Hash::new();
            for_pairs(&blob, number == kind::HASH_LISTPACK, &mut |field, value| {
                field.with(|field| value.with(|value| add_field(&mut hash, field, value, t)))
            })?;
            Value::Hash(hash)
        }
        kind::HASH_ZIPMAP => {
            let blob = input.string()?;
            let mut hash = Hash::new();
            zipmap(&blob, &mut |field, value| add_field(&mut hash, field, value, t).ok())
                .ok_or(Stop::Corrupt("a broken zipmap"))?;
            Value::Hash(hash)
        }
        kind::VALKEY_HASH_2 if build.is_valkey => {
            let mut hash = Hash::new();
            for _ in 0..input.len()? {
                let (field, value) = (input.string()?, input.string()?);
                let time = Some(input.i64_le()?).filter(|at| *at != -1);
                add_expiring(&mut hash, &field, &value, time, t)?;
            }
            Value::Hash(hash)
        }
        kind::HASH_METADATA | kind::HASH_METADATA_EARLY if !build.is_valkey => {
            // Released versions count the times from the soonest, which is 1.
            let base = if number == kind::HASH_METADATA { input.i64_le()?.wrapping_sub(1) } else { 0 };
            let mut hash = Hash::new();
            for _ in 0..input.len()? {
                let time = Some(input.len()?).filter(|at| *at != 0).map(|at| base.wrapping_add(at as i64));
                let field = input.string()?;
                add_expiring(&mut hash, &field, &input.string()?, time, t)?;
            }
            Value::Hash(hash)
        }
        kind::HASH_LISTPACK_EX | kind::HASH_LISTPACK_EX_EARLY if !build.is_valkey => {
            if number == kind::HASH_LISTPACK_EX {
                input.u64_le()?;
            }
            let mut hash = Hash::new();
            let blob = input.string()?;
            for_triples(&blob, &mut |field, value, time| {
                field.with(|field| value.with(|value| add_expiring(&mut hash, field, value, time, t)))
            })?;
            Value::Hash(hash)
        }
        kind::STREAM | kind::STREAM_2 | kind::STREAM_3 => {
            Value::Stream(Box::new(read_stream(input, number, t)?))
        }
        kind::MODULE | kind::MODULE_2 => {
            let name = module_name(input.len()?);
            return Err(Stop::Unsupported(format!("a value of module '{name}': modules are not supported")));
        }
        _ => return Err(Stop::Unsupported(format!("a value of unknown type {number}"))),
    };
    Ok((!value.is_empty_collection()).then_some(value))
}

fn add_scored(zset: &mut ZSet, member: &[u8], score: f64, t: &Thresholds) -> Result<(), Stop> {
    if score.is_nan() {
        return Err(Stop::Corrupt("a score that is not a number"));
    }
    if zset.insert(member, score, t).is_some() { Err(DUPLICATE) } else { Ok(()) }
}

fn add_field(hash: &mut Hash, field: &[u8], value: &[u8], t: &Thresholds) -> Result<(), Stop> {
    if hash.set(field, value, t) { Ok(()) } else { Err(DUPLICATE) }
}

fn add_expiring(
    hash: &mut Hash,
    field: &[u8],
    value: &[u8],
    at_ms: Option<i64>,
    t: &Thresholds,
) -> Result<(), Stop> {
    add_field(hash, field, value, t)?;
    if at_ms.is_some_and(|at| !(0..=FIELD_EXPIRY_MAX).contains(&at)) {
        return Err(Stop::Corrupt("a field expiry out of range"));
    }
    hash.set_expiry(field, at_ms, t);
    Ok(())
}

fn read_list(input: &mut Input<'_>, number: u8, t: &Thresholds) -> Result<Value, Stop> {
    let mut list = List::new();
    let nodes = if number == kind::LIST_ZIPLIST { 1 } else { input.len()? };
    for _ in 0..nodes {
        let plain = match number {
            kind::LIST_QUICKLIST_2 => match input.len()? {
                1 => true,
                2 => false,
                _ => return Err(Stop::Corrupt("an unknown container of list elements")),
            },
            _ => false,
        };
        let blob = input.string()?;
        if plain {
            list.push_back(&blob, t);
        } else {
            for_items(&blob, number == kind::LIST_QUICKLIST_2, &mut |item| {
                item.with(|bytes| list.push_back(bytes, t));
                Ok(())
            })?;
        }
    }
    Ok(Value::List(list))
}

fn read_set(input: &mut Input<'_>, number: u8, t: &Thresholds) -> Result<Value, Stop> {
    let blob = input.string()?;
    let mut set = Set::new();
    if number == kind::SET_LISTPACK {
        for_items(&blob, true, &mut |item| {
            if item.with(|member| set.insert(member, t)) { Ok(()) } else { Err(DUPLICATE) }
        })?;
    } else {
        intset(&blob, &mut |value| set.insert(&IntText::new(value), t).then_some(()))
            .ok_or(Stop::Corrupt("a broken intset"))?;
    }
    Ok(Value::Set(set))
}

/// Calls `each` for the entries of a listpack or ziplist.
fn for_items<'a>(
    blob: &'a [u8],
    is_listpack: bool,
    each: &mut dyn FnMut(Item<'a>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    if is_listpack {
        for item in Reader::new(blob).ok_or(Stop::Corrupt("a broken listpack"))? {
            each(item.ok_or(Stop::Corrupt("a broken listpack"))?)?;
        }
        return Ok(());
    }
    let mut stop = None;
    let whole = ziplist(blob, &mut |item| each(item).map_err(|e| stop = Some(e)).ok());
    match stop {
        Some(stop) => Err(stop),
        None => whole.ok_or(Stop::Corrupt("a broken ziplist")),
    }
}

fn for_pairs<'a>(
    blob: &'a [u8],
    is_listpack: bool,
    each: &mut dyn FnMut(Item<'a>, Item<'a>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut first = None;
    for_items(blob, is_listpack, &mut |item| match first.take() {
        None => {
            first = Some(item);
            Ok(())
        }
        Some(key) => each(key, item),
    })?;
    if first.is_some() { Err(Stop::Corrupt("a pair without its second half")) } else { Ok(()) }
}

/// Fields, values and the times at which fields expire, 0 for never.
fn for_triples<'a>(
    blob: &'a [u8],
    each: &mut dyn FnMut(Item<'a>, Item<'a>, Option<i64>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut held: (Option<Item<'a>>, Option<Item<'a>>) = (None, None);
    for_items(blob, true, &mut |item| match held {
        (None, _) => {
            held.0 = Some(item);
            Ok(())
        }
        (Some(_), None) => {
            held.1 = Some(item);
            Ok(())
        }
        (Some(field), Some(value)) => {
            held = (None, None);
            let Item::Int(at) = item else {
                return Err(Stop::Corrupt("a field expiry that is not a number"));
            };
            each(field, value, Some(at).filter(|at| *at != 0))
        }
    })?;
    if held.0.is_some() { Err(Stop::Corrupt("a field without its expiry")) } else { Ok(()) }
}

/// The name in a module's id: nine characters of six bits above ten bits of version.
pub(super) fn module_name(id: u64) -> String {
    const CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..9).map(|i| CHARS[(id >> (58 - 6 * i)) as usize & 63] as char).collect()
}

/// Skips the annotated data of a module up to its end mark.
pub(super) fn skip_module_data(input: &mut Input<'_>) -> Result<(), Stop> {
    loop {
        match input.len()? {
            0 => return Ok(()),
            1 | 2 => {
                input.len()?;
            }
            3 => {
                input.take(4)?;
            }
            4 => {
                input.take(8)?;
            }
            5 => {
                input.string()?;
            }
            _ => return Err(Stop::Corrupt("unknown module data")),
        }
    }
}
