//! Taking the members with the lowest or highest scores, from one or several sorted sets, and waiting for them.
//!
//! What is replayed is the pop that happened.

use super::collection::{NOT_POSITIVE, PopRequest, at_least, changed, held};
use super::zset::BASE;
use crate::Error;
use crate::blocking::Nothing;
use crate::cx::Cx;
use crate::keys::Keys;
use crate::settings::notify;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use proto::resp::Reply;
use storage::ZSet;

/// An end of a sorted set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Min,
    Max,
}

impl End {
    fn parse(cx: &Cx, index: usize) -> Result<End, Error> {
        match () {
            () if cx.is_word(index, "MIN") => Ok(End::Min),
            () if cx.is_word(index, "MAX") => Ok(End::Max),
            () => Err(Error::Syntax),
        }
    }

    fn command(self) -> &'static str {
        if self == End::Min { "ZPOPMIN" } else { "ZPOPMAX" }
    }

    fn event(self) -> &'static str {
        if self == End::Min { "zpopmin" } else { "zpopmax" }
    }
}

type Popped = Vec<(Vec<u8>, f64)>;

/// Takes up to `count` members from an end of the sorted set at a key. `None`: there is none.
fn pop(keys: &mut Keys<'_>, key: &[u8], end: End, count: usize) -> Result<Option<Popped>, Error> {
    let Some(len) = held::<ZSet>(keys, key)?.map(|set| set.len()) else { return Ok(None) };
    let count = count.min(len);
    if count == 0 {
        return Ok(Some(Vec::new()));
    }
    changed(keys, key, notify::ZSET, end.event(), count);
    let popped = keys.update(key, |set: &mut ZSet| {
        let mut popped = Vec::new();
        let start = if end == End::Min { 0 } else { len - count };
        set.remove_range(start, start + count, &mut |member, score| popped.push((member.to_vec(), score)));
        popped
    })?;
    Ok(popped.map(|mut popped| {
        if end == End::Max {
            popped.reverse();
        }
        popped
    }))
}

fn reply_pairs(out: &mut Reply, popped: &Popped) {
    for (member, score) in popped {
        out.array(2);
        out.bulk(member);
        out.double(*score);
    }
}

fn reply_flat(out: &mut Reply, popped: &Popped) {
    for (member, score) in popped {
        out.bulk(member);
        out.double(*score);
    }
}

pub const ZPOPMIN: Command = Command {
    name: "zpopmin",
    summary: "Removes and returns the members of a sorted set with the lowest scores. The set goes with its last member.",
    since: "5.0.0",
    complexity: "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped.",
    arity: -2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("count").optional()],
    run: Handler::Keys(|cx| pop_command(cx, End::Min)),
    ..BASE
};

pub const ZPOPMAX: Command = Command {
    name: "zpopmax",
    summary: "Removes and returns the members of a sorted set with the highest scores. The set goes with its last member.",
    since: "5.0.0",
    complexity: "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped.",
    arity: -2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("count").optional()],
    run: Handler::Keys(|cx| pop_command(cx, End::Max)),
    ..BASE
};
fn pop_command(cx: &mut Cx, end: End) -> Result<(), Error> {
    if cx.args.len() > 3 {
        return Err(Error::Syntax);
    }
    let has_count = cx.args.len() == 3;
    let count = if has_count { at_least(cx, 2, 0, NOT_POSITIVE)? } else { 1 };
    let popped = pop(cx.keys, cx.args[1], end, count)?.unwrap_or_default();
    if has_count && cx.out.is_resp3() {
        cx.out.array(popped.len());
        reply_pairs(cx.out, &popped);
    } else {
        cx.out.array(popped.len() * 2);
        reply_flat(cx.out, &popped);
    }
    Ok(())
}

pub const BZPOPMIN: Command = Command {
    name: "bzpopmin",
    summary: "Removes and returns the member with the lowest score of the first sorted set that has one, waiting until there is one.",
    since: "5.0.0",
    complexity: "O(log(N)) with N being the number of elements in the sorted set.",
    arity: -3,
    flags: flag::WRITE | flag::NOSCRIPT | flag::BLOCKING | flag::FAST,
    keys: &[KeySpec::range(1, -2, 1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0).multiple(), Arg::double("timeout")],
    history: &[("6.0.0", "`timeout` is interpreted as a double instead of an integer.")],
    run: Handler::Keys(|cx| blocking_pop(cx, End::Min)),
    ..BASE
};

pub const BZPOPMAX: Command = Command {
    name: "bzpopmax",
    summary: "Removes and returns the member with the highest score of the first sorted set that has one, waiting until there is one.",
    since: "5.0.0",
    complexity: "O(log(N)) with N being the number of elements in the sorted set.",
    arity: -3,
    flags: flag::WRITE | flag::NOSCRIPT | flag::BLOCKING | flag::FAST,
    keys: &[KeySpec::range(1, -2, 1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0).multiple(), Arg::double("timeout")],
    history: &[("6.0.0", "`timeout` is interpreted as a double instead of an integer.")],
    run: Handler::Keys(|cx| blocking_pop(cx, End::Max)),
    ..BASE
};
fn blocking_pop(cx: &mut Cx, end: End) -> Result<(), Error> {
    let last = cx.args.len() - 1;
    let timeout_ms = cx.timeout_ms(last)?;
    let keys = &cx.args[1..last];
    for key in keys {
        if let Some(popped) = pop(cx.keys, key, end, 1)? {
            cx.replay(&[end.command().as_bytes(), key]);
            cx.out.array(3);
            cx.out.bulk(key);
            reply_flat(cx.out, &popped);
            return Ok(());
        }
    }
    cx.block(keys.iter().map(|k| k.to_vec()).collect(), timeout_ms, Nothing::Array);
    Ok(())
}

