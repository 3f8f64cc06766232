//! Pending entries: looking at them (XPENDING), and giving them to another consumer (XCLAIM, XAUTOCLAIM).
//!
//! What is replayed is the outcome for each entry, as an XCLAIM that gives the same wherever it runs. An entry that is no
//! longer in the stream is forgotten, and the same command makes replicas forget it.

use super::collection::held;
use super::stream::{
    BASE, Claim, group_changed, no_group, parse_end, parse_id, parse_start, replay_claim, replay_position,
    reply_entry, reply_id,
};
use crate::Error;
use crate::cx::Cx;
use crate::number::parse_i64;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use proto::resp::Reply;
use storage::stream::{ConsumerId, Group, Log, Pending};
use storage::{Stream, StreamId};

pub const XPENDING: Command = Command {
    name: "xpending",
    summary: "Returns what a consumer group was given and has not acknowledged.",
    complexity: "O(N) with N being the number of elements returned, so asking for a small fixed number of entries per call is O(1). O(M), where M is the total number of entries scanned when used with the IDLE filter. When the command returns just the summary and the list of consumers is small, it runs in O(1) time; otherwise, an additional O(N) time for iterating every consumer.",
    arity: -3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::string("group"),
        Arg::block(
            "filters",
            &[
                Arg::integer("min-idle-time").token("IDLE").since("6.2.0").optional(),
                Arg::string("start"),
                Arg::string("end"),
                Arg::integer("count"),
                Arg::string("consumer").optional(),
            ],
        )
        .optional(),
    ],
    tips: &["nondeterministic_output"],
    history: &[("6.2.0", "Added the `IDLE` option and exclusive range intervals.")],
    run: Handler::Keys(xpending),
    ..BASE
};

pub const XCLAIM: Command = Command {
    name: "xclaim",
    summary: "Gives pending entries to a consumer, as if they had been delivered to it.",
    complexity: "O(log N) with N being the number of messages in the PEL of the consumer group.",
    arity: -6,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::string("group"),
        Arg::string("consumer"),
        Arg::string("min-idle-time"),
        Arg::string("id").multiple(),
        Arg::integer("ms").token("IDLE").optional(),
        Arg::unix_time("unix-time-milliseconds").token("TIME").optional(),
        Arg::integer("count").token("RETRYCOUNT").optional(),
        Arg::word("force", "FORCE").optional(),
        Arg::word("justid", "JUSTID").optional(),
        Arg::string("id").token("LASTID").optional(),
    ],
    tips: &["nondeterministic_output"],
    run: Handler::Keys(xclaim),
    ..BASE
};

pub const XAUTOCLAIM: Command = Command {
    name: "xautoclaim",
    summary: "Gives the pending entries that have waited long enough to a consumer, as if they had been delivered to it.",
    since: "6.2.0",
    complexity: "O(1) if COUNT is small.",
    arity: -6,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[
        Arg::key("key", 0),
        Arg::string("group"),
        Arg::string("consumer"),
        Arg::string("min-idle-time"),
        Arg::string("start"),
        Arg::integer("count").token("COUNT").optional(),
        Arg::word("justid", "JUSTID").optional(),
    ],
    tips: &["nondeterministic_output"],
    history: &[(
        "7.0.0",
        "Added an element to the reply array, containing deleted entries the command cleared from the PEL",
    )],
    run: Handler::Keys(xautoclaim),
    ..BASE
};

/// The long form of XPENDING.
struct Filter<'a> {
    min_idle_ms: i64,
    start: StreamId,
    end: StreamId,
    count: usize,
    consumer: Option<&'a [u8]>,
}

impl<'a> Filter<'a> {
    fn parse(cx: &Cx<'a, '_>) -> Result<Option<Filter<'a>>, Error> {
        let args = cx.args;
        if args.len() == 3 {
            return Ok(None);
        }
        if !(6..=9).contains(&args.len()) {
            return Err(Error::Syntax);
        }
        let (mut at, mut min_idle_ms) = (3, 0);
        if cx.is_word(3, "IDLE") {
            min_idle_ms = cx.int(4)?;
            if args.len() < 8 {
                return Err(Error::Syntax);
            }
            at = 5;
        }
        let count = cx.int(at + 2)?.max(0) as usize;
        let (start, end) = (parse_start(args[at])?, parse_end(args[at + 1])?);
        Ok(Some(Filter { min_idle_ms, start, end, count, consumer: args.get(at + 3).copied() }))
    }
}

