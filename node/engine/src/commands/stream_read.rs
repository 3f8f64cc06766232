//! XREAD and XREADGROUP: reading on from a place, waiting for more where there is none.
//!
//! Who waits runs the same command again when a stream changed, with `$` and `+` replaced by the ids they meant when the
//! wait began. What XREADGROUP changes is replayed as claims and as the group's position, never as the command.

use super::collection::held;
use super::stream::{
    BASE, Claim, group_changed, no_group, parse_id, replay_claim, replay_consumer, replay_position,
    reply_entries, reply_entry, reply_id,
};
use crate::Error;
use crate::blocking::{Nothing, WaitRequest};
use crate::cx::{Cx, Waiting};
use crate::number::parse_i64;
use crate::spec::{Arg, Begin, Command, Find, Handler, KeySpec, flag, key};
use proto::resp::Reply;
use storage::stream::{ConsumerId, Group, Log, Pending};
use storage::{Stream, StreamId};

/// Options before STREAMS and how many operands each has. The parsers below take exactly these.
const OPTIONS: &[(&str, usize)] = &[("BLOCK", 1), ("COUNT", 1), ("GROUP", 2), ("NOACK", 0)];

const fn streams(start: i16) -> KeySpec {
    KeySpec {
        begin: Begin::AfterOptions { word: "STREAMS", start, options: OPTIONS },
        find: Find::Range { last: -1, step: 1, limit: 2 },
        flags: key::RO | key::ACCESS,
    }
}

const STREAMS: Arg =
    Arg::block("streams", &[Arg::key("key", 0).multiple(), Arg::string("id").multiple()]).token("STREAMS");

pub const XREAD: Command = Command {
    name: "xread",
    summary: "Returns the entries of streams with ids above the given ones, waiting until there are any.",
    complexity: "For each stream mentioned: O(N) with N being the number of elements being returned, it means that XREAD-ing with a fixed COUNT is O(1). Note that when the BLOCK option is used, XADD will pay O(M) time in order to serve the M clients blocked on the stream getting new data.",
    arity: -4,
    flags: flag::READONLY | flag::BLOCKING | flag::MOVABLE_KEYS,
    keys: &[streams(1)],
    args: &[
        Arg::integer("count").token("COUNT").optional(),
        Arg::integer("milliseconds").token("BLOCK").optional(),
        STREAMS,
    ],
    run: Handler::Keys(xread),
    ..BASE
};

pub const XREADGROUP: Command = Command {
    name: "xreadgroup",
    summary: "Returns entries that a consumer group has not read yet, waiting until there are any, or what a consumer has not acknowledged.",
    complexity: "For each stream mentioned: O(M) with M being the number of elements returned. If M is constant (e.g. always asking for the first 10 elements with COUNT), you can consider it O(1). On the other side when XREADGROUP blocks, XADD will pay the O(N) time in order to serve the N clients blocked on the stream getting new data.",
    arity: -7,
    flags: flag::WRITE | flag::BLOCKING | flag::MOVABLE_KEYS,
    keys: &[streams(4)],
    args: &[
        Arg::block("group_consumer", &[Arg::string("group"), Arg::string("consumer")]).token("GROUP"),
        Arg::integer("count").token("COUNT").optional(),
        Arg::integer("milliseconds").token("BLOCK").optional(),
        Arg::word("noack", "NOACK").optional(),
        STREAMS,
    ],
    run: Handler::Keys(xreadgroup),
    ..BASE
};

/// Entries of one stream that a client gets which waited without COUNT, as in Redis.
const COUNT_AFTER_WAIT: &[u8] = b"1000";

/// The arguments of both commands.
struct Request<'a> {
    /// `None`: do not wait.
    block_ms: Option<u64>,
    /// 0: all.
    count: usize,
    has_count: bool,
    group: Option<(&'a [u8], &'a [u8])>,
    is_noack: bool,
    keys: &'a [&'a [u8]],
    ids: &'a [&'a [u8]],
}

