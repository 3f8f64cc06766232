//! XINFO: what is known of a stream, its groups and their consumers. Maps in RESP3.

use super::collection::held;
use super::stream::{BASE, no_group_of_key, reply_entries, reply_entry, reply_id, wrong_subcommand};
use crate::Error;
use crate::cx::Cx;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use proto::resp::Reply;
use storage::stream::{Consumer, Group, Log};
use storage::{Stream, StreamId};

pub const XINFO: Command = Command {
    name: "xinfo",
    summary: "A container for stream introspection commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    subcommands: &[CONSUMERS, GROUPS, HELP, STREAM],
    ..BASE
};

const CONSUMERS: Command = Command {
    name: "consumers",
    summary: "Lists the consumers of a consumer group.",
    arity: 4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(2, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::string("groupname")],
    tips: &["nondeterministic_output"],
    run: Handler::Keys(consumers),
    ..BASE
};
const GROUPS: Command = Command {
    name: "groups",
    summary: "Lists the consumer groups of a stream.",
    arity: 3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(2, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0)],
    history: &[("7.0.0", "Added the `entries-read` and `lag` fields")],
    run: Handler::Keys(groups),
    ..BASE
};
const STREAM: Command = Command {
    name: "stream",
    summary: "Returns what is known of a stream.",
    arity: -3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(2, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::block("full", &[Arg::integer("count").token("COUNT").optional()]).token("FULL").optional(),
    ],
    history: &[
        ("6.0.0", "Added the `FULL` modifier."),
        (
            "7.0.0",
            "Added the `max-deleted-entry-id`, `entries-added`, `recorded-first-entry-id`, `entries-read` and `lag` fields",
        ),
    ],
    run: Handler::Keys(stream),
    ..BASE
};
const HELP: Command = Command {
    name: "help",
    summary: "Returns helpful text about the different subcommands.",
    arity: 2,
    flags: flag::LOADING | flag::STALE,
    run: Handler::Keys(|cx| {
        let lines = [
            "XINFO <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "CONSUMERS <key> <groupname>",
            "    Show consumers of <groupname>.",
            "GROUPS <key>",
            "    Show the stream consumer groups.",
            "STREAM <key> [FULL [COUNT <count>]",
            "    Show information about the stream.",
            "HELP",
            "    Prints this help.",
        ];
        cx.out.array(lines.len());
        lines.iter().for_each(|l| cx.out.simple(l));
        Ok(())
    }),
    ..BASE
};

/// A map's fields, written one after the other.
fn name(out: &mut Reply, name: &str) {
    out.bulk(name.as_bytes());
}
fn int(out: &mut Reply, field: &str, value: i64) {
    name(out, field);
    out.int(value);
}
fn int_or_null(out: &mut Reply, field: &str, value: Option<i64>) {
    name(out, field);
    match value {
        Some(value) => out.int(value),
        None => out.null(),
    }
}
fn id(out: &mut Reply, field: &str, value: StreamId) {
    name(out, field);
    reply_id(out, value);
}
fn bulk(out: &mut Reply, field: &str, value: &[u8]) {
    name(out, field);
    out.bulk(value);
}

fn consumers(cx: &mut Cx) -> Result<(), Error> {
    let (key, group, now_ms) = (cx.args[2], cx.args[3], cx.keys.now_ms);
    let stream = cx.keys.read_as::<Stream>(key)?.ok_or(Error::NoSuchKey)?;
    let group = stream.group(group).ok_or_else(|| no_group_of_key(key, group))?;
    let out = &mut *cx.out;
    out.array(group.consumers_len());
    for consumer in group.consumers() {
        out.map(3);
        bulk(out, "name", consumer.name());
        int(out, "pending", consumer.pending_len() as i64);
        int(out, "idle", now_ms.saturating_sub(consumer.seen_ms).max(0));
    }
    Ok(())
}

