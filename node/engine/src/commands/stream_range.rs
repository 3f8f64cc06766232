//! Reading a stream by ids: XLEN, XRANGE, XREVRANGE.

use super::stream::{BASE, parse_end, parse_start, reply_entries};
use crate::Error;
use crate::cx::Cx;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use storage::Stream;

pub const XLEN: Command = Command {
    name: "xlen",
    summary: "Returns the number of entries of a stream.",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(xlen),
    ..BASE
};
fn xlen(cx: &mut Cx) -> Result<(), Error> {
    let len = cx.keys.read_as::<Stream>(cx.args[1])?.map_or(0, |stream| stream.log.len());
    cx.out.int(len as i64);
    Ok(())
}

pub const XRANGE: Command = Command {
    name: "xrange",
    summary: "Returns the entries of a stream within a range of ids.",
    complexity: "O(N) with N being the number of elements being returned. If N is constant (e.g. always asking for the first 10 elements with COUNT), you can consider it O(1).",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::string("start"),
        Arg::string("end"),
        Arg::integer("count").token("COUNT").optional(),
    ],
    history: &[("6.2.0", "Added exclusive ranges.")],
    run: Handler::Keys(|cx| range(cx, false)),
    ..BASE
};

pub const XREVRANGE: Command = Command {
    name: "xrevrange",
    summary: "Returns the entries of a stream within a range of ids in reverse order.",
    complexity: "O(N) with N being the number of elements returned. If N is constant (e.g. always asking for the first 10 elements with COUNT), you can consider it O(1).",
    args: &[
        Arg::key("key", 0),
        Arg::string("end"),
        Arg::string("start"),
        Arg::integer("count").token("COUNT").optional(),
    ],
    run: Handler::Keys(|cx| range(cx, true)),
    ..XRANGE
};

fn range(cx: &mut Cx, is_reverse: bool) -> Result<(), Error> {
    let (start, end) = if is_reverse { (3, 2) } else { (2, 3) };
    let (start, end) = (parse_start(cx.args[start])?, parse_end(cx.args[end])?);
    let count = parse_count(cx, 4)?;
    let Some(stream) = cx.keys.read_as::<Stream>(cx.args[1])? else {
        cx.out.array(0);
        return Ok(());
    };
    match count {
        // Redis: no entries were asked for, so there is not even a list of none.
        Some(0) => cx.out.null_array(),
        _ if is_reverse => reply_entries(cx.out, stream.log.range_rev(start, end), count.unwrap_or(0)),
        _ => reply_entries(cx.out, stream.log.range(start, end), count.unwrap_or(0)),
    }
    Ok(())
}

/// The last COUNT among the arguments from `from` on, which can be nothing else.
fn parse_count(cx: &Cx, from: usize) -> Result<Option<usize>, Error> {
    let (mut count, mut i) = (None, from);
    while i < cx.args.len() {
        if !cx.is_word(i, "COUNT") || i + 1 == cx.args.len() {
            return Err(Error::Syntax);
        }
        count = Some(cx.int(i + 1)?.max(0) as usize);
        i += 2;
    }
    Ok(count)
}

pub static COMMANDS: &[Command] = &[XLEN, XRANGE, XREVRANGE];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn ranges_in_both_directions() {
        let mut r = Runner::default();
        for n in 1..=3 {
            r.run(&format!("XADD s {n} f {n}"));
        }
        assert_eq!(r.run("XLEN s"), ":3\r\n");
        let entry = |n: u32| format!("*2\r\n$3\r\n{n}-0\r\n*2\r\n$1\r\nf\r\n$1\r\n{n}\r\n");
        assert_eq!(r.run("XRANGE s - + COUNT 2"), format!("*2\r\n{}{}", entry(1), entry(2)));
        assert_eq!(r.run("XREVRANGE s + - COUNT 2"), format!("*2\r\n{}{}", entry(3), entry(2)));
        assert_eq!(r.run("XRANGE s (1-0 (3-0"), format!("*1\r\n{}", entry(2)));
        assert_eq!(r.run("XRANGE s 2 2"), format!("*1\r\n{}", entry(2)));
        assert_eq!(r.run("XRANGE s 3 2"), "*0\r\n");
    }

    #[test]
    fn ends_and_counts() {
        assert_eq!(run(&["XRANGE s - +"]), "*0\r\n");
        assert_eq!(run(&["XADD s 1 f v", "XRANGE s - + COUNT 0"]), "*-1\r\n");
        assert_eq!(run(&["XADD s 1 f v", "XRANGE s - + COUNT -5"]), "*-1\r\n");
        assert_eq!(run(&["XRANGE s - + COUNT 0"]), "*0\r\n");
        assert_eq!(run(&["XRANGE s - + COUNT"]), "-ERR syntax error\r\n");
        assert_eq!(
            run(&["XRANGE s (- +"]),
            "-ERR Invalid stream ID specified as stream command argument\r\n"
        );
        assert_eq!(run(&["XRANGE s - (0-0"]), "-ERR invalid end ID for the interval\r\n");
        let last = "(18446744073709551615-18446744073709551615";
        assert_eq!(run(&[&format!("XRANGE s {last} +")]), "-ERR invalid start ID for the interval\r\n");
    }
}
