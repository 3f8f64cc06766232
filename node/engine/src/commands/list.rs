//! Lists, without the commands that wait: see `list_blocking`.

use super::collection::{at_least, changed, held, index_range, pop_count, wrong_arity};
use crate::Error;
use crate::cx::Cx;
use crate::keys::Keys;
use crate::number::parse_i64;
use crate::settings::notify;
use crate::spec::{Arg, Command, Deprecated, Group, Handler, KeySpec, flag, key};
use storage::{List, Thresholds};

pub(super) const BASE: Command = Command { group: Group::List, ..Command::BASE };

/// An end of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Left,
    Right,
}

impl End {
    /// Reads LEFT or RIGHT.
    pub(super) fn parse(cx: &Cx, index: usize) -> Result<End, Error> {
        match () {
            () if cx.is_word(index, "LEFT") => Ok(End::Left),
            () if cx.is_word(index, "RIGHT") => Ok(End::Right),
            () => Err(Error::Syntax),
        }
    }

    fn push(self, list: &mut List, value: &[u8], thresholds: &Thresholds) {
        match self {
            End::Left => list.push_front(value, thresholds),
            End::Right => list.push_back(value, thresholds),
        }
    }

    fn pop(self, list: &mut List) -> Option<Vec<u8>> {
        match self {
            End::Left => list.pop_front(),
            End::Right => list.pop_back(),
        }
    }

    fn push_event(self) -> &'static str {
        if self == End::Left { "lpush" } else { "rpush" }
    }

    fn pop_event(self) -> &'static str {
        if self == End::Left { "lpop" } else { "rpop" }
    }

    /// The command that pops at this end, and its word.
    pub(super) fn pop_command(self) -> &'static str {
        if self == End::Left { "LPOP" } else { "RPOP" }
    }

    pub(super) fn word(self) -> &'static str {
        if self == End::Left { "LEFT" } else { "RIGHT" }
    }
}

pub const LPUSH: Command = Command {
    name: "lpush",
    summary: "Puts one or more elements before the first of a list. The list is created if it does not exist.",
    since: "1.0.0",
    complexity: "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("element").multiple()],
    history: &[("2.4.0", "Accepts multiple `element` arguments.")],
    run: Handler::Keys(|cx| push(cx, End::Left, true)),
    ..BASE
};

pub const RPUSH: Command = Command {
    name: "rpush",
    summary: "Puts one or more elements behind the last of a list. The list is created if it does not exist.",
    since: "1.0.0",
    complexity: "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("element").multiple()],
    history: &[("2.4.0", "Accepts multiple `element` arguments.")],
    run: Handler::Keys(|cx| push(cx, End::Right, true)),
    ..BASE
};

pub const LPUSHX: Command = Command {
    name: "lpushx",
    summary: "Puts one or more elements before the first of a list that exists.",
    since: "2.2.0",
    complexity: "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("element").multiple()],
    history: &[("4.0.0", "Accepts multiple `element` arguments.")],
    run: Handler::Keys(|cx| push(cx, End::Left, false)),
    ..BASE
};

pub const RPUSHX: Command = Command {
    name: "rpushx",
    summary: "Puts one or more elements behind the last of a list that exists.",
    since: "2.2.0",
    complexity: "O(1) for each element added, so O(N) to add N elements when the command is called with multiple arguments.",
    arity: -3,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("element").multiple()],
    history: &[("4.0.0", "Accepts multiple `element` arguments.")],
    run: Handler::Keys(|cx| push(cx, End::Right, false)),
    ..BASE
};
fn push(cx: &mut Cx, end: End, may_create: bool) -> Result<(), Error> {
    let (key, values) = (cx.args[1], &cx.args[2..]);
    let thresholds = &cx.settings.thresholds;
    let add = |list: &mut List| {
        values.iter().for_each(|value| end.push(list, value, thresholds));
        list.len()
    };
    let len = if may_create { Some(cx.keys.update_or_new(key, add)?) } else { cx.keys.update(key, add)? };
    if len.is_some() {
        changed(cx.keys, key, notify::LIST, end.push_event(), values.len());
    }
    cx.out.int(len.unwrap_or(0) as i64);
    Ok(())
}

