//! Commands on several lists, and those that wait for an element.
//!
//! What is replayed is the pop that happened: never a command that could wait or choose otherwise elsewhere.

use super::collection::{PopRequest, held};
use super::list::{BASE, End, move_element, pop};
use crate::Error;
use crate::blocking::{Nothing, WaitRequest};
use crate::cx::Cx;
use crate::spec::{Arg, Command, Deprecated, Handler, KeySpec, flag, key};
use storage::List;

pub const BLPOP: Command = Command {
    name: "blpop",
    summary: "Removes and returns the first element of the first list that has one, waiting until there is one.",
    since: "2.0.0",
    complexity: "O(N) where N is the number of provided keys.",
    arity: -3,
    flags: flag::WRITE | flag::NOSCRIPT | flag::BLOCKING,
    keys: &[KeySpec::range(1, -2, 1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0).multiple(), Arg::double("timeout")],
    history: &[("6.0.0", "`timeout` is interpreted as a double instead of an integer.")],
    run: Handler::Keys(|cx| blocking_pop(cx, End::Left)),
    ..BASE
};

pub const BRPOP: Command = Command {
    name: "brpop",
    summary: "Removes and returns the last element of the first list that has one, waiting until there is one.",
    since: "2.0.0",
    complexity: "O(N) where N is the number of provided keys.",
    arity: -3,
    flags: flag::WRITE | flag::NOSCRIPT | flag::BLOCKING,
    keys: &[KeySpec::range(1, -2, 1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0).multiple(), Arg::double("timeout")],
    history: &[("6.0.0", "`timeout` is interpreted as a double instead of an integer.")],
    run: Handler::Keys(|cx| blocking_pop(cx, End::Right)),
    ..BASE
};
fn blocking_pop(cx: &mut Cx, end: End) -> Result<(), Error> {
    let last = cx.args.len() - 1;
    let timeout_ms = cx.timeout_ms(last)?;
    let keys = &cx.args[1..last];
    for key in keys {
        if let Some(values) = pop(cx.keys, key, end, 1)? {
            cx.replay(&[end.pop_command().as_bytes(), key]);
            cx.out.array(2);
            cx.out.bulk(key);
            cx.out.bulk(&values[0]);
            return Ok(());
        }
    }
    cx.block(keys.iter().map(|k| k.to_vec()).collect(), timeout_ms, Nothing::Array);
    Ok(())
}

pub const BLMOVE: Command = Command {
    name: "blmove",
    summary: "Takes an element from one end of a list and puts it at an end of another, waiting until there is one.",
    since: "6.2.0",
    complexity: "O(1)",
    arity: 6,
    flags: flag::WRITE | flag::DENYOOM | flag::NOSCRIPT | flag::BLOCKING,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE), KeySpec::one(2, key::RW | key::INSERT)],
    args: &[
        Arg::key("source", 0),
        Arg::key("destination", 1),
        Arg::one_of("wherefrom", &[Arg::word("left", "LEFT"), Arg::word("right", "RIGHT")]),
        Arg::one_of("whereto", &[Arg::word("left", "LEFT"), Arg::word("right", "RIGHT")]),
        Arg::double("timeout"),
    ],
    run: Handler::Keys(blmove),
    ..BASE
};
fn blmove(cx: &mut Cx) -> Result<(), Error> {
    let (from, to) = (End::parse(cx, 3)?, End::parse(cx, 4)?);
    let timeout_ms = cx.timeout_ms(5)?;
    let (source, target) = (cx.args[1], cx.args[2]);
    match element_moved(cx, from, to)? {
        Some(value) => {
            cx.replay(&[b"LMOVE".as_slice(), source, target, from.word().as_bytes(), to.word().as_bytes()]);
            cx.out.bulk(&value);
        }
        None => wait_for_element(cx, timeout_ms),
    }
    Ok(())
}

