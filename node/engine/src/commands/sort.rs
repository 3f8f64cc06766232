//! SORT and SORT_RO.
//!
//! Keys that BY and GET name are made of the elements, so that no key spec tells them. Each is locked when it is met;
//! where that is not possible at once, the command runs again with the gate closed. What STORE writes is replayed as the
//! list that it is: those keys may be older or newer elsewhere.

use crate::Error;
use crate::cx::{Cx, Waiting};
use crate::keys::Keys;
use crate::number::parse_c_f64;
use crate::settings::notify;
use crate::spec::{Arg, Begin, Command, Find, Group, Handler, KeySpec, acl, flag, key};
use proto::Slot;
use std::cmp::Ordering;
use storage::{List, Value, ValueRef};

const BASE: Command = Command {
    group: Group::Generic,
    complexity: "O(N+M*log(M)) where N is the number of elements in the list or set to sort, and M the number of returned elements. When the elements are not sorted, complexity is O(N).",
    arity: -2,
    acl: acl::SET | acl::SORTEDSET | acl::LIST | acl::DANGEROUS,
    ..Command::BASE
};

/// Options and how many operands each has. The parser takes exactly these.
const OPTIONS: &[(&str, usize)] =
    &[("ASC", 0), ("DESC", 0), ("ALPHA", 0), ("LIMIT", 2), ("BY", 1), ("GET", 1), ("STORE", 1)];

const STORED: KeySpec = KeySpec {
    begin: Begin::Option { word: "STORE", start: 2, options: OPTIONS },
    find: Find::Range { last: 0, step: 1, limit: 0 },
    flags: key::OW | key::UPDATE,
};

const BY_ARG: Arg = Arg::pattern("by-pattern").token("BY").optional();
const LIMIT_ARG: Arg =
    Arg::block("limit", &[Arg::integer("offset"), Arg::integer("count")]).token("LIMIT").optional();
const GET_ARG: Arg = Arg::pattern("get-pattern").token("GET").optional().multiple_token();
const ORDER_ARG: Arg = Arg::one_of("order", &[Arg::word("asc", "ASC"), Arg::word("desc", "DESC")]).optional();
const ALPHA_ARG: Arg = Arg::word("sorting", "ALPHA").optional();

pub const SORT: Command = Command {
    name: "sort",
    summary: "Sorts the elements of a list, a set or a sorted set, and returns or stores them.",
    flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS | flag::ANY_KEY | flag::LONG,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS), STORED],
    args: &[
        Arg::key("key", 0),
        BY_ARG,
        LIMIT_ARG,
        GET_ARG,
        ORDER_ARG,
        ALPHA_ARG,
        Arg::key("destination", 1).token("STORE").optional(),
    ],
    run: Handler::Keys(|cx| sort(cx, true)),
    ..BASE
};

pub const SORT_RO: Command = Command {
    name: "sort_ro",
    summary: "Returns the sorted elements of a list, a set or a sorted set.",
    since: "7.0.0",
    flags: flag::READONLY | flag::MOVABLE_KEYS | flag::ANY_KEY | flag::LONG,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), BY_ARG, LIMIT_ARG, GET_ARG, ORDER_ARG, ALPHA_ARG],
    run: Handler::Keys(|cx| sort(cx, false)),
    ..BASE
};

