//! The Lua debugger over sockets, as redis-cli uses it: what a session shows, keeps and leaves alone, and what ends it.

use std::io::Write;
use std::process::{Command, Stdio};
use tests::server::shoal_cli_binary;
use tests::{Client, Server, Value, wait_for};

fn start() -> Server {
    // One worker: what holds it up holds up everybody.
    Server::start(&["--workers", "1", "--save", "", "--busy-reply-threshold", "50"])
}

const SCRIPT: &str = "local n = redis.call('incr', KEYS[1])\nlocal m = n * 2\nreturn {n, m, ARGV[1]}";

/// A client whose script is stopped at its first line.
fn stopped(server: &Server, mode: &str, script: &str) -> Client {
    let mut client = server.client();
    client.ok(&format!("SCRIPT DEBUG {mode}"));
    client.send(&["EVAL", script, "1", "n", "arg"]).unwrap();
    let told = heard(&mut client);
    assert!(told.starts_with("* Stopped at 1, stop reason = step over|-> 1   "), "{told}");
    client
}

/// The next thing that a debugger tells, its lines joined by bars.
fn heard(client: &mut Client) -> String {
    let Value::Array(lines) = client.receive().unwrap() else { panic!("the debugger tells lines") };
    lines.iter().map(|line| line.as_text().unwrap()).collect::<Vec<_>>().join("|")
}

fn say(client: &mut Client, words: &str) -> String {
    client.send(&words.split(' ').collect::<Vec<_>>()).unwrap();
    heard(client)
}

fn is_closed(client: &mut Client) -> bool {
    client.receive().is_err()
}

fn text(value: &Value) -> String {
    format!("{value:?}")
}

#[test]
fn a_synchronous_session_keeps_what_it_does_and_others_wait() {
    let server = start();
    let mut other = server.client();
    let mut client = stopped(&server, "sync", SCRIPT);
    assert_eq!(
        say(&mut client, "s"),
        "<redis> incr n|<reply> 1|* Stopped at 2, stop reason = step over|-> 2   local m = n * 2"
    );
    assert_eq!(say(&mut client, "print"), "<value> n = 1");
    assert_eq!(
        say(&mut client, "e n"),
        "<error> ldb_eval:1: Script attempted to access nonexistent global variable 'n'"
    );
    assert_eq!(say(&mut client, "r incrby n 10"), "<redis> incrby n 10|<reply> 11");
    assert!(text(&other.call("GET n")).contains("BUSY Redis is busy running a script."));
    assert!(text(&other.call("SCRIPT KILL")).contains("UNKILLABLE"));
    assert_eq!(say(&mut client, "c"), "<endsession>");
    assert_eq!(text(&client.receive().unwrap()), text(&answer(1)));
    assert!(is_closed(&mut client));
    assert_eq!(other.text("GET n"), "11");
}

/// What the script answers that has found `n` one less.
fn answer(n: i64) -> Value {
    Value::Array(vec![Value::Int(n), Value::Int(n * 2), Value::Bulk(b"arg".to_vec())])
}