impl<'a> Request<'a> {
    fn parse(cx: &Cx<'a, '_>, is_group_command: bool) -> Result<Request<'a>, Error> {
        let args = cx.args;
        let mut r = Request {
            block_ms: None,
            count: 0,
            has_count: false,
            group: None,
            is_noack: false,
            keys: &[],
            ids: &[],
        };
        let mut i = 1;
        while i < args.len() {
            let more = args.len() - i - 1;
            if cx.is_word(i, "BLOCK") && more > 0 {
                if cx.waiting == Waiting::InScript {
                    let name = String::from_utf8_lossy(args[0]);
                    return Err(Error::err(&format!(
                        "{name} command is not allowed with BLOCK option from scripts"
                    )));
                }
                r.block_ms = Some(parse_block(cx, i + 1)?);
                i += 1;
            } else if cx.is_word(i, "COUNT") && more > 0 {
                r.count = cx.int(i + 1)?.max(0) as usize;
                r.has_count = r.count > 0;
                i += 1;
            } else if cx.is_word(i, "STREAMS") && more > 0 {
                if !more.is_multiple_of(2) {
                    return Err(unbalanced());
                }
                (r.keys, r.ids) = args[i + 1..].split_at(more / 2);
                break;
            } else if cx.is_word(i, "GROUP") && more > 1 {
                only_of_groups("GROUP", is_group_command)?;
                r.group = Some((args[i + 1], args[i + 2]));
                i += 2;
            } else if cx.is_word(i, "NOACK") {
                only_of_groups("NOACK", is_group_command)?;
                r.is_noack = true;
            } else {
                return Err(Error::Syntax);
            }
            i += 1;
        }
        if r.keys.is_empty() { Err(Error::Syntax) } else { Ok(r) }
    }

    /// Waits, or answers that there is nothing. `ids`: what the ids among the arguments mean from now on.
    fn wait(&self, cx: &mut Cx, ids: Option<Vec<Vec<u8>>>) {
        let Some(timeout_ms) = self.block_ms else { return cx.out.null_array() };
        let mut args: Vec<Vec<u8>> = cx.args.iter().map(|a| a.to_vec()).collect();
        if let Some(ids) = ids {
            args.truncate(cx.args.len() - ids.len());
            args.extend(ids);
        }
        if !self.has_count {
            args.splice(1..1, [b"COUNT".to_vec(), COUNT_AFTER_WAIT.to_vec()]);
        }
        let request = WaitRequest {
            keys: self.keys.iter().map(|k| k.to_vec()).collect(),
            timeout_ms,
            args: Some(args),
            ends_on_error: self.group.is_some(),
        };
        cx.block_with(request, Nothing::Array);
    }
}

fn unbalanced() -> Error {
    Error::text("ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.")
}

fn only_of_groups(option: &str, is_group_command: bool) -> Result<(), Error> {
    if is_group_command {
        return Ok(());
    }
    Err(Error::err(&format!(
        "The {option} option is only supported by XREADGROUP. You called XREAD instead."
    )))
}

/// A time to wait in milliseconds; 0: for ever.
fn parse_block(cx: &Cx, at: usize) -> Result<u64, Error> {
    let ms = parse_i64(cx.args[at]).ok_or(Error::text("ERR timeout is not an integer or out of range"))?;
    if ms < 0 {
        return Err(Error::TimeoutNegative);
    }
    if ms > i64::MAX - cx.keys.now_ms {
        return Err(Error::TimeoutOutOfRange);
    }
    Ok(ms as u64)
}

/// The reply's head and the streams in it: pairs in RESP2, a map in RESP3.
struct Answer {
    mark: usize,
    streams: usize,
}

impl Answer {
    fn begin(out: &Reply) -> Answer {
        Answer { mark: out.mark(), streams: 0 }
    }
    fn stream(&mut self, out: &mut Reply, key: &[u8]) {
        self.streams += 1;
        if !out.is_resp3() {
            out.array(2);
        }
        out.bulk(key);
    }
    /// False: there is nothing to answer.
    fn end(self, out: &mut Reply) -> bool {
        match (self.streams, out.is_resp3()) {
            (0, _) => return false,
            (n, true) => out.map_at(self.mark, n),
            (n, false) => out.array_at(self.mark, n),
        }
        true
    }
}

