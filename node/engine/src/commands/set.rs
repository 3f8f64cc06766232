//! Sets: members one by one. Operations on several sets are in `set_algebra`.

use super::collection::{RandomCount, changed, distinct, held, pop_count};
use super::scan;
use crate::Error;
use crate::cx::Cx;
use crate::settings::notify;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use storage::Set;

pub(super) const BASE: Command = Command { group: Group::Set, ..Command::BASE };

pub const SADD: Command = Command {
    name: "sadd",
    summary: "Adds one or more members to a set. The set is created if it does not exist.",
    since: "1.0.0",
    complexity: "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member").multiple()],
    history: &[("2.4.0", "Accepts multiple `member` arguments.")],
    run: Handler::Keys(sadd),
    ..BASE
};
fn sadd(cx: &mut Cx) -> Result<(), Error> {
    let (key, members) = (cx.args[1], &cx.args[2..]);
    let thresholds = &cx.settings.thresholds;
    let added = cx.keys.update_or_new(key, |set: &mut Set| {
        members.iter().filter(|member| set.insert(member, thresholds)).count()
    })?;
    if added > 0 {
        changed(cx.keys, key, notify::SET, "sadd", added);
    }
    cx.out.int(added as i64);
    Ok(())
}

pub const SREM: Command = Command {
    name: "srem",
    summary: "Removes one or more members from a set. The set goes with its last member.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of members to be removed.",
    arity: -3,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member").multiple()],
    history: &[("2.4.0", "Accepts multiple `member` arguments.")],
    run: Handler::Keys(srem),
    ..BASE
};
fn srem(cx: &mut Cx) -> Result<(), Error> {
    let (key, members) = (cx.args[1], &cx.args[2..]);
    let is_any = held::<Set>(cx.keys, key)?.is_some_and(|set| members.iter().any(|m| set.contains(m)));
    let mut removed = 0;
    if is_any {
        cx.keys.changed(key, notify::SET, "srem");
        removed = cx
            .keys
            .update(key, |set: &mut Set| members.iter().filter(|m| set.remove(m)).count())?
            .unwrap_or(0);
        cx.keys.effects.dirty += removed as u64 - 1;
    }
    cx.out.int(removed as i64);
    Ok(())
}

pub const SMOVE: Command = Command {
    name: "smove",
    summary: "Moves a member from one set to another.",
    since: "1.0.0",
    complexity: "O(1)",
    arity: 4,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE), KeySpec::one(2, key::RW | key::INSERT)],
    args: &[Arg::key("source", 0), Arg::key("destination", 1), Arg::string("member")],
    run: Handler::Keys(smove),
    ..BASE
};
fn smove(cx: &mut Cx) -> Result<(), Error> {
    let (source, target, member) = (cx.args[1], cx.args[2], cx.args[3]);
    let Some(is_there) = held::<Set>(cx.keys, source)?.map(|set| set.contains(member)) else {
        cx.out.int(0);
        return Ok(());
    };
    held::<Set>(cx.keys, target)?;
    if is_there && source != target {
        cx.keys.changed(source, notify::SET, "srem");
        cx.keys.update(source, |set: &mut Set| set.remove(member))?;
        let thresholds = &cx.settings.thresholds;
        if cx.keys.update_or_new(target, |set: &mut Set| set.insert(member, thresholds))? {
            cx.keys.changed(target, notify::SET, "sadd");
        }
    }
    cx.out.int(is_there as i64);
    Ok(())
}

pub const SISMEMBER: Command = Command {
    name: "sismember",
    summary: "Determines whether a member belongs to a set.",
    since: "1.0.0",
    complexity: "O(1)",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member")],
    run: Handler::Keys(sismember),
    ..BASE
};
fn sismember(cx: &mut Cx) -> Result<(), Error> {
    let is_member = cx.keys.read_as::<Set>(cx.args[1])?.is_some_and(|set| set.contains(cx.args[2]));
    cx.out.int(is_member as i64);
    Ok(())
}

