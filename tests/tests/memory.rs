//! What counts for `maxmemory`, what the process is called, and connections that MIGRATE keeps.

use tests::{Client, Server, Value};

fn number(client: &mut Client, name: &str) -> u64 {
    client.info(name).parse().unwrap_or_else(|_| panic!("{name} is a number"))
}

/// Fifty keys, of 100 kB each.
fn fill(client: &mut Client) {
    (0..50).for_each(|i| assert_eq!(client.call(&format!("SETRANGE key:{i} 99999 x")), Value::Int(100_000)));
}

#[test]
fn replies_that_nobody_reads_count() {
    let server =
        Server::start(&["--save", "", "--maxmemory", "16mb", "--maxmemory-policy", "allkeys-random"]);
    let mut client = server.client();
    fill(&mut client);
    assert_eq!(number(&mut client, "evicted_keys"), 0);
    let mut lazy = server.client();
    // Sockets take some megabytes.
    const ASKED_MAX: usize = 1000;
    let has_evicted = (0..ASKED_MAX).any(|i| {
        lazy.send(&["GET", &format!("key:{}", i % 50)]).expect("it serves");
        number(&mut client, "evicted_keys") > 0
    });
    assert!(has_evicted);
    assert!(number(&mut client, "used_memory_overhead") > 5_000_000);
}

#[test]
fn a_command_that_has_not_come_whole_counts() {
    let server = Server::start(&["--save", "", "--maxmemory", "8mb"]);
    let mut client = server.client();
    let before = number(&mut client, "used_memory");
    let mut slow = server.client();
    slow.send_raw(format!("*2\r\n$4\r\nECHO\r\n$9000000\r\n{}", "x".repeat(8_900_000)).as_bytes())
        .expect("it serves");
    tests::wait_for("the input to count", || {
        (number(&mut client, "used_memory") > before + 8_800_000).then_some(())
    });
    let refusal = client.call("SET a 1");
    assert!(refusal.is_error(), "{refusal:?}");
    drop(slow);
    tests::wait_for("room", || (!client.call("SET a 1").is_error()).then_some(()));
}

#[test]
fn a_read_evicts_as_well_and_whoever_tracks_is_told_before_the_reply() {
    let server = Server::start(&["--save", "", "--maxmemory-policy", "volatile-random"]);
    let mut client = server.client();
    client.ok("HELLO 3");
    client.ok("CLIENT TRACKING ON");
    client.ok("SET gone 1 EX 1000");
    client.ok("GET gone");
    client.ok("SETBIT large 1600000 0");
    let limit = number(&mut client, "used_memory") - 100_000;
    let mut pushes = 0;
    // A worker's round may have evicted already: then the push stands before the first reply.
    for command in [format!("CONFIG SET maxmemory {limit}"), "GETBIT large 0".into()] {
        let mut value = client.ok(&command);
        while let Value::Push(words) = &value {
            assert_eq!(words[0].as_text(), Some("invalidate"));
            pushes += 1;
            value = client.receive().expect("it serves");
        }
    }
    assert_eq!(pushes, 1, "told before the last reply");
}

#[test]
fn messages_about_evicted_keys_evict_no_more() {
    const KEYS: usize = 300;
    let server = Server::start(&["--save", "", "--maxmemory-policy", "allkeys-lru"]);
    let (mut client, mut trackers) = (server.client(), (0..10).map(|_| server.client()).collect::<Vec<_>>());
    trackers.iter_mut().for_each(|tracker| drop((tracker.ok("HELLO 3"), tracker.ok("CLIENT TRACKING ON"))));
    for i in 0..KEYS {
        let name = format!("{i}{}", "x".repeat(1000));
        client.ok(&format!("SET {name} x"));
        trackers.iter_mut().for_each(|tracker| drop(tracker.ok(&format!("GET {name}"))));
    }
    let limit = number(&mut client, "used_memory") - 40_000;
    client.ok(&format!("CONFIG SET maxmemory {limit}"));
    // What is evicted now makes messages of ten kilobytes each, which sockets take at once.
    let counts: Vec<u64> = (0..5).map(|_| number(&mut client, "evicted_keys")).collect();
    assert!(counts.iter().all(|count| (30..=45).contains(count)), "{counts:?}");
}

fn title(client: &mut Client) -> String {
    let pid = number(client, "process_id");
    let shown = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("the server runs");
    shown.trim_end_matches('\0').to_string()
}

#[test]
fn the_process_has_a_title() {
    let server = Server::start(&["--save", "", "--cluster-enabled", "yes", "--bind", "127.0.0.1"]);
    let mut client = server.client();
    let shown = title(&mut client);
    assert!(shown.ends_with(&format!("/shoal-server 127.0.0.1:{} [cluster]", server.port)), "{shown}");
    let long = "x".repeat(150);
    client.ok(&format!("CONFIG SET proc-title-template {long}-{{port}}"));
    assert_eq!(title(&mut client), format!("{long}-{}", server.port));
    client.ok("CONFIG SET proc-title-template x");
    assert_eq!(title(&mut client), "x");
    assert!(client.call("CONFIG SET proc-title-template {nonsense}").is_error());
    assert_eq!(title(&mut client), "x");
}

#[test]
fn migrate_keeps_its_connection_and_opens_it_anew_when_it_has_ended() {
    let (source, target) = (Server::start(&["--save", ""]), Server::start(&["--save", ""]));
    let (mut from, mut to) = (source.client(), target.client());
    let mut migrate = |name: &str, db: u16| {
        from.ok(&format!("SET {name} 1"));
        assert_eq!(from.text(&format!("MIGRATE 127.0.0.1 {} {name} {db} 60000", target.port)), "OK");
        assert_eq!(from.ok(&format!("EXISTS {name}")), Value::Int(0));
        number(&mut from, "migrate_cached_sockets")
    };
    assert_eq!(migrate("a", 0), 1);
    let connections = number(&mut to, "total_connections_received");
    assert_eq!((migrate("b", 9), migrate("c", 0)), (1, 1));
    assert_eq!(number(&mut to, "total_connections_received"), connections);
    assert_eq!(to.ok("EXISTS a c"), Value::Int(2));
    to.ok("CLIENT KILL TYPE normal SKIPME yes");
    migrate("d", 9);
    assert_eq!(number(&mut to, "total_connections_received"), connections + 1);
    to.ok("SELECT 9");
    assert_eq!(to.ok("EXISTS b d"), Value::Int(2));
}
