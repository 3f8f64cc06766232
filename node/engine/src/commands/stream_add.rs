//! XADD and XTRIM, which share the options of trimming.
//!
//! What is replayed has its id written out and trims exactly to what was left: blocks may be cut otherwise elsewhere.

use super::collection::wrong_arity;
use super::stream::{BASE, NewId, parse_id, parse_new_id, reply_id};
use crate::cx::Cx;
use crate::settings::notify;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use crate::{Args, Error};
use smallvec::SmallVec;
use storage::stream::{Log, Trim};
use storage::{Stream, StreamId, Thresholds};

const STRATEGY: Arg =
    Arg::one_of("strategy", &[Arg::word("maxlen", "MAXLEN"), Arg::word("minid", "MINID").since("6.2.0")]);
const OPERATOR: Arg =
    Arg::one_of("operator", &[Arg::word("equal", "="), Arg::word("approximately", "~")]).optional();
const TRIM: Arg = Arg::block(
    "trim",
    &[
        STRATEGY,
        OPERATOR,
        Arg::string("threshold"),
        Arg::integer("count").token("LIMIT").since("6.2.0").optional(),
    ],
);

pub const XADD: Command = Command {
    name: "xadd",
    summary: "Adds an entry to a stream. The stream is created if it does not exist.",
    complexity: "O(1) when adding a new entry, O(N) when trimming where N being the number of entries evicted.",
    arity: -5,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::word("nomkstream", "NOMKSTREAM").since("6.2.0").optional(),
        TRIM.optional(),
        Arg::one_of("id_or_auto", &[Arg::word("auto_id", "*"), Arg::string("id")]),
        Arg::block("field_value", &[Arg::string("field"), Arg::string("value")]).multiple(),
    ],
    tips: &["nondeterministic_output"],
    history: &[
        ("6.2.0", "Added the `NOMKSTREAM` option, `MINID` trimming strategy and the `LIMIT` option."),
        ("7.0.0", "Added support for the `<ms>-*` explicit ID form."),
    ],
    run: Handler::Keys(xadd),
    ..BASE
};

pub const XTRIM: Command = Command {
    name: "xtrim",
    summary: "Removes the oldest entries of a stream, down to a length or up to an id.",
    complexity: "O(N), with N being the number of evicted entries. Constant times are very small however, since entries are organized in macro nodes containing multiple entries that can be released with a single deallocation.",
    arity: -4,
    flags: flag::WRITE,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), TRIM],
    tips: &["nondeterministic_output"],
    history: &[("6.2.0", "Added the `MINID` trimming strategy and the `LIMIT` option.")],
    run: Handler::Keys(xtrim),
    ..BASE
};

/// Bytes of all fields and values of an entry, as in Redis.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// The options that XADD and XTRIM have in common.
#[derive(Default)]
struct Options {
    trim: Option<Trim>,
    is_approximate: bool,
    /// Entries to remove at most; 0 for no limit.
    limit: usize,
    /// Where the threshold and the word LIMIT stand.
    threshold_at: usize,
    limit_at: Option<usize>,
    no_mkstream: bool,
    id: Option<NewId>,
    /// Where XADD's id stands; the number of arguments where there is none.
    id_at: usize,
}

impl Options {
    fn parse(cx: &Cx, is_add: bool) -> Result<Options, Error> {
        let mut o = Options::default();
        let (mut i, mut limit) = (2, 0);
        while i < cx.args.len() {
            let more = cx.args.len() - 1 - i;
            if is_add && cx.args[i] == b"*" {
                o.id = Some(NewId::Next);
                break;
            } else if (cx.is_word(i, "MAXLEN") || cx.is_word(i, "MINID")) && more > 0 {
                i = o.parse_strategy(cx, i, more)?;
            } else if cx.is_word(i, "LIMIT") && more > 0 {
                limit = cx.int(i + 1)?;
                if limit < 0 {
                    return Err(Error::text("ERR The LIMIT argument must be >= 0."));
                }
                o.limit_at = Some(i);
                i += 1;
            } else if is_add && cx.is_word(i, "NOMKSTREAM") {
                o.no_mkstream = true;
            } else if is_add {
                o.id = Some(parse_new_id(cx.args[i])?);
                break;
            } else {
                return Err(Error::Syntax);
            }
            i += 1;
        }
        o.id_at = i;
        o.settle_limit(cx, is_add, limit)?;
        Ok(o)
    }