/// What is asked for.
#[derive(Default)]
struct Request<'a> {
    is_descending: bool,
    is_alpha: bool,
    /// Offset and count; a negative count is all.
    limit: Option<(i64, i64)>,
    by: Option<Pattern<'a>>,
    /// BY without a `*`: the order is that of the collection.
    is_unsorted: bool,
    get: Vec<Pattern<'a>>,
    store: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    fn parse(cx: &Cx<'a, '_>, may_store: bool) -> Result<Request<'a>, Error> {
        let mut request = Request::default();
        let mut i = 2;
        while i < cx.args.len() {
            let rest = cx.args.len() - i - 1;
            match () {
                () if cx.is_word(i, "ASC") => request.is_descending = false,
                () if cx.is_word(i, "DESC") => request.is_descending = true,
                () if cx.is_word(i, "ALPHA") => request.is_alpha = true,
                () if cx.is_word(i, "LIMIT") && rest >= 2 => {
                    request.limit = Some((cx.int(i + 1)?, cx.int(i + 2)?));
                    i += 2;
                }
                () if may_store && cx.is_word(i, "STORE") && rest >= 1 => {
                    request.store = Some(cx.args[i + 1]);
                    i += 1;
                }
                () if cx.is_word(i, "BY") && rest >= 1 => {
                    let pattern = cx.args[i + 1];
                    request.is_unsorted = !pattern.contains(&b'*');
                    request.by = None;
                    if !request.is_unsorted {
                        check_pattern(cx, pattern, "BY")?;
                        request.by = Some(Pattern::parse(pattern));
                    }
                    i += 1;
                }
                () if cx.is_word(i, "GET") && rest >= 1 => {
                    let pattern = cx.args[i + 1];
                    if pattern != b"#" {
                        check_pattern(cx, pattern, "GET")?;
                    }
                    request.get.push(Pattern::parse(pattern));
                    i += 1;
                }
                () => return Err(Error::Syntax),
            }
            i += 1;
        }
        Ok(request)
    }

    /// The elements `start..end` of `len` that are wanted.
    fn range(&self, len: usize) -> (usize, usize) {
        let (offset, count) = self.limit.unwrap_or((0, -1));
        let start = (offset.max(0) as u64).min(len as u64) as usize;
        let end = if count < 0 { len } else { start.saturating_add(count as usize).min(len) };
        (start, end)
    }
}

/// In a cluster all keys that a pattern makes must be in the slot of the key that is sorted.
// Redis 7.0 refuses all patterns; 8.0 does this.
fn check_pattern(cx: &Cx, pattern: &[u8], option: &str) -> Result<(), Error> {
    if !cx.keys.may_read_any {
        return Err(Error::err(&format!(
            "{option} option of SORT denied due to insufficient ACL permissions."
        )));
    }
    let is_same = || pattern_slot(pattern) == Some(Slot::of_key(cx.args[1]));
    if cx.keys.cluster.is_none() || is_same() {
        return Ok(());
    }
    Err(Error::err(&format!(
        "{option} option of SORT denied in cluster when keys formed by the pattern may be in different slots."
    )))
}

/// The slot of all keys that a pattern makes; `None`: there are several.
fn pattern_slot(pattern: &[u8]) -> Option<Slot> {
    let open = memchr::memchr(b'{', pattern)?;
    let tag = open + 1..open + 1 + memchr::memchr(b'}', &pattern[open + 1..])?;
    // What takes the place of the star may bring a tag of its own.
    let is_fixed = !tag.is_empty() && !pattern[..tag.end].contains(&b'*');
    is_fixed.then(|| Slot::of_key(pattern))
}

/// A pattern of BY or GET: the star stands for the element.
enum Pattern<'a> {
    /// `#`: the element itself.
    Element,
    /// Without a star it names nothing.
    Nothing,
    Key {
        before: &'a [u8],
        after: &'a [u8],
        field: Option<&'a [u8]>,
    },
}

impl<'a> Pattern<'a> {
    fn parse(pattern: &'a [u8]) -> Pattern<'a> {
        if pattern == b"#" {
            return Pattern::Element;
        }
        let Some(star) = memchr::memchr(b'*', pattern) else { return Pattern::Nothing };
        let (before, rest) = (&pattern[..star], &pattern[star + 1..]);
        let arrow = rest.windows(2).position(|w| w == b"->").filter(|at| at + 2 < rest.len());
        match arrow {
            Some(at) => Pattern::Key { before, after: &rest[..at], field: Some(&rest[at + 2..]) },
            None => Pattern::Key { before, after: rest, field: None },
        }
    }

    /// What it names for an element. `Err`: the gate has to be closed first.
    fn value(&self, keys: &mut Keys<'_>, element: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let (before, after, field) = match self {
            Pattern::Element => return Ok(Some(element.to_vec())),
            Pattern::Nothing => return Ok(None),
            Pattern::Key { before, after, field } => (before, after, field),
        };
        let key = [before, element, after].concat();
        keys.reach(&key)?;
        let at_ms = keys.fields_at();
        Ok(match (keys.read(&key).map(|entry| entry.value()), field) {
            (Some(ValueRef::Str(bytes)), None) => Some(bytes.to_vec()),
            (Some(ValueRef::Hash(hash)), Some(field)) => hash.live(at_ms).get(field).map(<[u8]>::to_vec),
            _ => None,
        })
    }
}

