//! Long commands run beside their worker: others are served meanwhile, and nothing else changes.

use tests::{Client, Server, Value, wait_for};

fn start() -> Server {
    // One worker: what holds it up holds up everybody.
    Server::start(&["--workers", "1", "--save", "", "--busy-reply-threshold", "50"])
}

const FOREVER: &str = "while true do end";

/// A client whose script runs until it is ended, and runs by now.
fn stuck(server: &Server, script: &str) -> Client {
    let mut client = server.client();
    client.send(&["EVAL", script, "1", "held"]).unwrap();
    let mut other = server.client();
    // Whoever needs the slot is told, once the script is slow.
    wait_for("a script that runs", || {
        let reply = other.call("SET held x");
        format!("{reply:?}").contains("BUSY").then_some(())
    });
    client
}

fn text(value: &Value) -> String {
    format!("{value:?}")
}

#[test]
fn replies_keep_their_order_behind_a_long_command() {
    let server = start();
    let mut client = server.client();
    for i in 0..3000 {
        client.send(&["SET", &format!("key:{i}"), "x"]).unwrap();
    }
    (0..3000).for_each(|_| drop(client.receive().unwrap()));
    for round in 0..5 {
        client.send(&["INCR", "n"]).unwrap();
        client.send(&["KEYS", "*"]).unwrap();
        client.send(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "n"]).unwrap();
        client.send(&["INCR", "n"]).unwrap();
        let number = |v: Value| text(&v);
        let base = round * 3;
        assert!(number(client.receive().unwrap()).contains(&(base + 1).to_string()));
        let Value::Array(keys) = client.receive().unwrap() else { panic!("KEYS gives a list") };
        assert_eq!(keys.len(), 3001);
        assert!(number(client.receive().unwrap()).contains(&(base + 2).to_string()));
        assert!(number(client.receive().unwrap()).contains(&(base + 3).to_string()));
    }
}

#[test]
fn a_script_without_end_holds_up_nobody_and_is_killed() {
    let server = start();
    let mut client = stuck(&server, FOREVER);
    client.send(&["PING"]).unwrap();
    let mut other = server.client();
    assert_eq!(other.text("PING"), "PONG");
    other.ok("SET elsewhere 1");
    // Needs the gate, which the script is inside of.
    assert!(text(&other.call("FLUSHALL")).contains("BUSY"));
    other.ok("SCRIPT KILL");
    assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
    assert!(text(&client.receive().unwrap()).contains("PONG"));
    other.ok("FLUSHALL");
    other.ok("SET held 1");
}

#[test]
fn who_would_have_to_wait_for_a_slow_script_to_end_is_told_so() {
    let server = start();
    let mut client = stuck(&server, FOREVER);
    let mut other = server.client();
    assert!(text(&other.call("EVAL return(1) 0")).contains("BUSY"));
    assert!(text(&other.call("KEYS *")).contains("BUSY"));
    other.ok("SCRIPT KILL");
    assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
    other.ok("KEYS *");
}

#[test]
fn a_server_is_not_shut_down_with_half_of_a_script_saved() {
    let server = start();
    let mut client = stuck(&server, FOREVER);
    let mut other = server.client();
    for command in ["SHUTDOWN", "SHUTDOWN SAVE", "SHUTDOWN NOW FORCE"] {
        let reply = text(&other.call(command));
        assert!(reply.contains("BUSY Redis is busy running a script."), "{command}: {reply}");
    }
    other.ok("SCRIPT KILL");
    assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
    assert_eq!(other.text("PING"), "PONG");
}

#[test]
fn everybody_is_told_of_a_slow_script_if_the_settings_say_so() {
    let server = start();
    let mut other = server.client();
    other.ok("CONFIG SET busy-reply-scope node");
    let mut queued = server.client();
    queued.ok("MULTI");
    queued.ok("INCR n");
    let mut client = stuck(&server, FOREVER);
    for command in ["PING", "GET elsewhere", "EVAL return(1) 0", "KEYS *", "CONFIG GET save"] {
        let reply = text(&other.call(command));
        assert!(reply.contains("BUSY Redis is busy running a script."), "{command}: {reply}");
    }
    let reply = text(&queued.call("EXEC"));
    assert!(reply.contains("EXECABORT") && reply.contains("BUSY"), "{reply}");
    other.ok("SCRIPT KILL");
    assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
    assert_eq!(other.text("PING"), "PONG");
    assert!(text(&other.call("GET n")).contains("Null") || !text(&other.call("EXISTS n")).contains('1'));
}

