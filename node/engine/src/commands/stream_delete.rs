//! Removing entries by id (XDEL, XDELEX), and setting what a stream remembers of its past (XSETID).

use super::collection::{changed, held};
use super::stream::{BASE, parse_id, parse_ids};
use crate::Error;
use crate::cx::Cx;
use crate::keys::Keys;
use crate::number::parse_i64;
use crate::settings::notify;
use crate::spec::{Arg, Command, Handler, KeySpec, flag, key};
use storage::{Stream, StreamId};

pub const XDEL: Command = Command {
    name: "xdel",
    summary: "Removes entries from a stream by their ids and returns how many were there.",
    complexity: "O(1) for each single item to delete in the stream, regardless of the stream size.",
    arity: -3,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::string("id").multiple()],
    run: Handler::Keys(xdel),
    ..BASE
};
fn xdel(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    if held::<Stream>(cx.keys, key)?.is_none() {
        cx.out.int(0);
        return Ok(());
    }
    let ids = parse_ids(cx, 2)?;
    let deleted = cx
        .keys
        .update(key, |stream: &mut Stream| ids.iter().filter(|id| stream.log.delete(**id)).count())?
        .unwrap_or(0);
    said_deleted(cx.keys, key, deleted);
    cx.out.int(deleted as i64);
    Ok(())
}

pub(super) fn said_deleted(keys: &mut Keys<'_>, key: &[u8], deleted: usize) {
    if deleted > 0 {
        changed(keys, key, notify::STREAM, "xdel", deleted);
    }
}

/// What becomes of pending entries whose entry is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum References {
    /// They stay.
    Keep,
    /// They go too.
    Delete,
    /// Only entries without any are deleted.
    Acknowledged,
}

/// The arguments of XDELEX and XACKDEL behind key and group.
pub(super) struct Deletion {
    pub references: References,
    pub ids: Vec<StreamId>,
}

pub(super) const REFERENCES: Arg = Arg::one_of(
    "condition",
    &[Arg::word("keepref", "KEEPREF"), Arg::word("delref", "DELREF"), Arg::word("acked", "ACKED")],
)
.optional();
pub(super) const IDS: Arg =
    Arg::block("ids", &[Arg::integer("numids"), Arg::string("id").multiple()]).token("IDS");

impl Deletion {
    /// Follows Redis 8.2: an option at most once, then IDS with a count and as many ids, which end the command.
    pub(super) fn parse(cx: &Cx, from: usize) -> Result<Deletion, Error> {
        let mut references = None;
        let mut i = from;
        while i < cx.args.len() {
            let option = [
                ("KEEPREF", References::Keep),
                ("DELREF", References::Delete),
                ("ACKED", References::Acknowledged),
            ]
            .into_iter()
            .find(|(word, _)| cx.is_word(i, word));
            match option {
                Some((_, option)) if references.is_none() => references = Some(option),
                None if cx.is_word(i, "IDS") && i + 1 < cx.args.len() => {
                    let ids = parse_counted(cx, i + 1)?;
                    return Ok(Deletion { references: references.unwrap_or(References::Keep), ids });
                }
                _ => return Err(Error::Syntax),
            }
            i += 1;
        }
        Err(Error::Syntax)
    }
}

fn parse_counted(cx: &Cx, at: usize) -> Result<Vec<StreamId>, Error> {
    let count = parse_i64(cx.args[at]).filter(|n| *n > 0);
    let count = count.ok_or(Error::text("ERR Number of IDs must be a positive integer"))?;
    if count as usize != cx.args.len() - at - 1 {
        return Err(Error::text("ERR The `numids` parameter must match the number of arguments"));
    }
    parse_ids(cx, at + 1)
}

/// What became of an entry, as XDELEX and XACKDEL say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    NotThere = -1,
    Deleted = 1,
    /// It is still referenced, so it stays.
    Referenced = 2,
}

