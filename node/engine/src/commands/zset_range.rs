//! Ranges of sorted sets, by rank, score or member: read, count, store, remove.
//!
//! Every range becomes a range of ranks first; what is done with it is then the same for all.

use super::collection::{changed, held, index_range};
use super::zset::{BASE, reply_members};
use crate::Error;
use crate::cx::Cx;
use crate::keys::Collection;
use crate::number::{parse_c_f64, parse_i64};
use crate::settings::notify;
use crate::spec::{Arg, Command, Deprecated, Handler, KeySpec, flag, key};
use storage::ZSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Rank,
    Score,
    Member,
}

/// Both ends of a range, the lower first.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Bounds<'a> {
    /// May count from the end; inclusive.
    Rank(i64, i64),
    Score(ScoreBound, ScoreBound),
    Member(MemberBound<'a>, MemberBound<'a>),
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct ScoreBound {
    score: f64,
    is_exclusive: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum MemberBound<'a> {
    Least,
    Greatest,
    Inclusive(&'a [u8]),
    Exclusive(&'a [u8]),
}

impl ScoreBound {
    fn parse(text: &[u8]) -> Option<ScoreBound> {
        let (number, is_exclusive) = text.strip_prefix(b"(").map_or((text, false), |rest| (rest, true));
        Some(ScoreBound { score: parse_c_f64(number)?, is_exclusive })
    }
}

impl<'a> MemberBound<'a> {
    fn parse(text: &'a [u8]) -> Option<MemberBound<'a>> {
        match text {
            b"-" => Some(MemberBound::Least),
            b"+" => Some(MemberBound::Greatest),
            [b'[', member @ ..] => Some(MemberBound::Inclusive(member)),
            [b'(', member @ ..] => Some(MemberBound::Exclusive(member)),
            _ => None,
        }
    }

    /// Whether a member is within this bound, as the lower end of a range.
    fn is_below(self, member: &[u8]) -> bool {
        match self {
            MemberBound::Least => true,
            MemberBound::Greatest => false,
            MemberBound::Inclusive(bound) => bound <= member,
            MemberBound::Exclusive(bound) => bound < member,
        }
    }

    /// The same as the upper end.
    fn is_above(self, member: &[u8]) -> bool {
        match self {
            MemberBound::Least => false,
            MemberBound::Greatest => true,
            MemberBound::Inclusive(bound) => member <= bound,
            MemberBound::Exclusive(bound) => member < bound,
        }
    }

    /// Number of members before this bound, as the upper end of a range if `is_end`.
    fn rank(self, set: &ZSet, is_end: bool) -> usize {
        match self {
            MemberBound::Least => 0,
            MemberBound::Greatest => set.len(),
            MemberBound::Inclusive(member) => set.rank_of_member(member, is_end),
            MemberBound::Exclusive(member) => set.rank_of_member(member, !is_end),
        }
    }
}

impl<'a> Bounds<'a> {
    fn parse(by: By, low: &'a [u8], high: &'a [u8]) -> Result<Bounds<'a>, Error> {
        match by {
            By::Rank => {
                parse_i64(low).zip(parse_i64(high)).map(|(a, b)| Bounds::Rank(a, b)).ok_or(Error::NotInteger)
            }
            By::Score => ScoreBound::parse(low)
                .zip(ScoreBound::parse(high))
                .map(|(a, b)| Bounds::Score(a, b))
                .ok_or(Error::MinOrMaxNotFloat),
            By::Member => MemberBound::parse(low)
                .zip(MemberBound::parse(high))
                .map(|(a, b)| Bounds::Member(a, b))
                .ok_or(Error::MinOrMaxNotRange),
        }
    }

    /// The ranks `start..end` of the members within; ranks given by the client count from the end if `is_reverse`.
    fn ranks(self, set: &ZSet, is_reverse: bool) -> (usize, usize) {
        let (start, end) = match self {
            Bounds::Rank(start, stop) => match index_range(start, stop, set.len()) {
                Some((start, end)) if is_reverse => (set.len() - end, set.len() - start),
                Some(range) => range,
                None => (0, 0),
            },
            Bounds::Score(low, high) => (
                set.rank_of_score(low.score, low.is_exclusive),
                set.rank_of_score(high.score, !high.is_exclusive),
            ),
            // As in Redis both ends are looked at first. It makes a difference where scores do, and members are in no order.
            Bounds::Member(low, high)
                if set.is_empty()
                    || !low.is_below(set.at(set.len() - 1).expect("the last").0)
                    || !high.is_above(set.at(0).expect("the first").0) =>
            {
                (0, 0)
            }
            Bounds::Member(low, high) => (low.rank(set, false), high.rank(set, true)),
        };
        (start, end.max(start))
    }
}

/// The arguments of the reading range commands.
struct Request<'a> {
    key: &'a [u8],
    bounds: Bounds<'a>,
    is_reverse: bool,
    /// Offset and count; a negative count is all, a negative offset nothing.
    limit: Option<(i64, i64)>,
    with_scores: bool,
}

impl<'a> Request<'a> {
    /// Parses from the key at argument `at` on. What `by` and `is_reverse` leave open are options.
    fn parse(
        cx: &Cx<'a, '_>,
        at: usize,
        by: Option<By>,
        is_reverse: Option<bool>,
        is_store: bool,
    ) -> Result<Request<'a>, Error> {
        let (mut by, mut is_reverse) = (by, is_reverse);
        let (mut limit, mut with_scores) = (None, false);
        let mut i = at + 3;
        while i < cx.args.len() {
            if !is_store && cx.is_word(i, "WITHSCORES") {
                with_scores = true;
            } else if cx.is_word(i, "LIMIT") && i + 2 < cx.args.len() {
                limit = Some((cx.int(i + 1)?, cx.int(i + 2)?));
                i += 2;
            } else if is_reverse.is_none() && cx.is_word(i, "REV") {
                is_reverse = Some(true);
            } else if by.is_none() && cx.is_word(i, "BYLEX") {
                by = Some(By::Member);
            } else if by.is_none() && cx.is_word(i, "BYSCORE") {
                by = Some(By::Score);
            } else {
                return Err(Error::Syntax);
            }
            i += 1;
        }
        let (by, is_reverse) = (by.unwrap_or(By::Rank), is_reverse.unwrap_or(false));
        if by == By::Rank && limit.is_some_and(|(_, count)| count != -1) {
            return Err(Error::text(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Member {
            return Err(Error::text("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        let (first, second) = (cx.args[at + 1], cx.args[at + 2]);
        // Backwards, the greater bound is given first.
        let is_swapped = is_reverse && by != By::Rank;
        let (low, high) = if is_swapped { (second, first) } else { (first, second) };
        let bounds = Bounds::parse(by, low, high)?;
        let limit = limit.filter(|_| by != By::Rank);
        Ok(Request { key: cx.args[at], bounds, is_reverse, limit, with_scores })
    }

    /// The ranks `start..end` that are asked for.
    fn ranks(&self, set: &ZSet) -> (usize, usize) {
        let (start, end) = self.bounds.ranks(set, self.is_reverse);
        let Some((offset, count)) = self.limit else { return (start, end) };
        let len = end - start;
        let skip = usize::try_from(offset).unwrap_or(len).min(len);
        let take = usize::try_from(count).unwrap_or(len).min(len - skip);
        if self.is_reverse { (end - skip - take, end - skip) } else { (start + skip, start + skip + take) }
    }
}

pub const ZRANGE: Command = Command {
    name: "zrange",
    summary: "Returns the members of a sorted set within a range of indices, scores or members.",
    since: "1.2.0",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned.",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::string("start"),
        Arg::string("stop"),
        Arg::one_of("sortby", &[Arg::word("byscore", "BYSCORE"), Arg::word("bylex", "BYLEX")])
            .since("6.2.0")
            .optional(),
        Arg::word("rev", "REV").since("6.2.0").optional(),
        Arg::block("offset_count", &[Arg::integer("offset"), Arg::integer("count")])
            .token("LIMIT")
            .since("6.2.0")
            .optional(),
        Arg::word("withscores", "WITHSCORES").optional(),
    ],
    history: &[("6.2.0", "Added the `REV`, `BYSCORE`, `BYLEX` and `LIMIT` options.")],
    run: Handler::Keys(|cx| range(cx, None, None)),
    ..BASE
};

pub const ZRANGEBYSCORE: Command = Command {
    name: "zrangebyscore",
    summary: "Returns the members of a sorted set within a range of scores.",
    since: "1.0.5",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::double("min"),
        Arg::double("max"),
        Arg::word("withscores", "WITHSCORES").since("2.0.0").optional(),
        Arg::block("offset_count", &[Arg::integer("offset"), Arg::integer("count")])
            .token("LIMIT")
            .optional(),
    ],
    history: &[("2.0.0", "Added the `WITHSCORES` modifier.")],
    deprecated: Some(Deprecated { since: "6.2.0", replaced_by: "`ZRANGE` with the `BYSCORE` argument" }),
    run: Handler::Keys(|cx| range(cx, Some(By::Score), Some(false))),
    ..BASE
};

pub const ZRANGEBYLEX: Command = Command {
    name: "zrangebylex",
    summary: "Returns the members of a sorted set within a range of members.",
    since: "2.8.9",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::string("min"),
        Arg::string("max"),
        Arg::block("offset_count", &[Arg::integer("offset"), Arg::integer("count")])
            .token("LIMIT")
            .optional(),
    ],
    deprecated: Some(Deprecated { since: "6.2.0", replaced_by: "`ZRANGE` with the `BYLEX` argument" }),
    run: Handler::Keys(|cx| range(cx, Some(By::Member), Some(false))),
    ..BASE
};

pub const ZREVRANGE: Command = Command {
    name: "zrevrange",
    summary: "Returns the members of a sorted set within a range of indices, the highest score first.",
    since: "1.2.0",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned.",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::integer("start"),
        Arg::integer("stop"),
        Arg::word("withscores", "WITHSCORES").optional(),
    ],
    deprecated: Some(Deprecated { since: "6.2.0", replaced_by: "`ZRANGE` with the `REV` argument" }),
    run: Handler::Keys(|cx| range(cx, Some(By::Rank), Some(true))),
    ..BASE
};

pub const ZREVRANGEBYSCORE: Command = Command {
    name: "zrevrangebyscore",
    summary: "Returns the members of a sorted set within a range of scores, the highest first.",
    since: "2.2.0",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::double("max"),
        Arg::double("min"),
        Arg::word("withscores", "WITHSCORES").optional(),
        Arg::block("offset_count", &[Arg::integer("offset"), Arg::integer("count")])
            .token("LIMIT")
            .optional(),
    ],
    history: &[("2.1.6", "`min` and `max` can be exclusive.")],
    deprecated: Some(Deprecated {
        since: "6.2.0",
        replaced_by: "`ZRANGE` with the `REV` and `BYSCORE` arguments",
    }),
    run: Handler::Keys(|cx| range(cx, Some(By::Score), Some(true))),
    ..BASE
};

pub const ZREVRANGEBYLEX: Command = Command {
    name: "zrevrangebylex",
    summary: "Returns the members of a sorted set within a range of members, the greatest first.",
    since: "2.8.9",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned. If M is constant (e.g. always asking for the first 10 elements with LIMIT), you can consider it O(log(N)).",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::string("max"),
        Arg::string("min"),
        Arg::block("offset_count", &[Arg::integer("offset"), Arg::integer("count")])
            .token("LIMIT")
            .optional(),
    ],
    deprecated: Some(Deprecated {
        since: "6.2.0",
        replaced_by: "`ZRANGE` with the `REV` and `BYLEX` arguments",
    }),
    run: Handler::Keys(|cx| range(cx, Some(By::Member), Some(true))),
    ..BASE
};
fn range(cx: &mut Cx, by: Option<By>, is_reverse: Option<bool>) -> Result<(), Error> {
    let request = Request::parse(cx, 1, by, is_reverse, false)?;
    let Some(set) = cx.keys.read_as::<ZSet>(request.key)? else {
        cx.out.array(0);
        return Ok(());
    };
    let (start, end) = request.ranks(set);
    match request.is_reverse {
        true => reply_members(cx.out, set.range(start, end).rev(), request.with_scores),
        false => reply_members(cx.out, set.range(start, end), request.with_scores),
    }
    Ok(())
}

