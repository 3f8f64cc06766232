//! What clients do to a server: leave while they wait, speak nonsense, send too much, read too little.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tests::server::free_port;
use tests::{Client, DEADLINE, Server, Value, wait_for};

fn raw(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server serves");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
    stream
}

fn wait_for_blocked(client: &mut Client, count: &str) {
    wait_for("the number of waiting clients", || (client.info("blocked_clients") == count).then_some(()));
}

#[test]
fn a_waiting_client_that_left_takes_nothing() {
    let server = Server::start(&["--save", ""]);
    let mut client = server.client();
    let mut gone = server.client();
    gone.send(&["BLPOP", "list", "0"]).expect("it serves");
    wait_for_blocked(&mut client, "1");
    drop(gone);
    wait_for_blocked(&mut client, "0");
    client.ok("RPUSH list a");
    assert_eq!(client.ok("LLEN list"), Value::Int(1));
}

#[test]
fn a_waiting_client_that_was_killed_takes_nothing() {
    let server = Server::start(&["--save", ""]);
    let mut client = server.client();
    let mut killed = server.client();
    let id = killed.ok("CLIENT ID").as_int().expect("a number");
    killed.send(&["BLMOVE", "list", "other", "LEFT", "LEFT", "0"]).expect("it serves");
    wait_for_blocked(&mut client, "1");
    assert_eq!(client.ok(&format!("CLIENT KILL ID {id}")), Value::Int(1));
    wait_for_blocked(&mut client, "0");
    client.ok("RPUSH list a");
    assert_eq!(client.ok("EXISTS list other"), Value::Int(1));
}

/// Sends these bytes and reads until the server ends the connection.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = raw(server);
    stream.write_all(bytes).expect("it serves");
    let mut got = Vec::new();
    // A connection that is reset has ended too.
    let _ = stream.read_to_end(&mut got);
    String::from_utf8_lossy(&got).into_owned()
}

#[test]
fn a_browser_is_not_a_client() {
    let server = Server::start(&["--save", ""]);
    let body = "SET stolen 1\r\n";
    assert_eq!(exchange(&server, format!("POST / HTTP/1.1\r\n\r\n{body}").as_bytes()), "");
    let get = exchange(&server, format!("GET / HTTP/1.1\r\nHost: x\r\n{body}").as_bytes());
    assert!(!get.contains("OK"), "{get}");
    assert_eq!(server.client().ok("EXISTS stolen"), Value::Int(0));
}

#[test]
fn nonsense_is_told_after_the_replies_before_it() {
    let server = Server::start(&["--save", ""]);
    let said = exchange(&server, b"PING\r\n*1\r\n%4\r\nPING\r\nPING\r\n");
    assert_eq!(said, "+PONG\r\n-ERR Protocol error: expected '$', got '%'\r\n");
    assert_eq!(exchange(&server, b"*01\r\n"), "-ERR Protocol error: invalid multibulk length\r\n");
}

#[test]
fn nonsense_ends_a_pipeline_of_any_length() {
    let server = Server::start(&["--save", ""]);
    for count in [1, 2, 31, 32, 33, 40, 64, 65] {
        let mut sent: String =
            (0..count).map(|i| format!("GET a{i}\r\nMGET b{i} c{i}\r\nPING\r\n")).collect();
        sent.push_str("*1\r\n%4\r\n");
        let expected = "$-1\r\n*2\r\n$-1\r\n$-1\r\n+PONG\r\n".repeat(count)
            + "-ERR Protocol error: expected '$', got '%'\r\n";
        assert_eq!(exchange(&server, sent.as_bytes()), expected, "{count}");
        let sent = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n".repeat(count) + "*1\r\n%4\r\n";
        let expected = "$-1\r\n".repeat(count) + "-ERR Protocol error: expected '$', got '%'\r\n";
        assert_eq!(exchange(&server, sent.as_bytes()), expected, "{count}");
        let sent: String = (0..count).map(|i| format!("*2\r\n$3\r\nGET\r\n$3\r\n{:03}\r\n", i)).collect();
        assert_eq!(exchange(&server, (sent + "*1\r\n%4\r\n").as_bytes()), expected, "{count}");
    }
}

#[test]
fn keys_that_follow_one_another_in_a_pipeline_are_not_mixed_up() {
    let server = Server::start(&["--save", ""]);
    // The same again, the same at the end or at the beginning, short and long ones, none.
    let keys = "|||k|k|xk|a:12345678|b:12345678|b:12345678|b:1234567|b:12345679||k".split('|');
    let (mut sent, mut counts) = (Vec::new(), std::collections::BTreeMap::<&str, u32>::new());
    let mut expected = String::new();
    for key in keys {
        proto::resp::encode_command(&[b"INCR", key.as_bytes()], &mut sent);
        let count = counts.entry(key).or_default();
        *count += 1;
        expected += &format!(":{count}\r\n");
    }
    proto::resp::encode_command(&["QUIT"], &mut sent);
    assert_eq!(exchange(&server, &sent), expected + "+OK\r\n");
}

