//! Whole dialogues. Those of `dialogues.txt` were had with Redis 7.0.15.

#![cfg(test)]

use super::copies::{Copied, copies_of};
use super::{DebugClient, Debugger, Heard};
use crate::script::control::Running;
use crate::testing::Runner;
use proto::resp::encode_command;
use proto::{Mono, Now, WallMs};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use storage::Keyspace;

/// What a client says, in order, and what it is told.
struct Scripted {
    says: VecDeque<Vec<u8>>,
    is_told: Rc<RefCell<Vec<Vec<u8>>>>,
    /// Ends the script once there is nothing left to say; else the client goes away.
    kills: bool,
    running: Option<Arc<Running>>,
    keyspace: Arc<Keyspace>,
    now_ms: Rc<Cell<i64>>,
}

impl DebugClient for Scripted {
    fn opens(&mut self) {}
    fn begins(&mut self, running: &Arc<Running>) {
        self.running = Some(running.clone());
    }
    fn read(&mut self, input: &mut Vec<u8>) -> Heard {
        match self.says.pop_front() {
            Some(bytes) => {
                input.extend(bytes);
                Heard::More
            }
            None if self.kills => {
                self.running.as_ref().unwrap().stop();
                Heard::End
            }
            None => Heard::Gone,
        }
    }
    fn write(&mut self, bytes: &[u8]) {
        self.is_told.borrow_mut().push(bytes.to_vec());
    }
    fn now(&mut self) -> Now {
        let now_ms = self.now_ms.get();
        Now { mono: Mono(now_ms as u64 * 1000), wall: WallMs(now_ms) }
    }
    fn copy(&mut self, keys: &[&[u8]]) -> Option<Vec<Copied>> {
        Some(copies_of(&self.keyspace, keys).unwrap())
    }
}

#[derive(Default)]
struct Talk {
    runner: Runner,
    is_on_copies: bool,
    kills: bool,
    /// The clock, which stands still unless a test moves it.
    now_ms: Rc<Cell<i64>>,
}

impl Talk {
    fn on_copies() -> Talk {
        Talk { is_on_copies: true, ..Talk::default() }
    }

    /// Sends these bytes, one after the other, to a script with these keys and arguments. Gives what is told at each stop and
    /// after each command, and the script's reply.
    fn raw(&mut self, script: &[u8], rest: &[&[u8]], says: Vec<Vec<u8>>) -> (Vec<String>, String) {
        let is_told = Rc::<RefCell<Vec<Vec<u8>>>>::default();
        self.now_ms.set(self.runner.now_ms.max(self.now_ms.get()));
        let client = Scripted {
            says: says.into(),
            is_told: is_told.clone(),
            kills: self.kills,
            running: None,
            keyspace: self.runner.engine.keyspace.clone(),
            now_ms: self.now_ms.clone(),
        };
        let debugger = Debugger::new(Box::new(client), script, self.is_on_copies);
        let args = [&[&b"EVAL"[..], script], rest].concat();
        let reply = self.runner.debug(&args, debugger, self.is_on_copies);
        let told = is_told.take().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        (told, reply)
    }

    /// The same without keys, by commands of words.
    fn run(&mut self, script: &str, commands: &[&[&str]]) -> (Vec<String>, String) {
        let says = commands.iter().map(|words| {
            let mut bytes = Vec::new();
            encode_command(words, &mut bytes);
            bytes
        });
        let (told, reply) = self.raw(script.as_bytes(), &[b"0"], says.collect());
        (told.iter().map(|told| lines(told)).collect(), reply)
    }
}

/// The lines of an array of status replies, joined by bars.
fn lines(told: &str) -> String {
    let lines: Vec<&str> = told.split_terminator("\r\n").skip(1).map(|line| &line[1..]).collect();
    assert_eq!(told.split("\r\n").next(), Some(format!("*{}", lines.len()).as_str()));
    lines.join("|")
}

fn run(script: &str, commands: &[&[&str]]) -> (Vec<String>, String) {
    Talk::default().run(script, commands)
}

/// What is told last before the session ends.
fn told_of(script: &str, commands: &[&[&str]]) -> String {
    let (told, _) = run(script, commands);
    told[commands.len()].clone()
}

