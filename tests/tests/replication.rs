//! Replication between processes: ours with ours, and ours with a stock Redis in both roles.

#[path = "../src/replication_harness.rs"]
#[allow(dead_code)]
mod harness;

use harness::{Client, Server, eventually, eventually_or};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A client that writes all kinds of data until it is told to stop. `i` decides about everything.
fn write(client: &mut Client, i: u64) {
    let (k, v) = (i % 97, i.wrapping_mul(0x9E37_79B9) % 1000);
    let command = match i % 17 {
        0 => format!("SET s{k} {v}"),
        1 => format!("APPEND s{k} x{v}"),
        2 => format!("INCRBYFLOAT f{k} 0.{v}"),
        3 => format!("RPUSH l{k} {v} {i}"),
        4 => format!("LPOP l{k}"),
        5 => format!("HSET h{k} f{v} {i} g{i} {v}"),
        6 => format!("HDEL h{k} f{v}"),
        7 => format!("SADD t{k} {v} m{i}"),
        8 => format!("SPOP t{k}"),
        9 => format!("ZADD z{k} {v} m{i}"),
        10 => format!("ZPOPMIN z{k}"),
        11 => format!("SET e{k} {v} PX {}", 1 + i % 300),
        12 => format!("EXPIRE s{k} {}", 1000 + v),
        13 => format!("SELECT {}", i % 3),
        14 => format!("RENAME s{k} s{}", (k + 1) % 97),
        15 => "MULTI".to_string(),
        _ => format!("DEL s{k} l{}", (k + 5) % 97),
    };
    client.run(&command);
    if command == "MULTI" {
        client.run(&format!("SET s{k} in"));
        client.run(&format!("RPUSH l{k} in"));
        client.run("EXEC");
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(server: &Server) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |seed: u64| {
            let (mut client, stop) = (server.client(), stop.clone());
            std::thread::spawn(move || {
                let mut i = seed;
                while !stop.load(Ordering::Relaxed) {
                    write(&mut client, i);
                    i += 1;
                }
            })
        };
        let threads = (0..3).map(|n| spawn(n * 1_000_003)).collect();
        Load { stop, threads }
    }
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|t| t.join().expect("the load ends well"));
    }
}

fn fill(server: &Server, keys: usize) {
    let mut client = server.client();
    for i in 0..keys {
        client.send(&["SET", &format!("key:{i}"), &format!("value:{i}")]);
    }
    (0..keys).for_each(|_| assert_eq!(client.receive(), "OK"));
}

/// Same data by DEBUG DIGEST, which includes expiry times.
fn assert_same(primary: &Server, replica: &Server) {
    replica.catch_up(primary);
    let same = || primary.run("DEBUG DIGEST") == replica.run("DEBUG DIGEST");
    eventually_or("the data is the same", same, || contents_difference(primary, replica));
}

/// All keys as text, for servers whose digests differ.
fn contents(server: &Server) -> Vec<String> {
    let mut client = server.client();
    let mut all = Vec::new();
    for db in 0..3 {
        client.run(&format!("SELECT {db}"));
        let keys = client.run("KEYS *");
        for key in keys.split_whitespace() {
            let command = match client.run(&format!("TYPE {key}")).as_str() {
                "string" => format!("GET {key}"),
                "list" => format!("LRANGE {key} 0 -1"),
                "hash" => format!("HGETALL {key}"),
                "set" => format!("SMEMBERS {key}"),
                "zset" => format!("ZRANGE {key} 0 -1 WITHSCORES"),
                _ => continue,
            };
            let is_ordered = command.starts_with("LRANGE") || command.starts_with("ZRANGE");
            let reply = client.run(&command);
            let mut words: Vec<&str> = reply.split(' ').collect();
            if !is_ordered {
                words.sort_unstable();
            }
            let expiry = client.run(&format!("PEXPIRETIME {key}"));
            all.push(format!("{db} {key} = {} until {expiry}", words.join(" ")));
        }
    }
    all.sort();
    all
}