fn xread(cx: &mut Cx) -> Result<(), Error> {
    let request = Request::parse(cx, false)?;
    let mut ids = Vec::with_capacity(request.ids.len());
    for (key, text) in request.keys.iter().zip(request.ids) {
        let log = cx.keys.read_as::<Stream>(key)?.map(|stream| &stream.log);
        ids.push(match *text {
            b"$" => log.map_or(StreamId::MIN, |log| log.last_id),
            // Redis 7.4: the last entry there is.
            b"+" => log.map_or(StreamId::MIN, |log| log.top_id().and_then(StreamId::prev).unwrap_or(log.last_id)),
            b">" => {
                return Err(Error::text(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
                ));
            }
            text => parse_id(text, 0)?,
        });
    }
    let mut answer = Answer::begin(cx.out);
    for (key, id) in request.keys.iter().zip(&ids) {
        let Some(stream) = held::<Stream>(cx.keys, key)? else { continue };
        let from = id.next().filter(|_| stream.log.top_id().is_some_and(|top| top > *id));
        if let Some(from) = from {
            answer.stream(cx.out, key);
            reply_entries(cx.out, stream.log.range(from, StreamId::MAX), request.count);
        }
    }
    if !answer.end(cx.out) {
        request.wait(cx, Some(ids.iter().map(|id| id.text().to_vec()).collect()));
    }
    Ok(())
}

/// What a consumer wants of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    /// What nobody of the group has got yet.
    New,
    /// What it has got after this id and not acknowledged.
    History(StreamId),
}

fn parse_want(text: &[u8]) -> Result<Want, Error> {
    match text {
        b">" => Ok(Want::New),
        b"$" => Err(Error::text(
            "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.",
        )),
        b"+" => Err(Error::text(
            "ERR The + ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The + ID would just return an empty result set.",
        )),
        text => Ok(match parse_id(text, 0)? {
            StreamId::MAX => Want::New,
            id => Want::History(id),
        }),
    }
}

fn xreadgroup(cx: &mut Cx) -> Result<(), Error> {
    let request = Request::parse(cx, true)?;
    // Nothing is replayed as it came, waiting and errors included.
    cx.replay_nothing();
    let Some((group, consumer)) = request.group else {
        return Err(Error::text("ERR Missing GROUP option for XREADGROUP"));
    };
    let mut wants = Vec::with_capacity(request.ids.len());
    for (key, text) in request.keys.iter().zip(request.ids) {
        check_group(cx, key, group)?;
        wants.push(parse_want(text)?);
    }
    let mut answer = Answer::begin(cx.out);
    for (key, want) in request.keys.iter().zip(wants) {
        let Some(stream) = held::<Stream>(cx.keys, key)? else { continue };
        let last = stream.group(group).map_or(StreamId::MAX, |g| g.last_id);
        if want == Want::New && stream.log.top_id().is_none_or(|top| top <= last) {
            continue;
        }
        answer.stream(cx.out, key);
        read_for(cx, key, group, consumer, want, &request)?;
    }
    if !answer.end(cx.out) {
        request.wait(cx, None);
    }
    Ok(())
}

/// The group must be there. One that waited for it is told otherwise than one that comes.
fn check_group(cx: &mut Cx, key: &[u8], group: &[u8]) -> Result<(), Error> {
    let is_resumed = cx.is_resumed;
    let has_group = match cx.keys.read_as::<Stream>(key) {
        Ok(stream) => stream.map(|s| s.group(group).is_some()),
        Err(_) if is_resumed => None,
        Err(error) => return Err(error),
    };
    match (has_group, is_resumed) {
        (Some(true), _) => Ok(()),
        (None, true) => Err(Error::text("UNBLOCKED the stream key no longer exists")),
        (Some(false), true) => {
            Err(Error::text("NOGROUP the consumer group this client was blocked on no longer exists"))
        }
        (_, false) => Err(no_group(key, group, " in XREADGROUP with GROUP option")),
    }
}

/// What reading for a group has done to it.
struct Effects {
    is_created: bool,
    delivered: Vec<StreamId>,
    last_id: StreamId,
    entries_read: Option<i64>,
}