pub const ZRANGESTORE: Command = Command {
    name: "zrangestore",
    summary: "Stores the members of a sorted set within a range in a key.",
    since: "6.2.0",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements stored into the destination key.",
    arity: -5,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE), KeySpec::one(2, key::RO | key::ACCESS)],
    args: &[
        Arg::key("dst", 0),
        Arg::key("src", 1),
        Arg::string("min"),
        Arg::string("max"),
        Arg::one_of("sortby", &[Arg::word("byscore", "BYSCORE"), Arg::word("bylex", "BYLEX")]).optional(),
        Arg::word("rev", "REV").optional(),
        Arg::block("offset_count", &[Arg::integer("offset"), Arg::integer("count")])
            .token("LIMIT")
            .optional(),
    ],
    run: Handler::Keys(zrangestore),
    ..BASE
};
fn zrangestore(cx: &mut Cx) -> Result<(), Error> {
    let (target, request) = (cx.args[1], Request::parse(cx, 2, None, None, true)?);
    let thresholds = &cx.settings.thresholds;
    let mut result = ZSet::new();
    if let Some(set) = cx.keys.read_as::<ZSet>(request.key)? {
        let (start, end) = request.ranks(set);
        set.range(start, end).for_each(|(member, score)| _ = result.insert(member, score, thresholds));
    }
    let len = result.len();
    if len == 0 {
        cx.keys.delete(target);
    } else {
        cx.keys.store(target, result.into_value(), None);
        cx.keys.changed(target, notify::ZSET, "zrangestore");
    }
    cx.out.int(len as i64);
    Ok(())
}