/// What an element is sorted by.
enum Weight {
    Number(f64),
    Text(Option<Vec<u8>>),
    /// The element itself, as text.
    Own,
}

/// The number that an element is sorted by.
fn number(text: &[u8]) -> Result<f64, Error> {
    parse_c_f64(text).ok_or(Error::text("ERR One or more scores can't be converted into double"))
}

/// Elements in the order in which the collection has them.
struct Elements(Vec<Vec<u8>>);

impl Elements {
    /// Those of the collection at argument 1. With `range`, only these of a list or sorted set, counted from its end if
    /// `is_reverse`, and the last first. Returns whether it is a set.
    fn load(cx: &mut Cx, request: &Request) -> Result<(Elements, bool), Error> {
        let in_part = |len: usize| {
            let (start, end) = request.range(len);
            match (request.is_unsorted, request.is_descending) {
                (false, _) => (0, len),
                (true, false) => (start, end),
                (true, true) => (len - end, len - start),
            }
        };
        let (mut elements, is_set): (Vec<Vec<u8>>, bool) =
            match cx.keys.read(cx.args[1]).map(|entry| entry.value()) {
                None => (Vec::new(), false),
                Some(ValueRef::List(list)) => {
                    let (start, end) = in_part(list.len());
                    (list.range(start, end).map(<[u8]>::to_vec).collect(), false)
                }
                Some(ValueRef::ZSet(set)) => {
                    let (start, end) = in_part(set.len());
                    (set.range(start, end).map(|(member, _)| member.to_vec()).collect(), false)
                }
                Some(ValueRef::Set(set)) => (set.iter().map(|member| member.to_vec()).collect(), true),
                Some(_) => return Err(Error::WrongType),
            };
        if request.is_unsorted && request.is_descending && !is_set {
            elements.reverse();
        }
        Ok((Elements(elements), is_set))
    }

    fn sort(&mut self, cx: &mut Cx, request: &Request) -> Result<(), Error> {
        let mut weighed = Vec::with_capacity(self.0.len());
        for element in std::mem::take(&mut self.0) {
            let weight = match (&request.by, request.is_alpha) {
                (None, true) => Weight::Own,
                (None, false) => Weight::Number(number(&element)?),
                (Some(by), true) => Weight::Text(by.value(cx.keys, &element)?),
                (Some(by), false) => {
                    Weight::Number(by.value(cx.keys, &element)?.map_or(Ok(0.0), |text| number(&text))?)
                }
            };
            weighed.push((weight, element));
        }
        weighed.sort_by(|(a, own_a), (b, own_b)| {
            let order = match (a, b) {
                // Equal numbers: the elements decide, so that the order is always the same.
                (Weight::Number(a), Weight::Number(b)) => {
                    a.partial_cmp(b).unwrap_or(Ordering::Equal).then_with(|| own_a.cmp(own_b))
                }
                (Weight::Text(a), Weight::Text(b)) => a.cmp(b),
                _ => own_a.cmp(own_b),
            };
            if request.is_descending { order.reverse() } else { order }
        });
        self.0 = weighed.into_iter().map(|(_, element)| element).collect();
        Ok(())
    }
}