/// Each dialogue: `@` and a name, the words of the EVAL and then those of each command as C would write them, and behind
/// each what Redis told.
#[test]
fn dialogues_are_those_of_redis() {
    let mut dialogues = 0;
    for dialogue in include_str!("dialogues.txt").split("\n@").skip(1) {
        let (name, steps) = dialogue.split_once('\n').unwrap();
        let mut steps = steps.split("\n> ").map(|step| step.strip_prefix("> ").unwrap_or(step));
        let words = |step: &str| -> Vec<Vec<u8>> {
            let line = step.lines().next().unwrap();
            proto::resp::split_inline(line.as_bytes()).unwrap()
        };
        let eval = steps.next().unwrap();
        let args = words(eval);
        let mut says = Vec::new();
        let mut expected = vec![answer(eval)];
        for step in steps {
            let words = words(step);
            let mut bytes = Vec::new();
            match words.as_slice() {
                [raw, bytes_] if raw == b"RAW" => bytes.clone_from(bytes_),
                words => encode_command(words, &mut bytes),
            }
            says.push(bytes);
            expected.push(answer(step));
        }
        let rest: Vec<&[u8]> = args[2..].iter().map(Vec::as_slice).collect();
        let mut talk = Talk::default();
        let (told, reply) = talk.raw(&args[1], &rest, says);
        let told: Vec<String> = told.iter().map(|told| plain(told)).collect();
        let count = told.len().max(expected.len() - 1);
        for step in 0..count {
            let expected = expected.get(step).map_or("", String::as_str);
            assert_eq!(told.get(step).map_or("", String::as_str), expected, "{name}, step {step}");
        }
        assert_eq!(plain(&reply), *expected.last().unwrap(), "{name}, the reply");
        dialogues += 1;
    }
    assert!(dialogues > 20, "{dialogues}");

    fn answer(step: &str) -> String {
        step.split_once('\n').map_or("", |(_, rest)| rest).trim_end_matches('\n').to_string()
    }
    /// Without line ends of the wire, and without addresses, which differ.
    fn plain(told: &str) -> String {
        let mut out = told.replace("\r\n", "\n").trim_end_matches('\n').to_string();
        let mut from = 0;
        while let Some(at) = out[from..].find("@0x") {
            let start = from + at + 1;
            let end = start + 2 + out[start + 2..].find(|c: char| !c.is_ascii_hexdigit()).unwrap();
            out.replace_range(start..end, "ADDRESS");
            from = start;
        }
        out
    }
}

#[test]
fn a_script_cannot_catch_its_abortion() {
    let script = "while true do\n pcall(function()\n  local a = 1\n end)\nend";
    let (told, reply) = run(script, &[&["b", "3"], &["c"], &["a"]]);
    assert_eq!(told.last().unwrap(), "<endsession>");
    assert!(reply.starts_with("-ERR script aborted for user request script: "), "{reply}");
    assert!(reply.ends_with(" on @user_script:2.\r\n"), "{reply}");
}

#[test]
fn commands_that_are_sent_ahead_are_carried_out() {
    let bytes = b"*1\r\n$1\r\ns\r\n*2\r\n$1\r\np\r\n$1\r\na\r\n*1\r\n$1\r\nc\r\n".to_vec();
    let (told, reply) = Talk::default().raw(b"local a = 5\nreturn a", &[b"0"], vec![bytes]);
    let told: Vec<String> = told.iter().map(|t| lines(t)).collect();
    let stop = "* Stopped at 2, stop reason = step over|-> 2   return a";
    assert_eq!(told[1..], [stop, "<value> 5", "<endsession>"]);
    assert_eq!(reply, ":5\r\n");
}

#[test]
fn a_command_may_come_in_pieces() {
    let pieces = b"*1\r\n$4\r\nstep\r\n".iter().map(|c| vec![*c]).collect();
    let (told, reply) = Talk::default().raw(b"return 1", &[b"0"], pieces);
    assert_eq!((told.len(), reply.as_str()), (2, ":1\r\n"));
}