#[test]
fn a_client_that_is_killed_leaves_the_server_whole() {
    let server = start();
    let client = stuck(&server, FOREVER);
    let mut other = server.client();
    let list = other.text("CLIENT LIST");
    let line = list.lines().find(|l| l.contains("cmd=eval")).expect("the client is listed");
    let id = line.strip_prefix("id=").unwrap().split(' ').next().unwrap();
    other.ok(&format!("CLIENT KILL ID {id}"));
    wait_for("the client to go", || (!other.text("CLIENT LIST").contains("cmd=eval")).then_some(()));
    drop(client);
    other.ok("SCRIPT KILL");
    wait_for("the slot", || (!other.call("SET held x").is_error()).then_some(()));
    assert_eq!(text(&other.ok("EVAL return(1) 0")), text(&other.ok("EVAL return(1) 0")));
}

#[test]
fn who_sends_no_more_still_gets_its_replies() {
    use std::io::{Read, Write};
    let server = start();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream
        .write_all(b"EVAL \"return redis.call('SET', KEYS[1], 'a')\" 1 k\r\nAPPEND k b\r\nGET k\r\n")
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "+OK\r\n:2\r\n$2\r\nab\r\n");
}

#[test]
fn the_server_ends_although_a_script_runs() {
    let mut server = start();
    let client = stuck(&server, FOREVER);
    server.signal(libc::SIGTERM);
    assert!(server.wait().success());
    drop(client);
    let mut server = start();
    let client = stuck(&server, "redis.call('SET', KEYS[1], 1) while true do end");
    assert!(text(&server.client().call("SCRIPT KILL")).contains("UNKILLABLE"));
    // Its first base needs the gate, which the script is inside of.
    server.client().ok("CONFIG SET appendonly yes");
    let _ = server.client().send(&["SHUTDOWN", "NOSAVE"]);
    assert!(server.wait().success());
    drop(client);
}

#[test]
fn a_signal_saves_all_of_a_script_or_nothing() {
    const SAVED: &[&str] = &["--workers", "1", "--save", "3600 1", "--busy-reply-threshold", "50"];
    for log in ["no", "yes"] {
        let args = [SAVED, &["--appendonly", log]].concat();
        let mut server = Server::start(&args);
        let client = stuck(&server, "for _ = 1, 200000 do redis.call('INCR', '{held}n') end");
        server.signal(libc::SIGTERM);
        assert!(server.wait().success());
        drop(client);
        server.restart(&args);
        assert_eq!(server.client().text("GET {held}n"), "200000", "appendonly {log}");
    }
}

/// As in Redis, where a command that comes in the middle of a slow script is told so.
#[test]
fn a_save_that_a_slow_script_keeps_from_beginning_is_refused() {
    let server = Server::start(&["--workers", "2", "--save", "", "--busy-reply-threshold", "500"]);
    for command in ["BGSAVE", "SAVE"] {
        let mut client = server.client();
        client.send(&["EVAL", FOREVER, "1", "held"]).unwrap();
        let mut other = server.client();
        wait_for("a script that runs", || text(&other.call("FUNCTION STATS")).contains("BUSY").then_some(()));
        // Before the script is slow, or after: it is told when that is so.
        let reply = text(&other.call(command));
        assert!(reply.contains("BUSY Redis is busy running a script."), "{command}: {reply}");
        other.ok("SCRIPT KILL");
        assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
        assert_eq!(other.text("SAVE"), "OK");
    }
}

#[test]
fn a_transaction_of_a_script_and_what_scripts_may_not_call_holds_up_nobody() {
    let server = start();
    let mut client = server.client();
    client.ok("MULTI");
    for command in ["CLIENT SETNAME before", "CLIENT TRACKING on", "HELLO 3", "CONFIG GET save"] {
        client.ok(command);
    }
    client.send(&["EVAL", FOREVER, "1", "held"]).unwrap();
    assert!(text(&client.receive().unwrap()).contains("QUEUED"));
    client.ok("SCRIPT LOAD return(1)");
    client.send(&["EXEC"]).unwrap();
    assert_busy_for_all(&server);
    let Value::Array(replies) = client.receive().unwrap() else { panic!("EXEC gives a list") };
    assert_eq!(replies.len(), 6);
    assert!(text(&replies[4]).contains("Script killed by user"), "{replies:?}");
    let info = client.text("CLIENT INFO");
    assert!(["name=before ", "resp=3", "flags=t "].iter().all(|part| info.contains(part)), "{info}");
    assert_eq!(client.text("CLIENT GETNAME"), "before");
}