pub const ZCOUNT: Command = Command {
    name: "zcount",
    summary: "Returns the number of members of a sorted set within a range of scores.",
    since: "2.0.0",
    complexity: "O(log(N)) with N being the number of elements in the sorted set.",
    arity: 4,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::double("min"), Arg::double("max")],
    run: Handler::Keys(|cx| count(cx, By::Score)),
    ..BASE
};

pub const ZLEXCOUNT: Command = Command {
    name: "zlexcount",
    summary: "Returns the number of members of a sorted set within a range of members.",
    since: "2.8.9",
    complexity: "O(log(N)) with N being the number of elements in the sorted set.",
    arity: 4,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::string("min"), Arg::string("max")],
    run: Handler::Keys(|cx| count(cx, By::Member)),
    ..BASE
};
fn count(cx: &mut Cx, by: By) -> Result<(), Error> {
    let bounds = Bounds::parse(by, cx.args[2], cx.args[3])?;
    let len = cx.keys.read_as::<ZSet>(cx.args[1])?.map_or(0, |set| {
        let (start, end) = bounds.ranks(set, false);
        end - start
    });
    cx.out.int(len as i64);
    Ok(())
}

pub const ZREMRANGEBYRANK: Command = Command {
    name: "zremrangebyrank",
    summary: "Removes the members of a sorted set within a range of indices. The set goes with its last member.",
    since: "2.0.0",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.",
    arity: 4,
    flags: flag::WRITE,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("start"), Arg::integer("stop")],
    run: Handler::Keys(|cx| remove(cx, By::Rank, "zremrangebyrank")),
    ..BASE
};

