//! Union, intersection and difference of sorted sets and sets.

use super::algebra::{Aggregate, Allowed, Source, intersect, sources, subtract, view, weighted};
use super::collection::at_least;
use super::zset::{BASE, reply_members};
use crate::Error;
use crate::cx::Cx;
use crate::keys::Collection;
use crate::number::parse_f64;
use crate::settings::notify;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use storage::ZSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Union,
    Intersection,
    Difference,
}

/// What becomes of the result; decides which options there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Reply,
    Store,
    Count,
}

/// The arguments of this family.
struct Request<'a> {
    sources: Vec<Source<'a>>,
    aggregate: Aggregate,
    with_scores: bool,
    /// Of ZINTERCARD; 0: none.
    limit: usize,
}

impl<'a> Request<'a> {
    /// Parses from `numkeys` at argument `at` on, and looks at the sources.
    fn parse(cx: &mut Cx<'a, '_>, at: usize, op: Op, purpose: Use) -> Result<Request<'a>, Error> {
        let args = cx.args;
        let numkeys = cx.int(at)?;
        if numkeys < 1 {
            let name = String::from_utf8_lossy(args[0]).to_lowercase();
            return Err(Error::err(&format!("at least 1 input key is needed for '{name}' command")));
        }
        let first = at + 1;
        let end =
            usize::try_from(numkeys).ok().filter(|n| *n <= args.len() - first).ok_or(Error::Syntax)? + first;
        let sources = sources(cx.keys, &args[first..end], Allowed::Both)?;
        let mut request = Request { sources, aggregate: Aggregate::Sum, with_scores: false, limit: 0 };
        let mut i = end;
        while i < args.len() {
            i += request.option(cx, i, op, purpose)?;
        }
        Ok(request)
    }

    /// Takes the option at argument `i`; returns how many arguments it has.
    fn option(&mut self, cx: &Cx, i: usize, op: Op, purpose: Use) -> Result<usize, Error> {
        let left = cx.args.len() - i;
        let is_weighted = op != Op::Difference && purpose != Use::Count;
        if is_weighted && left > self.sources.len() && cx.is_word(i, "WEIGHTS") {
            for (source, text) in self.sources.iter_mut().zip(&cx.args[i + 1..]) {
                source.weight = parse_f64(text).ok_or(Error::text("ERR weight value is not a float"))?;
            }
            return Ok(1 + self.sources.len());
        }
        if is_weighted && left >= 2 && cx.is_word(i, "AGGREGATE") {
            self.aggregate = match () {
                () if cx.is_word(i + 1, "SUM") => Aggregate::Sum,
                () if cx.is_word(i + 1, "MIN") => Aggregate::Min,
                () if cx.is_word(i + 1, "MAX") => Aggregate::Max,
                () => return Err(Error::Syntax),
            };
            return Ok(2);
        }
        if purpose == Use::Reply && cx.is_word(i, "WITHSCORES") {
            self.with_scores = true;
            return Ok(1);
        }
        if purpose == Use::Count && left >= 2 && cx.is_word(i, "LIMIT") {
            self.limit = at_least(cx, i + 1, 0, "ERR LIMIT can't be negative")?;
            return Ok(2);
        }
        Err(Error::Syntax)
    }

    /// The result by score, then by member.
    fn compute(&self, cx: &mut Cx, op: Op) -> Vec<(Vec<u8>, f64)> {
        let mut result = Vec::new();
        let mut take = |member: &[u8], score: f64| result.push((member.to_vec(), score));
        match op {
            Op::Union => result = self.unite(cx),
            Op::Difference => subtract(cx.keys, &self.sources, &mut take),
            Op::Intersection => intersect(cx.keys, &self.sources, self.aggregate, &mut |member, score| {
                take(member, score);
                true
            }),
        }
        // Scores are numbers, and -0 equals 0.
        result.sort_unstable_by(|a, b| {
            a.1.partial_cmp(&b.1).unwrap_or(Ordering::Equal).then_with(|| a.0.cmp(&b.0))
        });
        result
    }

    fn unite(&self, cx: &mut Cx) -> Vec<(Vec<u8>, f64)> {
        let mut ordered = self.sources.clone();
        // Sums of floats depend on their order: this one is Redis's.
        ordered.sort_by_key(|s| s.len);
        let mut all: BTreeMap<Vec<u8>, f64> = BTreeMap::new();
        for source in ordered {
            let Some(members) = view(cx.keys, source.key) else { continue };
            members.for_each(&mut |member, score| {
                let score = weighted(source, score);
                match all.get_mut(member) {
                    Some(joint) => *joint = self.aggregate.join(*joint, score),
                    None => _ = all.insert(member.to_vec(), score),
                }
            });
        }
        all.into_iter().collect()
    }
}

