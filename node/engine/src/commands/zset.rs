//! Sorted sets: members one by one. Ranges, pops and operations on several sets have files of their own.

use super::collection::{RandomCount, changed, held};
use super::scan;
use crate::Error;
use crate::cx::Cx;
use crate::number::parse_f64;
use crate::settings::notify;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use proto::resp::{Reply, format_double};
use storage::{Thresholds, ZSet};

pub(super) const BASE: Command = Command { group: Group::SortedSet, ..Command::BASE };

/// Options of ZADD.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Add {
    pub only_new: bool,
    pub only_old: bool,
    only_greater: bool,
    only_less: bool,
    counts_changed: bool,
    is_increment: bool,
}

/// What ZADD did.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Added {
    pub new: usize,
    pub changed: usize,
    /// The score after the last pair; `None`: an option forbade it.
    score: Option<f64>,
}

impl Add {
    /// Reads the options from argument 2 on; returns them and the place of the first score.
    fn parse(cx: &Cx) -> Result<(Add, usize), Error> {
        let mut add = Add::default();
        let mut i = 2;
        while i < cx.args.len() {
            match () {
                () if cx.is_word(i, "NX") => add.only_new = true,
                () if cx.is_word(i, "XX") => add.only_old = true,
                () if cx.is_word(i, "GT") => add.only_greater = true,
                () if cx.is_word(i, "LT") => add.only_less = true,
                () if cx.is_word(i, "CH") => add.counts_changed = true,
                () if cx.is_word(i, "INCR") => add.is_increment = true,
                () => break,
            }
            i += 1;
        }
        let words = cx.args.len() - i;
        if words == 0 || !words.is_multiple_of(2) {
            return Err(Error::Syntax);
        }
        if add.only_new && add.only_old {
            return Err(Error::text("ERR XX and NX options at the same time are not compatible"));
        }
        if [add.only_new, add.only_greater, add.only_less].into_iter().filter(|b| *b).count() > 1 {
            return Err(Error::text("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if add.is_increment && words > 2 {
            return Err(Error::text("ERR INCR option supports a single increment-element pair"));
        }
        Ok((add, i))
    }

    /// Applies one pair. `Err`: the sum is not a number; nothing was changed.
    fn apply(
        self,
        set: &mut ZSet,
        member: &[u8],
        score: f64,
        thresholds: &Thresholds,
        done: &mut Added,
    ) -> Result<(), Error> {
        let mut is_nan = false;
        let (old, new) = set.update(member, thresholds, |old| {
            let Some(old) = old else { return (!self.only_old).then_some(score) };
            let score = if self.is_increment { old + score } else { score };
            // With NX a member that is there is left before anything is added.
            is_nan = score.is_nan() && !self.only_new;
            let is_forbidden =
                self.only_new || self.only_less && score >= old || self.only_greater && score <= old;
            (!is_nan && !is_forbidden).then_some(score)
        });
        if is_nan {
            return Err(Error::ScoreIsNan);
        }
        done.score = new;
        match (old, new) {
            (None, Some(_)) => done.new += 1,
            (Some(old), Some(new)) if old != new => done.changed += 1,
            _ => {}
        }
        Ok(())
    }

    /// Adds `pairs` to the set at argument 1.
    pub fn run(self, cx: &mut Cx, pairs: &[(f64, &[u8])]) -> Result<Added, Error> {
        let (key, thresholds) = (cx.args[1], &cx.settings.thresholds);
        let done = cx.keys.update_or_new(key, |set: &mut ZSet| {
            let mut done = Added::default();
            for (score, member) in pairs {
                self.apply(set, member, *score, thresholds, &mut done)?;
            }
            Ok(done)
        })??;
        if done.new + done.changed > 0 {
            let event = if self.is_increment { "zincr" } else { "zadd" };
            changed(cx.keys, key, notify::ZSET, event, done.new + done.changed);
        }
        Ok(done)
    }
}

pub const ZADD: Command = Command {
    name: "zadd",
    summary: "Adds one or more members to a sorted set, or sets their scores. The set is created if it does not exist.",
    since: "1.2.0",
    complexity: "O(log(N)) for each item added, where N is the number of elements in the sorted set.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    element: 3,
    score: 2,
    args: &[
        Arg::key("key", 0),
        Arg::one_of("condition", &[Arg::word("nx", "NX"), Arg::word("xx", "XX")]).since("3.0.2").optional(),
        Arg::one_of("comparison", &[Arg::word("gt", "GT"), Arg::word("lt", "LT")]).since("6.2.0").optional(),
        Arg::word("change", "CH").since("3.0.2").optional(),
        Arg::word("increment", "INCR").since("3.0.2").optional(),
        Arg::block("score_member", &[Arg::double("score"), Arg::string("member")]).multiple(),
    ],
    history: &[
        ("2.4.0", "Accepts multiple elements."),
        ("3.0.2", "Added the `XX`, `NX`, `CH` and `INCR` options."),
        ("6.2.0", "Added the `GT` and `LT` options."),
    ],
    run: Handler::Keys(zadd),
    ..BASE
};
fn zadd(cx: &mut Cx) -> Result<(), Error> {
    let (add, first) = Add::parse(cx)?;
    let pairs = cx.args[first..]
        .chunks_exact(2)
        .map(|pair| Ok((parse_f64(pair[0]).ok_or(Error::NotFloat)?, pair[1])))
        .collect::<Result<Vec<_>, Error>>()?;
    let done = add.run(cx, &pairs)?;
    match (add.is_increment, done.score) {
        (true, Some(score)) => cx.out.double(score),
        (true, None) => cx.out.null(),
        (false, _) if add.counts_changed => cx.out.int((done.new + done.changed) as i64),
        (false, _) => cx.out.int(done.new as i64),
    }
    Ok(())
}

pub const ZINCRBY: Command = Command {
    name: "zincrby",
    summary: "Adds a number to the score of a member of a sorted set; a missing member counts as 0.",
    since: "1.2.0",
    complexity: "O(log(N)) where N is the number of elements in the sorted set.",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    element: 3,
    args: &[Arg::key("key", 0), Arg::integer("increment"), Arg::string("member")],
    run: Handler::Keys(zincrby),
    ..BASE
};
fn zincrby(cx: &mut Cx) -> Result<(), Error> {
    let (by, member) = (cx.float(2)?, cx.args[3]);
    let done = Add { is_increment: true, ..Add::default() }.run(cx, &[(by, member)])?;
    cx.out.double(done.score.unwrap_or(by));
    Ok(())
}

pub const ZREM: Command = Command {
    name: "zrem",
    summary: "Removes one or more members from a sorted set. The set goes with its last member.",
    since: "1.2.0",
    complexity: "O(M*log(N)) with N being the number of elements in the sorted set and M the number of elements to be removed.",
    arity: -3,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member").multiple()],
    history: &[("2.4.0", "Accepts multiple elements.")],
    run: Handler::Keys(zrem),
    ..BASE
};
fn zrem(cx: &mut Cx) -> Result<(), Error> {
    let (key, members) = (cx.args[1], &cx.args[2..]);
    let is_any =
        held::<ZSet>(cx.keys, key)?.is_some_and(|set| members.iter().any(|m| set.score(m).is_some()));
    let mut removed = 0;
    if is_any {
        cx.keys.changed(key, notify::ZSET, "zrem");
        let remove = |set: &mut ZSet| members.iter().filter(|m| set.remove(m).is_some()).count();
        removed = cx.keys.update(key, remove)?.unwrap_or(0);
        cx.keys.effects.dirty += removed as u64 - 1;
    }
    cx.out.int(removed as i64);
    Ok(())
}

pub const ZCARD: Command = Command {
    name: "zcard",
    summary: "Returns the number of members of a sorted set.",
    since: "1.2.0",
    complexity: "O(1)",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(zcard),
    ..BASE
};
fn zcard(cx: &mut Cx) -> Result<(), Error> {
    let len = cx.keys.read_as::<ZSet>(cx.args[1])?.map_or(0, |set| set.len());
    cx.out.int(len as i64);
    Ok(())
}

pub const ZSCORE: Command = Command {
    name: "zscore",
    summary: "Returns the score of a member of a sorted set.",
    since: "1.2.0",
    complexity: "O(1)",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member")],
    run: Handler::Keys(zscore),
    ..BASE
};
fn zscore(cx: &mut Cx) -> Result<(), Error> {
    match cx.keys.read_as::<ZSet>(cx.args[1])?.and_then(|set| set.score(cx.args[2])) {
        Some(score) => cx.out.double(score),
        None => cx.out.null(),
    }
    Ok(())
}

pub const ZMSCORE: Command = Command {
    name: "zmscore",
    summary: "Returns the scores of several members of a sorted set.",
    since: "6.2.0",
    complexity: "O(N) where N is the number of members being requested.",
    arity: -3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member").multiple()],
    run: Handler::Keys(zmscore),
    ..BASE
};
fn zmscore(cx: &mut Cx) -> Result<(), Error> {
    let set = cx.keys.read_as::<ZSet>(cx.args[1])?;
    let members = &cx.args[2..];
    cx.out.array(members.len());
    for member in members {
        match set.and_then(|set| set.score(member)) {
            Some(score) => cx.out.double(score),
            None => cx.out.null(),
        }
    }
    Ok(())
}

pub const ZRANK: Command = Command {
    name: "zrank",
    summary: "Returns the index of a member of a sorted set, the lowest score first.",
    since: "2.0.0",
    complexity: "O(log(N))",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member")],
    run: Handler::Keys(|cx| rank(cx, false)),
    ..BASE
};

pub const ZREVRANK: Command = Command {
    name: "zrevrank",
    summary: "Returns the index of a member of a sorted set, the highest score first.",
    since: "2.0.0",
    complexity: "O(log(N))",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member")],
    run: Handler::Keys(|cx| rank(cx, true)),
    ..BASE
};
fn rank(cx: &mut Cx, is_reverse: bool) -> Result<(), Error> {
    let set = cx.keys.read_as::<ZSet>(cx.args[1])?;
    match set.and_then(|set| Some((set.len(), set.rank(cx.args[2])?))) {
        Some((len, rank)) => cx.out.int(if is_reverse { len - 1 - rank } else { rank } as i64),
        None => cx.out.null(),
    }
    Ok(())
}

pub const ZRANDMEMBER: Command = Command {
    name: "zrandmember",
    summary: "Returns one or more members of a sorted set at random.",
    since: "6.2.0",
    complexity: "O(N) where N is the number of elements returned",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::block("options", &[Arg::integer("count"), Arg::word("withscores", "WITHSCORES").optional()])
            .optional(),
    ],
    tips: &["nondeterministic_output"],
    run: Handler::Keys(zrandmember),
    ..BASE
};
fn zrandmember(cx: &mut Cx) -> Result<(), Error> {
    if cx.args.len() == 2 {
        let rand = cx.rng.next_u64();
        match cx.keys.read_as::<ZSet>(cx.args[1])?.and_then(|set| set.random(rand)) {
            Some((member, _)) => cx.out.bulk(member),
            None => cx.out.null(),
        }
        return Ok(());
    }
    let count = RandomCount::parse(cx)?;
    let with_scores = cx.args.len() == 4 && cx.is_word(3, "WITHSCORES");
    if cx.args.len() > 3 && !with_scores {
        return Err(Error::Syntax);
    }
    let count = count.check(with_scores)?;
    let Some(set) = cx.keys.read_as::<ZSet>(cx.args[1])? else {
        cx.out.array(0);
        return Ok(());
    };
    let chosen = count.choose(set.len(), cx.rng);
    reply_members(
        cx.out,
        chosen.into_iter().map(|i| set.at(i).expect("chosen below the length")),
        with_scores,
    );
    Ok(())
}

/// Members, each with its score where asked for: in pairs in RESP3, one after the other in RESP2.
pub(super) fn reply_members<'m>(
    out: &mut Reply,
    members: impl ExactSizeIterator<Item = (&'m [u8], f64)>,
    with_scores: bool,
) {
    let is_nested = with_scores && out.is_resp3();
    out.array(if with_scores && !is_nested { members.len() * 2 } else { members.len() });
    for (member, score) in members {
        if is_nested {
            out.array(2);
        }
        out.bulk(member);
        if with_scores {
            out.double(score);
        }
    }
}

pub const ZSCAN: Command = Command {
    name: "zscan",
    summary: "Iterates over the members of a sorted set and their scores.",
    group: Group::SortedSet,
    run: Handler::Keys(zscan),
    ..scan::OF_COLLECTION
};
fn zscan(cx: &mut Cx) -> Result<(), Error> {
    let Some((cursor, filter)) = scan::begin_of_collection::<ZSet>(cx)? else { return Ok(()) };
    let mut found = Vec::new();
    let mut is_packed = false;
    let next = held::<ZSet>(cx.keys, cx.args[1])?.map_or(0, |set| {
        is_packed = set.encoding() == "listpack";
        set.scan(cursor, filter.count, &mut |member, score| {
            if filter.is_match(member) {
                found.push((member, score));
            }
        })
    });
    scan::page(cx.out, next, found.len() * 2);
    for (member, score) in found {
        cx.out.bulk(member);
        // A text in RESP3 too, as in Redis; integers are written out while packed.
        match score as i64 {
            whole if is_packed && whole as f64 == score && whole != i64::MAX => cx.out.bulk_int(whole),
            _ => cx.out.bulk(format_double(score).as_bytes()),
        }
    }
    Ok(())
}

pub static COMMANDS: &[Command] =
    &[ZADD, ZINCRBY, ZREM, ZCARD, ZSCORE, ZMSCORE, ZRANK, ZREVRANK, ZRANDMEMBER, ZSCAN];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn add_with_options() {
        assert_eq!(run(&["ZADD z 1 a 2 b", "ZADD z 3 a 4 c"]), ":1\r\n");
        assert_eq!(run(&["ZADD z 1 a 2 b", "ZADD z CH 3 a 2 b 4 c"]), ":2\r\n");
        assert_eq!(run(&["ZADD z 1 a", "ZADD z NX 2 a", "ZSCORE z a"]), "$1\r\n1\r\n");
        assert_eq!(run(&["ZADD z XX 1 a", "EXISTS z"]), ":0\r\n");
        assert_eq!(run(&["ZADD z 5 a", "ZADD z GT CH 4 a 9 b", "ZSCORE z a"]), "$1\r\n5\r\n");
        assert_eq!(run(&["ZADD z 5 a", "ZADD z LT INCR 1 a"]), "$-1\r\n");
        assert_eq!(run(&["ZADD z 5 a", "ZADD z INCR 1.5 a"]), "$3\r\n6.5\r\n");
        assert_eq!(
            run(&["ZADD z NX XX 1 a"]),
            "-ERR XX and NX options at the same time are not compatible\r\n"
        );
        assert_eq!(
            run(&["ZADD z INCR 1 a 2 b"]),
            "-ERR INCR option supports a single increment-element pair\r\n"
        );
        assert_eq!(run(&["ZADD z 1 a x b", "EXISTS z"]), ":0\r\n");
    }