pub const LPOP: Command = Command {
    name: "lpop",
    summary: "Removes and returns the first elements of a list. The list goes with its last element.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of elements returned",
    arity: -2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("count").since("6.2.0").optional()],
    history: &[("6.2.0", "Added the `count` argument.")],
    run: Handler::Keys(|cx| pop_command(cx, End::Left)),
    ..BASE
};

pub const RPOP: Command = Command {
    name: "rpop",
    summary: "Removes and returns the last elements of a list. The list goes with its last element.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of elements returned",
    arity: -2,
    flags: flag::WRITE | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("count").since("6.2.0").optional()],
    history: &[("6.2.0", "Added the `count` argument.")],
    run: Handler::Keys(|cx| pop_command(cx, End::Right)),
    ..BASE
};
fn pop_command(cx: &mut Cx, end: End) -> Result<(), Error> {
    if cx.args.len() > 3 {
        return Err(wrong_arity(cx));
    }
    let count = pop_count(cx)?;
    match (pop(cx.keys, cx.args[1], end, count.unwrap_or(1))?, count) {
        (None, None) => cx.out.null(),
        (None, Some(_)) => cx.out.null_array(),
        (Some(values), None) => cx.out.bulk(&values[0]),
        (Some(values), Some(_)) => {
            cx.out.array(values.len());
            values.iter().for_each(|v| cx.out.bulk(v));
        }
    }
    Ok(())
}

/// Takes up to `count` elements from an end of the list at a key. `None`: there is no list.
pub(super) fn pop(
    keys: &mut Keys<'_>,
    key: &[u8],
    end: End,
    count: usize,
) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let Some(len) = held::<List>(keys, key)?.map(|list| list.len()) else { return Ok(None) };
    let count = count.min(len);
    if count == 0 {
        return Ok(Some(Vec::new()));
    }
    changed(keys, key, notify::LIST, end.pop_event(), count);
    keys.update(key, |list: &mut List| match end {
        _ if count == 1 => end.pop(list).into_iter().collect(),
        End::Left => {
            let values = list.range(0, count).map(<[u8]>::to_vec).collect();
            list.remove_range(0, count);
            values
        }
        End::Right => {
            let values = list.range(len - count, len).rev().map(<[u8]>::to_vec).collect();
            list.remove_range(len - count, count);
            values
        }
    })
}

pub const LLEN: Command = Command {
    name: "llen",
    summary: "Returns the length of a list.",
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO)],
    args: &[Arg::key("key", 0)],
    run: Handler::Keys(llen),
    ..BASE
};
fn llen(cx: &mut Cx) -> Result<(), Error> {
    let len = cx.keys.read_as::<List>(cx.args[1])?.map_or(0, |list| list.len());
    cx.out.int(len as i64);
    Ok(())
}

pub const LINDEX: Command = Command {
    name: "lindex",
    summary: "Returns an element of a list by its index.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of elements to traverse to get to the element at index. This makes asking for the first or the last element of the list O(1).",
    arity: 3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::integer("index")],
    run: Handler::Keys(lindex),
    ..BASE
};
fn lindex(cx: &mut Cx) -> Result<(), Error> {
    let index = cx.int(2);
    let Some(list) = cx.keys.read_as::<List>(cx.args[1])? else {
        cx.out.null();
        return Ok(());
    };
    match place(index?, list.len()).and_then(|i| list.get(i)) {
        Some(value) => cx.out.bulk(value),
        None => cx.out.null(),
    }
    Ok(())
}

/// An index that may count from the end.
fn place(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|i| *i < len)
}