fn xpending(cx: &mut Cx) -> Result<(), Error> {
    let filter = Filter::parse(cx)?;
    let (key, name, now_ms) = (cx.args[1], cx.args[2], cx.keys.now_ms);
    let stream = cx.keys.read_as::<Stream>(key)?;
    let group = stream.and_then(|s| s.group(name)).ok_or_else(|| no_group(key, name, ""))?;
    match filter {
        None => summary(cx.out, group),
        Some(filter) => list(cx.out, group, &filter, now_ms),
    }
    Ok(())
}

fn summary(out: &mut Reply, group: &Group) {
    out.array(4);
    out.int(group.pending_len() as i64);
    let (Some(first), Some(last)) = (group.first_pending(), group.last_pending()) else {
        out.null();
        out.null();
        out.null_array();
        return;
    };
    reply_id(out, first);
    reply_id(out, last);
    let owners = || group.consumers().filter(|c| c.pending_len() > 0);
    out.array(owners().count());
    for consumer in owners() {
        out.array(2);
        out.bulk(consumer.name());
        out.bulk_int(consumer.pending_len() as i64);
    }
}

fn list(out: &mut Reply, group: &Group, filter: &Filter<'_>, now_ms: i64) {
    let (mark, mut n) = (out.mark(), 0);
    let mut each = |id: StreamId, pending: &Pending| {
        let idle = now_ms.saturating_sub(pending.delivered_ms);
        if n < filter.count && (filter.min_idle_ms == 0 || idle >= filter.min_idle_ms) {
            n += 1;
            out.array(4);
            reply_id(out, id);
            out.bulk(group.by_id(pending.owner).name());
            out.int(idle.max(0));
            out.int(pending.deliveries as i64);
        }
        n < filter.count
    };
    let within = |id: &StreamId| *id <= filter.end;
    match filter.consumer {
        None => {
            group
                .pending_from(filter.start)
                .take_while(|(id, _)| within(id))
                .all(|(id, pending)| each(id, pending));
        }
        Some(name) => {
            if let Some(consumer) = group.find(name) {
                group
                    .by_id(consumer)
                    .pending_from(filter.start)
                    .take_while(within)
                    .all(|id| each(id, group.pending(id).expect("a consumer's entry is its group's")));
            }
        }
    }
    out.array_at(mark, n);
}

/// A claim under way: what both commands do with an entry.
struct Claims<'a> {
    consumer: &'a [u8],
    /// Once it was needed.
    owner: Option<ConsumerId>,
    is_created: bool,
    is_justid: bool,
    now_ms: i64,
    delivered_ms: i64,
    /// `None`: one more than before, or as before with JUSTID.
    deliveries: Option<u64>,
    /// In the order in which they are replayed.
    replayed: Vec<Claim>,
    /// Entries that were given to the consumer.
    claimed: usize,
}