pub const ZREMRANGEBYSCORE: Command = Command {
    name: "zremrangebyscore",
    summary: "Removes the members of a sorted set within a range of scores. The set goes with its last member.",
    since: "1.2.0",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.",
    arity: 4,
    flags: flag::WRITE,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::double("min"), Arg::double("max")],
    run: Handler::Keys(|cx| remove(cx, By::Score, "zremrangebyscore")),
    ..BASE
};

pub const ZREMRANGEBYLEX: Command = Command {
    name: "zremrangebylex",
    summary: "Removes the members of a sorted set within a range of members. The set goes with its last member.",
    since: "2.8.9",
    complexity: "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation.",
    arity: 4,
    flags: flag::WRITE,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::string("min"), Arg::string("max")],
    run: Handler::Keys(|cx| remove(cx, By::Member, "zremrangebylex")),
    ..BASE
};
fn remove(cx: &mut Cx, by: By, event: &'static str) -> Result<(), Error> {
    let key = cx.args[1];
    let bounds = Bounds::parse(by, cx.args[2], cx.args[3])?;
    let (start, end) = held::<ZSet>(cx.keys, key)?.map_or((0, 0), |set| bounds.ranks(set, false));
    if start < end {
        changed(cx.keys, key, notify::ZSET, event, end - start);
        cx.keys.update(key, |set: &mut ZSet| set.remove_range(start, end, &mut |_, _| {}))?;
    }
    cx.out.int((end - start) as i64);
    Ok(())
}

