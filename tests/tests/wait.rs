//! WAIT and WAITAOF between processes: whose disks have what a client wrote, and what ends a wait.

#[path = "../src/replication_harness.rs"]
#[allow(dead_code)]
mod harness;

use harness::{Client, Server, eventually};

const LOG: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn write(server: &Server) -> Client {
    let mut client = server.client();
    assert_eq!(client.run("INCR n"), "1");
    client
}

#[test]
fn our_own_log_is_waited_for() {
    let node = Server::shoal(&LOG);
    let mut client = write(&node);
    assert_eq!(client.run("WAITAOF 1 0 0"), "1 0");
    assert_eq!(client.run("WAITAOF 1 1 10"), "1 0", "nobody follows");
    // A second's syncs are waited for.
    client.run("CONFIG SET appendfsync everysec");
    client.run("INCR n");
    assert_eq!(client.run("WAITAOF 1 0 0"), "1 0");
    client.run("CONFIG SET appendfsync no");
    client.run("INCR n");
    assert_eq!(client.run("WAITAOF 1 0 10"), "0 0");
    client.send(&["WAITAOF", "1", "0", "0"]);
    eventually("it waits", || node.info("blocked_clients") == "1");
    assert_eq!(node.run("CONFIG SET appendfsync always"), "OK");
    node.run("INCR n");
    assert_eq!(client.receive(), "1 0", "a sync of what others wrote is a sync");
}

#[test]
fn without_a_log_nobody_waits_for_it() {
    let node = Server::shoal(&[]);
    let mut client = write(&node);
    let error = "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.";
    assert_eq!(client.run("WAITAOF 1 0 0"), error);
    assert_eq!(client.run("WAITAOF 0 0 0"), "0 0");
    assert_eq!(client.run("WAITAOF 2 0 0"), "ERR value is out of range, value must between 0 and 1");
    assert_eq!(client.run("WAITAOF 0 -1 0"), "ERR value is out of range, must be positive");
    assert_eq!(client.run("WAITAOF 0 0 -1"), "ERR timeout is negative");
    // Where nobody may wait there is an answer all the same.
    client.run("MULTI");
    client.run("WAITAOF 0 1 0");
    assert_eq!(client.run("EXEC"), "0 0");
    client.send(&["EVAL", "return redis.call('waitaof', 0, 1, 0)", "0"]);
    assert_eq!(client.receive(), "0 0");
}

#[test]
fn a_log_that_is_turned_off_ends_the_wait_for_it() {
    let node = Server::shoal(&["--appendonly", "yes", "--appendfsync", "no"]);
    let mut client = write(&node);
    client.send(&["WAITAOF", "1", "0", "0"]);
    eventually("it waits", || node.info("blocked_clients") == "1");
    assert_eq!(node.run("CONFIG SET appendonly no"), "OK");
    assert!(client.receive().starts_with("ERR WAITAOF cannot be used when numlocal is set"));
    eventually("it waits no more", || node.info("blocked_clients") == "0");
}

#[test]
fn disks_of_replicas_are_waited_for() {
    let (primary, replica, forgetful) = (Server::shoal(&LOG), Server::shoal(&LOG), Server::shoal(&[]));
    for server in [&replica, &forgetful] {
        server.replicate(&primary);
        eventually("the link is up", || server.info("master_link_status") == "up");
    }
    eventually("its log is whole", || replica.info("aof_rewrite_in_progress") == "0");
    let mut client = write(&primary);
    assert_eq!(client.run("WAITAOF 1 1 20000"), "1 1");
    assert_eq!(client.run("WAIT 2 20000"), "2");
    assert_eq!(client.run("WAITAOF 0 2 100"), "1 1", "the other has no log");
    // A replica that syncs each second says so when it has.
    replica.run("CONFIG SET appendfsync everysec");
    client.run("INCR n");
    assert_eq!(client.run("WAITAOF 0 1 20000"), "1 1");
    assert!(replica.run("WAITAOF 0 0 0").starts_with("ERR WAITAOF cannot be used with replica instances."));
}

#[test]
fn a_client_can_be_unblocked_while_it_waits() {
    let node = Server::shoal(&[]);
    let mut client = write(&node);
    let id = client.run("CLIENT ID");
    for (command, reason, answer) in [
        ("WAIT 1 0", "TIMEOUT", "0"),
        ("WAITAOF 0 1 0", "TIMEOUT", "0 0"),
        ("WAIT 1 0", "ERROR", "UNBLOCKED client unblocked via CLIENT UNBLOCK"),
    ] {
        client.send(&command.split(' ').collect::<Vec<_>>());
        eventually("it waits", || node.info("blocked_clients") == "1");
        assert_eq!(node.run(&format!("CLIENT UNBLOCK {id} {reason}")), "1");
        assert_eq!(client.receive(), answer);
        assert_eq!(node.info("blocked_clients"), "0");
    }
    assert_eq!(node.run(&format!("CLIENT UNBLOCK {id}")), "0");
}