const WRITES_FOREVER: &str = "redis.call('SET', KEYS[1], 1) while true do end";

#[test]
fn a_signal_waits_for_a_script_that_has_written_until_it_is_taken_back() {
    let mut server = start();
    let mut client = stuck(&server, WRITES_FOREVER);
    server.signal(libc::SIGTERM);
    let mut other = server.client();
    // It is heard at some moment.
    wait_for("the signal to be taken back", || {
        let reply = text(&other.call("SHUTDOWN ABORT"));
        (!reply.contains("No shutdown in progress")).then(|| assert!(reply.contains("OK"), "{reply}"))
    });
    other.ok("SET elsewhere 1");
    assert!(text(&other.call("SHUTDOWN SAVE")).contains("BUSY"));
    server.signal(libc::SIGTERM);
    wait_for("the signal to be heard", || {
        server.log().matches("A signal requested shutdown").nth(1).is_some().then_some(())
    });
    let _ = other.send(&["SHUTDOWN", "NOSAVE"]);
    assert!(server.wait().success());
    assert!(client.receive().is_err());
}

/// As in Redis, where its command is read when the script counts as slow.
#[test]
fn a_client_is_told_that_its_shutdown_would_save_half_of_a_script() {
    let server = Server::start(&["--workers", "2", "--save", "3600 1", "--busy-reply-threshold", "700"]);
    let mut client = server.client();
    client.send(&["EVAL", WRITES_FOREVER, "1", "held"]).unwrap();
    let mut other = server.client();
    wait_for("a script that runs", || text(&other.call("SCRIPT KILL")).contains("UNKILLABLE").then_some(()));
    let reply = text(&other.call("SHUTDOWN"));
    assert!(reply.contains("BUSY Redis is busy running a script."), "{reply}");
    assert_eq!(other.text("PING"), "PONG");
}

#[test]
fn a_transaction_runs_its_scripts_in_line() {
    let server = start();
    let mut client = server.client();
    client.ok("MULTI");
    client.ok("INCR n");
    client.send(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "n"]).unwrap();
    assert!(text(&client.receive().unwrap()).contains("QUEUED"));
    client.ok("KEYS *");
    let Value::Array(replies) = client.ok("EXEC") else { panic!("EXEC gives a list") };
    assert_eq!(replies.len(), 3);
    assert!(text(&replies[1]).contains('2'));
}