#[test]
fn an_asynchronous_session_leaves_everything_as_it_is() {
    let server = Server::start(&["--workers", "1", "--appendonly", "yes", "--notify-keyspace-events", "KEA"]);
    let mut other = server.client();
    other.ok("SET n 5");
    let mut listener = server.client();
    listener.ok("PSUBSCRIBE *");
    let mut reader = server.client();
    reader.ok("HELLO 3");
    reader.ok("CLIENT TRACKING ON");
    reader.ok("GET n");
    let mut watcher = server.client();
    watcher.ok("WATCH n");
    let offset = other.info("master_repl_offset");
    let mut client = stopped(&server, "yes", SCRIPT);
    assert!(say(&mut client, "s").starts_with("<redis> incr n|<reply> 6|"));
    assert_eq!(say(&mut client, "r set new x"), "<redis> set new x|<reply> \"+OK\"");
    assert_eq!(say(&mut client, "r select 1"), "<redis> select 1|<reply> \"+OK\"");
    assert_eq!(say(&mut client, "r get n"), "<redis> get n|<reply> NULL");
    assert!(say(&mut client, "r publish c hello").contains("<error> An asynchronous debugging session"));
    assert!(say(&mut client, "r dbsize").contains("<error> An asynchronous debugging session"));
    // Others are served, and the session's keys are as they were when it first used them.
    assert_eq!(other.text("GET n"), "5");
    assert_eq!(other.info("master_repl_offset"), offset);
    assert_eq!(other.call("EXISTS new").as_int(), Some(0));
    watcher.ok("MULTI");
    watcher.ok("PING");
    assert!(matches!(watcher.call("EXEC"), Value::Array(_)));
    assert_eq!(reader.text("PING"), "PONG");
    other.ok("SET n 100");
    assert_eq!(say(&mut client, "r select 0"), "<redis> select 0|<reply> \"+OK\"");
    assert_eq!(say(&mut client, "r get n"), "<redis> get n|<reply> \"6\"");
    assert_eq!(say(&mut client, "c"), "<endsession>");
    assert_eq!(text(&client.receive().unwrap()), text(&answer(6)));
    assert!(is_closed(&mut client));
    assert_eq!(other.text("GET n"), "100");
    // The first that the listener hears is what the other client did.
    let heard = listener.receive().unwrap();
    let words: Vec<&str> = heard.as_list().unwrap().iter().filter_map(Value::as_text).collect();
    assert_eq!(words, ["pmessage", "*", "__keyspace@0__:n", "set"]);
}

#[test]
fn a_node_has_one_session_at_a_time() {
    let server = start();
    let mut first = stopped(&server, "yes", SCRIPT);
    let mut second = server.client();
    second.ok("SCRIPT DEBUG yes");
    second.send(&["EVAL", "return 1", "0"]).unwrap();
    assert_eq!(heard(&mut second), "<endsession>");
    assert!(text(&second.receive().unwrap()).contains("Another Lua debugging session is open on this node"));
    assert!(is_closed(&mut second));
    assert_eq!(say(&mut first, "c"), "<endsession>");
    let mut third = stopped(&server, "sync", SCRIPT);
    assert_eq!(say(&mut third, "c"), "<endsession>");
}

#[test]
fn a_session_ends_with_its_client() {
    let server = start();
    let mut other = server.client();
    drop(stopped(&server, "sync", SCRIPT));
    // As in Redis, the script runs to its end.
    wait_for("the script's end", || (other.call("GET n").as_text() == Some("1")).then_some(()));
    drop(stopped(&server, "yes", SCRIPT));
    let mut client = wait_for("another session", || {
        let mut client = server.client();
        client.ok("SCRIPT DEBUG yes");
        client.send(&["EVAL", SCRIPT, "1", "n", "arg"]).unwrap();
        heard(&mut client).starts_with("* Stopped").then_some(client)
    });
    other.ok("CLIENT KILL TYPE normal SKIPME yes");
    assert!(is_closed(&mut client));
    assert_eq!(other.text("GET n"), "1");
}

#[test]
fn a_session_is_killed_as_a_script_is() {
    let server = start();
    let mut other = server.client();
    for mode in ["yes", "sync"] {
        let mut client = stopped(&server, mode, SCRIPT);
        other.ok("SCRIPT KILL");
        assert_eq!(heard(&mut client), "<endsession>");
        assert!(text(&client.receive().unwrap()).contains("Script killed by user with SCRIPT KILL"));
        assert!(text(&other.call("SCRIPT KILL")).contains("NOTBUSY"));
    }
    // One that has written, but only on its copies.
    let mut client = stopped(&server, "yes", SCRIPT);
    assert!(say(&mut client, "s").starts_with("<redis> incr n"));
    other.ok("SCRIPT KILL");
    assert_eq!(heard(&mut client), "<endsession>");
    // And what the client runs meanwhile.
    let mut client = stopped(&server, "yes", SCRIPT);
    client.send(&["eval", "while true do pcall(redis.call, 'get', 'k') end"]).unwrap();
    other.ok("SCRIPT KILL");
    assert_eq!(heard(&mut client), "<endsession>");
    other.ok("SET n 1");
}