fn sort(cx: &mut Cx, may_store: bool) -> Result<(), Error> {
    let mut request = Request::parse(cx, may_store)?;
    let (mut elements, is_set) = Elements::load(cx, &request)?;
    // The order of a set's members is nobody's business: where it would show in data or in a script, they are sorted.
    if request.is_unsorted && is_set && (request.store.is_some() || cx.waiting == Waiting::InScript) {
        (request.is_unsorted, request.is_alpha) = (false, true);
    }
    if !request.is_unsorted {
        elements.sort(cx, &request)?;
    }
    let wanted = match request.is_unsorted && !is_set {
        true => &elements.0[..],
        false => {
            let (start, end) = request.range(elements.0.len());
            &elements.0[start..end]
        }
    };
    let mut values: Vec<Option<Vec<u8>>> = Vec::with_capacity(wanted.len() * request.get.len());
    for element in wanted {
        for pattern in &request.get {
            values.push(pattern.value(cx.keys, element)?);
        }
    }
    let results = || match request.get.is_empty() {
        true => Results::Elements(wanted.iter()),
        false => Results::Values(values.iter()),
    };
    match request.store {
        Some(target) => store(cx, target, results()),
        None => {
            cx.out.array(results().count());
            for result in results() {
                match result {
                    Some(bytes) => cx.out.bulk(bytes),
                    None => cx.out.null(),
                }
            }
        }
    }
    Ok(())
}

enum Results<'a> {
    Elements(std::slice::Iter<'a, Vec<u8>>),
    Values(std::slice::Iter<'a, Option<Vec<u8>>>),
}

impl<'a> Iterator for Results<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Results::Elements(iter) => iter.next().map(|bytes| Some(&bytes[..])),
            Results::Values(iter) => iter.next().map(|bytes| bytes.as_deref()),
        }
    }
}

/// Makes the results a list; missing values are empty elements.
fn store(cx: &mut Cx, target: &[u8], results: Results) {
    const REPLAYED_AT_ONCE: usize = 1024;
    let elements: Vec<&[u8]> = results.map(Option::unwrap_or_default).collect();
    cx.out.int(elements.len() as i64);
    if elements.is_empty() {
        cx.keys.delete(target);
        cx.replay(&[b"DEL".as_slice(), target]);
        return;
    }
    let mut list = List::new();
    elements.iter().for_each(|element| list.push_back(element, &cx.settings.thresholds));
    cx.keys.store(target, Value::List(list), None);
    super::collection::changed(cx.keys, target, notify::LIST, "sortstore", elements.len());
    cx.replay(&[b"DEL".as_slice(), target]);
    for part in elements.chunks(REPLAYED_AT_ONCE) {
        cx.replay(&[&[b"RPUSH".as_slice(), target], part].concat());
    }
}

