//! Consumer groups: XGROUP, and acknowledgements (XACK, XACKDEL).

use super::collection::held;
use super::stream::{
    BASE, group_changed, no_group_of_key, parse_id, parse_id_or_edge, parse_ids, wrong_subcommand,
};
use super::stream_delete::{Deletion, Fate, IDS, REFERENCES, delete_entry, reply_fates, said_deleted};
use crate::Error;
use crate::cx::Cx;
use crate::settings::notify;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use storage::stream::Group;
use storage::{Stream, StreamId};

pub const XGROUP: Command = Command {
    name: "xgroup",
    summary: "A container for consumer groups commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    subcommands: &[CREATE, CREATECONSUMER, DELCONSUMER, DESTROY, HELP, SETID],
    ..BASE
};

const ID: Arg = Arg::one_of("id", &[Arg::string("id"), Arg::word("new_id", "$")]);
const ENTRIESREAD: Arg = Arg::integer("entries_read").token("ENTRIESREAD").optional();

const CREATE: Command = Command {
    name: "create",
    summary: "Creates a consumer group.",
    arity: -5,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(2, key::RW | key::INSERT)],
    args: &[
        Arg::key("key", 0),
        Arg::string("groupname"),
        ID,
        Arg::word("mkstream", "MKSTREAM").optional(),
        ENTRIESREAD,
    ],
    history: &[("7.0.0", "Added the `entries_read` named argument.")],
    run: Handler::Keys(create),
    ..BASE
};
const SETID: Command = Command {
    name: "setid",
    summary: "Sets how far a consumer group has read.",
    arity: -5,
    flags: flag::WRITE,
    keys: &[KeySpec::one(2, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::string("groupname"), ID, ENTRIESREAD],
    history: &[("7.0.0", "Added the optional `entries_read` argument.")],
    run: Handler::Keys(setid),
    ..BASE
};
const DESTROY: Command = Command {
    name: "destroy",
    summary: "Removes a consumer group.",
    complexity: "O(N) where N is the number of entries in the group's pending entries list (PEL).",
    arity: 4,
    flags: flag::WRITE,
    keys: &[KeySpec::one(2, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::string("groupname")],
    run: Handler::Keys(destroy),
    ..BASE
};
const CREATECONSUMER: Command = Command {
    name: "createconsumer",
    summary: "Creates a consumer in a consumer group.",
    since: "6.2.0",
    arity: 5,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(2, key::RW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("groupname"), Arg::string("consumername")],
    run: Handler::Keys(createconsumer),
    ..BASE
};
const DELCONSUMER: Command = Command {
    name: "delconsumer",
    summary: "Removes a consumer from a consumer group.",
    arity: 5,
    flags: flag::WRITE,
    keys: &[KeySpec::one(2, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::string("groupname"), Arg::string("consumername")],
    run: Handler::Keys(delconsumer),
    ..BASE
};
const HELP: Command = Command {
    name: "help",
    summary: "Returns helpful text about the different subcommands.",
    arity: 2,
    flags: flag::LOADING | flag::STALE,
    run: Handler::Keys(|cx| {
        let lines = [
            "XGROUP <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "CREATE <key> <groupname> <id|$> [option]",
            "    Create a new consumer group. Options are:",
            "    * MKSTREAM",
            "      Create the empty stream if it does not exist.",
            "    * ENTRIESREAD entries_read",
            "      Set the group's entries_read counter (internal use).",
            "CREATECONSUMER <key> <groupname> <consumer>",
            "    Create a new consumer in the specified group.",
            "DELCONSUMER <key> <groupname> <consumer>",
            "    Remove the specified consumer.",
            "DESTROY <key> <groupname>",
            "    Remove the specified group.",
            "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
            "    Set the current group ID and entries_read counter.",
            "HELP",
            "    Prints this help.",
        ];
        cx.out.array(lines.len());
        lines.iter().for_each(|l| cx.out.simple(l));
        Ok(())
    }),
    ..BASE
};

/// The options of CREATE and SETID.
#[derive(Default)]
struct Options {
    is_mkstream: bool,
    entries_read: Option<i64>,
}

impl Options {
    fn parse(cx: &Cx, is_create: bool) -> Result<Options, Error> {
        let mut o = Options::default();
        let mut i = 5;
        while i < cx.args.len() {
            if is_create && cx.is_word(i, "MKSTREAM") {
                o.is_mkstream = true;
                i += 1;
            } else if cx.is_word(i, "ENTRIESREAD") && i + 1 < cx.args.len() {
                let read = cx.int(i + 1)?;
                if read < -1 {
                    return Err(Error::text("ERR value for ENTRIESREAD must be positive or -1"));
                }
                o.entries_read = (read >= 0).then_some(read);
                i += 2;
            } else {
                return Err(wrong_subcommand(cx));
            }
        }
        Ok(o)
    }
}

/// The stream of a subcommand, which must be there.
fn stream_of<'k>(cx: &'k mut Cx) -> Result<&'k Stream, Error> {
    held::<Stream>(cx.keys, cx.args[2])?.ok_or(Error::text(
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.",
    ))
}

/// Stream and group must be there.
fn need_group(cx: &mut Cx) -> Result<(), Error> {
    let (key, group) = (cx.args[2], cx.args[3]);
    stream_of(cx)?.group(group).map(|_| ()).ok_or_else(|| no_group_of_key(key, group))
}

fn create(cx: &mut Cx) -> Result<(), Error> {
    let options = Options::parse(cx, true)?;
    let (key, name) = (cx.args[2], cx.args[3]);
    let is_there = if options.is_mkstream {
        held::<Stream>(cx.keys, key)?.is_some()
    } else {
        stream_of(cx)?;
        true
    };
    const ARGS_MAX: usize = 8; // as Redis: each option once
    if cx.args.len() > ARGS_MAX {
        return Err(wrong_subcommand(cx));
    }
    let id = if cx.args[4] == b"$" { None } else { Some(parse_id(cx.args[4], 0)?) };
    let is_added = cx.keys.update_or_new(key, |stream: &mut Stream| {
        let group = Group::new(id.unwrap_or(stream.log.last_id), options.entries_read);
        stream.add_group(name, group)
    })?;
    if !is_added {
        return Err(Error::text("BUSYGROUP Consumer Group name already exists"));
    }
    if is_there {
        group_changed(cx.keys, key, "xgroup-create");
    } else {
        cx.keys.changed(key, notify::STREAM, "xgroup-create");
    }
    cx.out.ok();
    Ok(())
}

fn setid(cx: &mut Cx) -> Result<(), Error> {
    let options = Options::parse(cx, false)?;
    need_group(cx)?;
    if !matches!(cx.args.len(), 5 | 7) {
        return Err(wrong_subcommand(cx));
    }
    let (key, name) = (cx.args[2], cx.args[3]);
    let id = if cx.args[4] == b"$" { None } else { Some(parse_id_or_edge(cx.args[4], 0)?) };
    cx.keys.update(key, |stream: &mut Stream| {
        stream.with_group(name, |log, group| {
            group.last_id = id.unwrap_or(log.last_id);
            group.entries_read = options.entries_read;
        })
    })?;
    group_changed(cx.keys, key, "xgroup-setid");
    cx.out.ok();
    Ok(())
}

fn destroy(cx: &mut Cx) -> Result<(), Error> {
    const FREED_HERE_MAX: usize = 64 * 1024; // bytes, as for values
    stream_of(cx)?;
    let (key, name) = (cx.args[2], cx.args[3]);
    let group = cx.keys.update(key, |stream: &mut Stream| stream.remove_group(name))?.flatten();
    cx.out.int(group.is_some() as i64);
    let Some(group) = group else { return Ok(()) };
    if group.heap_bytes() > FREED_HERE_MAX {
        cx.keys.effects.garbage.push(Box::new(group));
    }
    group_changed(cx.keys, key, "xgroup-destroy");
    // Who waits for the group is told.
    cx.keys.touched(key);
    Ok(())
}

fn createconsumer(cx: &mut Cx) -> Result<(), Error> {
    need_group(cx)?;
    let (key, name, consumer, now_ms) = (cx.args[2], cx.args[3], cx.args[4], cx.keys.now_ms);
    let created = cx.keys.update(key, |stream: &mut Stream| {
        stream.with_group(name, |_, group| group.add_consumer(consumer, now_ms).is_some())
    })?;
    let is_created = created.flatten() == Some(true);
    if is_created {
        group_changed(cx.keys, key, "xgroup-createconsumer");
    }
    cx.out.int(is_created as i64);
    Ok(())
}

fn delconsumer(cx: &mut Cx) -> Result<(), Error> {
    need_group(cx)?;
    let (key, name, consumer) = (cx.args[2], cx.args[3], cx.args[4]);
    let removed = cx.keys.update(key, |stream: &mut Stream| {
        stream.with_group(name, |_, group| group.remove_consumer(consumer))
    })?;
    let pending = removed.flatten().flatten();
    if pending.is_some() {
        group_changed(cx.keys, key, "xgroup-delconsumer");
    }
    cx.out.int(pending.unwrap_or(0) as i64);
    Ok(())
}

pub const XACK: Command = Command {
    name: "xack",
    summary: "Says that a consumer group is done with entries, and returns how many were pending.",
    complexity: "O(1) for each message ID processed.",
    arity: -4,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::string("group"), Arg::string("id").multiple()],
    run: Handler::Keys(xack),
    ..BASE
};
fn xack(cx: &mut Cx) -> Result<(), Error> {
    let (key, name) = (cx.args[1], cx.args[2]);
    if !has_group(cx, key, name)? {
        cx.out.int(0);
        return Ok(());
    }
    let ids = parse_ids(cx, 3)?;
    let acknowledged = cx.keys.update(key, |stream: &mut Stream| {
        stream.with_group(name, |_, group| ids.iter().filter(|id| group.acknowledge(**id)).count())
    })?;
    let acknowledged = acknowledged.flatten().unwrap_or(0);
    // Redis: no event, and no matter for WATCH.
    cx.keys.effects.dirty += acknowledged as u64;
    cx.out.int(acknowledged as i64);
    Ok(())
}