pub const BRPOPLPUSH: Command = Command {
    name: "brpoplpush",
    summary: "Takes the last element of a list and puts it before the first of another, waiting until there is one.",
    since: "2.2.0",
    complexity: "O(1)",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM | flag::NOSCRIPT | flag::BLOCKING,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE), KeySpec::one(2, key::RW | key::INSERT)],
    args: &[Arg::key("source", 0), Arg::key("destination", 1), Arg::double("timeout")],
    history: &[("6.0.0", "`timeout` is interpreted as a double instead of an integer.")],
    deprecated: Some(Deprecated {
        since: "6.2.0",
        replaced_by: "`BLMOVE` with the `RIGHT` and `LEFT` arguments",
    }),
    run: Handler::Keys(brpoplpush),
    ..BASE
};
fn brpoplpush(cx: &mut Cx) -> Result<(), Error> {
    let timeout_ms = cx.timeout_ms(3)?;
    let (source, target) = (cx.args[1], cx.args[2]);
    match element_moved(cx, End::Right, End::Left)? {
        Some(value) => {
            cx.replay(&[b"RPOPLPUSH".as_slice(), source, target]);
            cx.out.bulk(&value);
        }
        None => wait_for_element(cx, timeout_ms),
    }
    Ok(())
}

/// As [`move_element`]. Who waits already goes on waiting when the source becomes something else than a list.
fn element_moved(cx: &mut Cx, from: End, to: End) -> Result<Option<Vec<u8>>, Error> {
    if cx.is_resumed && held::<List>(cx.keys, cx.args[1]).is_err() {
        return Ok(None);
    }
    move_element(cx, from, to)
}

/// A target of the wrong type ends the wait, as in Redis.
fn wait_for_element(cx: &mut Cx, timeout_ms: u64) {
    let keys = vec![cx.args[1].to_vec()];
    cx.block_with(WaitRequest { keys, timeout_ms, args: None, ends_on_error: true }, Nothing::String);
}

pub const LMPOP: Command = Command {
    name: "lmpop",
    summary: "Removes and returns elements of the first list that has any.",
    since: "7.0.0",
    complexity: "O(N+M) where N is the number of provided keys and M is the number of elements returned.",
    arity: -4,
    flags: flag::WRITE | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::one_of("where", &[Arg::word("left", "LEFT"), Arg::word("right", "RIGHT")]),
        Arg::integer("count").token("COUNT").optional(),
    ],
    run: Handler::Keys(lmpop),
    ..BASE
};
fn lmpop(cx: &mut Cx) -> Result<(), Error> {
    let request = PopRequest::parse(cx, 1, End::parse)?;
    if !request.run(cx)? {
        cx.out.null_array();
    }
    Ok(())
}

pub const BLMPOP: Command = Command {
    name: "blmpop",
    summary: "Removes and returns elements of the first list that has any, waiting until there is one.",
    since: "7.0.0",
    complexity: "O(N+M) where N is the number of provided keys and M is the number of elements returned.",
    arity: -5,
    flags: flag::WRITE | flag::BLOCKING | flag::MOVABLE_KEYS,
    keys: &[KeySpec::counted(2, key::RW | key::ACCESS | key::DELETE)],
    args: &[
        Arg::double("timeout"),
        Arg::integer("numkeys"),
        Arg::key("key", 0).multiple(),
        Arg::one_of("where", &[Arg::word("left", "LEFT"), Arg::word("right", "RIGHT")]),
        Arg::integer("count").token("COUNT").optional(),
    ],
    run: Handler::Keys(blmpop),
    ..BASE
};
fn blmpop(cx: &mut Cx) -> Result<(), Error> {
    let request = PopRequest::parse(cx, 2, End::parse)?;
    let timeout_ms = cx.timeout_ms(1)?;
    if !request.run(cx)? {
        cx.block(request.keys.iter().map(|k| k.to_vec()).collect(), timeout_ms, Nothing::Array);
    }
    Ok(())
}