    fn parse_strategy(&mut self, cx: &Cx, at: usize, more: usize) -> Result<usize, Error> {
        if self.trim.is_some() {
            return Err(Error::text(
                "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
            ));
        }
        self.is_approximate = more >= 2 && cx.args[at + 1] == b"~";
        let has_operator = more >= 2 && matches!(cx.args[at + 1], b"~" | b"=");
        self.threshold_at = at + 1 + has_operator as usize;
        self.trim = Some(if cx.is_word(at, "MAXLEN") {
            let len = cx.int(self.threshold_at)?;
            Trim::Len(usize::try_from(len).map_err(|_| Error::text("ERR The MAXLEN argument must be >= 0."))?)
        } else {
            Trim::From(parse_id(cx.args[self.threshold_at], 0)?)
        });
        Ok(self.threshold_at)
    }

    fn settle_limit(&mut self, cx: &Cx, is_add: bool, limit: i64) -> Result<(), Error> {
        if limit > 0 && self.trim.is_none() {
            return Err(Error::text(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            ));
        }
        if !is_add && self.trim.is_none() {
            return Err(Error::text("ERR syntax error, XTRIM must be called with a trimming strategy"));
        }
        // What comes from a primary was limited there.
        if cx.keys.sees_expired {
            return Ok(());
        }
        if self.limit_at.is_some() && !self.is_approximate {
            return Err(Error::text("ERR syntax error, LIMIT cannot be used without the special ~ option"));
        }
        self.limit = match (self.limit_at, self.is_approximate) {
            (Some(_), _) => limit as usize,
            (None, true) => default_limit(&cx.settings.thresholds),
            (None, false) => 0,
        };
        Ok(())
    }

    /// Trims as asked; returns how many entries went.
    fn trim(&self, log: &mut Log) -> usize {
        self.trim.map_or(0, |to| log.trim(to, self.is_approximate, self.limit))
    }

    /// The threshold of an exact trim that leaves what an approximate one left.
    fn exact_threshold(&self, log: &Log) -> Vec<u8> {
        match self.trim {
            Some(Trim::Len(_)) => log.len().to_string().into_bytes(),
            _ if log.is_empty() => StreamId::MAX.text().to_vec(),
            _ => log.first_id().text().to_vec(),
        }
    }

    /// The arguments with an exact trim (if `threshold` is given) and with `id`.
    fn exact_args<'a>(
        &self,
        args: Args<'a>,
        threshold: Option<&'a [u8]>,
        id: Option<&'a [u8]>,
    ) -> SmallVec<[&'a [u8]; 16]> {
        let mut exact: SmallVec<[&[u8]; 16]> = args.into();
        if let Some(id) = id {
            exact[self.id_at] = id;
        }
        if let Some(threshold) = threshold {
            exact[self.threshold_at] = threshold;
            exact[self.threshold_at - 1] = b"=";
            if let Some(at) = self.limit_at {
                exact.drain(at..at + 2);
            }
        }
        exact
    }
}

/// Entries that an approximate trim removes at most: a hundred blocks.
fn default_limit(thresholds: &Thresholds) -> usize {
    match thresholds.stream_node_max_entries {
        0 => 10_000,
        n => n.saturating_mul(100).min(1_000_000),
    }
}