fn has_group(cx: &mut Cx, key: &[u8], name: &[u8]) -> Result<bool, Error> {
    Ok(cx.keys.read_as::<Stream>(key)?.is_some_and(|stream| stream.group(name).is_some()))
}

pub const XACKDEL: Command = Command {
    name: "xackdel",
    summary: "Acknowledges entries and removes them from the stream, with a choice of what becomes of other references.",
    since: "8.2.0",
    complexity: "O(1) for each message ID processed.",
    arity: -6,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::string("group"), REFERENCES, IDS],
    run: Handler::Keys(xackdel),
    ..BASE
};
fn xackdel(cx: &mut Cx) -> Result<(), Error> {
    let (key, name) = (cx.args[1], cx.args[2]);
    let deletion = Deletion::parse(cx, 3)?;
    if !has_group(cx, key, name)? {
        reply_fates(cx, &vec![Fate::NotThere; deletion.ids.len()]);
        return Ok(());
    }
    let mut deleted = 0;
    let fates = cx.keys.update(key, |stream: &mut Stream| {
        let mut each = |id: &StreamId| {
            if stream.with_group(name, |_, group| group.acknowledge(*id)) != Some(true) {
                return Fate::NotThere;
            }
            let (fate, was_there) = delete_entry(stream, *id, deletion.references);
            deleted += was_there as usize;
            fate
        };
        deletion.ids.iter().map(&mut each).collect::<Vec<Fate>>()
    })?;
    let fates = fates.expect("the stream is there");
    said_deleted(cx.keys, key, deleted);
    let acknowledged = fates.iter().filter(|fate| **fate != Fate::NotThere).count();
    cx.keys.effects.dirty += acknowledged as u64;
    reply_fates(cx, &fates);
    Ok(())
}