#[test]
fn input_that_never_becomes_a_command_ends_the_script() {
    let long = [&b"*1\r\n$1024\r\n"[..], &vec![0; 1 << 10], b"xyz"].concat();
    let (_, reply) = Talk::default().raw(b"return 1", &[b"0"], vec![long]);
    assert!(reply.starts_with("-ERR protocol error"), "{reply}");
    let long = [&b"*1"[..], &vec![b'1'; (1 << 20) + 1]].concat();
    let (_, reply) = Talk::default().raw(b"return 1", &[b"0"], vec![long]);
    assert!(reply.starts_with("-ERR max client buffer reached script: "), "{reply}");
}

#[test]
fn a_script_whose_client_is_gone_runs_to_its_end() {
    let mut talk = Talk::default();
    let (told, reply) = talk.run("redis.call('set', 'k', 'v')\nredis.breakpoint()\nreturn 7", &[&["b", "3"]]);
    assert_eq!(told.last().unwrap(), "<endsession>");
    assert_eq!(reply, ":7\r\n");
    assert_eq!(talk.runner.run("get k"), "$1\r\nv\r\n");
}

#[test]
fn a_script_that_goes_on_for_long_stops_and_ends_with_its_client() {
    let mut talk = Talk::default();
    talk.runner.settings.busy_reply_threshold_ms = 0;
    let now_ms = talk.now_ms.clone();
    let later = super::OVERDUE_MS as i64;
    // The clock goes on while the script does.
    talk.now_ms.set(talk.runner.now_ms);
    struct Late(Scripted, i64);
    impl DebugClient for Late {
        fn opens(&mut self) {}
        fn begins(&mut self, running: &Arc<Running>) {
            self.0.begins(running);
        }
        fn read(&mut self, input: &mut Vec<u8>) -> Heard {
            self.0.read(input)
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.write(bytes);
        }
        fn now(&mut self) -> Now {
            self.0.now_ms.set(self.0.now_ms.get() + self.1);
            self.0.now()
        }
        fn copy(&mut self, _: &[&[u8]]) -> Option<Vec<Copied>> {
            None
        }
    }
    let is_told = Rc::<RefCell<Vec<Vec<u8>>>>::default();
    let client = Scripted {
        says: [b"*1\r\n$1\r\nc\r\n".to_vec()].into(),
        is_told: is_told.clone(),
        kills: false,
        running: None,
        keyspace: talk.runner.engine.keyspace.clone(),
        now_ms,
    };
    let script = b"local i = 0 while true do i = i + 1 end";
    let debugger = Debugger::new(Box::new(Late(client, later)), script, false);
    let reply = talk.runner.debug(&[b"EVAL", script, b"0"], debugger, false);
    let error = "-ERR timeout during Lua debugging with client closing connection script: ";
    assert!(reply.starts_with(error), "{reply}");
    let told: Vec<String> = is_told.borrow().iter().map(|t| lines(&String::from_utf8_lossy(t))).collect();
    assert!(told[1].starts_with("* Stopped at 1, stop reason = timeout reached, infinite loop?|-> 1 "));
    assert_eq!(told[2..], ["<endsession>"]);
}

#[test]
fn a_script_that_is_stopped_is_killed() {
    for is_on_copies in [false, true] {
        let mut talk = Talk { is_on_copies, kills: true, ..Talk::default() };
        let (told, reply) = talk.run("return 1", &[]);
        assert_eq!(told.last().unwrap(), "<endsession>");
        assert!(reply.starts_with("-ERR Script ended by the node"), "{reply}");
    }
}