fn contents_difference(a: &Server, b: &Server) -> String {
    let (a, b) = (contents(a), contents(b));
    let only =
        |x: &[String], y: &[String]| x.iter().filter(|l| !y.contains(l)).take(5).cloned().collect::<Vec<_>>();
    format!("only in the first: {:#?}\nonly in the second: {:#?}", only(&a, &b), only(&b, &a))
}

fn assert_same_contents(primary: &Server, replica: &Server) {
    replica.catch_up(primary);
    let same = || contents(primary) == contents(replica);
    eventually_or("the contents are the same", same, || contents_difference(primary, replica));
}

#[test]
fn a_full_sync_under_load_ends_with_the_same_data() {
    let (primary, replica) = (Server::shoal(&[]), Server::shoal(&[]));
    fill(&primary, 20_000);
    fill(&replica, 10);
    let load = Load::on(&primary);
    replica.replicate(&primary);
    eventually("the link is up", || replica.info("master_link_status") == "up");
    load.stop();
    assert_same(&primary, &replica);
    assert_eq!(primary.info("sync_full"), "1");
    assert!(replica.run("SET x 1").starts_with("READONLY"));
    assert_eq!(replica.info("role"), "slave");
    assert!(primary.info("slave0").contains("state=online"), "{}", primary.info("slave0"));
    assert_eq!(primary.run("ROLE").split(' ').next(), Some("master"));
    assert!(replica.run("ROLE").starts_with("slave 127.0.0.1"), "{}", replica.run("ROLE"));
    assert!(replica.log().contains("MASTER <-> REPLICA sync: Finished with success"));
}

/// Nothing comes after it that would make the loader look again; and fields keep the times at which they expire.
#[test]
fn a_long_value_at_the_end_of_a_snapshot_is_loaded() {
    let (primary, replica) = (Server::shoal(&["--repl-ping-replica-period", "3600"]), Server::shoal(&[]));
    let mut client = primary.client();
    (0..20_000).for_each(|i| client.send(&["HSET", "big", &format!("field:{i}"), &format!("value:{i}")]));
    (0..20_000).for_each(|_| assert_eq!(client.receive(), "1"));
    assert_eq!(primary.run("HEXPIRE big 1000 FIELDS 2 field:1 field:2"), "1 1");
    replica.replicate(&primary);
    eventually("the link is up", || replica.info("master_link_status") == "up");
    assert_same(&primary, &replica);
    let times = "HPEXPIRETIME big FIELDS 3 field:1 field:2 field:3";
    assert_eq!(replica.run(times), primary.run(times));
}

#[test]
fn a_cut_link_goes_on_where_it_was() {
    let (primary, replica) = (Server::shoal(&["--repl-backlog-size", "100mb"]), Server::shoal(&[]));
    fill(&primary, 100);
    replica.replicate(&primary);
    replica.catch_up(&primary);
    let load = Load::on(&primary);
    for cut in 1..=3 {
        assert_eq!(primary.run("CLIENT KILL TYPE replica"), "1");
        let accepted = || primary.info("sync_partial_ok") == cut.to_string();
        eventually_or("the replica goes on", accepted, || primary.log());
        eventually("the link is up", || replica.info("master_link_status") == "up");
    }
    load.stop();
    assert_same(&primary, &replica);
    assert_eq!(primary.info("sync_full"), "1");
}

#[test]
fn what_the_backlog_lost_is_synced_in_full() {
    let (primary, replica) = (Server::shoal(&["--repl-backlog-size", "64kb"]), Server::shoal(&[]));
    replica.replicate(&primary);
    replica.catch_up(&primary);
    // The replica cannot come back before the backlog has moved on: it follows nobody meanwhile.
    assert_eq!(replica.run("REPLICAOF 127.0.0.1 1"), "OK");
    eventually("the replica is gone", || primary.info("connected_slaves") == "0");
    fill(&primary, 20_000);
    replica.replicate(&primary);
    assert_same(&primary, &replica);
    assert_eq!(primary.info("sync_full"), "2");
}