#[test]
fn a_password_counts_for_what_follows_it_at_once() {
    let server = Server::start(&["--save", ""]);
    server.client().ok("CONFIG SET requirepass secret");
    let long = "v".repeat(20_000);
    let words = ["MSET", "a", "1", "b", "2", "c", "3", "d", "4", "e", "5", "f", &long];
    let mut at_once = Vec::new();
    for command in [&["AUTH", "secret"][..], &words, &["STRLEN", "f"]] {
        proto::resp::encode_command(command, &mut at_once);
    }
    let mut stream = raw(&server);
    stream.write_all(&at_once).expect("it serves");
    let expected = "+OK\r\n+OK\r\n:20000\r\n";
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("it answers");
    assert_eq!(String::from_utf8_lossy(&got), expected);
    // Without it the limits hold.
    assert_eq!(
        exchange(&server, b"PING\r\n*11\r\n").lines().last(),
        Some("-ERR Protocol error: unauthenticated multibulk length")
    );
}

#[test]
fn a_client_that_does_not_read_is_not_served_ahead() {
    const GETS: usize = 100;
    let server = Server::start(&["--save", ""]);
    let mut client = server.client();
    let value = "v".repeat(1 << 20);
    client.try_call(&["SET", "k", &value]).expect("it serves");
    let mut slow = server.client();
    slow.ok("CLIENT SETNAME slow");
    let mut commands = Vec::new();
    (0..GETS).for_each(|_| proto::resp::encode_command(&["GET", "k"], &mut commands));
    slow.send_raw(&commands).expect("it serves");
    let mut unsent = || -> u64 {
        let list = client.text("CLIENT LIST");
        let line = list.lines().find(|l| l.contains("name=slow")).expect("it is there").to_string();
        line.split(' ').find_map(|w| w.strip_prefix("omem=")?.parse().ok()).expect("a field")
    };
    wait_for("replies that nobody reads", || (unsent() > 1 << 20).then_some(()));
    std::thread::sleep(Duration::from_millis(50));
    assert!(unsent() < 18 << 20, "{} bytes are kept", unsent());
    for _ in 0..GETS {
        assert_eq!(slow.receive().expect("it answers"), Value::Bulk(value.clone().into_bytes()));
    }
}

#[test]
fn errors_about_connections_have_the_words_of_redis() {
    let server = Server::start(&["--save", ""]);
    let mut client = server.client();
    for (line, expected) in [
        ("SELECT abc", "ERR value is not an integer or out of range"),
        ("SELECT 99999999999", "ERR value is out of range, value must between -2147483648 and 2147483647"),
        ("SELECT 16", "ERR DB index is out of range"),
        ("CLIENT LIST ID abc", "ERR Invalid client ID"),
        ("CLIENT KILL ID abc", "ERR client-id should be greater than 0"),
        ("COMMAND NOSUCH", "ERR unknown subcommand 'NOSUCH'. Try COMMAND HELP."),
        ("RESTORE k 0 abc", "ERR DUMP payload version or checksum are wrong"),
        ("HELLO 4", "NOPROTO unsupported protocol version"),
        ("AUTH nobody x", "WRONGPASS invalid username-password pair or user is disabled."),
    ] {
        assert_eq!(client.call(line), Value::Error(expected.to_string()), "{line}");
    }
    assert_eq!(client.call("OBJECT FREQ nosuch"), Value::Null);
}

#[test]
fn the_bus_keeps_no_links_of_strangers() {
    let port = free_port();
    let text = port.to_string();
    let args =
        ["--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-port", &text];
    let server = Server::start(&args);
    let mut client = server.client();
    let connect = || wait_for("the bus", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut silent = connect();
    silent.set_read_timeout(Some(DEADLINE)).expect("a socket has timeouts");
    assert_eq!(silent.read(&mut [0; 8]).expect("the link is closed"), 0);
    for _ in 0..200 {
        // It may be refused while it is written to.
        let _ = connect().write_all(b"GET / HTTP/1.1\r\n\r\n and more that is no frame of anybody");
    }
    wait_for("the log's line", || server.log().contains("cluster bus: link closed").then_some(()));
    assert!(server.log().matches("cluster bus: link closed").count() < 20);
    assert_eq!(client.text("PING"), "PONG");
}