pub const ZUNION: Command = Command {
    name: "zunion",
    summary: "Returns the members that any of several sorted sets has.",
    since: "6.2.0",
    complexity: "O(N)+O(M*log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set.",
    arity: -3,
    flags: flag::READONLY | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(1, key::RO | key::ACCESS)],
    args: &[
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::integer("weight").token("WEIGHTS").optional().multiple(),
        Arg::one_of(
            "aggregate",
            &[Arg::word("sum", "SUM"), Arg::word("min", "MIN"), Arg::word("max", "MAX")],
        )
        .token("AGGREGATE")
        .optional(),
        Arg::word("withscores", "WITHSCORES").optional(),
    ],
    run: Handler::Keys(|cx| reply(cx, Op::Union)),
    ..BASE
};

pub const ZINTER: Command = Command {
    name: "zinter",
    summary: "Returns the members that all of several sorted sets have.",
    since: "6.2.0",
    complexity: "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set.",
    arity: -3,
    flags: flag::READONLY | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(1, key::RO | key::ACCESS)],
    args: &[
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::integer("weight").token("WEIGHTS").optional().multiple(),
        Arg::one_of(
            "aggregate",
            &[Arg::word("sum", "SUM"), Arg::word("min", "MIN"), Arg::word("max", "MAX")],
        )
        .token("AGGREGATE")
        .optional(),
        Arg::word("withscores", "WITHSCORES").optional(),
    ],
    run: Handler::Keys(|cx| reply(cx, Op::Intersection)),
    ..BASE
};

pub const ZDIFF: Command = Command {
    name: "zdiff",
    summary: "Returns the members of the first sorted set that no other has.",
    since: "6.2.0",
    complexity: "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set.",
    arity: -3,
    flags: flag::READONLY | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(1, key::RO | key::ACCESS)],
    args: &[
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::word("withscores", "WITHSCORES").optional(),
    ],
    run: Handler::Keys(|cx| reply(cx, Op::Difference)),
    ..BASE
};
fn reply(cx: &mut Cx, op: Op) -> Result<(), Error> {
    let request = Request::parse(cx, 1, op, Use::Reply)?;
    let result = request.compute(cx, op);
    reply_members(cx.out, result.iter().map(|(m, s)| (&m[..], *s)), request.with_scores);
    Ok(())
}

pub const ZUNIONSTORE: Command = Command {
    name: "zunionstore",
    summary: "Stores the members that any of several sorted sets has in a key.",
    since: "2.0.0",
    complexity: "O(N)+O(M log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE), KeySpec::counted(2, key::RO | key::ACCESS)],
    args: &[
        Arg::key("destination", 0),
        Arg::integer("numkeys"),
        Arg::key("key", 1).multiple(),
        Arg::integer("weight").token("WEIGHTS").optional().multiple(),
        Arg::one_of(
            "aggregate",
            &[Arg::word("sum", "SUM"), Arg::word("min", "MIN"), Arg::word("max", "MAX")],
        )
        .token("AGGREGATE")
        .optional(),
    ],
    run: Handler::Keys(|cx| store(cx, Op::Union, "zunionstore")),
    ..BASE
};

pub const ZINTERSTORE: Command = Command {
    name: "zinterstore",
    summary: "Stores the members that all of several sorted sets have in a key.",
    since: "2.0.0",
    complexity: "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE), KeySpec::counted(2, key::RO | key::ACCESS)],
    args: &[
        Arg::key("destination", 0),
        Arg::integer("numkeys"),
        Arg::key("key", 1).multiple(),
        Arg::integer("weight").token("WEIGHTS").optional().multiple(),
        Arg::one_of(
            "aggregate",
            &[Arg::word("sum", "SUM"), Arg::word("min", "MIN"), Arg::word("max", "MAX")],
        )
        .token("AGGREGATE")
        .optional(),
    ],
    run: Handler::Keys(|cx| store(cx, Op::Intersection, "zinterstore")),
    ..BASE
};