impl<'a> Claims<'a> {
    fn new(consumer: &'a [u8], now_ms: i64) -> Claims<'a> {
        Claims {
            consumer,
            owner: None,
            is_created: false,
            is_justid: false,
            now_ms,
            delivered_ms: now_ms,
            deliveries: None,
            replayed: Vec::new(),
            claimed: 0,
        }
    }

    /// Forgets a pending entry that is no longer in the stream.
    fn forget(&mut self, group: &mut Group, id: StreamId, pending: Pending) {
        group.acknowledge(id);
        let consumer = group.by_id(pending.owner).name().to_vec();
        self.note(group, id, consumer, pending.delivered_ms, pending.deliveries);
    }

    /// Gives an entry to the consumer and replies with it. `before`: `None` where it was not pending.
    fn take(&mut self, out: &mut Reply, log: &Log, group: &mut Group, id: StreamId, before: Option<Pending>) {
        let owner = self.owner(group);
        let deliveries = match (self.deliveries, before) {
            (Some(count), _) => count,
            (None, Some(before)) => before.deliveries.saturating_add(!self.is_justid as u64),
            // Redis counts the delivery that made it pending, and this one.
            (None, None) => 1 + !self.is_justid as u64,
        };
        group.assign(id, Pending { owner, delivered_ms: self.delivered_ms, deliveries });
        match log.get(id) {
            Some(entry) if !self.is_justid => reply_entry(out, entry),
            _ => reply_id(out, id),
        }
        self.claimed += 1;
        self.note(group, id, self.consumer.to_vec(), self.delivered_ms, deliveries);
    }

    fn owner(&mut self, group: &mut Group) -> ConsumerId {
        if let Some(owner) = self.owner {
            return owner;
        }
        let found = group.find(self.consumer);
        self.is_created = found.is_none();
        let owner = found.or_else(|| group.add_consumer(self.consumer, self.now_ms)).expect("found or added");
        let consumer = group.by_id_mut(owner);
        (consumer.seen_ms, consumer.active_ms) = (self.now_ms, self.now_ms);
        self.owner = Some(owner);
        owner
    }

    fn note(&mut self, group: &Group, id: StreamId, consumer: Vec<u8>, delivered_ms: i64, deliveries: u64) {
        self.replayed.push(Claim { id, consumer, delivered_ms, deliveries, last_id: group.last_id });
    }

    fn is_idle_for(&self, pending: &Pending, min_idle_ms: i64) -> bool {
        min_idle_ms == 0 || self.now_ms.saturating_sub(pending.delivered_ms) >= min_idle_ms
    }

    /// Says and replays what was done.
    fn finish(self, cx: &mut Cx, key: &[u8], group: &[u8]) {
        cx.replay_nothing();
        if self.is_created {
            group_changed(cx.keys, key, "xgroup-createconsumer");
        }
        cx.keys.effects.dirty += self.replayed.len() as u64;
        self.replayed.iter().for_each(|claim| replay_claim(cx, key, group, claim));
    }
}

/// The group must be there.
fn need_group(cx: &mut Cx, key: &[u8], name: &[u8]) -> Result<(), Error> {
    let stream = held::<Stream>(cx.keys, key)?;
    stream.and_then(|s| s.group(name)).map(|_| ()).ok_or_else(|| no_group(key, name, ""))
}

fn number(cx: &Cx, at: usize, refusal: &'static str) -> Result<i64, Error> {
    parse_i64(cx.args[at]).ok_or(Error::text(refusal))
}

/// The options of XCLAIM.
struct ClaimOptions {
    min_idle_ms: i64,
    ids: Vec<StreamId>,
    delivered_ms: i64,
    deliveries: Option<u64>,
    is_force: bool,
    is_justid: bool,
    last_id: StreamId,
}

impl ClaimOptions {
    fn parse(cx: &Cx) -> Result<ClaimOptions, Error> {
        let now_ms = cx.keys.now_ms;
        let min_idle_ms = number(cx, 4, "ERR Invalid min-idle-time argument for XCLAIM")?.max(0);
        // What is no id begins the options.
        let ids: Vec<StreamId> = cx.args[5..].iter().map_while(|text| parse_id(text, 0).ok()).collect();
        let mut i = 5 + ids.len();
        let mut o = ClaimOptions {
            min_idle_ms,
            ids,
            delivered_ms: now_ms,
            deliveries: None,
            is_force: false,
            is_justid: false,
            last_id: StreamId::MIN,
        };
        while i < cx.args.len() {
            let has_more = i + 1 < cx.args.len();
            if cx.is_word(i, "FORCE") {
                o.is_force = true;
            } else if cx.is_word(i, "JUSTID") {
                o.is_justid = true;
            } else if cx.is_word(i, "IDLE") && has_more {
                let idle = number(cx, i + 1, "ERR Invalid IDLE option argument for XCLAIM")?;
                o.delivered_ms = now_ms.saturating_sub(idle);
                i += 1;
            } else if cx.is_word(i, "TIME") && has_more {
                o.delivered_ms = number(cx, i + 1, "ERR Invalid TIME option argument for XCLAIM")?;
                i += 1;
            } else if cx.is_word(i, "RETRYCOUNT") && has_more {
                let count = number(cx, i + 1, "ERR Invalid RETRYCOUNT option argument for XCLAIM")?;
                o.deliveries = u64::try_from(count).ok();
                i += 1;
            } else if cx.is_word(i, "LASTID") && has_more {
                o.last_id = parse_id(cx.args[i + 1], 0)?;
                i += 1;
            } else {
                let option = String::from_utf8_lossy(cx.args[i]);
                return Err(Error::err(&format!("Unrecognized XCLAIM option '{option}'")));
            }
            i += 1;
        }
        // Redis: clocks of clients may be off; a time that cannot be is now.
        if o.delivered_ms < 0 || o.delivered_ms > now_ms {
            o.delivered_ms = now_ms;
        }
        Ok(o)
    }
}

fn xclaim(cx: &mut Cx) -> Result<(), Error> {
    let (key, name) = (cx.args[1], cx.args[2]);
    need_group(cx, key, name)?;
    let o = ClaimOptions::parse(cx)?;
    let mut claims = Claims::new(cx.args[3], cx.keys.now_ms);
    (claims.is_justid, claims.delivered_ms, claims.deliveries) = (o.is_justid, o.delivered_ms, o.deliveries);
    let out = &mut *cx.out;
    let moved = cx.keys.update(key, |stream: &mut Stream| {
        stream.with_group(name, |log, group| {
            let is_moved = o.last_id > group.last_id;
            group.last_id = group.last_id.max(o.last_id);
            claim_all(out, log, group, &o, &mut claims);
            is_moved.then_some((group.last_id, group.entries_read))
        })
    })?;
    if let Some((last_id, entries_read)) = moved.flatten().flatten()
        && claims.replayed.is_empty()
    {
        replay_position(cx, key, name, last_id, entries_read);
        cx.keys.effects.dirty += 1;
    }
    claims.finish(cx, key, name);
    Ok(())
}

fn claim_all(out: &mut Reply, log: &Log, group: &mut Group, o: &ClaimOptions, claims: &mut Claims<'_>) {
    let mark = out.mark();
    for id in &o.ids {
        let before = group.pending(*id).copied();
        if !log.contains(*id) {
            if let Some(pending) = before {
                claims.forget(group, *id, pending);
            }
            continue;
        }
        let is_wanted = match &before {
            Some(pending) => claims.is_idle_for(pending, o.min_idle_ms),
            None => o.is_force,
        };
        if is_wanted {
            claims.take(out, log, group, *id, before);
        }
    }
    out.array_at(mark, claims.claimed);
}

/// The options of XAUTOCLAIM.
struct AutoOptions {
    min_idle_ms: i64,
    start: StreamId,
    count: u64,
    is_justid: bool,
}

/// Pending entries that are looked at for each that may be claimed.
const ATTEMPTS: u64 = 10;
/// Largest COUNT, as in Redis: what is remembered for each has 16 bytes.
const COUNT_MAX: i64 = i64::MAX / 16;

impl AutoOptions {
    fn parse(cx: &Cx) -> Result<AutoOptions, Error> {
        let min_idle_ms = number(cx, 4, "ERR Invalid min-idle-time argument for XAUTOCLAIM")?.max(0);
        let mut o =
            AutoOptions { min_idle_ms, start: parse_start(cx.args[5])?, count: 100, is_justid: false };
        let mut i = 6;
        while i < cx.args.len() {
            if cx.is_word(i, "COUNT") && i + 1 < cx.args.len() {
                let count = parse_i64(cx.args[i + 1]).filter(|n| (1..=COUNT_MAX).contains(n));
                o.count = count.ok_or(Error::text("ERR COUNT must be > 0"))? as u64;
                i += 1;
            } else if cx.is_word(i, "JUSTID") {
                o.is_justid = true;
            } else {
                return Err(Error::Syntax);
            }
            i += 1;
        }
        Ok(o)
    }
}

fn xautoclaim(cx: &mut Cx) -> Result<(), Error> {
    let o = AutoOptions::parse(cx)?;
    let (key, name) = (cx.args[1], cx.args[2]);
    need_group(cx, key, name)?;
    let mut claims = Claims::new(cx.args[3], cx.keys.now_ms);
    claims.is_justid = o.is_justid;
    let mut found = Reply::new(cx.out.is_resp3());
    let passed = cx.keys.update(key, |stream: &mut Stream| {
        stream.with_group(name, |log, group| auto_claim(&mut found, log, group, &o, &mut claims))
    })?;
    let (next, gone) = passed.flatten().expect("the group is there");
    cx.out.array(3);
    reply_id(cx.out, next);
    cx.out.array(claims.claimed);
    cx.out.raw(found.as_bytes());
    cx.out.array(gone.len());
    gone.iter().for_each(|id| reply_id(cx.out, *id));
    claims.finish(cx, key, name);
    Ok(())
}

/// Claims what has waited long enough; returns where to go on (`0-0` at the end) and the ids that were forgotten.
fn auto_claim(
    out: &mut Reply,
    log: &Log,
    group: &mut Group,
    o: &AutoOptions,
    claims: &mut Claims<'_>,
) -> (StreamId, Vec<StreamId>) {
    let (mut left, mut attempts) = (o.count, o.count.saturating_mul(ATTEMPTS));
    let (mut from, mut gone) = (Some(o.start), Vec::new());
    loop {
        let at = from.and_then(|from| group.pending_from(from).next().map(|(id, pending)| (id, *pending)));
        let Some((id, pending)) = at else { return (StreamId::MIN, gone) };
        if left == 0 || attempts == 0 {
            return (id, gone);
        }
        attempts -= 1;
        from = id.next();
        if !log.contains(id) {
            claims.forget(group, id, pending);
            gone.push(id);
            left -= 1;
        } else if claims.is_idle_for(&pending, o.min_idle_ms) {
            claims.take(out, log, group, id, Some(pending));
            left -= 1;
        }
    }
}

pub static COMMANDS: &[Command] = &[XPENDING, XCLAIM, XAUTOCLAIM];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    /// Three entries that consumer `a` has got.
    fn pending() -> Runner {
        let mut r = Runner::default();
        r.all(&["XADD s 1 f v", "XADD s 2 f v", "XADD s 3 f v", "XGROUP CREATE s g 0"]);
        r.run("XREADGROUP GROUP g a STREAMS s >");
        r.replayed();
        r
    }

