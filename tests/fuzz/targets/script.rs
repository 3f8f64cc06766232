//! What scripts hand to the libraries that they are given: an error or a value, and it goes the way back.
#![no_main]

use engine::testing::Runner;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

const SCRIPTS: &[&str] = &[
    "local ok, v = pcall(cjson.decode, ARGV[1]); if ok then cjson.encode(v) end; return 1",
    "local ok, v = pcall(cmsgpack.unpack, ARGV[1]); if ok then pcall(cmsgpack.pack, v) end; return 1",
    "pcall(cmsgpack.unpack_limit, ARGV[1], 3, tonumber(ARGV[2]) or 0); return 1",
    "pcall(struct.unpack, ARGV[1], ARGV[2]); return 1",
    "pcall(struct.pack, ARGV[1], ARGV[2], 1, 2, 3); return 1",
    "pcall(struct.size, ARGV[1]); return 1",
    "pcall(bit.tohex, tonumber(ARGV[1]), tonumber(ARGV[2])); return 1",
    "local r = redis.pcall(ARGV[1], ARGV[2]); redis.call('del', ARGV[2]); return r",
    "return redis.error_reply(ARGV[1])",
    "return redis.status_reply(ARGV[1])",
    "return {ARGV[1], {ok = ARGV[2]}, {err = ARGV[1]}, {double = tonumber(ARGV[2])}}",
    "redis.setresp(3); return {map = {[ARGV[1]] = ARGV[2]}}",
    "local ok, v = pcall(loadstring, ARGV[1]); return 1",
    "return redis.sha1hex(ARGV[1])",
    "pcall(string.rep, ARGV[1], 3); pcall(string.format, ARGV[1], ARGV[2]); return 1",
    "pcall(string.gsub, string.sub(ARGV[2], 1, 16), string.sub(ARGV[1], 1, 8), 'x'); return 1",
];

thread_local! {
    static RUNNER: RefCell<Runner> = RefCell::default();
}

fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (script, first, second) = input;
    let script = SCRIPTS[usize::from(script) % SCRIPTS.len()];
    RUNNER.with_borrow_mut(|runner| {
        let (_, reply) = runner.answer(&[b"EVAL", script.as_bytes(), b"0", first, second]);
        let (_, used) = proto::resp::decode(&reply).expect("a reply").expect("a whole reply");
        assert_eq!(used, reply.len());
    });
});
