//! Commands of the table with arguments drawn from words that mean something and from the input: each gets exactly one
//! reply, and what is kept can be dumped and restored.
#![no_main]

use engine::testing::Runner;
use engine::{Outcome, Session, Table};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::sync::OnceLock;

const WORDS: &[&str] = &[
    "k",
    "l",
    "m",
    "0",
    "1",
    "2",
    "-1",
    "3",
    "10",
    "100",
    "-100",
    "1.5",
    "inf",
    "-inf",
    "nan",
    "(1",
    "[a",
    "-",
    "+",
    "a",
    "b",
    "",
    "*",
    "$",
    ">",
    "0-1",
    "1-1",
    "5-0",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967296",
    "NX",
    "XX",
    "GT",
    "LT",
    "CH",
    "INCR",
    "GET",
    "EX",
    "PX",
    "EXAT",
    "PXAT",
    "KEEPTTL",
    "PERSIST",
    "WITHSCORES",
    "LIMIT",
    "BYSCORE",
    "BYLEX",
    "REV",
    "COUNT",
    "MATCH",
    "TYPE",
    "WEIGHTS",
    "AGGREGATE",
    "SUM",
    "MIN",
    "MAX",
    "LEFT",
    "RIGHT",
    "BEFORE",
    "AFTER",
    "RANK",
    "MAXLEN",
    "MINID",
    "~",
    "=",
    "NOMKSTREAM",
    "STREAMS",
    "GROUP",
    "CREATE",
    "CREATECONSUMER",
    "DELCONSUMER",
    "SETID",
    "DESTROY",
    "MKSTREAM",
    "NOACK",
    "JUSTID",
    "FORCE",
    "IDLE",
    "TIME",
    "RETRYCOUNT",
    "STREAM",
    "GROUPS",
    "CONSUMERS",
    "FULL",
    "REPLACE",
    "DB",
    "ABSTTL",
    "WITHVALUES",
    "STORE",
    "BY",
    "ALPHA",
    "ASC",
    "DESC",
    "ENTRIESREAD",
    "FIELDS",
    "SET",
    "INCRBY",
    "OVERFLOW",
    "WRAP",
    "SAT",
    "FAIL",
    "u8",
    "i5",
    "#1",
    "BIT",
    "BYTE",
    "AND",
    "OR",
    "XOR",
    "NOT",
    "WITHDIST",
    "WITHCOORD",
    "WITHHASH",
    "FROMMEMBER",
    "FROMLONLAT",
    "BYRADIUS",
    "BYBOX",
    "km",
    "13.36",
    "38.11",
    "IFEQ",
    "LEN",
    "IDX",
    "MINMATCHLEN",
    "WITHMATCHLEN",
];
/// These may make values of half a gigabyte from a few bytes, or answer with as much.
const LARGE: &[&str] =
    &["setrange", "setbit", "bitfield", "srandmember", "hrandfield", "zrandmember", "eval", "eval_ro"];

fn names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let table = Table::new(engine::commands::all());
        let names = table.commands().map(|spec| spec.command.name);
        names.filter(|name| !LARGE.contains(name)).collect()
    })
}

thread_local! {
    static RUNNER: RefCell<Runner> = RefCell::default();
}

fuzz_target!(|commands: Vec<(u8, Vec<(u8, &[u8])>)>| {
    RUNNER.with_borrow_mut(|runner| {
        run(runner, &commands);
        // As it was: an engine takes longer to make than a command to run.
        runner.session = Session::new(1);
        let raw = commands.iter().flat_map(|(_, words)| words.iter().map(|(_, raw)| *raw));
        let args: Vec<&[u8]> =
            [b"DEL".as_slice()].into_iter().chain(WORDS.iter().map(|w| w.as_bytes())).chain(raw).collect();
        for db in 0..16 {
            runner.session.db = db;
            runner.answer(&args);
        }
        runner.session.db = 0;
        runner.answer(&[b"FUNCTION", b"FLUSH"]);
    });
});

fn run(runner: &mut Runner, commands: &[(u8, Vec<(u8, &[u8])>)]) {
    let names = names();
    for (name, words) in commands.iter().take(24) {
        let mut args: Vec<&[u8]> = vec![names[usize::from(*name) % names.len()].as_bytes()];
        args.extend(words.iter().take(12).map(|(word, raw)| match WORDS.get(usize::from(*word)) {
            Some(word) => word.as_bytes(),
            None => *raw,
        }));
        let (outcome, reply) = runner.answer(&args);
        if !matches!(outcome, Outcome::Done) {
            return;
        }
        let (_, used) = proto::resp::decode(&reply).expect("a reply").expect("a whole reply");
        assert_eq!(used, reply.len(), "more than one reply");
    }
    runner.answer(&[b"DISCARD"]);
    for key in ["k", "l", "m"] {
        if runner.run_args(&[b"EXISTS", key.as_bytes()]) == ":1\r\n" {
            let payload = runner.dump(key);
            assert_eq!(runner.run_args(&[b"RESTORE", b"again", b"0", &payload, b"REPLACE"]), "+OK\r\n");
        }
    }
    runner.answer(&[b"DEL", b"again"]);
}