pub const LSET: Command = Command {
    name: "lset",
    summary: "Sets an element of a list by its index.",
    since: "1.0.0",
    complexity: "O(N) where N is the length of the list. Setting either the first or the last element of the list is O(1).",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::integer("index"), Arg::string("element")],
    run: Handler::Keys(lset),
    ..BASE
};
fn lset(cx: &mut Cx) -> Result<(), Error> {
    let (key, index, value) = (cx.args[1], cx.int(2), cx.args[3]);
    let len = held::<List>(cx.keys, key)?.ok_or(Error::NoSuchKey)?.len();
    let index = place(index?, len).ok_or(Error::OutOfRange)?;
    let thresholds = &cx.settings.thresholds;
    cx.keys.update(key, |list: &mut List| list.set(index, value, thresholds))?;
    cx.keys.changed(key, notify::LIST, "lset");
    cx.out.ok();
    Ok(())
}

pub const LINSERT: Command = Command {
    name: "linsert",
    summary: "Puts an element before or behind another element of a list.",
    since: "2.2.0",
    complexity: "O(N) where N is the number of elements to traverse before seeing the value pivot. This means that inserting somewhere on the left end on the list (head) can be considered O(1) and inserting somewhere on the right end (tail) is O(N).",
    arity: 5,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    args: &[
        Arg::key("key", 0),
        Arg::one_of("where", &[Arg::word("before", "BEFORE"), Arg::word("after", "AFTER")]),
        Arg::string("pivot"),
        Arg::string("element"),
    ],
    run: Handler::Keys(linsert),
    ..BASE
};
fn linsert(cx: &mut Cx) -> Result<(), Error> {
    let (key, pivot, value) = (cx.args[1], cx.args[3], cx.args[4]);
    let behind = match () {
        () if cx.is_word(2, "AFTER") => 1,
        () if cx.is_word(2, "BEFORE") => 0,
        () => return Err(Error::Syntax),
    };
    let thresholds = &cx.settings.thresholds;
    let len = cx.keys.update(key, |list: &mut List| {
        let at = list.iter().position(|v| v == pivot)?;
        list.insert(at + behind, value, thresholds);
        Some(list.len())
    })?;
    if let Some(Some(_)) = len {
        cx.keys.changed(key, notify::LIST, "linsert");
    }
    cx.out.int(len.map_or(0, |len| len.map_or(-1, |len| len as i64)));
    Ok(())
}

pub const LRANGE: Command = Command {
    name: "lrange",
    summary: "Returns a range of the elements of a list.",
    since: "1.0.0",
    complexity: "O(S+N) where S is the distance of start offset from HEAD for small lists, from nearest end (HEAD or TAIL) for large lists; and N is the number of elements in the specified range.",
    arity: 4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::integer("start"), Arg::integer("stop")],
    run: Handler::Keys(lrange),
    ..BASE
};
fn lrange(cx: &mut Cx) -> Result<(), Error> {
    let (start, stop) = (cx.int(2)?, cx.int(3)?);
    let list = cx.keys.read_as::<List>(cx.args[1])?;
    match list.and_then(|list| Some((list, index_range(start, stop, list.len())?))) {
        None => cx.out.array(0),
        Some((list, (from, to))) => {
            cx.out.array(to - from);
            cx.out.bulks(list.range(from, to));
        }
    }
    Ok(())
}

pub const LTRIM: Command = Command {
    name: "ltrim",
    summary: "Removes all elements of a list outside a range. The list goes with its last element.",
    since: "1.0.0",
    complexity: "O(N) where N is the number of elements to be removed by the operation.",
    arity: 4,
    flags: flag::WRITE,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("start"), Arg::integer("stop")],
    run: Handler::Keys(ltrim),
    ..BASE
};
fn ltrim(cx: &mut Cx) -> Result<(), Error> {
    let (key, start, stop) = (cx.args[1], cx.int(2)?, cx.int(3)?);
    if let Some(len) = held::<List>(cx.keys, key)?.map(|list| list.len()) {
        let (from, to) = index_range(start, stop, len).unwrap_or((0, 0));
        let removed = len - (to - from);
        // Redis 7.0: told even if nothing was removed, but then it is no change.
        match removed {
            0 => {
                cx.keys.touched(key);
                cx.keys.event(key, notify::LIST, "ltrim");
            }
            _ => changed(cx.keys, key, notify::LIST, "ltrim", removed),
        }
        cx.keys.update(key, |list: &mut List| list.trim(from, to))?;
    }
    cx.out.ok();
    Ok(())
}