pub static COMMANDS: &[Command] = &[
    ZRANGE,
    ZRANGEBYSCORE,
    ZRANGEBYLEX,
    ZREVRANGE,
    ZREVRANGEBYSCORE,
    ZREVRANGEBYLEX,
    ZRANGESTORE,
    ZCOUNT,
    ZLEXCOUNT,
    ZREMRANGEBYRANK,
    ZREMRANGEBYSCORE,
    ZREMRANGEBYLEX,
];

#[cfg(test)]
mod tests {
    use crate::testing::run;

    const SET: &str = "ZADD z 1 a 2 b 3 c 4 d 5 e";
    const LEX: &str = "ZADD z 0 a 0 b 0 c 0 d 0 e";

    /// The letters of a reply.
    fn letters(lines: &[&str]) -> String {
        run(lines).chars().filter(|c| c.is_ascii_lowercase()).collect()
    }

    #[test]
    fn by_rank() {
        assert_eq!(letters(&[SET, "ZRANGE z 1 -2"]), "bcd");
        assert_eq!(letters(&[SET, "ZRANGE z 0 1 REV"]), "ed");
        assert_eq!(letters(&[SET, "ZREVRANGE z 1 2"]), "dc");
        assert_eq!(run(&[SET, "ZRANGE z 4 9 WITHSCORES"]), "*2\r\n$1\r\ne\r\n$1\r\n5\r\n");
        assert_eq!(run(&[SET, "ZRANGE z 5 9"]) + &run(&["ZRANGE z 0 -1"]), "*0\r\n*0\r\n");
        assert_eq!(
            run(&["ZRANGE z 0 -1 LIMIT 0 1"]),
            "-ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX\r\n"
        );
    }

    #[test]
    fn by_score() {
        assert_eq!(letters(&[SET, "ZRANGEBYSCORE z (1 4"]), "bcd");
        assert_eq!(letters(&[SET, "ZRANGEBYSCORE z -inf +inf LIMIT 1 2"]), "bc");
        assert_eq!(letters(&[SET, "ZREVRANGEBYSCORE z 4 (1 LIMIT 1 9"]), "cb");
        assert_eq!(letters(&[SET, "ZRANGE z 4 2 BYSCORE REV LIMIT 0 -1"]), "dcb");
        assert_eq!(letters(&[SET, "ZRANGE z 1 5 BYSCORE LIMIT -1 2"]), "");
        assert_eq!(run(&[SET, "ZCOUNT z (2 (4"]) + &run(&[SET, "ZCOUNT z 5 1"]), ":1\r\n:0\r\n");
        assert_eq!(run(&["ZCOUNT z x 1"]), "-ERR min or max is not a float\r\n");
        assert_eq!(run(&[SET, r#"ZCOUNT z "\x00" "(4\x00""#]), ":3\r\n");
    }

    #[test]
    fn by_member() {
        assert_eq!(letters(&[LEX, "ZRANGEBYLEX z [b (d"]), "bc");
        assert_eq!(letters(&[LEX, "ZREVRANGEBYLEX z + (c"]), "ed");
        assert_eq!(letters(&[LEX, "ZRANGE z + - BYLEX REV LIMIT 1 2"]), "dc");
        assert_eq!(run(&[LEX, "ZLEXCOUNT z - [c"]) + &run(&[LEX, "ZLEXCOUNT z + -"]), ":3\r\n:0\r\n");
        let mixed = "ZADD z 2 10 1.5 1 -1 d";
        assert_eq!(run(&[mixed, "ZLEXCOUNT z (2.5 +"]) + &run(&[mixed, "ZLEXCOUNT z - (a"]), ":0\r\n:0\r\n");
        assert_eq!(run(&["ZLEXCOUNT z a b"]), "-ERR min or max not valid string range item\r\n");
    }

    #[test]
    fn stored_and_removed() {
        assert_eq!(letters(&[SET, "ZRANGESTORE t z 1 2 REV", "ZRANGE t 0 -1"]), "cd");
        assert_eq!(run(&[SET, "SET t x", "ZRANGESTORE t none 0 -1", "EXISTS t"]), ":0\r\n");
        assert_eq!(
            letters(&[SET, "ZREMRANGEBYRANK z 0 1", "ZREMRANGEBYSCORE z (4 9", "ZRANGE z 0 -1"]),
            "cd"
        );
        assert_eq!(run(&[LEX, "ZREMRANGEBYLEX z - +", "EXISTS z"]), ":0\r\n");
    }
}
