//! How a replica takes in a full sync (`repl-diskless-load`), and what is left of one that is cut off. The primary is played
//! by the test, so that the snapshot comes as far as it should.

#[path = "../src/replication_harness.rs"]
#[allow(dead_code)]
mod harness;

use harness::{Server, eventually, eventually_or};
use proto::resp::decode;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const MARK: &str = "0123456789012345678901234567890123456789";
/// A history that no server here has.
const OTHER: &str = "abcdefabcdefabcdefabcdefabcdefabcdefabcd";

/// A primary that sends what the test says.
struct Primary {
    listener: TcpListener,
    snapshot: Vec<u8>,
}

/// A replica's link, on which a full sync is under way.
struct Link {
    stream: TcpStream,
    /// What PSYNC said.
    asked: String,
}

/// The primary's data: `new`, and so much more that a snapshot takes some time.
fn snapshot() -> Vec<u8> {
    let server = Server::shoal(&[]);
    assert_eq!(server.run("SET new 1"), "OK");
    let mut client = server.client();
    let value = "x".repeat(10_000);
    (0..200).for_each(|i| assert_eq!(client.run(&format!("SET key:{i} {i}{value}")), "OK"));
    client.send(&["FUNCTION", "LOAD", "#!lua name=new\nredis.register_function('new', function() end)"]);
    assert_eq!(client.receive(), "new");
    client.send(&["SYNC"]);
    client.receive_file()
}

impl Primary {
    /// For one replica: one that is gone may have left a connection in the queue of its listener.
    fn new(snapshot: &[u8]) -> Primary {
        Primary { listener: TcpListener::bind("127.0.0.1:0").expect("a port"), snapshot: snapshot.to_vec() }
    }
    fn port(&self) -> u16 {
        self.listener.local_addr().expect("it listens").port()
    }
    fn lead(&self, replica: &Server) {
        assert_eq!(replica.run(&format!("REPLICAOF 127.0.0.1 {}", self.port())), "OK");
    }