pub static COMMANDS: &[Command] = &[SORT, SORT_RO];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Runner, run};

    fn list(words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        let bulks = words.iter().map(|w| match *w {
            "-" => "$-1\r\n".to_string(),
            w => format!("${}\r\n{w}\r\n", w.len()),
        });
        format!("*{}\r\n{}", words.len(), bulks.collect::<String>())
    }

    const SETUP: &[&str] = &[
        "RPUSH l 3 1 10 2",
        "MSET w1 5 w2 1 w3 9 w10 2 o1 one o3 three",
        "HSET h1 f x g 4",
        "HSET h2 f y g 3",
    ];

    fn after_setup(line: &str) -> String {
        let mut r = Runner::default();
        r.all(SETUP);
        r.run(line)
    }

    #[test]
    fn orders() {
        assert_eq!(after_setup("SORT l"), list("1 2 3 10"));
        assert_eq!(after_setup("SORT_RO l DESC"), list("10 3 2 1"));
        assert_eq!(after_setup("SORT l ALPHA"), list("1 10 2 3"));
        assert_eq!(after_setup("SORT l LIMIT 1 2"), list("2 3"));
        assert_eq!(after_setup("SORT l LIMIT -5 -1"), list("1 2 3 10"));
        assert_eq!(after_setup("SORT l LIMIT 9 9"), list(""));
        assert_eq!(after_setup("SORT l BY w*"), list("2 10 1 3"));
        assert_eq!(after_setup("SORT l BY nosort LIMIT 1 2"), list("1 10"));
        assert_eq!(after_setup("SORT l BY nosort DESC LIMIT 1 2"), list("10 1"));
        assert_eq!(after_setup("SORT l BY h*->g ALPHA DESC"), list("1 2 3 10"));
        assert_eq!(run(&["ZADD z 3 a 2 b 1 c", "SORT z BY x LIMIT 0 2"]), list("c b"));
        assert_eq!(run(&["SADD s 3 1 2", "SORT s"]), list("1 2 3"));
        assert_eq!(run(&["SORT none"]), list(""));
    }

    #[test]
    fn values_of_other_keys() {
        assert_eq!(after_setup("SORT l GET o* GET #"), list("one 1 - 2 three 3 - 10"));
        assert_eq!(after_setup("SORT l GET h*->f LIMIT 0 3"), list("x y -"));
        assert_eq!(after_setup("SORT l GET o1 LIMIT 0 1"), list("-"));
        assert_eq!(after_setup("SORT l GET h* LIMIT 0 1"), list("-"));
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(
            run(&["RPUSH l a", "SORT l"]),
            "-ERR One or more scores can't be converted into double\r\n"
        );
        assert_eq!(run(&["SET l a", "SORT l"]).split(' ').next(), Some("-WRONGTYPE"));
        for line in
            ["SORT l STORE", "SORT l BY", "SORT l LIMIT 1", "SORT_RO l STORE x", "SORT l STORE a STORE"]
        {
            assert_eq!(run(&[line]), "-ERR syntax error\r\n", "{line}");
        }
        assert_eq!(run(&["SORT l LIMIT a 1"]), "-ERR value is not an integer or out of range\r\n");
    }

    #[test]
    fn what_is_stored_is_replayed_as_a_list() {
        let mut r = Runner::default();
        r.all(SETUP);
        r.replayed();
        assert_eq!(r.run("SORT l GET o* STORE d"), ":4\r\n");
        assert_eq!(r.run("LRANGE d 0 -1"), "*4\r\n$3\r\none\r\n$0\r\n\r\n$5\r\nthree\r\n$0\r\n\r\n");
        assert_eq!(r.replayed(), ["DEL d; RPUSH d one  three "]);
        assert_eq!(r.run("SORT none STORE d"), ":0\r\n");
        assert_eq!(r.replayed(), ["DEL d"]);
        assert_eq!(r.run("SORT none STORE d"), ":0\r\n");
        assert_eq!(r.run("SORT l STORE a BY STORE STORE l"), ":4\r\n");
        assert_eq!(r.run("EXISTS a"), ":0\r\n");
        assert_eq!(r.run("SORT l STORE l"), ":4\r\n");
        assert_eq!(r.run("LRANGE l 0 -1"), list("1 2 3 10"));
    }

    #[test]
    fn a_held_key_closes_the_gate() {
        let mut r = Runner::default();
        r.all(SETUP);
        let keyspace = r.engine.keyspace.clone();
        let held = keyspace.lock(Slot::of_key(b"w2")).unwrap();
        let outcome = r.first_attempt(&[b"SORT", b"l", b"BY", b"w*"]);
        assert!(matches!(outcome, crate::Outcome::NeedsGate));
        drop(held);
        assert_eq!(r.run("SORT l BY w*"), list("2 10 1 3"));
    }

    #[test]
    fn many_slots_in_scripts_and_transactions_too() {
        let mut r = Runner::default();
        for i in 0..1000 {
            r.run(&format!("RPUSH many {i}"));
            r.run(&format!("SET w{i} {}", 1000 - i));
        }
        let expected: Vec<String> = (0..1000).rev().map(|i| i.to_string()).collect();
        assert_eq!(r.run("SORT many BY w*"), list(&expected.join(" ")));
        assert_eq!(r.all(&["MULTI", "SORT many BY w* LIMIT 0 1", "EXEC"]), "*1\r\n*1\r\n$3\r\n999\r\n");
        assert_eq!(r.eval("return redis.call('sort', 'many', 'by', 'w*', 'limit', 0, 1)"), list("999"));
    }

    #[test]
    fn patterns_of_one_slot() {
        for (pattern, is_one) in [
            ("{a}*", true),
            ("x{a}*->f", true),
            ("*{a}", false),
            ("{a*}", false),
            ("{}*", false),
            ("a*", false),
        ] {
            assert_eq!(pattern_slot(pattern.as_bytes()).is_some(), is_one, "{pattern}");
        }
        assert_eq!(pattern_slot(b"x{a}*"), Some(Slot::of_key(b"a")));
    }
}