fn xadd(cx: &mut Cx) -> Result<(), Error> {
    let options = Options::parse(cx, true)?;
    let (key, pairs) = (cx.args[1], cx.args.get(options.id_at + 1..).unwrap_or(&[]));
    let Some(new_id) = options.id.filter(|_| !pairs.is_empty() && pairs.len().is_multiple_of(2)) else {
        return Err(wrong_arity(cx));
    };
    if new_id == NewId::Exact(StreamId::MIN) {
        return Err(Error::text("ERR The ID specified in XADD must be greater than 0-0"));
    }
    if pairs.iter().map(|p| p.len()).sum::<usize>() > ENTRY_BYTES_MAX {
        return Err(Error::text("ERR Elements are too large to be stored"));
    }
    if options.no_mkstream && !cx.keys.exists(key) {
        cx.out.null();
        return Ok(());
    }
    let (now_ms, thresholds) = (cx.keys.now_ms.max(0) as u64, &cx.settings.thresholds);
    // A new stream takes any id but 0-0, so no error leaves an empty one behind.
    let (id, trimmed, threshold) = cx.keys.update_or_new(key, |stream: &mut Stream| {
        let log = &mut stream.log;
        let id = choose_id(log, new_id, now_ms)?;
        log.append(id, pairs, thresholds);
        let trimmed = options.trim(log);
        Ok((id, trimmed, options.is_approximate.then(|| options.exact_threshold(log))))
    })??;
    cx.keys.changed(key, notify::STREAM, "xadd");
    if trimmed > 0 {
        cx.keys.event(key, notify::STREAM, "xtrim");
    }
    let text = id.text();
    let is_chosen_here = !matches!(new_id, NewId::Exact(_));
    if is_chosen_here || threshold.is_some() {
        let exact = options.exact_args(cx.args, threshold.as_deref(), Some(&text));
        cx.replay(&exact);
    }
    reply_id(cx.out, id);
    Ok(())
}

fn choose_id(log: &Log, new_id: NewId, now_ms: u64) -> Result<StreamId, Error> {
    const TOO_SMALL: Error =
        Error::text("ERR The ID specified in XADD is equal or smaller than the target stream top item");
    let last = log.last_id;
    if last == StreamId::MAX {
        return Err(Error::text(
            "ERR The stream has exhausted the last possible ID, unable to add more items",
        ));
    }
    let id = match new_id {
        NewId::Exact(id) => Some(id),
        NewId::In(ms) if ms == last.ms => last.next().filter(|id| id.ms == ms),
        NewId::In(ms) => Some(StreamId::new(ms, 0)),
        NewId::Next => log.next_id(now_ms),
    };
    id.filter(|id| *id > last).ok_or(TOO_SMALL)
}

fn xtrim(cx: &mut Cx) -> Result<(), Error> {
    let options = Options::parse(cx, false)?;
    let key = cx.args[1];
    let trimmed = cx.keys.update(key, |stream: &mut Stream| {
        let trimmed = options.trim(&mut stream.log);
        (trimmed, options.is_approximate.then(|| options.exact_threshold(&stream.log)))
    })?;
    let (trimmed, threshold) = trimmed.unwrap_or_default();
    if trimmed > 0 {
        super::collection::changed(cx.keys, key, notify::STREAM, "xtrim", trimmed);
        if threshold.is_some() {
            let exact = options.exact_args(cx.args, threshold.as_deref(), None);
            cx.replay(&exact);
        }
    }
    cx.out.int(trimmed as i64);
    Ok(())
}

