//! Payloads of RESTORE with a right footer: an error, or a value with which everything works.
#![no_main]

use engine::testing::Runner;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use storage::rdb::{Format, put_footer};

const LINES: &[&str] = &[
    "TYPE k",
    "STRLEN k",
    "LLEN k",
    "LRANGE k 0 -1",
    "LINDEX k -1",
    "RPOP k",
    "SMEMBERS k",
    "SPOP k",
    "ZRANGE k 0 -1 WITHSCORES",
    "ZPOPMIN k",
    "ZADD k 1 m",
    "ZRANK k m",
    "HGETALL k",
    "HSET k f v",
    "HDEL k f",
    "XRANGE k - +",
    "XINFO STREAM k FULL",
    "XADD k * f v",
    "XTRIM k MAXLEN 1",
    "APPEND k x",
    "GETRANGE k 0 10",
    "COPY k l",
    "OBJECT ENCODING k",
    "DEL k l again",
];

thread_local! {
    static RUNNER: RefCell<Runner> = RefCell::default();
}

fuzz_target!(|body: &[u8]| {
    let mut payload = body.to_vec();
    put_footer(&mut payload, &Format::default());
    RUNNER.with_borrow_mut(|runner| use_all(runner, &payload));
});

fn use_all(runner: &mut Runner, payload: &[u8]) {
    if runner.run_args(&[b"RESTORE", b"k", b"0", payload]) != "+OK\r\n" {
        return;
    }
    let again = runner.dump("k");
    assert_eq!(
        runner.run_args(&[b"RESTORE", b"again", b"0", &again]),
        "+OK\r\n",
        "what was read cannot be read again"
    );
    for line in LINES {
        runner.run(line);
    }
}