pub const ZMPOP: Command = Command {
    name: "zmpop",
    summary: "Removes and returns the members with the lowest or highest scores of the first sorted set that has any.",
    since: "7.0.0",
    complexity: "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the sorted set, and M being the number of elements popped.",
    arity: -4,
    flags: flag::WRITE | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::one_of("where", &[Arg::word("min", "MIN"), Arg::word("max", "MAX")]),
        Arg::integer("count").token("COUNT").optional(),
    ],
    run: Handler::Keys(zmpop),
    ..BASE
};
fn zmpop(cx: &mut Cx) -> Result<(), Error> {
    let request = PopRequest::parse(cx, 1, End::parse)?;
    if !request.run(cx)? {
        cx.out.null_array();
    }
    Ok(())
}

pub const BZMPOP: Command = Command {
    name: "bzmpop",
    summary: "Removes and returns the members with the lowest or highest scores of the first sorted set that has any, waiting until there is one.",
    since: "7.0.0",
    complexity: "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the sorted set, and M being the number of elements popped.",
    arity: -5,
    flags: flag::WRITE | flag::BLOCKING | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(2, key::RW | key::ACCESS | key::DELETE)],
    args: &[
        Arg::double("timeout"),
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::one_of("where", &[Arg::word("min", "MIN"), Arg::word("max", "MAX")]),
        Arg::integer("count").token("COUNT").optional(),
    ],
    run: Handler::Keys(bzmpop),
    ..BASE
};
fn bzmpop(cx: &mut Cx) -> Result<(), Error> {
    let request = PopRequest::parse(cx, 2, End::parse)?;
    let timeout_ms = cx.timeout_ms(1)?;
    if !request.run(cx)? {
        cx.block(request.keys.iter().map(|k| k.to_vec()).collect(), timeout_ms, Nothing::Array);
    }
    Ok(())
}

impl PopRequest<'_, End> {
    /// Pops from the first sorted set that is there; false if there is none.
    fn run(&self, cx: &mut Cx) -> Result<bool, Error> {
        for key in self.keys {
            let Some(popped) = pop(cx.keys, key, self.end, self.count)? else { continue };
            let count = popped.len().to_string();
            cx.replay(&[self.end.command().as_bytes(), key, count.as_bytes()]);
            cx.out.array(2);
            cx.out.bulk(key);
            cx.out.array(popped.len());
            reply_pairs(cx.out, &popped);
            return Ok(true);
        }
        Ok(false)
    }
}

pub static COMMANDS: &[Command] = &[ZPOPMIN, ZPOPMAX, BZPOPMIN, BZPOPMAX, ZMPOP, BZMPOP];

#[cfg(test)]
mod tests {
    use crate::Session;
    use crate::testing::{Runner, run};

    #[test]
    fn one_set() {
        let set = "ZADD z 1 a 2 b 3 c";
        assert_eq!(run(&[set, "ZPOPMIN z"]), "*2\r\n$1\r\na\r\n$1\r\n1\r\n");
        assert_eq!(run(&[set, "ZPOPMAX z 2"]), "*4\r\n$1\r\nc\r\n$1\r\n3\r\n$1\r\nb\r\n$1\r\n2\r\n");
        assert_eq!(run(&[set, "ZPOPMAX z 9", "EXISTS z"]) + &run(&["ZPOPMIN z"]), ":0\r\n*0\r\n");
        assert_eq!(run(&["ZPOPMIN z -1"]), "-ERR value is out of range, must be positive\r\n");
    }

    #[test]
    fn several_sets() {
        let mut r = Runner::default();
        r.run("ZADD b 1 x 2 y");
        assert_eq!(r.run("ZMPOP 2 a b MAX"), "*2\r\n$1\r\nb\r\n*1\r\n*2\r\n$1\r\ny\r\n$1\r\n2\r\n");
        assert_eq!(r.run("BZPOPMIN a b 0"), "*3\r\n$1\r\nb\r\n$1\r\nx\r\n$1\r\n1\r\n");
        assert_eq!(r.replayed(), ["ZADD b 1 x 2 y", "ZPOPMAX b 1", "ZPOPMIN b"]);
        assert_eq!(r.run("ZMPOP 1 a MIN"), "*-1\r\n");
        assert_eq!(r.run("ZMPOP 1 a UP"), "-ERR syntax error\r\n");
    }

    #[test]
    fn a_waiter_is_served() {
        let mut r = Runner::default();
        let mut other = Session::new(2);
        assert_eq!(r.run_as(&mut other, "BZMPOP 0 1 z MIN COUNT 2"), "blocked");
        r.run("ZADD z 1 a 2 b 3 c");
        let reply = "*2\r\n$1\r\nz\r\n*2\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n*2\r\n$1\r\nb\r\n$1\r\n2\r\n";
        assert_eq!(*r.letters.0.lock().unwrap(), [(2, reply.to_string())]);
        assert_eq!(r.replayed(), ["ZADD z 1 a 2 b 3 c", "ZPOPMIN z 2"]);
    }
}