pub static COMMANDS: &[Command] = &[XADD, XTRIM];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn ids_are_given_or_made() {
        let mut r = Runner::default();
        assert_eq!(r.run("XADD s * f v"), "$15\r\n1700000000000-0\r\n");
        assert_eq!(r.run("XADD s * f v"), "$15\r\n1700000000000-1\r\n");
        assert_eq!(r.run("XADD s 1700000000000-* f v"), "$15\r\n1700000000000-2\r\n");
        assert_eq!(r.run("XADD s 1800000000000 f v"), "$15\r\n1800000000000-0\r\n");
        r.now_ms -= 1000;
        assert_eq!(r.run("XADD s * f v"), "$15\r\n1800000000000-1\r\n");
        assert_eq!(
            r.replayed()[..3],
            ["XADD s 1700000000000-0 f v", "XADD s 1700000000000-1 f v", "XADD s 1700000000000-2 f v"]
        );
        assert_eq!(run(&["XADD s 0-* f v"]), "$3\r\n0-1\r\n");
    }

    #[test]
    fn what_xadd_refuses() {
        let small = "-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n";
        assert_eq!(run(&["XADD s 5-5 f v", "XADD s 5-5 f v"]), small);
        assert_eq!(run(&["XADD s 5-18446744073709551615 f v", "XADD s 5-* f v"]), small);
        assert_eq!(run(&["XADD s 5-5 f v", "XADD s 4-* f v"]), small);
        assert_eq!(run(&["XADD s 0-0 f v"]), "-ERR The ID specified in XADD must be greater than 0-0\r\n");
        assert_eq!(run(&["XADD s 0-0 f v", "EXISTS s"]), ":0\r\n");
        let last = "18446744073709551615-18446744073709551615";
        assert_eq!(
            run(&[&format!("XADD s {last} f v"), "XADD s * f v"]),
            "-ERR The stream has exhausted the last possible ID, unable to add more items\r\n"
        );
        assert_eq!(run(&["XADD s * f v g"]), "-ERR wrong number of arguments for 'xadd' command\r\n");
        assert_eq!(
            run(&["XADD s MAXLEN 5 LIMIT 3"]),
            "-ERR syntax error, LIMIT cannot be used without the special ~ option\r\n"
        );
        assert_eq!(
            run(&["SET s v", "XADD s * f v"]),
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        );
        assert_eq!(run(&["XADD s NOMKSTREAM * f v"]), "$-1\r\n");
        assert_eq!(run(&["XADD s x f v"]), "-ERR Invalid stream ID specified as stream command argument\r\n");
    }

    #[test]
    fn options_of_trimming_exclude_each_other() {
        for (line, error) in [
            (
                "XTRIM s MAXLEN 5 MINID 5",
                "syntax error, MAXLEN and MINID options at the same time are not compatible",
            ),
            ("XTRIM s MAXLEN -1", "The MAXLEN argument must be >= 0."),
            ("XTRIM s MAXLEN ~ 5 LIMIT -1", "The LIMIT argument must be >= 0."),
            ("XTRIM s LIMIT 5", "syntax error, LIMIT cannot be used without specifying a trimming strategy"),
            ("XTRIM s LIMIT 0", "syntax error, XTRIM must be called with a trimming strategy"),
            ("XTRIM s MAXLEN = 5 LIMIT 5", "syntax error, LIMIT cannot be used without the special ~ option"),
            ("XTRIM s MAXLEN x", "value is not an integer or out of range"),
            ("XTRIM s UP 5", "syntax error"),
        ] {
            assert_eq!(run(&[line]), format!("-ERR {error}\r\n"), "{line}");
        }
    }

    #[test]
    fn approximate_trimming_is_replayed_exactly() {
        let mut r = Runner::default();
        r.settings.thresholds.stream_node_max_entries = 10;
        for n in 1..=35 {
            r.run(&format!("XADD s {n} f v"));
        }
        r.replayed();
        assert_eq!(r.run("XTRIM s MAXLEN ~ 12"), ":20\r\n");
        assert_eq!(r.run("XTRIM s MINID ~ 31 LIMIT 10"), ":10\r\n");
        assert_eq!(r.run("XADD s NOMKSTREAM MAXLEN ~ 1 LIMIT 100 36-* f v"), "$4\r\n36-0\r\n");
        assert_eq!(r.run("XTRIM s MAXLEN ~ 100"), ":0\r\n");
        assert_eq!(
            r.replayed(),
            ["XTRIM s MAXLEN = 15", "XTRIM s MINID = 31-0", "XADD s NOMKSTREAM MAXLEN = 6 36-0 f v"]
        );
        assert_eq!(r.run("XTRIM s MAXLEN 0"), ":6\r\n");
        assert_eq!(r.run("EXISTS s"), ":1\r\n");
    }

    #[test]
    fn both_events_are_told() {
        let mut r = Runner::default();
        r.settings.notify_keyspace_events = crate::settings::notify::parse("Et").unwrap();
        r.all(&["XADD s 1 f v", "XADD s MAXLEN 1 2 f v"]);
        assert_eq!(
            r.published(),
            ["__keyevent@0__:xadd s", "__keyevent@0__:xadd s", "__keyevent@0__:xtrim s"]
        );
    }
}