pub const LREM: Command = Command {
    name: "lrem",
    summary: "Removes elements from a list that equal a value. The list goes with its last element.",
    since: "1.0.0",
    complexity: "O(N+M) where N is the length of the list and M is the number of elements removed.",
    arity: 4,
    flags: flag::WRITE,
    keys: &[KeySpec::one(1, key::RW | key::DELETE)],
    args: &[Arg::key("key", 0), Arg::integer("count"), Arg::string("element")],
    run: Handler::Keys(lrem),
    ..BASE
};
fn lrem(cx: &mut Cx) -> Result<(), Error> {
    let (key, count, value) = (cx.args[1], cx.int(2)?, cx.args[3]);
    let is_any = held::<List>(cx.keys, key)?.is_some_and(|list| list.iter().any(|v| v == value));
    let mut removed = 0;
    if is_any {
        cx.keys.changed(key, notify::LIST, "lrem");
        removed = cx.keys.update(key, |list: &mut List| list.remove_equal(value, count))?.unwrap_or(0);
        cx.keys.effects.dirty += removed as u64 - 1;
    }
    cx.out.int(removed as i64);
    Ok(())
}

pub const LPOS: Command = Command {
    name: "lpos",
    summary: "Returns the indices of elements of a list that equal a value.",
    since: "6.0.6",
    complexity: "O(N) where N is the number of elements in the list, for the average case. When searching for elements near the head or the tail of the list, or when the MAXLEN option is provided, the command may run in constant time.",
    arity: -3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::string("element"),
        Arg::integer("rank").token("RANK").optional(),
        Arg::integer("num-matches").token("COUNT").optional(),
        Arg::integer("len").token("MAXLEN").optional(),
    ],
    run: Handler::Keys(lpos),
    ..BASE
};
fn lpos(cx: &mut Cx) -> Result<(), Error> {
    let (mut rank, mut count, mut maxlen) = (1, None, 0);
    for i in (3..cx.args.len()).step_by(2) {
        let has_value = i + 1 < cx.args.len();
        if has_value && cx.is_word(i, "RANK") {
            rank = parse_rank(cx, i + 1)?;
        } else if has_value && cx.is_word(i, "COUNT") {
            count = Some(at_least(cx, i + 1, 0, "ERR COUNT can't be negative")?);
        } else if has_value && cx.is_word(i, "MAXLEN") {
            maxlen = at_least(cx, i + 1, 0, "ERR MAXLEN can't be negative")?;
        } else {
            return Err(Error::Syntax);
        }
    }
    let wanted = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(n) => n,
    };
    let list = cx.keys.read_as::<List>(cx.args[1])?;
    let found = list.map_or(Vec::new(), |list| positions(list, cx.args[2], rank, wanted, maxlen));
    match (count, found.first()) {
        (Some(_), _) => {
            cx.out.array(found.len());
            found.iter().for_each(|i| cx.out.int(*i as i64));
        }
        (None, Some(first)) => cx.out.int(*first as i64),
        (None, None) => cx.out.null(),
    }
    Ok(())
}

fn parse_rank(cx: &Cx, index: usize) -> Result<i64, Error> {
    match parse_i64(cx.arg(index)).ok_or(Error::NotInteger)? {
        0 => Err(Error::text(
            "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list",
        )),
        // Redis 7.0 negates it, which leaves it as it is, and any match will do.
        i64::MIN => Ok(-1),
        rank => Ok(rank),
    }
}

