//! What the commands on streams share: ids among the arguments, entries in replies, and the commands that carry the
//! state of groups to replicas.

use crate::cx::Cx;
use crate::keys::Keys;
use crate::settings::notify;
use crate::spec::{Command, Group};
use crate::{Error, number};
use proto::resp::Reply;
use storage::StreamId;
use storage::stream::{Entry, Part};

pub(super) const BASE: Command = Command { group: Group::Stream, since: "5.0.0", ..Command::BASE };

const INVALID_ID: Error = Error::text("ERR Invalid stream ID specified as stream command argument");

/// The parts of an id as it was written.
struct IdText {
    ms: u64,
    seq: Seq,
}

enum Seq {
    Given(u64),
    Missing,
    /// `*`: the next one.
    Auto,
}

fn split_id(text: &[u8]) -> Option<IdText> {
    const LENGTH_MAX: usize = 127; // as in Redis
    if text.len() > LENGTH_MAX {
        return None;
    }
    let (ms, seq) = match memchr::memchr(b'-', text) {
        None => (text, Seq::Missing),
        Some(dash) if &text[dash + 1..] == b"*" => (&text[..dash], Seq::Auto),
        Some(dash) => (&text[..dash], Seq::Given(parse_part(&text[dash + 1..])?)),
    };
    Some(IdText { ms: parse_part(ms)?, seq })
}

/// Half of an id. As lenient as `strtoull`, to which Redis turns: leading zeros, spaces and a plus sign.
fn parse_part(text: &[u8]) -> Option<u64> {
    if let Some(value) = number::parse_u64(text) {
        return Some(value);
    }
    let digits = text.trim_ascii_start();
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.iter().try_fold(0u64, |n, c| n.checked_mul(10)?.checked_add((c - b'0') as u64))
}

/// An id that may not be `-` or `+`; `missing_seq` stands for a sequence that is not written.
pub(super) fn parse_id(text: &[u8], missing_seq: u64) -> Result<StreamId, Error> {
    let id = split_id(text).ok_or(INVALID_ID)?;
    match id.seq {
        Seq::Given(seq) => Ok(StreamId::new(id.ms, seq)),
        Seq::Missing => Ok(StreamId::new(id.ms, missing_seq)),
        Seq::Auto => Err(INVALID_ID),
    }
}

/// An id, or `-` and `+` for the least and the greatest.
pub(super) fn parse_id_or_edge(text: &[u8], missing_seq: u64) -> Result<StreamId, Error> {
    match text {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => parse_id(text, missing_seq),
    }
}

/// The id that XADD asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NewId {
    Exact(StreamId),
    /// The next one in this millisecond.
    In(u64),
    /// The next one now.
    Next,
}

pub(super) fn parse_new_id(text: &[u8]) -> Result<NewId, Error> {
    let id = split_id(text).ok_or(INVALID_ID)?;
    Ok(match id.seq {
        Seq::Given(seq) => NewId::Exact(StreamId::new(id.ms, seq)),
        Seq::Missing => NewId::Exact(StreamId::new(id.ms, 0)),
        Seq::Auto => NewId::In(id.ms),
    })
}

/// The first id of an interval; `(` before it leaves it out.
pub(super) fn parse_start(text: &[u8]) -> Result<StreamId, Error> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            parse_id(rest, 0)?.next().ok_or(Error::text("ERR invalid start ID for the interval"))
        }
        _ => parse_id_or_edge(text, 0),
    }
}

/// The last id of an interval; `(` before it leaves it out.
pub(super) fn parse_end(text: &[u8]) -> Result<StreamId, Error> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            parse_id(rest, u64::MAX)?.prev().ok_or(Error::text("ERR invalid end ID for the interval"))
        }
        _ => parse_id_or_edge(text, u64::MAX),
    }
}

/// Ids of all arguments from `from` on.
pub(super) fn parse_ids(cx: &Cx, from: usize) -> Result<Vec<StreamId>, Error> {
    cx.args[from..].iter().map(|text| parse_id(text, 0)).collect()
}

pub(super) fn reply_id(out: &mut Reply, id: StreamId) {
    out.bulk(&id.text());
}

fn reply_part(out: &mut Reply, part: Part<'_>) {
    match part {
        Part::Int(value) => out.bulk_int(value),
        Part::Bytes(bytes) => out.bulk(bytes),
    }
}

/// An entry: its id, and its fields and values in one array.
pub(super) fn reply_entry(out: &mut Reply, entry: Entry<'_>) {
    out.array(2);
    reply_id(out, entry.id);
    out.array(2 * entry.fields.len());
    for (name, value) in entry.fields {
        reply_part(out, name);
        reply_part(out, value);
    }
}