/// Deletes an entry as asked. The second half: whether it was there.
pub(super) fn delete_entry(stream: &mut Stream, id: StreamId, references: References) -> (Fate, bool) {
    match references {
        References::Acknowledged if stream.is_referenced(id) => return (Fate::Referenced, false),
        References::Delete => {
            stream.acknowledge_everywhere(id);
        }
        _ => {}
    }
    (Fate::Deleted, stream.log.delete(id))
}

pub const XDELEX: Command = Command {
    name: "xdelex",
    summary: "Removes entries from a stream by their ids, with a choice of what becomes of references to them.",
    since: "8.2.0",
    complexity: "O(1) for each single item to delete in the stream, regardless of the stream size.",
    arity: -5,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), REFERENCES, IDS],
    run: Handler::Keys(xdelex),
    ..BASE
};
fn xdelex(cx: &mut Cx) -> Result<(), Error> {
    let key = cx.args[1];
    let deletion = Deletion::parse(cx, 2)?;
    let fates = cx.keys.update(key, |stream: &mut Stream| {
        let each = |id: &StreamId| {
            if stream.log.contains(*id) {
                delete_entry(stream, *id, deletion.references).0
            } else {
                Fate::NotThere
            }
        };
        deletion.ids.iter().map(each).collect::<Vec<Fate>>()
    })?;
    let fates = fates.unwrap_or_else(|| vec![Fate::NotThere; deletion.ids.len()]);
    said_deleted(cx.keys, key, fates.iter().filter(|fate| **fate == Fate::Deleted).count());
    reply_fates(cx, &fates);
    Ok(())
}

pub(super) fn reply_fates(cx: &mut Cx, fates: &[Fate]) {
    cx.out.array(fates.len());
    fates.iter().for_each(|fate| cx.out.int(*fate as i64));
}