pub const SMISMEMBER: Command = Command {
    name: "smismember",
    summary: "Determines for each of several members whether it belongs to a set.",
    since: "6.2.0",
    complexity: "O(N) where N is the number of elements being checked for membership",
    arity: -3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    element: 2,
    args: &[Arg::key("key", 0), Arg::string("member").multiple()],
    run: Handler::Keys(smismember),
    ..BASE
};
fn smismember(cx: &mut Cx) -> Result<(), Error> {
    let set = cx.keys.read_as::<Set>(cx.args[1])?;
    let members = &cx.args[2..];
    cx.out.array(members.len());
    members.iter().for_each(|m| cx.out.int(set.is_some_and(|set| set.contains(m)) as i64));
    Ok(())
}

pub const SCARD: Command = Command {
    name: "scard",
    summary: "Returns the number of members of a set.",
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(scard),
    ..BASE
};
fn scard(cx: &mut Cx) -> Result<(), Error> {
    let len = cx.keys.read_as::<Set>(cx.args[1])?.map_or(0, |set| set.len());
    cx.out.int(len as i64);
    Ok(())
}

pub const SMEMBERS: Command = Command {
    name: "smembers",
    summary: "Returns all members of a set.",
    since: "1.0.0",
    complexity: "O(N) where N is the set cardinality.",
    arity: 2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    tips: &["nondeterministic_output_order"],
    run: Handler::Keys(smembers),
    ..BASE
};
fn smembers(cx: &mut Cx) -> Result<(), Error> {
    let set = cx.keys.read_as::<Set>(cx.args[1])?;
    cx.out.set(set.map_or(0, |set| set.len()));
    set.into_iter().flat_map(|set| set.iter()).for_each(|m| cx.out.bulk(&m));
    Ok(())
}

pub const SPOP: Command = Command {
    name: "spop",
    summary: "Removes and returns one or more members of a set at random. The set goes with its last member.",
    since: "1.0.0",
    complexity: "Without the count argument O(1), otherwise O(N) where N is the value of the passed count.",
    arity: -2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("count").since("3.2.0").optional()],
    tips: &["nondeterministic_output"],
    history: &[("3.2.0", "Added the `count` argument.")],
    run: Handler::Keys(spop),
    ..BASE
};
fn spop(cx: &mut Cx) -> Result<(), Error> {
    if cx.args.len() > 3 {
        return Err(Error::Syntax);
    }
    let count = pop_count(cx)?;
    let key = cx.args[1];
    let Some(set) = held::<Set>(cx.keys, key)? else {
        match count {
            None => cx.out.null(),
            Some(_) => cx.out.set(0),
        }
        return Ok(());
    };
    let is_all = count.is_some_and(|n| n >= set.len());
    let chosen = distinct(count.unwrap_or(1), set.len(), cx.rng);
    let members: Vec<Vec<u8>> = chosen.into_iter().filter_map(|i| set.at(i)).map(|m| m.to_vec()).collect();
    if count.is_some() {
        cx.out.set(members.len());
    }
    members.iter().for_each(|m| cx.out.bulk(m));
    if members.is_empty() {
        return Ok(());
    }
    changed(cx.keys, key, notify::SET, "spop", members.len());
    cx.keys.update(key, |set: &mut Set| members.iter().for_each(|m| _ = set.remove(m)))?;
    // Replayed as what went, since chance would choose otherwise elsewhere.
    if is_all {
        cx.replay(&[b"DEL".as_slice(), key]);
    } else {
        for part in members.chunks(REPLAYED_MEMBERS_MAX) {
            let args: Vec<&[u8]> =
                [b"SREM".as_slice(), key].into_iter().chain(part.iter().map(|m| &m[..])).collect();
            cx.replay(&args);
        }
    }
    Ok(())
}

/// Members in one replayed SREM, as in Redis.
const REPLAYED_MEMBERS_MAX: usize = 1024;