/// Indices of elements equal to `value`, from the `rank`-th match on, from the end if it is negative. Compares at most
/// `maxlen` elements, all if 0.
fn positions(list: &List, value: &[u8], rank: i64, wanted: usize, maxlen: usize) -> Vec<usize> {
    let skip = (rank.unsigned_abs() - 1) as usize;
    let compared = if maxlen == 0 { list.len() } else { maxlen };
    let is_match = |(i, v): (usize, &[u8])| (v == value).then_some(i);
    if rank > 0 {
        list.iter().enumerate().take(compared).filter_map(is_match).skip(skip).take(wanted).collect()
    } else {
        let last = list.len().saturating_sub(1);
        let from_end = list.iter().rev().enumerate().take(compared).map(|(i, v)| (last - i, v));
        from_end.filter_map(is_match).skip(skip).take(wanted).collect()
    }
}

pub const LMOVE: Command = Command {
    name: "lmove",
    summary: "Takes an element from one end of a list, puts it at an end of another, and returns it.",
    since: "6.2.0",
    complexity: "O(1)",
    arity: 5,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE), KeySpec::one(2, key::RW | key::INSERT)],
    args: &[
        Arg::key("source", 0),
        Arg::key("destination", 1),
        Arg::one_of("wherefrom", &[Arg::word("left", "LEFT"), Arg::word("right", "RIGHT")]),
        Arg::one_of("whereto", &[Arg::word("left", "LEFT"), Arg::word("right", "RIGHT")]),
    ],
    run: Handler::Keys(lmove),
    ..BASE
};
fn lmove(cx: &mut Cx) -> Result<(), Error> {
    let (from, to) = (End::parse(cx, 3)?, End::parse(cx, 4)?);
    reply_moved(cx, from, to)
}

pub const RPOPLPUSH: Command = Command {
    name: "rpoplpush",
    summary: "Takes the last element of a list, puts it before the first of another, and returns it.",
    since: "1.2.0",
    complexity: "O(1)",
    arity: 3,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::DELETE), KeySpec::one(2, key::RW | key::INSERT)],
    args: &[Arg::key("source", 0), Arg::key("destination", 1)],
    deprecated: Some(Deprecated {
        since: "6.2.0",
        replaced_by: "`LMOVE` with the `RIGHT` and `LEFT` arguments",
    }),
    run: Handler::Keys(|cx| reply_moved(cx, End::Right, End::Left)),
    ..BASE
};
fn reply_moved(cx: &mut Cx, from: End, to: End) -> Result<(), Error> {
    match move_element(cx, from, to)? {
        Some(value) => cx.out.bulk(&value),
        None => cx.out.null(),
    }
    Ok(())
}

/// Moves an element from the list in argument 1 to the list in argument 2. `None`: the first is not there.
pub(super) fn move_element(cx: &mut Cx, from: End, to: End) -> Result<Option<Vec<u8>>, Error> {
    let (source, target) = (cx.args[1], cx.args[2]);
    let thresholds = &cx.settings.thresholds;
    let first = held::<List>(cx.keys, source)?.and_then(|list| match from {
        End::Left => list.get(0).map(<[u8]>::to_vec),
        End::Right => list.get(list.len() - 1).map(<[u8]>::to_vec),
    });
    let Some(value) = first else { return Ok(None) };
    if source == target {
        cx.keys.update(source, |list: &mut List| {
            from.pop(list);
            to.push(list, &value, thresholds);
        })?;
    } else {
        cx.keys.update_or_new(target, |list: &mut List| to.push(list, &value, thresholds))?;
    }
    // The order of Redis: the element arrives before it leaves.
    cx.keys.touched(target);
    cx.keys.event(target, notify::LIST, to.push_event());
    cx.keys.changed(source, notify::LIST, from.pop_event());
    if source != target {
        cx.keys.update(source, |list: &mut List| from.pop(list))?;
    }
    Ok(Some(value))
}