pub static COMMANDS: &[Command] = &[XGROUP, XACK, XACKDEL];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn groups_come_and_go() {
        let mut r = Runner::default();
        assert_eq!(
            r.run("XGROUP CREATE s g $"),
            "-ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.\r\n"
        );
        assert_eq!(r.run("XGROUP CREATE s g $ MKSTREAM ENTRIESREAD 3"), "+OK\r\n");
        assert_eq!(r.run("XGROUP CREATE s g $"), "-BUSYGROUP Consumer Group name already exists\r\n");
        assert_eq!(r.run("XGROUP CREATECONSUMER s g c"), ":1\r\n");
        assert_eq!(r.run("XGROUP CREATECONSUMER s g c"), ":0\r\n");
        assert_eq!(r.run("XGROUP DELCONSUMER s g d"), ":0\r\n");
        assert_eq!(
            r.run("XGROUP DELCONSUMER s x d"),
            "-NOGROUP No such consumer group 'x' for key name 's'\r\n"
        );
        assert_eq!(r.run("XGROUP SETID s g 5-5 ENTRIESREAD 2"), "+OK\r\n");
        assert_eq!(r.run("XGROUP DESTROY s g"), ":1\r\n");
        assert_eq!(r.run("XGROUP DESTROY s g"), ":0\r\n");
        assert_eq!(
            r.replayed(),
            [
                "XGROUP CREATE s g $ MKSTREAM ENTRIESREAD 3",
                "XGROUP CREATECONSUMER s g c",
                "XGROUP SETID s g 5-5 ENTRIESREAD 2",
                "XGROUP DESTROY s g"
            ]
        );
    }

    #[test]
    fn options_of_groups() {
        let wrong = "-ERR unknown subcommand or wrong number of arguments for 'CREATE'. Try XGROUP HELP.\r\n";
        assert_eq!(run(&["XADD s 1 f v", "XGROUP CREATE s g $ X"]), wrong);
        assert_eq!(run(&["XADD s 1 f v", "XGROUP CREATE s g $ ENTRIESREAD"]), wrong);
        assert_eq!(
            run(&["XADD s 1 f v", "XGROUP CREATE s g $ ENTRIESREAD -2"]),
            "-ERR value for ENTRIESREAD must be positive or -1\r\n"
        );
        assert_eq!(
            run(&["XADD s 1 f v", "XGROUP CREATE s g x"]),
            "-ERR Invalid stream ID specified as stream command argument\r\n"
        );
    }

    #[test]
    fn acknowledged_entries_are_no_longer_pending() {
        let lines =
            ["XADD s 1 f v", "XADD s 2 f v", "XGROUP CREATE s g 0", "XREADGROUP GROUP g c STREAMS s >"];
        let mut r = Runner::default();
        r.all(&lines);
        r.replayed();
        assert_eq!(r.run("XACK s g 1 1 7"), ":1\r\n");
        assert_eq!(r.run("XACK s g 1"), ":0\r\n");
        assert_eq!(r.run("XACK s x 1"), ":0\r\n");
        assert_eq!(r.run("XACK s g x"), "-ERR Invalid stream ID specified as stream command argument\r\n");
        assert_eq!(r.run("XGROUP DELCONSUMER s g c"), ":1\r\n");
        assert_eq!(r.replayed(), ["XACK s g 1 1 7", "XGROUP DELCONSUMER s g c"]);
    }
}