    #[test]
    fn summaries_and_lists() {
        let mut r = pending();
        r.now_ms += 500;
        r.run("XCLAIM s g b 0 2 JUSTID");
        assert_eq!(
            r.run("XPENDING s g"),
            "*4\r\n:3\r\n$3\r\n1-0\r\n$3\r\n3-0\r\n*2\r\n*2\r\n$1\r\na\r\n$1\r\n2\r\n*2\r\n$1\r\nb\r\n$1\r\n1\r\n"
        );
        let line =
            |id: u32, who: &str, idle: u32| format!("*4\r\n$3\r\n{id}-0\r\n$1\r\n{who}\r\n:{idle}\r\n:1\r\n");
        assert_eq!(r.run("XPENDING s g (1 + 10"), format!("*2\r\n{}{}", line(2, "b", 0), line(3, "a", 500)));
        assert_eq!(r.run("XPENDING s g IDLE 500 - + 1"), format!("*1\r\n{}", line(1, "a", 500)));
        assert_eq!(r.run("XPENDING s g - + 10 b"), format!("*1\r\n{}", line(2, "b", 0)));
        assert_eq!(r.run("XPENDING s g - + 10 nobody"), "*0\r\n");
        assert_eq!(r.run("XPENDING s g - + 0"), "*0\r\n");
        assert_eq!(r.run("XPENDING s g - +"), "-ERR syntax error\r\n");
        assert_eq!(r.run("XPENDING s g IDLE 5 - +"), "-ERR syntax error\r\n");
        assert_eq!(r.run("XPENDING s x"), "-NOGROUP No such key 's' or consumer group 'x'\r\n");
    }