impl PopRequest<'_, End> {
    /// Pops from the first list that is there; false if there is none.
    fn run(&self, cx: &mut Cx) -> Result<bool, Error> {
        for key in self.keys {
            let Some(values) = pop(cx.keys, key, self.end, self.count)? else { continue };
            let count = values.len().to_string();
            cx.replay(&[self.end.pop_command().as_bytes(), key, count.as_bytes()]);
            cx.out.array(2);
            cx.out.bulk(key);
            cx.out.array(values.len());
            values.iter().for_each(|v| cx.out.bulk(v));
            return Ok(true);
        }
        Ok(false)
    }
}

pub static COMMANDS: &[Command] = &[BLPOP, BRPOP, BLMOVE, BRPOPLPUSH, LMPOP, BLMPOP];

#[cfg(test)]
mod tests {
    use crate::Session;
    use crate::testing::{Runner, run};

    #[test]
    fn several_lists() {
        assert_eq!(
            run(&["RPUSH b 1 2 3", "LMPOP 2 a b LEFT COUNT 2"]),
            "*2\r\n$1\r\nb\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n"
        );
        assert_eq!(run(&["LMPOP 1 a LEFT"]), "*-1\r\n");
        assert_eq!(run(&["LMPOP 0 a LEFT"]), "-ERR numkeys should be greater than 0\r\n");
        assert_eq!(run(&["LMPOP 1 a UP"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["LMPOP 1 a LEFT COUNT 0"]), "-ERR count should be greater than 0\r\n");
        assert_eq!(run(&["BLPOP a -1"]), "-ERR timeout is negative\r\n");
    }

    #[test]
    fn a_waiter_is_served_and_the_pop_is_replayed() {
        let mut r = Runner::default();
        let mut other = Session::new(2);
        assert_eq!(r.run_as(&mut other, "BLPOP a b 0"), "blocked");
        assert_eq!(r.run("RPUSH b x y"), ":2\r\n");
        assert_eq!(*r.letters.0.lock().unwrap(), [(2, "*2\r\n$1\r\nb\r\n$1\r\nx\r\n".to_string())]);
        assert_eq!(r.replayed(), ["RPUSH b x y", "LPOP b"]);
        assert_eq!(r.run("LRANGE b 0 -1"), "*1\r\n$1\r\ny\r\n");
    }

    #[test]
    fn a_moved_element_serves_the_next_waiter() {
        let mut r = Runner::default();
        let (mut mover, mut popper) = (Session::new(2), Session::new(3));
        assert_eq!(r.run_as(&mut mover, "BLMOVE a b LEFT RIGHT 0"), "blocked");
        assert_eq!(r.run_as(&mut popper, "BRPOP b 0"), "blocked");
        r.run("RPUSH a x");
        let letters = r.letters.0.lock().unwrap().clone();
        assert_eq!(letters, [(2, "$1\r\nx\r\n".into()), (3, "*2\r\n$1\r\nb\r\n$1\r\nx\r\n".into())]);
        assert_eq!(r.replayed(), ["RPUSH a x", "LMOVE a b LEFT RIGHT", "RPOP b"]);
        assert_eq!(r.run("EXISTS a b"), ":0\r\n");
    }

    #[test]
    fn a_target_of_another_type_ends_the_wait_and_a_source_does_not() {
        let mut r = Runner::default();
        let mut mover = Session::new(2);
        assert_eq!(r.run_as(&mut mover, "BRPOPLPUSH a t 0"), "blocked");
        r.all(&["MULTI", "LPUSH a x", "DEL a", "SET a x", "EXEC", "DEL a"]);
        assert!(r.letters.0.lock().unwrap().is_empty());
        r.all(&["SET t x", "RPUSH a x"]);
        let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
        assert_eq!(*r.letters.0.lock().unwrap(), [(2, wrong.to_string())]);
        assert_eq!(r.run("LLEN a"), ":1\r\n");
    }

    #[test]
    fn a_transaction_does_not_wait() {
        let mut r = Runner::default();
        let reply = r.all(&["MULTI", "BLPOP a 0", "BLMOVE a b LEFT LEFT 0", "EXEC"]);
        assert_eq!(reply, "*2\r\n*-1\r\n$-1\r\n");
    }
}
