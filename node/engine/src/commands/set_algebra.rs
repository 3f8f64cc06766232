//! Union, intersection and difference of sets.

use super::algebra::{Aggregate, Allowed, intersect, set, sources, subtract};
use super::collection::{at_least, numkeys};
use super::set::BASE;
use crate::Error;
use crate::cx::Cx;
use crate::keys::Collection;
use crate::settings::notify;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use storage::Set;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Union,
    Intersection,
    Difference,
}

pub const SINTER: Command = Command {
    name: "sinter",
    summary: "Returns the members that all of several sets have.",
    since: "1.0.0",
    complexity: "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::range(1, -1, 1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0).multiple()],
    tips: &["nondeterministic_output_order"],
    run: Handler::Keys(|cx| reply(cx, Op::Intersection)),
    ..BASE
};

pub const SUNION: Command = Command {
    name: "sunion",
    summary: "Returns the members that any of several sets has.",
    since: "1.0.0",
    complexity: "O(N) where N is the total number of elements in all given sets.",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::range(1, -1, 1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0).multiple()],
    tips: &["nondeterministic_output_order"],
    run: Handler::Keys(|cx| reply(cx, Op::Union)),
    ..BASE
};

pub const SDIFF: Command = Command {
    name: "sdiff",
    summary: "Returns the members of the first set that no other has.",
    since: "1.0.0",
    complexity: "O(N) where N is the total number of elements in all given sets.",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::range(1, -1, 1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0).multiple()],
    tips: &["nondeterministic_output_order"],
    run: Handler::Keys(|cx| reply(cx, Op::Difference)),
    ..BASE
};
fn reply(cx: &mut Cx, op: Op) -> Result<(), Error> {
    let names = &cx.args[1..];
    if op == Op::Union {
        let result = compute(cx, op, names)?;
        cx.out.set(result.len());
        result.iter().for_each(|m| cx.out.bulk(&m));
        return Ok(());
    }
    let sources = sources(cx.keys, names, Allowed::Sets)?;
    let mark = cx.out.mark();
    let mut count = 0;
    let out = &mut *cx.out;
    let mut each = |member: &[u8]| {
        out.bulk(member);
        count += 1;
    };
    match op {
        Op::Difference => subtract(cx.keys, &sources, &mut |m, _| each(m)),
        _ => intersect(cx.keys, &sources, Aggregate::Max, &mut |m, _| {
            each(m);
            true
        }),
    }
    cx.out.set_at(mark, count);
    Ok(())
}

pub const SINTERSTORE: Command = Command {
    name: "sinterstore",
    summary: "Stores the members that all of several sets have in a key.",
    since: "1.0.0",
    complexity: "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE), KeySpec::range(2, -1, 1, key::RO | key::ACCESS)],
    args: &[Arg::key("destination", 0), Arg::key("key", 1).multiple()],
    run: Handler::Keys(|cx| store(cx, Op::Intersection, "sinterstore")),
    ..BASE
};

pub const SUNIONSTORE: Command = Command {
    name: "sunionstore",
    summary: "Stores the members that any of several sets has in a key.",
    since: "1.0.0",
    complexity: "O(N) where N is the total number of elements in all given sets.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE), KeySpec::range(2, -1, 1, key::RO | key::ACCESS)],
    args: &[Arg::key("destination", 0), Arg::key("key", 1).multiple()],
    run: Handler::Keys(|cx| store(cx, Op::Union, "sunionstore")),
    ..BASE
};

pub const SDIFFSTORE: Command = Command {
    name: "sdiffstore",
    summary: "Stores the members of the first set that no other has in a key.",
    since: "1.0.0",
    complexity: "O(N) where N is the total number of elements in all given sets.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE), KeySpec::range(2, -1, 1, key::RO | key::ACCESS)],
    args: &[Arg::key("destination", 0), Arg::key("key", 1).multiple()],
    run: Handler::Keys(|cx| store(cx, Op::Difference, "sdiffstore")),
    ..BASE
};
fn store(cx: &mut Cx, op: Op, event: &'static str) -> Result<(), Error> {
    let target = cx.args[1];
    let result = compute(cx, op, &cx.args[2..])?;
    let len = result.len();
    if len == 0 {
        cx.keys.delete(target);
    } else {
        cx.keys.store(target, result.into_value(), None);
        cx.keys.changed(target, notify::SET, event);
    }
    cx.out.int(len as i64);
    Ok(())
}