#[test]
fn the_node_ends_with_a_session_open() {
    for mode in ["yes", "sync"] {
        let mut server = start();
        let mut client = stopped(&server, mode, SCRIPT);
        server.signal(libc::SIGTERM);
        let status = server.wait();
        assert!(status.success(), "{mode}: {status}");
        while client.receive().is_ok() {}
    }
}

#[test]
fn what_may_not_be_debugged_is_refused() {
    let server = start();
    let mut client = server.client();
    let both = b"*1\r\n$4\r\nPING\r\n*3\r\n$6\r\nSCRIPT\r\n$5\r\nDEBUG\r\n$3\r\nYES\r\n";
    client.send_raw(both).unwrap();
    drop(client.receive().unwrap());
    let outside = "ERR SCRIPT DEBUG must be called outside a pipeline";
    assert!(text(&client.receive().unwrap()).contains(outside));
    client.ok("MULTI");
    client.ok("SCRIPT DEBUG YES");
    assert!(text(&client.call("EXEC")).contains(outside));
    assert!(text(&client.call("SCRIPT DEBUG x")).contains("ERR Use SCRIPT DEBUG YES/SYNC/NO"));
    client.ok("SCRIPT DEBUG SYNC");
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let reply = text(&client.call(&format!("EVALSHA {sha} 0")));
    assert!(reply.contains("ERR Please use EVAL instead of EVALSHA for debugging"), "{reply}");
    assert!(text(&client.call("EVALSHA x 0")).contains("NOSCRIPT"));
    client.ok("MULTI");
    assert!(text(&client.call("EVAL return(1) 0")).contains("not possible inside a transaction"));
    assert!(text(&client.call("EXEC")).contains("EXECABORT"));
    // What is refused before there is a session leaves the connection as it is.
    client.ok("ACL SETUSER default -eval");
    assert!(text(&client.call("EVAL return(1) 0")).contains("NOPERM"));
    client.ok("ACL SETUSER default +eval");
    client.ok("SCRIPT DEBUG NO");
    assert_eq!(client.call("EVAL return(1) 0").as_int(), Some(1));
    client.ok("SCRIPT DEBUG YES");
    client.send(&["EVAL", "return ]", "0"]).unwrap();
    assert_eq!(heard(&mut client), "<endsession>");
    assert!(text(&client.receive().unwrap()).contains("ERR Error compiling script"));
    assert!(is_closed(&mut client));
}

#[test]
fn shoal_cli_debugs_a_script() {
    let server = start();
    let file = server.dir.join("script.lua");
    std::fs::write(&file, SCRIPT).unwrap();
    let run = |options: &[&str], input: &str| {
        let mut child = Command::new(shoal_cli_binary())
            .args(["-p", &server.port.to_string(), "--no-raw"])
            .args(options)
            .args(["--eval", file.to_str().unwrap(), "n", ",", "arg"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(run(&[], ""), "1) (integer) 1\n2) (integer) 2\n3) \"arg\"\n");
    let session = "\
* Stopped at 1, stop reason = step over
-> 1   local n = redis.call('incr', KEYS[1])
<redis> incr n
<reply> 2
* Stopped at 2, stop reason = step over
-> 2   local m = n * 2
<retval> \"n  \"
1) (integer) 2
2) (integer) 4
3) \"arg\"

(Lua debugging session ended";
    let out = run(&["--ldb"], "s\neval KEYS[1] .. '  '\nc\nGET n\n");
    let wanted = format!("{session} -- dataset changes rolled back)\n\n\"1\"\n");
    assert!(out.ends_with(&wanted), "{out}");
    let out = run(&["--ldb-sync-mode"], "s\neval KEYS[1] .. '  '\nc\nGET n\n");
    assert!(out.ends_with(&format!("{session})\n\n\"2\"\n")), "{out}");
}