fn read_for(
    cx: &mut Cx,
    key: &[u8],
    group: &[u8],
    consumer: &[u8],
    want: Want,
    request: &Request,
) -> Result<(), Error> {
    let (out, now_ms) = (&mut *cx.out, cx.keys.now_ms);
    let effects = cx.keys.update(key, |stream: &mut Stream| {
        stream.with_group(group, |log, group| {
            let found = group.find(consumer);
            let owner = found.or_else(|| group.add_consumer(consumer, now_ms)).expect("found or added");
            group.by_id_mut(owner).seen_ms = now_ms;
            let delivered = match want {
                Want::New => read_new(out, log, group, owner, now_ms, request),
                Want::History(after) => {
                    read_history(out, log, group, owner, now_ms, after, request.count);
                    Vec::new()
                }
            };
            let (last_id, entries_read) = (group.last_id, group.entries_read);
            Effects { is_created: found.is_none(), delivered, last_id, entries_read }
        })
    })?;
    let effects = effects.flatten().expect("the group was there");
    cx.keys.effects.dirty += 1;
    if effects.is_created {
        group_changed(cx.keys, key, "xgroup-createconsumer");
        if effects.delivered.is_empty() {
            replay_consumer(cx, key, group, consumer);
        }
    }
    for id in effects.delivered {
        let consumer = consumer.to_vec();
        let claim = Claim { id, consumer, delivered_ms: now_ms, deliveries: 1, last_id: id };
        replay_claim(cx, key, group, &claim);
    }
    if want == Want::New {
        // Redis leaves it at the claims, whose LASTID does not carry the counter: a replica's lag is then wrong.
        replay_position(cx, key, group, effects.last_id, effects.entries_read);
    }
    Ok(())
}

/// Delivers what the group has not got; returns the ids that now wait for an acknowledgement.
fn read_new(
    out: &mut Reply,
    log: &Log,
    group: &mut Group,
    owner: ConsumerId,
    now_ms: i64,
    request: &Request,
) -> Vec<StreamId> {
    let mut delivered = Vec::new();
    let (mark, mut n) = (out.mark(), 0);
    let from = group.last_id.next().expect("there is an entry above it");
    let count = if request.count == 0 { usize::MAX } else { request.count };
    for entry in log.range(from, StreamId::MAX).take(count) {
        let id = entry.id;
        group.advance(log, id);
        reply_entry(out, entry);
        n += 1;
        if !request.is_noack {
            // It may have an owner already: SETID sets groups back.
            group.assign(id, Pending { owner, delivered_ms: now_ms, deliveries: 1 });
            delivered.push(id);
        }
    }
    out.array_at(mark, n);
    group.by_id_mut(owner).active_ms = now_ms;
    delivered
}

/// Shows a consumer what it has not acknowledged, as a further delivery.
// Redis 7.0: neither time nor number of such deliveries is replayed.
fn read_history(
    out: &mut Reply,
    log: &Log,
    group: &mut Group,
    owner: ConsumerId,
    now_ms: i64,
    after: StreamId,
    count: usize,
) {
    let count = if count == 0 { usize::MAX } else { count };
    let from = after.next().expect("the greatest id means new entries");
    let ids: Vec<StreamId> = group.by_id(owner).pending_from(from).take(count).collect();
    out.array(ids.len());
    for id in ids {
        match log.get(id) {
            Some(entry) => {
                reply_entry(out, entry);
                let pending = group.pending_mut(id).expect("a consumer's entry is its group's");
                pending.delivered_ms = now_ms;
                pending.deliveries = pending.deliveries.saturating_add(1);
            }
            None => {
                out.array(2);
                reply_id(out, id);
                out.null_array();
            }
        }
    }
}

pub static COMMANDS: &[Command] = &[XREAD, XREADGROUP];

#[cfg(test)]
mod tests {
    use crate::Session;
    use crate::testing::{Runner, run};

    const X1: &str = "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n";
    const GROUP: &[&str] = &["XADD s 1 f v", "XGROUP CREATE s g 0"];

    fn letters(r: &Runner) -> Vec<(u64, String)> {
        std::mem::take(&mut *r.letters.0.lock().unwrap())
    }