pub const ZDIFFSTORE: Command = Command {
    name: "zdiffstore",
    summary: "Stores the members of the first sorted set that no other has in a key.",
    since: "6.2.0",
    complexity: "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set.",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE), KeySpec::counted(2, key::RO | key::ACCESS)],
    args: &[Arg::key("destination", 0), Arg::integer("numkeys"), Arg::key("key", 1).multiple()],
    run: Handler::Keys(|cx| store(cx, Op::Difference, "zdiffstore")),
    ..BASE
};
fn store(cx: &mut Cx, op: Op, event: &'static str) -> Result<(), Error> {
    let target = cx.args[1];
    let result = Request::parse(cx, 2, op, Use::Store)?.compute(cx, op);
    if result.is_empty() {
        cx.keys.delete(target);
    } else {
        let mut set = ZSet::new();
        result.iter().for_each(|(member, score)| _ = set.insert(member, *score, &cx.settings.thresholds));
        cx.keys.store(target, set.into_value(), None);
        cx.keys.changed(target, notify::ZSET, event);
    }
    cx.out.int(result.len() as i64);
    Ok(())
}

pub const ZINTERCARD: Command = Command {
    name: "zintercard",
    summary: "Returns the number of members that all of several sorted sets have.",
    since: "7.0.0",
    complexity: "O(N*K) worst case with N being the smallest input sorted set, K being the number of input sorted sets.",
    arity: -3,
    flags: flag::READONLY | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(1, key::RO | key::ACCESS)],
    args: &[
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::integer("limit").token("LIMIT").optional(),
    ],
    run: Handler::Keys(zintercard),
    ..BASE
};
fn zintercard(cx: &mut Cx) -> Result<(), Error> {
    let request = Request::parse(cx, 1, Op::Intersection, Use::Count)?;
    let mut found = 0;
    intersect(cx.keys, &request.sources, request.aggregate, &mut |_, _| {
        found += 1;
        found != request.limit
    });
    cx.out.int(found as i64);
    Ok(())
}

pub static COMMANDS: &[Command] = &[ZUNION, ZINTER, ZDIFF, ZUNIONSTORE, ZINTERSTORE, ZDIFFSTORE, ZINTERCARD];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    /// A reply as words.
    fn with(line: &str) -> String {
        let reply = run(&["ZADD a 1 x 2 y 3 z", "ZADD b 10 y 20 z 30 w", "SADD s x y", line]);
        let words = reply.split("\r\n").filter(|w| !w.starts_with(['*', '$']) && !w.is_empty());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn replies() {
        assert_eq!(with("ZUNION 2 a b WITHSCORES"), "x 1 y 12 z 23 w 30");
        assert_eq!(with("ZUNION 2 a b WEIGHTS 2 1 AGGREGATE MAX WITHSCORES"), "x 2 y 10 z 20 w 30");
        assert_eq!(with("ZINTER 3 a b s WITHSCORES"), "y 13");
        assert_eq!(with("ZINTER 2 b a AGGREGATE MIN WITHSCORES"), "y 2 z 3");
        assert_eq!(with("ZDIFF 2 a s WITHSCORES"), "z 3");
        assert_eq!(with("ZINTERCARD 2 a b") + &with("ZINTERCARD 2 a b LIMIT 1"), ":2:1");
        assert_eq!(with("ZUNION 1 none"), "");
    }

    #[test]
    fn refusals() {
        assert_eq!(run(&["ZUNION 0 a"]), "-ERR at least 1 input key is needed for 'zunion' command\r\n");
        assert_eq!(run(&["ZUNION 1 a WEIGHTS x"]), "-ERR weight value is not a float\r\n");
        assert_eq!(run(&["ZUNIONSTORE t 1 a WITHSCORES"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["ZDIFF 1 a WEIGHTS 1"]), "-ERR syntax error\r\n");
        assert_eq!(
            run(&["SET str x", "ZINTER 2 none str NONSENSE"]),
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        );
    }

    #[test]
    fn stored() {
        let mut r = Runner::default();
        r.all(&["ZADD a inf x", "ZADD b -inf x 1 y"]);
        assert_eq!(r.all(&["ZUNIONSTORE t 2 a b", "ZSCORE t x"]), "$1\r\n0\r\n");
        assert_eq!(r.all(&["ZUNIONSTORE t 1 a WEIGHTS 0", "ZSCORE t x"]), "$1\r\n0\r\n");
        assert_eq!(r.all(&["ZDIFFSTORE t 2 a b", "EXISTS t"]), ":0\r\n");
        assert_eq!(r.all(&["ZINTERSTORE a 2 a b AGGREGATE MAX", "ZSCORE a x"]), "$3\r\ninf\r\n");
    }
}