#[test]
fn what_a_long_command_does_is_counted() {
    let server = start();
    let mut client = server.client();
    for _ in 0..5 {
        client.send(&["EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "k"]).unwrap();
        client.receive().unwrap();
        client.ok("KEYS *");
    }
    // Workers publish what they counted ten times a second.
    for name in ["cmdstat_eval:calls=5", "cmdstat_keys:calls=5", "cmdstat_set:calls=5"] {
        wait_for(name, || client.text("INFO commandstats").contains(name).then_some(()));
    }
    assert_eq!(client.info("rdb_changes_since_last_save"), "5");
}

/// Runs a script so often that it counts as short.
fn shorten(server: &Server, script: &str) {
    let mut client = server.client();
    for _ in 0..20 {
        client.send(&["EVAL", script, "1", "held", "short"]).unwrap();
        assert!(!client.receive().unwrap().is_error());
    }
}

/// Starts a script that was short until now; it never ends.
fn lengthen(server: &Server, script: &str) -> Client {
    let mut client = server.client();
    client.send(&["EVAL", script, "1", "held", "long"]).unwrap();
    let mut other = server.client();
    wait_for("a script that runs", || text(&other.call("SET held x")).contains("BUSY").then_some(()));
    client
}

#[test]
fn a_script_that_used_to_be_short_holds_up_nobody() {
    let server = start();
    let script = "local n = redis.call('GET', KEYS[1]) while ARGV[1] == 'long' do end return 1";
    shorten(&server, script);
    let mut client = lengthen(&server, script);
    let mut other = server.client();
    assert_eq!(other.text("PING"), "PONG");
    other.ok("SET elsewhere 1");
    other.ok("SCRIPT KILL");
    assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
}

#[test]
fn a_script_that_used_to_be_short_and_writes_leaves_a_way_out() {
    let mut server = start();
    let script = "redis.call('SET', KEYS[1], 1) while ARGV[1] == 'long' do end return 1";
    shorten(&server, script);
    let client = lengthen(&server, script);
    let mut other = server.client();
    assert_eq!(other.text("PING"), "PONG");
    assert!(text(&other.call("SCRIPT KILL")).contains("UNKILLABLE"));
    let _ = other.send(&["SHUTDOWN", "NOSAVE"]);
    assert!(server.wait().success());
    drop(client);
}

/// Everybody but those who end the script is told BUSY, and it can be ended.
fn assert_busy_for_all(server: &Server) {
    let mut other = server.client();
    wait_for("a slow script", || text(&other.call("PING")).contains("BUSY").then_some(()));
    for command in ["GET elsewhere", "EVAL return(1) 0", "KEYS *", "SCAN 0", "CONFIG GET save", "WATCH k"] {
        let reply = text(&other.call(command));
        assert!(reply.contains("BUSY Redis is busy running a script."), "{command}: {reply}");
    }
    other.ok("MULTI");
    assert!(text(&other.call("INCR n")).contains("BUSY"));
    assert!(text(&other.call("EXEC")).contains("EXECABORT"));
    other.ok("RESET");
    other.ok("SCRIPT KILL");
}

#[test]
fn a_transaction_without_end_leaves_a_way_out() {
    let server = start();
    let mut client = server.client();
    client.ok("WATCH watched");
    client.ok("MULTI");
    client.ok("INCR n");
    client.ok("SELECT 3");
    client.send(&["EVAL", FOREVER, "0"]).unwrap();
    assert!(text(&client.receive().unwrap()).contains("QUEUED"));
    client.send(&["EXEC"]).unwrap();
    assert_busy_for_all(&server);
    let Value::Array(replies) = client.receive().unwrap() else { panic!("EXEC gives a list") };
    assert!(text(&replies[2]).contains("Script killed by user"));
    assert!(client.text("CLIENT INFO").contains(" db=3 ") && client.text("CLIENT INFO").contains("watch=0"));
    assert_eq!(server.client().text("GET n"), "1");
}

#[test]
fn a_script_that_has_the_gate_closed_leaves_a_way_out() {
    for workers in ["1", "3"] {
        let server = Server::start(&["--workers", workers, "--save", "", "--busy-reply-threshold", "50"]);
        let mut client = server.client();
        let script = "if ARGV[1] then redis.call('FLUSHALL') end while true do end";
        client.send(&["EVAL", script, "0"]).unwrap();
        assert_busy_for_all(&server);
        assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
        assert_eq!(server.client().text("PING"), "PONG");
    }
}

#[test]
fn what_stands_beside_a_slot_that_is_held_waits_for_nobody() {
    let server = start();
    let mut other = server.client();
    let (mut waits, mut watches) = (server.client(), server.client());
    other.ok("SET {held}beside 1");
    waits.send(&["BLPOP", "held", "1"]).unwrap();
    watches.ok("WATCH held");
    let mut client = stuck_quietly(&server);
    drop(watches);
    assert_eq!(waits.receive().unwrap(), Value::Null);
    assert!(text(&other.call("SCAN 0")).contains("BUSY"));
    assert_eq!(other.text("PING"), "PONG");
    other.ok("SCRIPT KILL");
    assert!(text(&client.receive().unwrap()).contains("Script killed by user"));
    other.ok("RPUSH held a");
    assert_eq!(other.ok("LLEN held"), Value::Int(1));
}

/// As [`stuck`], writing nothing meanwhile.
fn stuck_quietly(server: &Server) -> Client {
    let mut client = server.client();
    client.send(&["EVAL", FOREVER, "1", "held"]).unwrap();
    let mut other = server.client();
    wait_for("a script that runs", || text(&other.call("GET held")).contains("BUSY").then_some(()));
    client
}

#[test]
fn errands_behind_a_slow_script_are_told_so() {
    let server = start();
    let (mut first, mut second) = (server.client(), server.client());
    // In one go: the second comes before the first counts as slow.
    first.send(&["EVAL", FOREVER, "1", "held"]).unwrap();
    second.send(&["EVAL", "return 1", "0"]).unwrap();
    let reply = text(&second.receive().unwrap());
    assert!(reply.contains("BUSY") || reply.contains("Int(1)"), "{reply}");
    server.client().ok("SCRIPT KILL");
    assert!(text(&first.receive().unwrap()).contains("Script killed by user"));
}