    #[test]
    fn scores_and_ranks() {
        let set = "ZADD z 1 a 2 b 2 c";
        assert_eq!(
            run(&[set, "ZRANK z c"]) + &run(&[set, "ZREVRANK z c"]) + &run(&[set, "ZRANK z x"]),
            ":2\r\n:0\r\n$-1\r\n"
        );
        assert_eq!(run(&[set, "ZMSCORE z a x"]), "*2\r\n$1\r\n1\r\n$-1\r\n");
        assert_eq!(
            run(&["ZADD z inf a", "ZINCRBY z -inf a"]),
            "-ERR resulting score is not a number (NaN)\r\n"
        );
        assert_eq!(run(&["ZADD z inf a", "ZADD z NX INCR -inf a"]), "$-1\r\n");
        assert_eq!(run(&["ZINCRBY z 2 a"]), "$1\r\n2\r\n");
        assert_eq!(
            run(&[set, "ZREM z a b x", "ZCARD z"]) + &run(&["ZADD z 1 a", "ZREM z a", "EXISTS z"]),
            ":1\r\n:0\r\n"
        );
    }

    #[test]
    fn events_and_encoding() {
        let mut r = Runner::default();
        r.settings.notify_keyspace_events = u32::MAX;
        r.all(&["ZADD z 1 a", "ZADD z 1 a", "ZADD z INCR 1 a", "ZREM z a"]);
        let events: Vec<String> = r.published().into_iter().filter(|e| e.contains("keyspace")).collect();
        let names: Vec<&str> = events.iter().map(|e| e.split(' ').next_back().unwrap()).collect();
        assert_eq!(names, ["new", "zadd", "zincr", "zrem", "del"]);
        r.run("ZADD z 1 a");
        assert_eq!(r.run("OBJECT ENCODING z"), "$8\r\nlistpack\r\n");
        assert_eq!(r.run("ZSCAN z 0"), "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n");
        assert_eq!(r.run("ZRANDMEMBER z -1 WITHSCORES"), "*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    }
}
