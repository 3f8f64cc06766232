//! FAILOVER between processes: a role changes hands, and no acknowledged write is lost by it.

#[path = "../src/replication_harness.rs"]
#[allow(dead_code)]
mod harness;

use harness::{Server, eventually, eventually_or};

fn pair() -> (Server, Server) {
    let (primary, replica) = (Server::shoal(&[]), Server::shoal(&[]));
    replica.replicate(&primary);
    eventually("the link is up", || replica.info("master_link_status") == "up");
    (primary, replica)
}

/// Counts up until the server says that it is no primary; how often it said that it has counted.
fn count_up(server: &Server) -> std::thread::JoinHandle<u64> {
    let mut client = server.client();
    std::thread::spawn(move || {
        let mut acknowledged = 0;
        loop {
            match client.run("INCR n") {
                reply if reply.starts_with("READONLY") => return acknowledged,
                reply => acknowledged = reply.parse().expect("a number"),
            }
        }
    })
}

#[test]
fn every_acknowledged_write_goes_along() {
    let (one, two) = pair();
    let (mut from, mut to) = (&one, &two);
    for _ in 0..5 {
        let threads: Vec<_> = (0..3).map(|_| count_up(from)).collect();
        let count: u64 = from.run("INCR n").parse().expect("a number");
        eventually("it is written", || from.run("GET n").parse::<u64>().is_ok_and(|n| n > count + 100));
        assert_eq!(from.run(&format!("FAILOVER TO 127.0.0.1 {} TIMEOUT 20000", to.port)), "OK");
        let acknowledged = threads.into_iter().map(|t| t.join().expect("it ends well")).max().unwrap_or(0);
        eventually("it is over", || from.info("master_failover_state") == "no-failover");
        assert_eq!(to.info("role"), "master");
        assert_eq!(to.run("GET n"), acknowledged.to_string());
        (from, to) = (to, from);
        eventually_or("the link is up", || to.info("master_link_status") == "up", || to.log());
    }
    assert_eq!(one.info("sync_full"), "1", "nobody had to begin anew");
    assert_eq!(two.info("sync_full"), "0", "nobody had to begin anew");
}

#[test]
fn a_role_is_not_handed_to_who_cannot_take_it() {
    let (primary, replica) = pair();
    let to = format!("FAILOVER TO 127.0.0.1 {}", replica.port);
    assert_eq!(replica.run("FAILOVER"), "ERR FAILOVER is not valid when server is a replica.");
    assert_eq!(primary.run("FAILOVER ABORT"), "ERR No failover in progress.");
    assert_eq!(primary.run("FAILOVER TO 127.0.0.1 1"), "ERR FAILOVER target HOST and PORT is not a replica.");
    assert_eq!(primary.run("FAILOVER FORCE FORCE"), "ERR syntax error");
    replica.freeze(true);
    primary.run("INCR n");
    assert_eq!(primary.run(&to), "OK");
    assert_eq!(primary.info("master_failover_state"), "waiting-for-sync");
    assert_eq!(primary.run(&to), "ERR FAILOVER already in progress.");
    assert_eq!(primary.run("REPLICAOF NO ONE"), "ERR REPLICAOF not allowed while failing over.");
    let mut waiting = primary.client();
    waiting.send(&["INCR", "n"]);
    eventually("a write waits", || primary.info("blocked_clients") == "1");
    assert_eq!(primary.run("GET n"), "1");
    assert_eq!(primary.run("FAILOVER ABORT"), "OK");
    assert_eq!(waiting.receive(), "2");
    assert_eq!(primary.info("role"), "master");
    replica.freeze(false);
}

#[test]
fn only_a_replica_of_the_same_history_takes_over() {
    let (primary, replica) = pair();
    let replid = primary.info("master_replid");
    assert_eq!(
        primary.run(&format!("PSYNC {replid} 1 FAILOVER")),
        "ERR PSYNC FAILOVER can't be sent to a master."
    );
    let other = "0".repeat(40);
    assert_eq!(
        replica.run(&format!("PSYNC {other} 1 FAILOVER")),
        "ERR PSYNC FAILOVER replid must match my replid."
    );
    assert_eq!(replica.info("role"), "slave");
}

#[test]
fn a_stock_redis_takes_over_and_gives_back() {
    let Some(stock) = Server::redis(&[]) else { return };
    let node = Server::shoal(&[]);
    stock.replicate(&node);
    eventually("the link is up", || stock.info("master_link_status") == "up");
    for (from, to) in [(&node, &stock), (&stock, &node)] {
        from.run("INCR n");
        eventually("the replica has it", || to.info("master_repl_offset") == from.info("master_repl_offset"));
        assert_eq!(from.run("FAILOVER TIMEOUT 20000"), "OK");
        let is_over = || from.info("role") == "slave" && from.info("master_link_status") == "up";
        eventually_or("it is over", is_over, || format!("{}\n---\n{}", from.log(), to.log()));
        assert_eq!(to.info("role"), "master");
    }
    assert_eq!(node.run("GET n"), "2");
    assert_eq!((node.info("sync_full").as_str(), stock.info("sync_full").as_str()), ("1", "0"));
}