#[test]
fn replicas_of_replicas_have_the_same_offsets() {
    let (a, b, c) = (Server::shoal(&[]), Server::shoal(&[]), Server::shoal(&[]));
    fill(&a, 1000);
    b.replicate(&a);
    b.catch_up(&a);
    let load = Load::on(&a);
    c.replicate(&b);
    eventually("the link is up", || c.info("master_link_status") == "up");
    load.stop();
    assert_same(&a, &b);
    assert_same(&b, &c);
    assert_eq!(a.info("master_repl_offset"), c.info("master_repl_offset"));
    assert_eq!(a.info("master_replid"), c.info("master_replid"));
}

#[test]
fn a_promoted_replica_goes_on_with_the_others() {
    // The old primary must not write by itself any more: no pings, and (below) no expiry.
    let args = ["--repl-backlog-size", "100mb", "--repl-ping-replica-period", "3600"];
    let (a, b, c) = (Server::shoal(&args), Server::shoal(&args), Server::shoal(&args));
    fill(&a, 1000);
    b.replicate(&a);
    c.replicate(&a);
    let load = Load::on(&a);
    eventually("both follow", || a.info("connected_slaves") == "2");
    eventually("b is up", || b.info("master_link_status") == "up");
    eventually("c is up", || c.info("master_link_status") == "up");
    load.stop();
    assert_eq!(a.run("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    assert_same(&a, &b);
    assert_same(&a, &c);
    let replid = a.info("master_replid");
    assert_eq!(b.run("REPLICAOF NO ONE"), "OK");
    assert_eq!(b.info("role"), "master");
    assert_eq!(b.info("master_replid2"), replid);
    assert_ne!(b.info("master_replid"), replid);
    c.replicate(&b);
    let load = Load::on(&b);
    eventually_or("c goes on", || b.info("sync_partial_ok") == "1", || b.log());
    // The old primary has nothing that the new one lacks, so it goes on as well.
    a.replicate(&b);
    eventually_or("a goes on", || b.info("sync_partial_ok") == "2", || b.log());
    eventually("c is up", || c.info("master_link_status") == "up");
    load.stop();
    assert_same(&b, &c);
    assert_same(&b, &a);
    assert_eq!(b.info("sync_full"), "0");
    assert_eq!(c.info("master_replid"), b.info("master_replid"));
}

#[test]
fn a_primary_that_went_its_own_way_is_synced_in_full() {
    let (a, b) = (Server::shoal(&[]), Server::shoal(&[]));
    b.replicate(&a);
    b.catch_up(&a);
    assert_eq!(b.run("REPLICAOF NO ONE"), "OK");
    assert_eq!(a.run("SET lost 1"), "OK");
    assert_eq!(b.run("SET kept 1"), "OK");
    a.replicate(&b);
    assert_same(&b, &a);
    assert_eq!(a.run("EXISTS lost kept"), "1");
    assert_eq!(b.info("sync_full"), "1");
}

#[test]
fn wait_counts_replicas_that_have_it() {
    let (primary, one, two) = (Server::shoal(&[]), Server::shoal(&[]), Server::shoal(&[]));
    let mut client = primary.client();
    assert_eq!(client.run("SET k 0"), "OK");
    assert_eq!(client.run("WAIT 1 10"), "0", "nobody is there");
    one.replicate(&primary);
    two.replicate(&primary);
    one.catch_up(&primary);
    two.catch_up(&primary);
    for i in 0..20 {
        assert_eq!(client.run(&format!("SET k {i}")), "OK");
        assert_eq!(client.run("WAIT 2 20000"), "2");
        assert_eq!((one.run("GET k"), two.run("GET k")), (i.to_string(), i.to_string()));
    }
    assert_eq!(client.run("SET k last"), "OK");
    assert_eq!(client.run("WAIT 3 100"), "2");
    // In a transaction nobody waits: what stands there is not even in the stream yet.
    assert_eq!(client.run("MULTI"), "OK");
    assert_eq!(client.run("WAIT 7 0"), "QUEUED");
    assert!(["0", "1", "2"].contains(&client.run("EXEC").as_str()));
    assert!(one.run("WAIT 0 0").starts_with("ERR WAIT cannot be used with replica instances."));
}

#[test]
fn writes_need_enough_good_replicas() {
    let (primary, replica) = (Server::shoal(&["--min-replicas-to-write", "1"]), Server::shoal(&[]));
    eventually("writes are refused", || primary.run("SET k v").starts_with("NOREPLICAS"));
    replica.replicate(&primary);
    eventually("writes are taken", || primary.run("SET k v") == "OK");
    assert_eq!(primary.info("min_slaves_good_slaves"), "1");
}

#[test]
fn expired_keys_are_hidden_on_replicas_and_removed_by_their_primary() {
    let (primary, replica) = (Server::shoal(&[]), Server::shoal(&[]));
    replica.replicate(&primary);
    replica.catch_up(&primary);
    assert_eq!(primary.run("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    assert_eq!(primary.run("SET k v PX 30"), "OK");
    eventually("the key came", || replica.run("DBSIZE") == "1");
    eventually("it is hidden", || replica.run("GET k") == "(nil)");
    assert_eq!(replica.run("DBSIZE"), "1", "only the primary removes it");
    assert_eq!(primary.run("GET k"), "(nil)");
    eventually("it is removed", || replica.run("DBSIZE") == "0");
}

#[test]
fn a_configured_primary_is_followed_from_the_start() {
    let primary = Server::shoal(&["--requirepass", "secret"]);
    let mut client = primary.client();
    assert_eq!(client.run("AUTH secret"), "OK");
    // Whoever has to say a password first is not told that it loads yet.
    eventually("it has loaded", || client.run("SET k v") == "OK");
    let place = format!("127.0.0.1 {}", primary.port);
    let replica = Server::shoal(&["--replicaof", &place, "--masterauth", "secret"]);
    eventually_or("the key came", || replica.run("GET k") == "v", || replica.log());
    assert_eq!(replica.run("REPLICAOF 127.0.0.1 0x"), "ERR Invalid master port");
}

/// A node that was a primary asks whether it may go on from its own history, which counts as refused. One that starts as
/// a replica has none.
#[test]
fn a_first_sync_is_no_failed_partial_one() {
    let stock = Server::redis(&[]);
    for primary in stock.into_iter().chain([Server::shoal(&[])]) {
        let place = format!("127.0.0.1 {}", primary.port);
        let replica = Server::shoal(&["--replicaof", &place]);
        replica.catch_up(&primary);
        assert_eq!((primary.info("sync_full"), primary.info("sync_partial_err")), ("1".into(), "0".into()));
        let other = Server::shoal(&[]);
        other.replicate(&primary);
        other.catch_up(&primary);
        assert_eq!((primary.info("sync_full"), primary.info("sync_partial_err")), ("2".into(), "1".into()));
    }
}

/// A history that cannot be one counts as well; whoever names none wants a full sync.
#[test]
fn who_names_a_history_and_gets_a_full_sync_is_counted() {
    let stock = Server::redis(&[]);
    for primary in stock.into_iter().chain([Server::shoal(&[])]) {
        let requests = [("PSYNC ? -1", "0"), ("PSYNC nonsense 1", "1"), ("SYNC", "1")];
        for (count, (request, errors)) in (1..).zip(requests) {
            let mut client = primary.client();
            client.send(&request.split(' ').collect::<Vec<_>>());
            eventually("the sync begins", || primary.info("sync_full") == count.to_string());
            assert_eq!(primary.info("sync_partial_err"), errors, "{request}");
        }
    }
}

#[test]
fn a_restart_of_either_side_goes_on_where_it_was() {
    let mut primary = Server::shoal(&["--repl-backlog-size", "100mb"]);
    let place = format!("127.0.0.1 {}", primary.port);
    let mut replica = Server::shoal(&["--replicaof", &place]);
    fill(&primary, 1000);
    assert_same(&primary, &replica);
    replica.restart();
    assert_eq!(primary.run("SET while 1"), "OK");
    assert_same(&primary, &replica);
    assert_eq!(primary.info("sync_partial_ok"), "1", "{}", primary.log());
    let replid = primary.info("master_replid");
    primary.restart();
    assert_eq!(primary.info("master_replid2"), replid);
    assert_ne!(primary.info("master_replid"), replid, "what comes now is another stream");
    assert_same(&primary, &replica);
    assert_eq!(primary.run("SET after 1"), "OK");
    assert_same(&primary, &replica);
    assert_eq!((primary.info("sync_partial_ok"), primary.info("sync_full")), ("1".into(), "0".into()));
}

#[test]
fn a_replica_with_a_log_begins_it_anew_with_each_full_sync() {
    let primary = Server::shoal(&[]);
    let mut replica = Server::shoal(&["--appendonly", "yes"]);
    assert_eq!(replica.run("SET old 1"), "OK");
    fill(&primary, 1000);
    replica.replicate(&primary);
    assert_eq!(primary.run("SET new 1"), "OK");
    assert_same(&primary, &replica);
    assert_eq!(replica.run("REPLICAOF NO ONE"), "OK");
    let digest = replica.run("DEBUG DIGEST");
    replica.restart();
    assert_eq!(replica.run("DEBUG DIGEST"), digest, "{}", replica.log());
    assert_eq!((replica.run("GET old"), replica.run("GET new")), ("(nil)".into(), "1".into()));
}

#[test]
fn tools_can_take_a_snapshot() {
    if !std::path::Path::new("/usr/bin/redis-cli").exists() {
        return;
    }
    let primary = Server::shoal(&[]);
    fill(&primary, 1000);
    let file = std::env::temp_dir().join(format!("shoal-cli-{}.rdb", std::process::id()));
    let output = std::process::Command::new("/usr/bin/redis-cli")
        .args(["-p", &primary.port.to_string(), "--rdb"])
        .arg(&file)
        .output()
        .expect("redis-cli runs");
    assert!(output.status.success(), "{output:?}");
    let check = std::process::Command::new("/usr/bin/redis-check-rdb").arg(&file).output();
    let text = String::from_utf8_lossy(&check.expect("redis-check-rdb runs").stdout).into_owned();
    let _ = std::fs::remove_file(&file);
    assert!(text.contains("1000 keys read"), "{text}");
    eventually("its link is gone", || primary.info("connected_slaves") == "0");
}

/// What an old tool does: no capabilities, so the length comes first, and the stream follows at once.
#[test]
fn sync_without_capabilities_says_the_length() {
    let primary = Server::shoal(&["--repl-ping-replica-period", "3600"]);
    fill(&primary, 100);
    let mut raw = primary.client();
    raw.send(&["SYNC"]);
    let rdb = raw.receive_file();
    assert!(rdb.starts_with(b"REDIS0010"), "{:?}", &rdb[..9]);
    assert_eq!(primary.run("SET streamed 1"), "OK");
    assert_eq!(raw.receive(), "SELECT 0");
    assert_eq!(raw.receive(), "SET streamed 1");
}

#[test]
fn silent_links_are_closed_by_either_side() {
    let args = ["--repl-timeout", "3", "--repl-ping-replica-period", "1"];
    let (primary, replica) = (Server::shoal(&args), Server::shoal(&args));
    replica.replicate(&primary);
    replica.catch_up(&primary);
    primary.freeze(true);
    eventually("the replica gives up", || replica.info("master_link_status") == "down");
    primary.freeze(false);
    eventually("it is back", || replica.info("master_link_status") == "up");
    replica.freeze(true);
    eventually("the primary gives up", || primary.info("connected_slaves") == "0");
    replica.freeze(false);
    assert_eq!(primary.run("SET after 1"), "OK");
    assert_same(&primary, &replica);
    assert_eq!(primary.info("sync_full"), "1", "both times it went on where it was");
}

#[test]
fn a_replica_that_does_not_read_is_dropped_before_it_takes_all_memory() {
    let limit = "replica 4mb 0 0";
    let primary = Server::shoal(&["--client-output-buffer-limit", limit, "--repl-backlog-size", "64kb"]);
    let replica = Server::shoal(&[]);
    replica.replicate(&primary);
    replica.catch_up(&primary);
    replica.freeze(true);
    let value = "x".repeat(1 << 20);
    let mut client = primary.client();
    let dropped = || {
        client.send(&["SET", "big", &value]);
        assert_eq!(client.receive(), "OK");
        primary.info("connected_slaves") == "0"
    };
    eventually("the primary drops it", dropped);
    replica.freeze(false);
    assert_same(&primary, &replica);
}

#[test]
fn changes_of_role_in_the_middle_of_a_sync_do_no_harm() {
    let (one, two, node) = (Server::shoal(&[]), Server::shoal(&[]), Server::shoal(&[]));
    fill(&one, 20_000);
    fill(&two, 10_000);
    let load = Load::on(&one);
    let mut client = node.client();
    for i in 0..30u64 {
        let port = if i % 2 == 0 { one.port } else { two.port };
        assert_eq!(client.run(&format!("REPLICAOF 127.0.0.1 {port}")), "OK");
        // Spread over the stages of a sync.
        std::thread::sleep(std::time::Duration::from_millis(i * 7 % 90));
        if i % 3 == 0 {
            assert_eq!(client.run("REPLICAOF NO ONE"), "OK");
            eventually("it takes writes", || client.run("SET own 1") == "OK");
        }
    }
    node.replicate(&one);
    eventually("the link is up", || node.info("master_link_status") == "up");
    load.stop();
    assert_same(&one, &node);
}

#[test]
fn clusters_refuse_replicaof() {
    let node = Server::shoal(&["--cluster-enabled", "yes"]);
    assert_eq!(node.run("REPLICAOF 127.0.0.1 1"), "ERR REPLICAOF not allowed in cluster mode.");
}

#[test]
fn a_stock_redis_follows_us() {
    let primary = Server::shoal(&["--repl-backlog-size", "100mb"]);
    let Some(replica) = Server::redis(&[]) else { return };
    fill(&primary, 5000);
    let load = Load::on(&primary);
    replica.replicate(&primary);
    eventually_or("the link is up", || replica.info("master_link_status") == "up", || replica.log());
    assert_eq!(primary.run("CLIENT KILL TYPE replica"), "1");
    eventually_or("it goes on", || primary.info("sync_partial_ok") == "1", || primary.log());
    eventually("the link is up", || replica.info("master_link_status") == "up");
    load.stop();
    assert_same_contents(&primary, &replica);
    let mut client = primary.client();
    assert_eq!(client.run("SET k v"), "OK");
    assert_eq!(client.run("WAIT 1 20000"), "1");
}

#[test]
fn we_follow_a_stock_redis() {
    // With a delay of zero its diskless syncs begin at once.
    for diskless in ["yes", "no"] {
        let args = [
            "--repl-diskless-sync",
            diskless,
            "--repl-diskless-sync-delay",
            "0",
            "--repl-backlog-size",
            "100mb",
        ];
        let Some(primary) = Server::redis(&args) else { return };
        let (replica, chained) = (Server::shoal(&[]), Server::shoal(&[]));
        fill(&primary, 5000);
        let load = Load::on(&primary);
        replica.replicate(&primary);
        eventually_or("the link is up", || replica.info("master_link_status") == "up", || replica.log());
        chained.replicate(&replica);
        eventually_or(
            "its replica is up",
            || chained.info("master_link_status") == "up",
            || format!("{}\n---\n{}", replica.log(), chained.log()),
        );
        assert_eq!(primary.run("CLIENT KILL TYPE replica"), "1");
        eventually_or("it goes on", || primary.info("sync_partial_ok") == "1", || replica.log());
        eventually("the link is up", || replica.info("master_link_status") == "up");
        load.stop();
        assert_same_contents(&primary, &replica);
        assert_same(&replica, &chained);
        let mut client = primary.client();
        assert_eq!(client.run("SET k v"), "OK");
        assert_eq!(client.run("WAIT 1 20000"), "1");
    }
}