fn groups(cx: &mut Cx) -> Result<(), Error> {
    let stream = cx.keys.read_as::<Stream>(cx.args[2])?.ok_or(Error::NoSuchKey)?;
    let out = &mut *cx.out;
    out.array(stream.groups_len());
    for (group_name, group) in stream.groups() {
        out.map(6);
        bulk(out, "name", group_name);
        int(out, "consumers", group.consumers_len() as i64);
        int(out, "pending", group.pending_len() as i64);
        id(out, "last-delivered-id", group.last_id);
        int_or_null(out, "entries-read", group.entries_read);
        int_or_null(out, "lag", group.lag(&stream.log));
    }
    Ok(())
}

fn stream(cx: &mut Cx) -> Result<(), Error> {
    // Redis looks for the key before it looks at the options.
    held::<Stream>(cx.keys, cx.args[2])?.ok_or(Error::NoSuchKey)?;
    let full = parse_full(cx)?;
    let stream = cx.keys.read_as::<Stream>(cx.args[2])?.ok_or(Error::NoSuchKey)?;
    let (out, log) = (&mut *cx.out, &stream.log);
    out.map(if full.is_some() { 9 } else { 10 });
    int(out, "length", log.len() as i64);
    // Blocks, and the nodes that a radix tree of them has at least.
    int(out, "radix-tree-keys", log.blocks_len() as i64);
    int(out, "radix-tree-nodes", log.blocks_len() as i64 + 1);
    id(out, "last-generated-id", log.last_id);
    id(out, "max-deleted-entry-id", log.max_deleted_id);
    int(out, "entries-added", log.entries_added as i64);
    id(out, "recorded-first-entry-id", log.first_id());
    match full {
        None => ends(out, stream),
        Some(count) => everything(out, stream, count),
    }
    Ok(())
}

/// The number of COUNT, where FULL is asked for: 0 for all.
fn parse_full(cx: &Cx) -> Result<Option<usize>, Error> {
    const COUNT_DEFAULT: usize = 10;
    match cx.args.len() {
        3 => Ok(None),
        4 if cx.is_word(3, "FULL") => Ok(Some(COUNT_DEFAULT)),
        6 if cx.is_word(3, "FULL") && cx.is_word(4, "COUNT") => {
            Ok(Some(usize::try_from(cx.int(5)?).unwrap_or(COUNT_DEFAULT)))
        }
        _ => Err(wrong_subcommand(cx)),
    }
}

fn ends(out: &mut Reply, stream: &Stream) {
    let log = &stream.log;
    int(out, "groups", stream.groups_len() as i64);
    for (field, entry) in [
        ("first-entry", log.range(StreamId::MIN, StreamId::MAX).next()),
        ("last-entry", log.range_rev(StreamId::MIN, StreamId::MAX).next()),
    ] {
        name(out, field);
        match entry {
            Some(entry) => reply_entry(out, entry),
            None => out.null(),
        }
    }
}

fn everything(out: &mut Reply, stream: &Stream, count: usize) {
    name(out, "entries");
    reply_entries(out, stream.log.range(StreamId::MIN, StreamId::MAX), count);
    name(out, "groups");
    out.array(stream.groups_len());
    for (group_name, group) in stream.groups() {
        full_group(out, group_name, group, &stream.log, count);
    }
}

fn full_group(out: &mut Reply, group_name: &[u8], group: &Group, log: &Log, count: usize) {
    let shown = if count == 0 { usize::MAX } else { count };
    out.map(7);
    bulk(out, "name", group_name);
    id(out, "last-delivered-id", group.last_id);
    int_or_null(out, "entries-read", group.entries_read);
    int_or_null(out, "lag", group.lag(log));
    int(out, "pel-count", group.pending_len() as i64);
    name(out, "pending");
    out.array(group.pending_len().min(shown));
    for (id, pending) in group.pending_from(StreamId::MIN).take(shown) {
        out.array(4);
        reply_id(out, id);
        out.bulk(group.by_id(pending.owner).name());
        out.int(pending.delivered_ms);
        out.int(pending.deliveries as i64);
    }
    name(out, "consumers");
    out.array(group.consumers_len());
    group.consumers().for_each(|consumer| full_consumer(out, group, consumer, shown));
}