    /// Answers the next link's greeting, up to the first half of the snapshot. `replid`: as PSYNC says if none is given.
    fn accept(&self, replid: Option<&str>) -> Link {
        let (mut stream, _) = self.listener.accept().expect("a replica");
        let (mut input, mut buf) = (Vec::new(), [0; 4096]);
        let asked = loop {
            let Some((value, used)) = decode(&input).expect("a replica speaks RESP") else {
                let n = stream.read(&mut buf).expect("a greeting");
                assert!(n > 0, "the replica closed the link");
                input.extend_from_slice(&buf[..n]);
                continue;
            };
            input.drain(..used);
            let words: Vec<String> = value
                .as_list()
                .expect("a command")
                .iter()
                .map(|w| w.as_text().unwrap_or("").into())
                .collect();
            match words[0].as_str() {
                "PING" => stream.write_all(b"+PONG\r\n").expect("it reads"),
                "REPLCONF" => stream.write_all(b"+OK\r\n").expect("it reads"),
                "PSYNC" => break words[1].clone(),
                other => panic!("{other} belongs into no greeting"),
            }
        };
        let replid = replid.unwrap_or(&asked);
        let head = format!("+FULLRESYNC {replid} 100\r\n$EOF:{MARK}\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        stream.write_all(&self.snapshot[..self.snapshot.len() / 2]).expect("it reads");
        Link { stream, asked }
    }
    fn finish(&self, link: &mut Link) {
        link.stream.write_all(&self.snapshot[self.snapshot.len() / 2..]).expect("it reads");
        link.stream.write_all(MARK.as_bytes()).expect("it reads");
    }
}

/// A replica with a key of its own, which has half of a snapshot.
fn half_synced(primary: &Primary, replica: &Server, replid: Option<&str>) -> Link {
    primary.lead(replica);
    let link = primary.accept(replid);
    eventually("some of it came", || {
        replica.info("master_sync_read_bytes").parse::<u64>().is_ok_and(|n| n > 0)
    });
    link
}

fn assert_synced(replica: &Server) {
    eventually_or("the link is up", || replica.info("master_link_status") == "up", || replica.log());
    assert_eq!((replica.run("EXISTS new old"), replica.run("DBSIZE")), ("1".into(), "201".into()));
    assert_eq!(replica.info("async_loading") + &replica.info("loading"), "00");
}

#[test]
fn by_way_of_a_file_the_old_data_stay_until_all_has_come() {
    let snapshot = snapshot();
    let stock = Server::redis(&[]);
    for replica in stock.into_iter().chain([Server::shoal(&[])]) {
        let primary = Primary::new(&snapshot);
        assert_eq!(replica.run("SET old 1"), "OK");
        let link = half_synced(&primary, &replica, Some(OTHER));
        let replid = link.asked.clone();
        assert_eq!((replica.run("GET old"), replica.info("loading")), ("1".into(), "0".into()));
        assert_eq!(replica.info("master_sync_in_progress"), "1");
        drop(link);
        // It is still where it was before.
        let mut link = primary.accept(Some(OTHER));
        assert_eq!((&link.asked, replica.run("GET old")), (&replid, "1".into()));
        primary.finish(&mut link);
        assert_synced(&replica);
        assert_eq!(replica.info("master_replid"), OTHER);
    }
}

#[test]
fn the_file_becomes_the_snapshot_unless_nothing_shall_be_kept() {
    let snapshot = snapshot();
    let removes = ["--rdb-del-sync-files", "yes", "--save", ""];
    for (args, is_kept) in [(&removes[..2], true), (&removes[2..], true), (&removes[..], false)] {
        let primary = Primary::new(&snapshot);
        let replica = Server::shoal(args);
        let mut link = half_synced(&primary, &replica, Some(OTHER));
        primary.finish(&mut link);
        assert_synced(&replica);
        let files = || {
            let mut files = replica.files();
            files.retain(|f| f.ends_with(".rdb"));
            files
        };
        let expected: &[&str] = if is_kept { &["dump.rdb"] } else { &[] };
        eventually_or("the files are as they should be", || files() == expected, || format!("{:?}", files()));
    }
}

#[test]
fn a_broken_snapshot_leaves_nothing_of_itself() {
    let snapshot = snapshot();
    for (way, old) in [("disabled", ""), ("on-empty-db", ""), ("swapdb", "old")] {
        let primary = Primary::new(&snapshot);
        let replica = Server::shoal(&["--repl-diskless-load", way]);
        if way != "on-empty-db" {
            assert_eq!(replica.run("SET old 1"), "OK");
        }
        let mut link = half_synced(&primary, &replica, Some(OTHER));
        let mut rest = primary.snapshot[primary.snapshot.len() / 2..].to_vec();
        let last = rest.len() - 9;
        rest[last] ^= 1;
        link.stream.write_all(&rest).expect("it reads");
        link.stream.write_all(MARK.as_bytes()).expect("it reads");
        eventually("it is noticed", || {
            replica.log().contains("Failed trying to load the MASTER synchronization DB")
        });
        // The next link comes when the one before is over.
        let _link = primary.accept(Some(OTHER));
        assert_eq!(replica.run("REPLICAOF NO ONE"), "OK");
        eventually_or("the data are as they should be", || replica.run("KEYS *") == old, || way.into());
    }
}

#[test]
fn without_keys_it_is_loaded_as_it_comes() {
    let primary = Primary::new(&snapshot());
    let replica = Server::shoal(&["--repl-diskless-load", "on-empty-db"]);
    let link = half_synced(&primary, &replica, Some(OTHER));
    assert_eq!(replica.info("loading"), "1");
    assert!(replica.run("GET new").starts_with("LOADING"));
    drop(link);
    let mut link = primary.accept(Some(OTHER));
    assert_eq!(link.asked, "?", "what is here is of no history");
    primary.finish(&mut link);
    assert_synced(&replica);
    // With keys it goes by way of a file.
    drop(link);
    let _link = primary.accept(Some(OTHER));
    eventually("some of it came", || {
        replica.info("master_sync_read_bytes").parse::<u64>().is_ok_and(|n| n > 0)
    });
    assert_eq!((replica.info("loading"), replica.run("GET new")), ("0".into(), "1".into()));
}

#[test]
fn beside_the_data_of_another_history_nothing_is_served_and_nothing_lost() {
    let primary = Primary::new(&snapshot());
    let replica = Server::shoal(&["--repl-diskless-load", "swapdb"]);
    assert_eq!(replica.run("SET old 1"), "OK");
    let link = half_synced(&primary, &replica, Some(OTHER));
    let replid = link.asked.clone();
    assert_eq!((replica.info("loading"), replica.info("async_loading")), ("1".into(), "0".into()));
    assert!(replica.run("GET old").starts_with("LOADING"));
    drop(link);
    let mut link = primary.accept(Some(OTHER));
    assert_eq!(link.asked, replid, "it is still where it was before");
    primary.finish(&mut link);
    assert_synced(&replica);
}

#[test]
fn beside_the_data_of_the_same_history_these_are_served() {
    let primary = Primary::new(&snapshot());
    let replica = Server::shoal(&["--repl-diskless-load", "swapdb", "--appendonly", "yes"]);
    assert_eq!(replica.run("SET old 1"), "OK");
    let link = half_synced(&primary, &replica, None);
    assert_eq!((replica.info("loading"), replica.info("async_loading")), ("0".into(), "1".into()));
    assert_eq!((replica.run("GET old"), replica.run("EXISTS new")), ("1".into(), "0".into()));
    for command in ["BGSAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "CONFIG SET repl-diskless-load disabled"] {
        assert!(replica.run(command).contains("LOADING"), "{command}");
    }
    assert_eq!(replica.run("CONFIG SET replica-serve-stale-data no"), "OK");
    assert!(replica.run("GET old").starts_with("MASTERDOWN"));
    assert_eq!(replica.run("CONFIG SET replica-serve-stale-data yes"), "OK");
    drop(link);
    let mut link = primary.accept(None);
    assert_ne!(link.asked, "?");
    // Those who look on see it change.
    let mut watching = replica.client();
    assert_eq!(watching.run("WATCH old"), "OK");
    let mut waiting = replica.client();
    waiting.send(&["XREAD", "BLOCK", "0", "STREAMS", "new", "0"]);
    eventually("a client waits", || replica.info("blocked_clients") == "1");
    assert_eq!(watching.run("MULTI") + &watching.run("PING"), "OKQUEUED");
    primary.finish(&mut link);
    assert_synced(&replica);
    assert_eq!(watching.run("EXEC"), "(nil)");
    assert!(waiting.receive().starts_with("WRONGTYPE"));
    assert!(replica.run("FUNCTION LIST").contains("new"));
    eventually("the log holds it", || replica.info("aof_rewrite_in_progress") == "0");
}