pub static COMMANDS: &[Command] = &[
    LPUSH, RPUSH, LPUSHX, RPUSHX, LPOP, RPOP, LLEN, LINDEX, LSET, LINSERT, LRANGE, LTRIM, LREM, LPOS, LMOVE,
    RPOPLPUSH,
];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn push_pop_and_length() {
        assert_eq!(
            run(&["RPUSH l a b", "LPUSH l c", "LRANGE l 0 -1"]),
            "*3\r\n$1\r\nc\r\n$1\r\na\r\n$1\r\nb\r\n"
        );
        assert_eq!(run(&["LPUSHX l a"]), ":0\r\n");
        assert_eq!(run(&["RPUSH l a b c", "RPOP l 2"]), "*2\r\n$1\r\nc\r\n$1\r\nb\r\n");
        assert_eq!(run(&["RPUSH l a", "LPOP l", "EXISTS l"]), ":0\r\n");
        assert_eq!(run(&["LPOP l"]) + &run(&["LPOP l 1"]), "$-1\r\n*-1\r\n");
        assert_eq!(run(&["RPUSH l a", "LPOP l 0"]), "*0\r\n");
        assert_eq!(run(&["LPOP l -1"]), "-ERR value is out of range, must be positive\r\n");
        assert_eq!(run(&["LPOP l 1 2"]), "-ERR wrong number of arguments for 'lpop' command\r\n");
    }

    #[test]
    fn indices() {
        let list = "RPUSH l a b c d";
        assert_eq!(run(&[list, "LINDEX l -1"]) + &run(&[list, "LINDEX l 4"]), "$1\r\nd\r\n$-1\r\n");
        assert_eq!(run(&[list, "LSET l -5 x"]), "-ERR index out of range\r\n");
        assert_eq!(run(&["LSET l 0 x"]), "-ERR no such key\r\n");
        assert_eq!(run(&[list, "LSET l 1 x", "LTRIM l 1 -3", "LRANGE l 0 -1"]), "*1\r\n$1\r\nx\r\n");
        assert_eq!(run(&[list, "LINSERT l AFTER b x", "LINDEX l 2"]), "$1\r\nx\r\n");
        assert_eq!(run(&[list, "LINSERT l BEFORE z x"]) + &run(&["LINSERT l BEFORE z x"]), ":-1\r\n:0\r\n");
        assert_eq!(run(&["LINDEX l notanint"]), "$-1\r\n");
    }

    #[test]
    fn search_and_removal() {
        let list = "RPUSH l a b a c a";
        assert_eq!(run(&[list, "LPOS l a COUNT 0"]), "*3\r\n:0\r\n:2\r\n:4\r\n");
        assert_eq!(run(&[list, "LPOS l a RANK -1 COUNT 2"]), "*2\r\n:4\r\n:2\r\n");
        assert_eq!(
            run(&[list, "LPOS l a RANK 2"]) + &run(&[list, "LPOS l a RANK 2 MAXLEN 2"]),
            ":2\r\n$-1\r\n"
        );
        assert_eq!(run(&[list, "LREM l -2 a", "LRANGE l 0 -1"]), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
        assert_eq!(run(&[list, "LREM l 0 z"]), ":0\r\n");
    }

    #[test]
    fn moves_rotate_and_keep_the_expiry() {
        let mut r = Runner::default();
        assert_eq!(r.all(&["RPUSH a 1 2", "LMOVE a b RIGHT LEFT"]), "$1\r\n2\r\n");
        assert_eq!(r.all(&["RPOPLPUSH a b", "EXISTS a"]), ":0\r\n");
        assert_eq!(r.run("LRANGE b 0 -1"), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
        assert_eq!(
            r.all(&["RPUSH one x", "EXPIRE one 100", "LMOVE one one LEFT RIGHT", "TTL one"]),
            ":100\r\n"
        );
        assert_eq!(r.run("LMOVE none b LEFT LEFT"), "$-1\r\n");
    }
}