    #[test]
    fn reading_on_from_an_id() {
        assert_eq!(run(&["XADD s 1 f v", "XREAD STREAMS s 0"]), X1);
        assert_eq!(run(&["XADD s 1 f v", "XADD s 2 f v", "XREAD COUNT 1 STREAMS s t 0 0"]), X1);
        assert_eq!(run(&["XADD s 1 f v", "XREAD STREAMS s 1"]), "*-1\r\n");
        assert_eq!(run(&["XADD s 1 f v", "XREAD STREAMS s $"]), "*-1\r\n");
        assert_eq!(run(&["XADD s 1 f v", "XREAD STREAMS s +"]), X1);
        let mut r = Runner::default();
        r.session.is_resp3 = true;
        r.run("XADD s 1 f v");
        assert_eq!(r.run("XREAD STREAMS s 0"), X1.replacen("*1\r\n*2\r\n", "%1\r\n", 1));
        assert_eq!(r.run("XREAD STREAMS s 1"), "_\r\n");
    }

    #[test]
    fn what_reading_refuses() {
        for (line, error) in [
            (
                "XREAD STREAMS a b 0",
                "Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
            ),
            ("XREAD COUNT 1 STREAMS", "syntax error"),
            ("XREAD COUNT x STREAMS s 0", "value is not an integer or out of range"),
            ("XREAD BLOCK x STREAMS s 0", "timeout is not an integer or out of range"),
            ("XREAD BLOCK -1 STREAMS s 0", "timeout is negative"),
            (
                "XREAD NOACK STREAMS s 0",
                "The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
            ),
            (
                "XREAD GROUP g c STREAMS s 0",
                "The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
            ),
            ("XREADGROUP COUNT 1 BLOCK 1 STREAMS s >", "Missing GROUP option for XREADGROUP"),
        ] {
            assert_eq!(run(&[line]), format!("-ERR {error}\r\n"), "{line}");
        }
        assert_eq!(
            run(&["XREADGROUP GROUP g c STREAMS s >"]),
            "-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option\r\n"
        );
    }

    #[test]
    fn keys_are_found_behind_operands_that_look_like_the_word() {
        let mut r = Runner::default();
        r.all(&["XADD {a}s 1 f v", "XGROUP CREATE {a}s streams 0"]);
        let reply = r.run("XREADGROUP COUNT 1 GROUP streams STREAMS STREAMS {a}s >");
        assert_eq!(reply, X1.replace("$1\r\ns", "$4\r\n{a}s"));
        assert_eq!(
            run(&["XREAD COUNT STREAMS STREAMS s 0"]),
            "-ERR value is not an integer or out of range\r\n"
        );
    }

    #[test]
    fn everybody_who_waits_is_served() {
        let mut r = Runner::default();
        let (mut a, mut b) = (Session::new(2), Session::new(3));
        assert_eq!(r.run_as(&mut a, "XREAD BLOCK 0 STREAMS s $"), "blocked");
        assert_eq!(r.run_as(&mut b, "XREAD BLOCK 0 STREAMS t s 0 0"), "blocked");
        r.run("XADD s 1 f v");
        assert_eq!(letters(&r), [(2, X1.to_string()), (3, X1.to_string())]);
        assert_eq!(r.replayed(), ["XADD s 1 f v"]);
    }

    #[test]
    fn the_place_now_stays_where_it_was_when_the_wait_began() {
        let mut r = Runner::default();
        r.run("XADD s 1 f v");
        let mut a = Session::new(2);
        assert_eq!(r.run_as(&mut a, "XREAD BLOCK 0 STREAMS s $"), "blocked");
        r.all(&["XDEL s 1", "MULTI", "XADD s 2 f v", "XADD s 3 f v", "XDEL s 2", "EXEC"]);
        assert_eq!(letters(&r), [(2, X1.replace("1-0", "3-0"))]);
    }

    #[test]
    fn waiting_for_another_type_goes_on() {
        let mut r = Runner::default();
        let mut a = Session::new(2);
        assert_eq!(r.run_as(&mut a, "XREAD BLOCK 0 STREAMS s $"), "blocked");
        r.all(&["LPUSH s x", "DEL s"]);
        assert_eq!(letters(&r), []);
        r.run("XADD s 1 f v");
        assert_eq!(letters(&r), [(2, X1.to_string())]);
    }