/// An array of entries; `count` 0: all.
pub(super) fn reply_entries<'a>(out: &mut Reply, entries: impl Iterator<Item = Entry<'a>>, count: usize) {
    let (mark, mut n) = (out.mark(), 0);
    for entry in entries.take(if count == 0 { usize::MAX } else { count }) {
        reply_entry(out, entry);
        n += 1;
    }
    out.array_at(mark, n);
}

/// A change of a group: counted and told, but neither seen by WATCH nor served to readers, as in Redis.
pub(super) fn group_changed(keys: &mut Keys<'_>, key: &[u8], event: &'static str) {
    keys.effects.dirty += 1;
    keys.event(key, notify::STREAM, event);
}

pub(super) fn no_group(key: &[u8], group: &[u8], rest: &str) -> Error {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    Error::Text(format!("NOGROUP No such key '{key}' or consumer group '{group}'{rest}").into())
}

pub(super) fn no_group_of_key(key: &[u8], group: &[u8]) -> Error {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    Error::Text(format!("NOGROUP No such consumer group '{group}' for key name '{key}'").into())
}

/// The options of a subcommand do not fit it.
pub(super) fn wrong_subcommand(cx: &Cx) -> Error {
    let name = |i: usize| String::from_utf8_lossy(&cx.args[i][..cx.args[i].len().min(128)]).into_owned();
    Error::err(&format!(
        "unknown subcommand or wrong number of arguments for '{}'. Try {} HELP.",
        name(1),
        name(0).to_uppercase()
    ))
}

/// A pending entry as replicas must have it: made, moved or, if the entry is gone, forgotten.
pub(super) struct Claim {
    pub id: StreamId,
    pub consumer: Vec<u8>,
    pub delivered_ms: i64,
    pub deliveries: u64,
    /// The group's last id at that time.
    pub last_id: StreamId,
}

/// Replays a claim in the one form that gives the same wherever and whenever it runs.
pub(super) fn replay_claim(cx: &mut Cx, key: &[u8], group: &[u8], claim: &Claim) {
    let (id, last_id) = (claim.id.text(), claim.last_id.text());
    let (time, count) = (claim.delivered_ms.to_string(), claim.deliveries.to_string());
    cx.replay(&[
        b"XCLAIM".as_slice(),
        key,
        group,
        &claim.consumer,
        b"0",
        &id,
        b"TIME",
        time.as_bytes(),
        b"RETRYCOUNT",
        count.as_bytes(),
        b"FORCE",
        b"JUSTID",
        b"LASTID",
        &last_id,
    ]);
}

/// Replays how far a group has read.
pub(super) fn replay_position(
    cx: &mut Cx,
    key: &[u8],
    group: &[u8],
    last_id: StreamId,
    entries_read: Option<i64>,
) {
    let read = entries_read.unwrap_or(-1).to_string();
    cx.replay(&[
        b"XGROUP".as_slice(),
        b"SETID",
        key,
        group,
        &last_id.text(),
        b"ENTRIESREAD",
        read.as_bytes(),
    ]);
}

/// Replays that a consumer was made without anything being delivered to it.
pub(super) fn replay_consumer(cx: &mut Cx, key: &[u8], group: &[u8], consumer: &[u8]) {
    cx.replay(&[b"XGROUP".as_slice(), b"CREATECONSUMER", key, group, consumer]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_redis_reads_them() {
        let id = StreamId::new;
        for (text, expect) in [
            ("5-3", Some(id(5, 3))),
            ("5", Some(id(5, 9))),
            ("005-03", Some(id(5, 3))),
            ("18446744073709551615-18446744073709551615", Some(StreamId::MAX)),
            ("18446744073709551616-0", None),
            ("5-", None),
            ("-5", None),
            ("5-3-1", None),
            ("5-*", None),
            ("-", None),
            ("+", None),
            ("", None),
            ("a-1", None),
        ] {
            assert_eq!(parse_id(text.as_bytes(), 9).ok(), expect, "{text}");
        }
        assert_eq!(parse_new_id(b"7-*"), Ok(NewId::In(7)));
        assert_eq!(parse_start(b"(5-3"), Ok(id(5, 4)));
        assert_eq!(parse_end(b"(5-0"), Ok(id(4, u64::MAX)));
        assert_eq!((parse_start(b"-"), parse_end(b"+")), (Ok(StreamId::MIN), Ok(StreamId::MAX)));
        assert!(parse_start(b"(-").is_err() && parse_start(b"(").is_err() && parse_end(b"(0-0").is_err());
    }
}