fn compute(cx: &mut Cx, op: Op, names: &[&[u8]]) -> Result<Set, Error> {
    let sources = sources(cx.keys, names, Allowed::Sets)?;
    let thresholds = &cx.settings.thresholds;
    let mut result = Set::new();
    match op {
        Op::Union => {
            for source in &sources {
                let members = set(cx.keys, source.key).into_iter().flat_map(|set| set.iter());
                members.for_each(|m| _ = result.insert(&m, thresholds));
            }
        }
        Op::Intersection => intersect(cx.keys, &sources, Aggregate::Max, &mut |m, _| {
            result.insert(m, thresholds);
            true
        }),
        Op::Difference => subtract(cx.keys, &sources, &mut |m, _| _ = result.insert(m, thresholds)),
    }
    Ok(result)
}

pub const SINTERCARD: Command = Command {
    name: "sintercard",
    summary: "Returns the number of members that all of several sets have.",
    since: "7.0.0",
    complexity: "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets.",
    arity: -3,
    flags: flag::READONLY | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(1, key::RO | key::ACCESS)],
    args: &[
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::integer("limit").token("LIMIT").optional(),
    ],
    run: Handler::Keys(sintercard),
    ..BASE
};
fn sintercard(cx: &mut Cx) -> Result<(), Error> {
    let count = numkeys(cx, 1)?;
    if count > cx.args.len() - 2 {
        return Err(Error::text("ERR Number of keys can't be greater than number of args"));
    }
    let mut limit = 0;
    for i in (2 + count..cx.args.len()).step_by(2) {
        if !cx.is_word(i, "LIMIT") || i + 1 >= cx.args.len() {
            return Err(Error::Syntax);
        }
        limit = at_least(cx, i + 1, 0, "ERR LIMIT can't be negative")?;
    }
    let sources = sources(cx.keys, &cx.args[2..2 + count], Allowed::Sets)?;
    let mut found = 0;
    intersect(cx.keys, &sources, Aggregate::Max, &mut |_, _| {
        found += 1;
        found != limit
    });
    cx.out.int(found as i64);
    Ok(())
}

pub static COMMANDS: &[Command] = &[SINTER, SUNION, SDIFF, SINTERSTORE, SUNIONSTORE, SDIFFSTORE, SINTERCARD];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    const SETS: [&str; 3] = ["SADD a 1 2 3 4", "SADD b 2 3 4 5", "SADD c 3 x"];

    fn with(line: &str) -> String {
        run(&[SETS[0], SETS[1], SETS[2], line])
    }

    #[test]
    fn replies() {
        assert_eq!(with("SINTER a b c"), "*1\r\n$1\r\n3\r\n");
        assert_eq!(with("SINTER a b none"), "*0\r\n");
        assert_eq!(with("SDIFF a b"), "*1\r\n$1\r\n1\r\n");
        assert_eq!(with("SUNION a b"), "*5\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n5\r\n");
        assert_eq!(with("SINTERCARD 2 a b") + &with("SINTERCARD 2 a b LIMIT 2"), ":3\r\n:2\r\n");
        assert_eq!(with("SINTERCARD 9 a"), "-ERR Number of keys can't be greater than number of args\r\n");
        assert_eq!(
            run(&["SET s x", "SINTER none s"]),
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        );
    }

    #[test]
    fn results_replace_their_target() {
        let mut r = Runner::default();
        r.all(&SETS);
        assert_eq!(r.all(&["EXPIRE a 100", "SUNIONSTORE a a c", "TTL a"]), ":-1\r\n");
        assert_eq!(r.run("SCARD a"), ":5\r\n");
        assert_eq!(r.all(&["SINTERSTORE a b none", "EXISTS a"]), ":0\r\n");
        assert_eq!(r.all(&["SET str x", "SDIFFSTORE str b c", "SCARD str"]), ":3\r\n");
    }

    #[test]
    fn large_sets_go_in_chunks() {
        let mut r = Runner::default();
        for i in 0..5000 {
            r.run(&format!("SADD big m{i}"));
            if i % 7 == 0 {
                r.run(&format!("SADD some m{i} other{i}"));
            }
        }
        assert_eq!(r.run("SINTERCARD 2 big some"), ":715\r\n");
        assert_eq!(r.run("SDIFFSTORE d big some"), ":4285\r\n");
        assert_eq!(r.run("SUNIONSTORE d big some"), ":5715\r\n");
    }
}
