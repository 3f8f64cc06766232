//! A server that loads: it listens, says so, shows nobody half of its data, and may be ended.

use tests::server::free_port;
use tests::{Client, Server, Value, wait_for};

const SNAPSHOT: &[&str] = &["--appendonly", "no", "--save", ""];
const LOG: &[&str] = &["--appendonly", "yes", "--save", "", "--auto-aof-rewrite-percentage", "0"];
/// A second for a thousand keys.
const SLOWLY: [&str; 4] = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
const LOADING: &str = "LOADING Redis is loading the dataset in memory";
const KEYS: usize = 3000;

/// A server with keys that has ended, having kept them.
fn filled(args: &[&str], end: &str) -> Server {
    let mut server = Server::start(args);
    let mut client = server.client();
    (0..KEYS).for_each(|i| drop(client.ok(&format!("SET key:{i} {}", "v".repeat(100)))));
    server.shut_down(end);
    server
}

/// A reply as text, errors too.
fn say(client: &mut Client, line: &str) -> String {
    match client.call(line) {
        Value::Error(text) => text,
        value => match (value.as_text(), value.as_int()) {
            (Some(text), _) => text.to_string(),
            (None, number) => format!("{}", number.expect("a text or a number")),
        },
    }
}

fn slowly(args: &[&str]) -> Vec<&'static str> {
    args.iter().map(|a| a.to_string().leak() as &str).chain(SLOWLY).collect()
}

fn check_while_loading(client: &mut Client) {
    for line in ["PING", "GET key:1", "SET key:1 other", "DBSIZE", "KEYS *", "EVAL return 0", "CLUSTERSCAN 0"]
    {
        assert_eq!(say(client, line), LOADING, "{line}");
    }
    for line in ["CONFIG SET appendonly yes", "CONFIG SET dir /"] {
        assert_eq!(say(client, line), LOADING, "{line}");
    }
    client.ok("CONFIG SET maxmemory 1mb");
    client.ok("CONFIG SET maxmemory-policy allkeys-lru");
    assert_eq!(say(client, "SET key:1 other"), LOADING, "nothing is evicted for it");
    client.ok("CONFIG SET maxmemory 0");
    client.ok("CLIENT SETNAME probe");
    assert_eq!(client.info("loading"), "1");
    let total: u64 = client.info("loading_total_bytes").parse().expect("a size");
    assert!(total > (KEYS * 100) as u64 / 10, "{total}");
    wait_for("progress", || {
        let loaded: u64 = client.info("loading_loaded_bytes").parse().ok()?;
        (loaded > 0 && loaded <= total).then_some(())
    });
}

fn check_loaded(server: &Server) {
    let client = &mut server.client();
    wait_for("the data", || (say(client, "PING") == "PONG").then_some(()));
    assert_eq!(client.info("loading"), "0");
    assert!(!say(client, "INFO").contains("loading_total_bytes"));
    assert_eq!(say(client, "DBSIZE"), KEYS.to_string());
}

#[test]
fn a_snapshot_is_loaded_while_clients_are_told_so() {
    let mut server = filled(SNAPSHOT, "SAVE");
    server.restart_to_load(&slowly(SNAPSHOT));
    check_while_loading(&mut server.client());
    server.client().ok("CONFIG SET key-load-delay 0");
    check_loaded(&server);
}

#[test]
fn a_log_is_loaded_while_clients_are_told_so() {
    let mut server = filled(LOG, "NOSAVE");
    server.restart_to_load(&slowly(LOG));
    check_while_loading(&mut server.client());
    server.client().ok("CONFIG SET key-load-delay 0");
    check_loaded(&server);
}

#[test]
fn a_server_that_loads_can_be_ended_and_loses_nothing() {
    for (args, end) in [(SNAPSHOT, "SAVE"), (LOG, "NOSAVE")] {
        let mut server = filled(args, end);
        server.restart_to_load(&slowly(args));
        server.client().ok("INFO");
        server.shut_down("SAVE");
        server.restart_to_load(&slowly(args));
        server.client().ok("INFO");
        server.signal(libc::SIGTERM);
        assert!(server.wait().success());
        assert!(server.log().contains("Received shutdown signal during loading, exiting now."));
        server.restart(args);
        check_loaded(&server);
    }
}

#[test]
fn a_node_of_a_cluster_serves_no_slot_before_it_knows_which_are_its() {
    let bus = free_port().to_string();
    let args = [SNAPSHOT, &["--cluster-enabled", "yes", "--cluster-port", &bus]].concat();
    let mut server = Server::start(&args);
    let client = &mut server.client();
    client.ok("CLUSTER ADDSLOTSRANGE 0 16383");
    wait_for("the slots", || (say(client, "SET key:1 v") == "OK").then_some(()));
    server.shut_down("SAVE");
    server.restart_to_load(&args);
    wait_for("an answer", || {
        let answer = say(&mut server.client(), "GET key:1");
        assert!(answer == "v" || answer == LOADING || answer.starts_with("CLUSTERDOWN"), "{answer}");
        (answer == "v").then_some(())
    });
}