    #[test]
    fn a_claim_moves_an_entry_and_is_replayed_as_it_came_out() {
        let mut r = pending();
        r.now_ms += 500;
        assert_eq!(r.run("XCLAIM s g b 501 1 2"), "*0\r\n");
        assert_eq!(r.run("XCLAIM s g b 500 1"), "*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
        assert_eq!(r.run("XCLAIM s g b 0 2 9 IDLE 100 RETRYCOUNT 7 JUSTID"), "*1\r\n$3\r\n2-0\r\n");
        assert_eq!(
            r.replayed(),
            [
                "XCLAIM s g b 0 1-0 TIME 1700000000500 RETRYCOUNT 2 FORCE JUSTID LASTID 3-0",
                "XCLAIM s g b 0 2-0 TIME 1700000000400 RETRYCOUNT 7 FORCE JUSTID LASTID 3-0"
            ]
        );
        // Acknowledged and claimed again by force: pending anew.
        r.run("XACK s g 1");
        assert_eq!(r.run("XCLAIM s g c 0 1 JUSTID"), "*0\r\n");
        assert_eq!(r.run("XCLAIM s g c 0 1 FORCE JUSTID"), "*1\r\n$3\r\n1-0\r\n");
    }

    #[test]
    fn an_entry_that_is_gone_is_forgotten() {
        let mut r = pending();
        r.run("XDEL s 2");
        r.replayed();
        assert_eq!(r.run("XCLAIM s g b 0 2"), "*0\r\n");
        assert_eq!(
            r.replayed(),
            ["XCLAIM s g a 0 2-0 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID LASTID 3-0"]
        );
        assert!(r.run("XPENDING s g").starts_with("*4\r\n:2\r\n"));
    }

    #[test]
    fn claiming_by_age_goes_on_where_it_stopped() {
        let mut r = pending();
        r.run("XDEL s 1");
        r.now_ms += 10;
        assert_eq!(
            r.run("XAUTOCLAIM s g b 10 - COUNT 2 JUSTID"),
            "*3\r\n$3\r\n3-0\r\n*1\r\n$3\r\n2-0\r\n*1\r\n$3\r\n1-0\r\n"
        );
        assert_eq!(r.run("XAUTOCLAIM s g b 10 3-0 JUSTID"), "*3\r\n$3\r\n0-0\r\n*1\r\n$3\r\n3-0\r\n*0\r\n");
        assert_eq!(r.run("XAUTOCLAIM s g b 10 - JUSTID"), "*3\r\n$3\r\n0-0\r\n*0\r\n*0\r\n");
        assert_eq!(r.run("XAUTOCLAIM s g b 0 - COUNT 0"), "-ERR COUNT must be > 0\r\n");
        assert_eq!(r.run("XAUTOCLAIM s g b x -"), "-ERR Invalid min-idle-time argument for XAUTOCLAIM\r\n");
    }

    #[test]
    fn what_claims_refuse() {
        let none = "-NOGROUP No such key 's' or consumer group 'g'\r\n";
        assert_eq!(run(&["XCLAIM s g b x 1"]), none);
        assert_eq!(run(&["XAUTOCLAIM s g b 0 -"]), none);
        let mut r = pending();
        assert_eq!(r.run("XCLAIM s g b x 1"), "-ERR Invalid min-idle-time argument for XCLAIM\r\n");
        assert_eq!(r.run("XCLAIM s g b 0 1 UP"), "-ERR Unrecognized XCLAIM option 'UP'\r\n");
        assert_eq!(r.run("XCLAIM s g b 0 1 TIME x"), "-ERR Invalid TIME option argument for XCLAIM\r\n");
    }

    #[test]
    fn a_replica_comes_to_the_same_state() {
        let (mut primary, mut replica) = (Runner::default(), Runner::default());
        primary.all(&["XADD s 1 f v", "XADD s 2 f v", "XADD s 3 f v", "XGROUP CREATE s g 0"]);
        primary.all(&["XREADGROUP GROUP g a STREAMS s >", "XACK s g 1", "XDEL s 2", "XAUTOCLAIM s g b 0 -"]);
        for unit in primary.replayed() {
            unit.split("; ").for_each(|line| drop(replica.run(line)));
        }
        for look in ["XPENDING s g", "XPENDING s g - + 9", "XINFO GROUPS s", "XRANGE s - +"] {
            assert_eq!(primary.run(look), replica.run(look), "{look}");
        }
    }
}