#[test]
fn what_is_evaluated_is_killed_too() {
    for code in [
        "while true do end",
        "pcall(function() while true do end end)",
        "coroutine.wrap(function() while true do end end)()",
        "xpcall(function() while true do end end, function() while true do end end)",
    ] {
        struct Killer(Scripted, Option<std::thread::JoinHandle<()>>);
        impl DebugClient for Killer {
            fn opens(&mut self) {}
            fn begins(&mut self, running: &Arc<Running>) {
                let running = running.clone();
                self.1 = Some(std::thread::spawn(move || running.stop()));
            }
            fn read(&mut self, input: &mut Vec<u8>) -> Heard {
                self.0.read(input)
            }
            fn write(&mut self, _: &[u8]) {}
            fn now(&mut self) -> Now {
                self.0.now()
            }
            fn copy(&mut self, _: &[&[u8]]) -> Option<Vec<Copied>> {
                None
            }
        }
        let mut runner = Runner::default();
        let mut bytes = Vec::new();
        encode_command(&["eval", code], &mut bytes);
        let client = Scripted {
            says: [bytes].into(),
            is_told: Rc::default(),
            kills: false,
            running: None,
            keyspace: runner.engine.keyspace.clone(),
            now_ms: Rc::default(),
        };
        let debugger = Debugger::new(Box::new(Killer(client, None)), b"return 1", false);
        let reply = runner.debug(&[b"EVAL", b"return 1", b"0"], debugger, false);
        assert!(reply.starts_with("-ERR Script ended by the node"), "{code}: {reply}");
    }
}

#[test]
fn eval_and_print_lead_nowhere() {
    let script = "local t = redis\nreturn 1";
    for (code, told) in [
        ("redis.call('nosuch')", "<error> ERR Unknown Redis command called from script"),
        ("error({})", "<error> {}"),
        ("error(nil)", "<error> nil"),
        ("\x1bLua", "<error> ldb_eval:1: unexpected symbol near 'char(27)'"),
        ("loadstring('\\27Lua')", "<retval> nil"),
        ("rawset(_G, 'x', 1)", "<error> Attempt to modify a readonly table"),
        ("setmetatable(_G, {})", "<error> Attempt to modify a readonly table"),
        ("getfenv", "<error> ldb_eval:1: Script attempted to access nonexistent global variable 'getfenv'"),
        ("debug", "<error> ldb_eval:1: Script attempted to access nonexistent global variable 'debug'"),
        ("os", "<error> ldb_eval:1: Script attempted to access nonexistent global variable 'os'"),
        ("coroutine.yield(1)", "<error> attempt to yield across metamethod/C-call boundary"),
        ("string.rep('x', 2^30)", "<error> not enough memory"),
    ] {
        assert_eq!(told_of(script, &[&["s"], &["e", code]]), told, "{code}");
    }
    assert!(told_of(script, &[&["s"], &["p", "t"]]).starts_with("<value> {["));
    assert_eq!(told_of(script, &[&["p", "redis"]]), "No such variable.");
}

#[test]
fn a_function_of_the_script_does_not_stop_within_eval() {
    let script = "local t = {}\nfunction t.f()\n return 1\nend\nKEYS[1] = t.f\nreturn 1";
    let (told, _) = run(script, &[&["b", "3"], &["b", "6"], &["c"], &["e", "KEYS[1]()"]]);
    assert_eq!(told[4], "<retval> 1");
}

#[test]
fn what_is_told_has_bounds() {
    let (told, reply) = run("for i = 1, 20000 do redis.debug(i) end return 1", &[&["c"]]);
    let last = told.last().unwrap();
    assert_eq!(last.split('|').count(), super::LINES_MAX + 1);
    assert!(last.ends_with("|<debug> line 1: 10000|<hint> 10001 more lines are not shown."), "{last}");
    assert_eq!(reply, ":1\r\n");
}

#[test]
fn time_goes_on_while_a_script_is_stopped() {
    let mut talk = Talk::default();
    talk.runner.run("set k v px 1000");
    talk.now_ms.set(talk.runner.now_ms + 1000);
    let (told, _) = talk.run("return 1", &[&["r", "exists", "k"]]);
    assert_eq!(told[1], "<redis> exists k|<reply> 1");
    let (told, _) = talk.run("redis.breakpoint()\nreturn redis.call('exists', 'k')", &[&["s"], &["s"]]);
    assert_eq!(told[2], "<redis> exists k|<reply> 0|<endsession>");
}

#[test]
fn what_is_done_in_step_is_kept_and_replayed() {
    let mut talk = Talk::default();
    talk.run("redis.call('set', 'k', 'v')\nreturn 1", &[&["r", "incr", "n"], &["s"], &["a"]]);
    assert_eq!(talk.runner.replayed(), ["incr n; set k v"]);
    assert_eq!(talk.runner.run("get k"), "$1\r\nv\r\n");
}