pub const XSETID: Command = Command {
    name: "xsetid",
    summary: "Sets the last id of a stream and what it counts. Replicas are told with it.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::string("last-id"),
        Arg::integer("entries_added").token("ENTRIESADDED").since("7.0.0").optional(),
        Arg::string("max_deleted_entry_id").token("MAXDELETEDID").since("7.0.0").optional(),
    ],
    history: &[("7.0.0", "Added the `entries_added` and `max_deleted_entry_id` arguments.")],
    run: Handler::Keys(xsetid),
    ..BASE
};
fn xsetid(cx: &mut Cx) -> Result<(), Error> {
    let (key, id) = (cx.args[1], parse_id(cx.args[2], 0)?);
    let (mut added, mut max_deleted) = (None, StreamId::MIN);
    let mut i = 3;
    while i < cx.args.len() {
        let has_more = i + 1 < cx.args.len();
        if cx.is_word(i, "ENTRIESADDED") && has_more {
            let count = cx.int(i + 1)?;
            added =
                Some(u64::try_from(count).map_err(|_| Error::text("ERR entries_added must be positive"))?);
        } else if cx.is_word(i, "MAXDELETEDID") && has_more {
            max_deleted = parse_id(cx.args[i + 1], 0)?;
            if id < max_deleted {
                return Err(Error::text(
                    "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                ));
            }
        } else {
            return Err(Error::Syntax);
        }
        i += 2;
    }
    let log = &held::<Stream>(cx.keys, key)?.ok_or(Error::NoSuchKey)?.log;
    if log.top_id().is_some_and(|top| id < top) {
        return Err(Error::text("ERR The ID specified in XSETID is smaller than the target stream top item"));
    }
    if !log.is_empty() && added.is_some_and(|n| (log.len() as u64) > n) {
        return Err(Error::text(
            "ERR The entries_added specified in XSETID is smaller than the target stream length",
        ));
    }
    cx.keys.update(key, |stream: &mut Stream| {
        let log = &mut stream.log;
        log.last_id = id;
        log.entries_added = added.unwrap_or(log.entries_added);
        if max_deleted != StreamId::MIN {
            log.max_deleted_id = max_deleted;
        }
    })?;
    super::stream::group_changed(cx.keys, key, "xsetid");
    cx.out.ok();
    Ok(())
}

pub static COMMANDS: &[Command] = &[XDEL, XDELEX, XSETID];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn deleted_entries_are_counted() {
        assert_eq!(run(&["XADD s 1 f v", "XADD s 2 f v", "XDEL s 1 1 2-0 3"]), ":2\r\n");
        assert_eq!(run(&["XADD s 1 f v", "XDEL s 1", "XLEN s"]), ":0\r\n");
        assert_eq!(run(&["XADD s 1 f v", "XDEL s 1", "EXISTS s"]), ":1\r\n");
        assert_eq!(run(&["XDEL s x"]), ":0\r\n");
        let invalid = "-ERR Invalid stream ID specified as stream command argument\r\n";
        assert_eq!(run(&["XADD s 1 f v", "XDEL s 1 x"]), invalid);
    }

    #[test]
    fn references_decide_over_an_entry() {
        let lines = [
            "XADD s 1 f v",
            "XADD s 2 f v",
            "XGROUP CREATE s g 0",
            "XREADGROUP GROUP g c COUNT 1 STREAMS s >",
        ];
        let with = |last: &str| {
            let mut r = Runner::default();
            r.all(&lines);
            (r.run(last), r.run("XLEN s"), r.run("XPENDING s g"))
        };
        let pending = "*4\r\n:1\r\n$3\r\n1-0\r\n$3\r\n1-0\r\n*1\r\n*2\r\n$1\r\nc\r\n$1\r\n1\r\n";
        let none = "*4\r\n:0\r\n$-1\r\n$-1\r\n*-1\r\n";
        assert_eq!(
            with("XDELEX s ACKED IDS 3 1 2 3"),
            ("*3\r\n:2\r\n:2\r\n:-1\r\n".into(), ":2\r\n".into(), pending.into())
        );
        assert_eq!(with("XDELEX s IDS 1 1"), ("*1\r\n:1\r\n".into(), ":1\r\n".into(), pending.into()));
        assert_eq!(with("XDELEX s DELREF IDS 1 1"), ("*1\r\n:1\r\n".into(), ":1\r\n".into(), none.into()));
        assert_eq!(with("XACKDEL s g ACKED IDS 1 1"), ("*1\r\n:1\r\n".into(), ":1\r\n".into(), none.into()));
        assert_eq!(run(&["XDELEX s IDS 1 1"]), "*1\r\n:-1\r\n");
        assert_eq!(
            run(&["XDELEX s IDS 2 1"]),
            "-ERR The `numids` parameter must match the number of arguments\r\n"
        );
        assert_eq!(run(&["XDELEX s IDS 0 1"]), "-ERR Number of IDs must be a positive integer\r\n");
        assert_eq!(run(&["XDELEX s KEEPREF ACKED IDS 1 1"]), "-ERR syntax error\r\n");
    }

    #[test]
    fn the_last_id_never_falls_below_an_entry() {
        assert_eq!(
            run(&["XADD s 5 f v", "XSETID s 4"]),
            "-ERR The ID specified in XSETID is smaller than the target stream top item\r\n"
        );
        assert_eq!(
            run(&["XADD s 5 f v", "XSETID s 9 ENTRIESADDED 0"]),
            "-ERR The entries_added specified in XSETID is smaller than the target stream length\r\n"
        );
        assert_eq!(run(&["XSETID s 9"]), "-ERR no such key\r\n");
        assert_eq!(
            run(&["XADD s 5 f v", "XSETID s 9 ENTRIESADDED 7 MAXDELETEDID 8", "XADD s 8 f v"]),
            "-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n"
        );
        assert_eq!(
            run(&["XADD s 5 f v", "XSETID s 9 MAXDELETEDID 10"]),
            "-ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id\r\n"
        );
    }
}