fn full_consumer(out: &mut Reply, group: &Group, consumer: &Consumer, shown: usize) {
    out.map(4);
    bulk(out, "name", consumer.name());
    int(out, "seen-time", consumer.seen_ms);
    int(out, "pel-count", consumer.pending_len() as i64);
    name(out, "pending");
    out.array(consumer.pending_len().min(shown));
    for id in consumer.pending_from(StreamId::MIN).take(shown) {
        let pending = group.pending(id).expect("a consumer's entry is its group's");
        out.array(3);
        reply_id(out, id);
        out.int(pending.delivered_ms);
        out.int(pending.deliveries as i64);
    }
}

pub static COMMANDS: &[Command] = &[XINFO];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn a_streams_numbers() {
        assert_eq!(
            run(&["XADD s 1 f v", "XADD s 2 f v", "XDEL s 1", "XINFO STREAM s"]),
            "*20\r\n$6\r\nlength\r\n:1\r\n$15\r\nradix-tree-keys\r\n:1\r\n$16\r\nradix-tree-nodes\r\n:2\r\n\
             $17\r\nlast-generated-id\r\n$3\r\n2-0\r\n$20\r\nmax-deleted-entry-id\r\n$3\r\n1-0\r\n\
             $13\r\nentries-added\r\n:2\r\n$23\r\nrecorded-first-entry-id\r\n$3\r\n2-0\r\n$6\r\ngroups\r\n:0\r\n\
             $11\r\nfirst-entry\r\n*2\r\n$3\r\n2-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n\
             $10\r\nlast-entry\r\n*2\r\n$3\r\n2-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n"
        );
        assert_eq!(run(&["XINFO STREAM s"]), "-ERR no such key\r\n");
        assert!(run(&["SET s v", "XINFO STREAM s X"]).starts_with("-WRONGTYPE "));
        assert_eq!(
            run(&["XADD s 1 f v", "XINFO STREAM s FULL COUNT"]),
            "-ERR unknown subcommand or wrong number of arguments for 'STREAM'. Try XINFO HELP.\r\n"
        );
    }

    #[test]
    fn groups_and_consumers() {
        let mut r = Runner::default();
        r.all(&["XADD s 1 f v", "XADD s 2 f v", "XGROUP CREATE s g 0", "XGROUP CREATE s h 1"]);
        r.run("XREADGROUP GROUP g c COUNT 1 STREAMS s >");
        r.now_ms += 7;
        assert_eq!(
            r.run("XINFO GROUPS s"),
            "*2\r\n*12\r\n$4\r\nname\r\n$1\r\ng\r\n$9\r\nconsumers\r\n:1\r\n$7\r\npending\r\n:1\r\n\
             $17\r\nlast-delivered-id\r\n$3\r\n1-0\r\n$12\r\nentries-read\r\n:1\r\n$3\r\nlag\r\n:1\r\n\
             *12\r\n$4\r\nname\r\n$1\r\nh\r\n$9\r\nconsumers\r\n:0\r\n$7\r\npending\r\n:0\r\n\
             $17\r\nlast-delivered-id\r\n$3\r\n1-0\r\n$12\r\nentries-read\r\n$-1\r\n$3\r\nlag\r\n:1\r\n"
        );
        assert_eq!(
            r.run("XINFO CONSUMERS s g"),
            "*1\r\n*6\r\n$4\r\nname\r\n$1\r\nc\r\n$7\r\npending\r\n:1\r\n$4\r\nidle\r\n:7\r\n"
        );
        assert_eq!(r.run("XINFO CONSUMERS s x"), "-NOGROUP No such consumer group 'x' for key name 's'\r\n");
        r.session.is_resp3 = true;
        assert!(r.run("XINFO STREAM s FULL").starts_with("%9\r\n$6\r\nlength\r\n:2\r\n"));
        assert!(r.run("XINFO GROUPS s").starts_with("*2\r\n%6\r\n"));
    }
}