#[test]
fn what_is_done_on_copies_is_seen_by_nobody() {
    let mut talk = Talk::on_copies();
    talk.runner.settings.notify_keyspace_events = u32::MAX;
    talk.runner.all(&["set k v", "rpush l a b c", "set other 1 px 1000"]);
    talk.runner.replayed();
    talk.runner.published();
    let script = "redis.call('append', 'k', 'w')\nredis.call('lpop', 'l')\nredis.call('del', 'other')\n\
        redis.call('set', 'new', 'x')\nreturn {redis.call('get', 'k'), redis.call('llen', 'l'), \
        redis.call('exists', 'other', 'new')}";
    let (_, reply) = talk.run(script, &[&["c"]]);
    assert_eq!(reply, "*3\r\n$2\r\nvw\r\n:2\r\n:1\r\n");
    assert!(talk.runner.replayed().is_empty() && talk.runner.published().is_empty());
    assert_eq!(talk.runner.run("get k"), "$1\r\nv\r\n");
    assert_eq!(talk.runner.run("llen l"), ":3\r\n");
    assert_eq!(talk.runner.run("pttl other"), ":1000\r\n");
    assert_eq!(talk.runner.run("exists new"), ":0\r\n");
}

#[test]
fn copies_are_whole() {
    let mut talk = Talk::on_copies();
    talk.runner.all(&[
        "set s v px 5000",
        "rpush l a b",
        "sadd set a",
        "hset h f v",
        "zadd z 1.5 m",
        "xadd x 1-1 f v",
    ]);
    let (told, _) = talk.run(
        "return 1",
        &[
            &["r", "pttl", "s"],
            &["r", "lrange", "l", "0", "-1"],
            &["r", "smembers", "set"],
            &["r", "hgetall", "h"],
            &["r", "zscore", "z", "m"],
            &["r", "xrange", "x", "-", "+"],
            &["r", "copy", "s", "s", "db", "3"],
        ],
    );
    let replies: Vec<&str> = told[1..8].iter().map(|t| t.split_once("|<reply> ").unwrap().1).collect();
    let expected =
        ["5000", "[\"a\",\"b\"]", "[\"a\"]", "[\"f\",\"v\"]", "\"1.5\"", "[[\"1-1\",[\"f\",\"v\"]]]", "1"];
    assert_eq!(replies, expected);
}

#[test]
fn what_copies_cannot_answer_is_refused() {
    let mut talk = Talk::on_copies();
    for command in [
        &["keys", "*"][..],
        &["scan", "0"],
        &["dbsize"],
        &["randomkey"],
        &["flushall"],
        &["swapdb", "0", "1"],
        &["sort", "l", "by", "w_*"],
    ] {
        let words = [&["r"], command].concat();
        let (told, _) = talk.run("return 1", &[&words]);
        assert!(told[1].contains("<error> An asynchronous debugging session has copies"), "{told:?}");
    }
    talk.runner.run("rpush l b a");
    let (told, _) = talk.run("return 1", &[&["r", "sort", "l", "alpha"]]);
    assert_eq!(told[1], "<redis> sort l alpha|<reply> [\"a\",\"b\"]");
}

#[test]
fn copies_are_within_what_memory_is_left() {
    let mut talk = Talk::on_copies();
    let long = "x".repeat(100_000);
    (0..10).for_each(|i| drop(talk.runner.run(&format!("set k{i} {long}"))));
    talk.runner.settings.maxmemory = talk.runner.engine.keyspace.used_bytes() + 250_000;
    talk.runner.settings.maxmemory_policy = crate::settings::EvictionPolicy::AllKeysLru;
    let script = "for i = 0, 9 do redis.call('strlen', 'k' .. i) end return 1";
    let (_, reply) = talk.run(script, &[&["c"]]);
    assert!(reply.starts_with("-OOM command not allowed when used memory > 'maxmemory'"), "{reply}");
    let script = "return redis.call('set', 'new', string.rep('x', 300000))";
    let (_, reply) = talk.run(script, &[&["c"]]);
    assert_eq!(reply, "+OK\r\n");
    assert_eq!(talk.runner.run("exists k0 k9 new"), ":2\r\n");
}