    #[test]
    fn a_transaction_does_not_wait() {
        let mut r = Runner::default();
        assert_eq!(r.all(&["MULTI", "XREAD BLOCK 0 STREAMS s $", "EXEC"]), "*1\r\n*-1\r\n");
    }

    #[test]
    fn a_group_reads_each_entry_once() {
        let mut r = Runner::default();
        r.all(GROUP);
        r.replayed();
        assert_eq!(r.run("XREADGROUP GROUP g c STREAMS s >"), X1);
        assert_eq!(r.run("XREADGROUP GROUP g d STREAMS s >"), "*-1\r\n");
        assert_eq!(
            r.replayed(),
            ["XCLAIM s g c 0 1-0 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID LASTID 1-0; \
              XGROUP SETID s g 1-0 ENTRIESREAD 1"]
        );
        assert_eq!(r.run("XREADGROUP GROUP g c STREAMS s 0"), X1);
        assert_eq!(r.replayed(), [""; 0]);
        r.run("XDEL s 1");
        let gone = "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*-1\r\n";
        assert_eq!(r.run("XREADGROUP GROUP g c STREAMS s 0"), gone);
        assert_eq!(r.run("XREADGROUP GROUP g new STREAMS s 0"), "*1\r\n*2\r\n$1\r\ns\r\n*0\r\n");
        assert_eq!(r.replayed(), ["XDEL s 1", "XGROUP CREATECONSUMER s g new"]);
    }

    #[test]
    fn reading_without_acknowledgement_leaves_nothing_pending() {
        let mut r = Runner::default();
        r.all(GROUP);
        r.replayed();
        assert_eq!(r.run("XREADGROUP GROUP g c NOACK STREAMS s >"), X1);
        assert_eq!(r.replayed(), ["XGROUP CREATECONSUMER s g c; XGROUP SETID s g 1-0 ENTRIESREAD 1"]);
        assert_eq!(r.run("XPENDING s g"), "*4\r\n:0\r\n$-1\r\n$-1\r\n*-1\r\n");
    }

    #[test]
    fn one_consumer_that_waits_gets_a_new_entry() {
        let mut r = Runner::default();
        r.all(&["XGROUP CREATE s g $ MKSTREAM"]);
        let (mut a, mut b) = (Session::new(2), Session::new(3));
        assert_eq!(r.run_as(&mut a, "XREADGROUP GROUP g a BLOCK 0 STREAMS s >"), "blocked");
        assert_eq!(r.run_as(&mut b, "XREADGROUP GROUP g b BLOCK 0 STREAMS s >"), "blocked");
        r.replayed();
        r.run("XADD s 1 f v");
        assert_eq!(letters(&r), [(2, X1.to_string())]);
        assert_eq!(
            r.replayed(),
            [
                "XADD s 1 f v",
                "XCLAIM s g a 0 1-0 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID LASTID 1-0; \
              XGROUP SETID s g 1-0 ENTRIESREAD 1"
            ]
        );
        r.run("XGROUP DESTROY s g");
        let gone = "-NOGROUP the consumer group this client was blocked on no longer exists\r\n";
        assert_eq!(letters(&r), [(3, gone.to_string())]);
    }

    #[test]
    fn who_waits_for_a_group_learns_that_its_stream_is_gone() {
        for end in ["DEL s", "SET s x", "FLUSHALL", "FLUSHDB", "RENAME s t", "PEXPIREAT s 1"] {
            let mut r = Runner::default();
            r.all(&["XGROUP CREATE s g $ MKSTREAM"]);
            let mut a = Session::new(2);
            assert_eq!(r.run_as(&mut a, "XREADGROUP GROUP g a BLOCK 0 STREAMS s >"), "blocked");
            r.run(end);
            let gone = "-UNBLOCKED the stream key no longer exists\r\n";
            assert_eq!(letters(&r), [(2, gone.to_string())], "{end}");
        }
    }
}