pub const SRANDMEMBER: Command = Command {
    name: "srandmember",
    summary: "Returns one or more members of a set at random.",
    since: "1.0.0",
    complexity: "Without the count argument O(1), otherwise O(N) where N is the absolute value of the passed count.",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::integer("count").since("2.6.0").optional()],
    tips: &["nondeterministic_output"],
    history: &[("2.6.0", "Added the optional `count` argument.")],
    run: Handler::Keys(srandmember),
    ..BASE
};
fn srandmember(cx: &mut Cx) -> Result<(), Error> {
    if cx.args.len() == 2 {
        let rand = cx.rng.next_u64();
        match cx.keys.read_as::<Set>(cx.args[1])?.and_then(|set| set.random(rand)) {
            Some(member) => cx.out.bulk(&member),
            None => cx.out.null(),
        }
        return Ok(());
    }
    if cx.args.len() > 3 {
        return Err(Error::Syntax);
    }
    let count = RandomCount::parse(cx)?.check(false)?;
    let Some(set) = cx.keys.read_as::<Set>(cx.args[1])? else {
        cx.out.array(0);
        return Ok(());
    };
    let chosen = count.choose(set.len(), cx.rng);
    cx.out.array(chosen.len());
    chosen.into_iter().filter_map(|i| set.at(i)).for_each(|m| cx.out.bulk(&m));
    Ok(())
}

pub const SSCAN: Command = Command {
    name: "sscan",
    summary: "Iterates over the members of a set.",
    group: Group::Set,
    run: Handler::Keys(sscan),
    ..scan::OF_COLLECTION
};
fn sscan(cx: &mut Cx) -> Result<(), Error> {
    let Some((cursor, filter)) = scan::begin_of_collection::<Set>(cx)? else { return Ok(()) };
    let mut found = Vec::new();
    let next = held::<Set>(cx.keys, cx.args[1])?.map_or(0, |set| {
        set.scan(cursor, filter.count, &mut |member| {
            if filter.is_match(&member) {
                found.push(member);
            }
        })
    });
    scan::page(cx.out, next, found.len());
    found.iter().for_each(|m| cx.out.bulk(m));
    Ok(())
}

pub static COMMANDS: &[Command] =
    &[SADD, SREM, SMOVE, SISMEMBER, SMISMEMBER, SCARD, SMEMBERS, SPOP, SRANDMEMBER, SSCAN];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn members() {
        assert_eq!(run(&["SADD s 3 1 2 1", "SMEMBERS s"]), "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n");
        assert_eq!(run(&["SADD s a b", "SREM s a x", "SCARD s"]), ":1\r\n");
        assert_eq!(run(&["SADD s a", "SREM s a", "EXISTS s"]), ":0\r\n");
        assert_eq!(
            run(&["SADD s a", "SMISMEMBER s a b"]) + &run(&["SMISMEMBER s a"]),
            "*2\r\n:1\r\n:0\r\n*1\r\n:0\r\n"
        );
        assert_eq!(
            run(&["SADD s 1", "OBJECT ENCODING s"]) + &run(&["SADD s x", "OBJECT ENCODING s"]),
            "$6\r\nintset\r\n$9\r\nhashtable\r\n"
        );
    }

    #[test]
    fn moves() {
        let mut r = Runner::default();
        assert_eq!(r.all(&["SADD a x", "SMOVE a b x", "EXISTS a"]), ":0\r\n");
        assert_eq!(r.run("SMOVE a b x"), ":0\r\n");
        assert_eq!(r.run("SMOVE b b x"), ":1\r\n");
        assert_eq!(
            r.all(&["SET str 1", "SMOVE b str x"]),
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        );
        assert_eq!(r.run("SISMEMBER b x"), ":1\r\n");
    }

    #[test]
    fn pops_are_replayed_as_what_went() {
        let mut r = Runner::default();
        r.all(&["SADD s a b c", "SPOP s"]);
        let replayed = r.replayed();
        assert!(replayed[1].starts_with("SREM s "), "{replayed:?}");
        r.run("SPOP s 5");
        assert_eq!(r.replayed(), ["DEL s"]);
        assert_eq!(r.run("SPOP s") + &r.run("SPOP s 1"), "$-1\r\n*0\r\n");
        assert_eq!(r.run("SPOP s -1"), "-ERR value is out of range, must be positive\r\n");
        assert_eq!(r.all(&["SADD s a", "SPOP s 0", "SCARD s"]), ":1\r\n");
    }

    #[test]
    fn random_members() {
        assert_eq!(run(&["SADD s a", "SRANDMEMBER s -2"]), "*2\r\n$1\r\na\r\n$1\r\na\r\n");
        assert_eq!(run(&["SRANDMEMBER s 2"]) + &run(&["SRANDMEMBER s"]), "*0\r\n$-1\r\n");
        assert_eq!(run(&["SADD s a", "SSCAN s 0"]), "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n");
    }
}
