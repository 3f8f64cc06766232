//! What the server promised is there after whatever happened to its process, and files pass between it and Redis.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tests::server::{redis_binary, shoal_binary};
use tests::{Client, Server, Value, wait_for};

const ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always", "--save", ""];
const LOG: &[&str] = &["--appendonly", "yes", "--save", ""];
const SNAPSHOT: &[&str] = &["--appendonly", "no", "--save", ""];

/// Some of everything, in two databases, with and without expiry.
fn fill(client: &mut Client) {
    for i in 0..200 {
        client.ok(&format!("SET string:{i} value:{i}"));
    }
    client.ok("SET number 12345");
    client.ok(&format!("SET long {}", "abc".repeat(5000)));
    client.ok("SET expiring soon EX 10000");
    for i in 0..600 {
        client.ok(&format!("RPUSH list {i}"));
        client.ok(&format!("HSET hash field:{i} value:{i}"));
        client.ok(&format!("SADD set member:{i}"));
        client.ok(&format!("SADD intset {i}"));
        client.ok(&format!("ZADD zset {i}.5 member:{i}"));
    }
    client.ok("HSET small:hash a 1 b 2");
    client.ok("RPUSH small:list a b c");
    client.ok("SADD small:set a b");
    client.ok("ZADD small:zset 1 a 2 b");
    client.ok("SELECT 5");
    client.ok("SET elsewhere 1");
    client.ok("SELECT 0");
}

/// All keys with their values and whether they expire, in the words of commands that every server has.
fn content(client: &mut Client) -> Vec<String> {
    let mut content = Vec::new();
    for db in [0, 5] {
        client.ok(&format!("SELECT {db}"));
        let keys = client.ok("KEYS *");
        let mut keys: Vec<String> =
            keys.as_list().unwrap().iter().map(|k| k.as_text().unwrap().to_string()).collect();
        keys.sort();
        for key in keys {
            let read = match client.text(&format!("TYPE {key}")).as_str() {
                "string" => format!("GET {key}"),
                "list" => format!("LRANGE {key} 0 -1"),
                "set" => format!("SMEMBERS {key}"),
                "hash" => format!("HGETALL {key}"),
                "zset" => format!("ZRANGE {key} 0 -1 WITHSCORES"),
                other => panic!("{key} is a {other}"),
            };
            let mut value: Vec<String> = match client.ok(&read) {
                Value::Array(list) => list.iter().map(|v| v.as_text().unwrap().to_string()).collect(),
                one => vec![one.as_text().unwrap().to_string()],
            };
            if read.starts_with("SMEMBERS") || read.starts_with("HGETALL") {
                value.sort();
            }
            let expires = client.ok(&format!("PTTL {key}")).as_int().unwrap() > 0;
            content.push(format!("{db} {key} {expires} {}", value.join(" ")));
        }
    }
    client.ok("SELECT 0");
    content
}

fn digest(client: &mut Client) -> String {
    client.text("DEBUG DIGEST")
}

fn wait_for_rewrite(client: &mut Client) {
    wait_for("the rewrite to end", || (client.info("aof_rewrite_in_progress") == "0").then_some(()));
    assert_eq!(client.info("aof_last_bgrewrite_status"), "ok");
}

#[test]
fn a_long_reply_that_waits_for_the_disk_comes_whole() {
    let server = Server::start(ALWAYS);
    let mut client = server.client();
    // Longer than what is written in one go.
    let long = "x".repeat(1 << 20);
    client.ok(&format!("SET long {long}"));
    for round in 0..20 {
        // What is read behind the write waits with its reply.
        client.send(&["SET", "short", "1"]).expect("sent");
        client.send(&["GET", "long"]).expect("sent");
        assert_eq!(client.receive().expect("a reply"), Value::Simple("OK".into()), "round {round}");
        assert_eq!(client.receive().expect("a reply").as_text(), Some(long.as_str()), "round {round}");
    }
}

#[test]
fn every_acknowledged_write_survives_a_kill() {
    let mut server = Server::start(ALWAYS);
    const WRITERS: usize = 4;
    const ROUND: usize = 8;
    let acknowledged: Vec<AtomicU32> = (0..WRITERS).map(|_| AtomicU32::new(0)).collect();
    for life in 0..3 {
        let goal: u32 = acknowledged.iter().map(|a| a.load(Ordering::Relaxed)).sum::<u32>() + 300;
        std::thread::scope(|scope| {
            for (writer, count) in acknowledged.iter().enumerate() {
                let mut client = server.client();
                scope.spawn(move || {
                    // Ends when the server does.
                    let mut write = || -> std::io::Result<()> {
                        let first = count.load(Ordering::Relaxed);
                        for i in first..first + ROUND as u32 {
                            client.send(&["MULTI"])?;
                            client.send(&["SET", &format!("a:{writer}:{i}"), "1"])?;
                            client.send(&["SET", &format!("b:{writer}:{i}"), "1"])?;
                            client.send(&["EXEC"])?;
                        }
                        for _ in 0..ROUND {
                            (0..3).try_for_each(|_| client.receive().map(drop))?;
                            assert_eq!(client.receive()?.as_list().map(<[Value]>::len), Some(2));
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    };
                    while write().is_ok() {}
                });
            }
            let mut other = server.client();
            if life > 0 {
                other.ok("BGREWRITEAOF");
            }
            wait_for("writes to be acknowledged", || {
                (acknowledged.iter().map(|a| a.load(Ordering::Relaxed)).sum::<u32>() >= goal).then_some(())
            });
            server.kill();
        });
        server.restart(ALWAYS);
        let mut client = server.client();
        for (writer, count) in acknowledged.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            for i in 0..count + 2 * ROUND as u32 {
                let both = [("a", i), ("b", i)]
                    .map(|(side, i)| client.ok(&format!("EXISTS {side}:{writer}:{i}")).as_int() == Some(1));
                assert_eq!(both[0], both[1], "half a transaction: {writer}:{i}");
                assert!(both[0] || i >= count, "{writer}:{i} was acknowledged and is lost in life {life}");
            }
        }
    }
}

#[test]
fn a_snapshot_brings_everything_back() {
    let mut server = Server::start(SNAPSHOT);
    let mut client = server.client();
    fill(&mut client);
    client.ok("SET gone 1 PX 1");
    let before = wait_for("the key to expire", || {
        (client.ok("EXISTS gone").as_int() == Some(0)).then(|| digest(&mut client))
    });
    assert_eq!(client.text("DEBUG RELOAD"), "OK");
    assert_eq!(digest(&mut client), before);
    assert_eq!(client.text("SAVE"), "OK");
    assert_eq!(client.info("rdb_changes_since_last_save"), "0");
    client.ok("SET later 1");
    server.kill();
    server.restart(SNAPSHOT);
    let mut client = server.client();
    assert_eq!(digest(&mut client), before);
    assert!(server.log().contains("DB loaded from disk"), "{}", server.log());
    // In the background, and what is written meanwhile is not in it.
    let at = client.ok("LASTSAVE").as_int().unwrap();
    assert_eq!(client.text("BGSAVE"), "Background saving started");
    client.ok("SET later 1");
    wait_for("the save to end", || (client.info("rdb_bgsave_in_progress") == "0").then_some(()));
    assert!(client.ok("LASTSAVE").as_int().unwrap() >= at);
    server.kill();
    server.restart(SNAPSHOT);
    assert_eq!(digest(&mut server.client()), before);
}

#[test]
fn a_rewrite_under_load_loses_nothing() {
    let mut server = Server::start(LOG);
    let is_over = AtomicBool::new(false);
    fill(&mut server.client());
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (mut client, is_over) = (server.client(), &is_over);
            scope.spawn(move || {
                let mut i = 0u32;
                while !is_over.load(Ordering::Relaxed) {
                    client.ok(&format!("SELECT {}", i % 3));
                    client.ok(&format!("INCR counter:{writer}:{}", i % 100));
                    client.ok(&format!("RPUSH list {i}"));
                    client.ok("LPOP list");
                    client.ok(&format!("HSET hash field:{} {i}", i % 700));
                    i += 1;
                }
            });
        }
        let mut client = server.client();
        for _ in 0..4 {
            assert!(client.text("BGREWRITEAOF").starts_with("Background append only file rewriting"));
            wait_for_rewrite(&mut client);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let before = digest(&mut server.client());
    server.shut_down("NOSAVE");
    // One base and one increment are left.
    assert!(server.log_file(".base.rdb").to_string_lossy().contains(".5."));
    assert!(server.log_file(".incr.aof").exists());
    server.restart(LOG);
    assert_eq!(digest(&mut server.client()), before);
}

#[test]
fn a_log_switched_on_later_holds_what_was_before() {
    let mut server = Server::start(SNAPSHOT);
    let mut client = server.client();
    fill(&mut client);
    client.ok("CONFIG SET appendonly yes appendfsync always");
    wait_for_rewrite(&mut client);
    client.ok("SET after 1");
    let before = digest(&mut client);
    server.kill();
    server.restart(LOG);
    let mut client = server.client();
    assert_eq!(digest(&mut client), before);
    // Off and on again: what was written in between is in the new base.
    client.ok("CONFIG SET appendonly no");
    client.ok("SET between 1");
    client.ok("CONFIG SET appendonly yes");
    wait_for_rewrite(&mut client);
    client.ok("SET after 2");
    let before = digest(&mut client);
    server.shut_down("NOSAVE");
    server.restart(LOG);
    assert_eq!(digest(&mut server.client()), before);
}

#[test]
fn a_torn_end_of_the_log_is_cut_off_if_that_is_allowed() {
    let mut server = Server::start(LOG);
    let mut client = server.client();
    client.ok("SET a 1");
    let before = digest(&mut client);
    for torn in [
        "*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$5\r\nhal",
        "*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\n1\r\n",
    ] {
        server.shut_down("NOSAVE");
        let path = server.log_file(".incr.aof");
        let whole = fs::read(&path).unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(torn.as_bytes()).unwrap();
        let strict = [LOG, &["--aof-load-truncated", "no"]].concat();
        let (status, log) = server.restart_to_fail(&strict);
        assert!(status.code() == Some(1) && log.contains("Unexpected end of file"), "{status} {log}");
        server.restart(LOG);
        assert_eq!(digest(&mut server.client()), before);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn damaged_files_are_refused() {
    let mut server = Server::start(LOG);
    let mut client = server.client();
    client.ok("SET a 1");
    client.ok("SET b 2");
    client.ok("SAVE");
    server.shut_down("NOSAVE");
    let path = server.log_file(".incr.aof");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] = b'?';
    fs::write(&path, &bad).unwrap();
    let (status, log) = server.restart_to_fail(LOG);
    assert!(status.code() == Some(1) && log.contains("Bad file format"), "{status} {log}");
    // What a power failure leaves is let pass where that is allowed.
    fs::write(&path, [&good[..], &[0; 700]].concat()).unwrap();
    let (status, _) = server.restart_to_fail(LOG);
    assert_eq!(status.code(), Some(1));
    server.restart(&[LOG, &["--aof-load-corrupt-tail-max-size", "1kb"]].concat());
    assert_eq!(server.client().text("GET b"), "2");
    server.shut_down("NOSAVE");
    assert_eq!(fs::read(&path).unwrap(), good);
    fs::write(&path, b"*2\r\n$6\r\nNOSUCH\r\n$1\r\na\r\n").unwrap();
    let (status, log) = server.restart_to_fail(LOG);
    assert!(status.code() == Some(1) && log.contains("NOSUCH"), "{status} {log}");
    let path = server.dir.join("dump.rdb");
    let mut bad = fs::read(&path).unwrap();
    let last = bad.len() - 12;
    bad[last] ^= 1;
    fs::write(&path, &bad).unwrap();
    let (status, log) = server.restart_to_fail(SNAPSHOT);
    assert!(status.code() == Some(1) && log.contains("Fatal error loading the DB"), "{status} {log}");
}

#[test]
fn the_log_of_an_old_redis_is_taken_over() {
    let mut server = Server::start(SNAPSHOT);
    server.shut_down("NOSAVE");
    let old = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$3\r\nold\r\n";
    fs::write(server.dir.join("appendonly.aof"), old).unwrap();
    for life in 0..2 {
        server.restart(LOG);
        let mut client = server.client();
        assert_eq!(client.text("GET a"), "old");
        assert_eq!(client.ok("INCR n").as_int(), Some(life + 1));
        server.shut_down("NOSAVE");
    }
    assert!(!server.dir.join("appendonly.aof").exists());
}

#[test]
fn a_signal_ends_the_server_in_order() {
    let pid_file = ["--pidfile", "shoal.pid"];
    let mut server = Server::start(&[&["--save", "3600 1"], &pid_file[..]].concat());
    assert!(server.dir.join("shoal.pid").exists());
    server.signal(libc::SIGHUP); // as when the terminal is closed
    server.client().ok("SET a 1");
    server.signal(libc::SIGTERM);
    let status = server.wait();
    assert!(status.success() && server.log().contains("bye bye"), "{status} {}", server.log());
    assert!(!server.dir.join("shoal.pid").exists());
    server.restart(SNAPSHOT);
    let mut client = server.client();
    assert_eq!(client.text("GET a"), "1");
    client.ok("SET a 2");
    // Without save points nothing is saved.
    server.signal(libc::SIGINT);
    assert!(server.wait().success());
    server.restart(SNAPSHOT);
    assert_eq!(server.client().text("GET a"), "1");
}

#[test]
fn save_points_save_and_a_failed_save_stops_writes() {
    let mut server = Server::start(&["--save", "1 3"]);
    let mut client = server.client();
    for i in 0..5 {
        client.ok(&format!("SET key:{i} 1"));
    }
    wait_for("the save", || (client.info("rdb_saves") == "1").then_some(()));
    client.ok("CONFIG SET dbfilename no/such/folder.rdb");
    assert!(client.call("SAVE").is_error());
    let refused = client.call("SET a 1");
    assert!(matches!(&refused, Value::Error(text) if text.starts_with("MISCONF")), "{refused:?}");
    assert!(matches!(client.call("SHUTDOWN SAVE"), Value::Error(text) if text.contains("Errors trying")));
    client.ok("CONFIG SET dbfilename dump.rdb");
    client.ok("SAVE");
    client.ok("SET a 1");
    server.shut_down("SAVE");
    server.restart(SNAPSHOT);
    assert_eq!(server.client().text("GET a"), "1");
}

/// The disk stands still as long as nobody reads from the pipe that stands where the snapshot is written.
#[test]
fn who_flushes_waits_for_the_disk_and_nobody_else_does() {
    for flush in [&["FLUSHALL"][..], &["EVAL", "return redis.call('FLUSHALL')", "0"]] {
        let server = Server::start(&["--workers", "1", "--save", "3600 1"]);
        let pipe = server.dir.join("temp-snapshot.rdb");
        let path = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the path is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let (mut client, mut other) = (server.client(), server.client());
        client.ok("SET before 1");
        client.send(flush).unwrap();
        client.send(&["INCR", "n"]).unwrap();
        wait_for("the flush", || (other.ok("EXISTS before").as_int() == Some(0)).then_some(()));
        other.ok("SET n 10");
        assert_eq!(other.text("PING"), "PONG");
        // A pipe is no file for a snapshot: a flush does not fail for that.
        let read = std::thread::spawn(move || fs::read(pipe).unwrap());
        assert_eq!(client.receive().unwrap().as_text(), Some("OK"));
        assert_eq!(client.receive().unwrap().as_int(), Some(11), "what comes behind it waits as well");
        read.join().unwrap();
        assert!(server.log().contains("Error trying to save the DB after FLUSHALL"));
    }
}

#[test]
fn the_log_of_a_replica_holds_what_its_primary_sent() {
    let mut primary = Server::start(SNAPSHOT);
    let mut client = primary.client();
    fill(&mut client);
    let mut replica = Server::start(LOG);
    let mut reader = replica.client();
    reader.ok("SET own 1");
    reader.ok(&format!("REPLICAOF 127.0.0.1 {}", primary.port));
    for round in 0..3 {
        client.ok(&format!("SELECT {round}"));
        client.ok(&format!("SET round:{round} 1"));
        let expected = digest(&mut client);
        wait_for("the replica", || (digest(&mut reader) == expected).then_some(()));
        wait_for_rewrite(&mut reader);
        // The stream goes on in another database than a file begins with.
        reader.ok("BGREWRITEAOF");
        wait_for_rewrite(&mut reader);
        client.ok(&format!("SET after:{round} 1"));
    }
    let expected = digest(&mut client);
    wait_for("the replica", || (digest(&mut reader) == expected).then_some(()));
    replica.shut_down("NOSAVE");
    replica.restart(LOG);
    assert_eq!(digest(&mut replica.client()), expected);
    drop(replica);
    // The primary gives its replicas time to get the last writes.
    let mut replica = Server::start(SNAPSHOT);
    let mut reader = replica.client();
    reader.ok(&format!("REPLICAOF 127.0.0.1 {}", primary.port));
    wait_for("the replica", || (digest(&mut reader) == expected).then_some(()));
    wait_for("it to be online", || client.info("slave0").contains("state=online").then_some(()));
    client.ok("SET last 1");
    primary.shut_down("NOSAVE");
    assert_eq!(reader.text("SELECT 2"), "OK");
    assert_eq!(reader.text("GET last"), "1");
    replica.kill();
}

#[test]
fn files_pass_between_redis_and_us() {
    let Some(redis) = redis_binary() else {
        eprintln!("redis-server is not installed: nothing was tested");
        return;
    };
    let mut ours = Server::start(LOG);
    let mut client = ours.client();
    fill(&mut client);
    client.ok("BGREWRITEAOF");
    wait_for_rewrite(&mut client);
    client.ok("SET after:rewrite 1");
    for line in ["MULTI", "SET in:multi 1", "SELECT 5", "INCR in:multi", "SELECT 0", "EXEC"] {
        client.ok(line);
    }
    client.ok("SAVE");
    let expected = content(&mut client);
    assert!(expected.len() > 200);
    ours.shut_down("NOSAVE");
    for args in [LOG, SNAPSHOT] {
        let mut theirs = ours.follow(redis, args);
        assert_eq!(content(&mut theirs.client()), expected, "{}", theirs.log());
        theirs.shut_down("NOSAVE");
    }
    // And back, from what Redis wrote: its base and increment, its snapshot.
    let mut theirs = ours.follow(redis, LOG);
    let mut client = theirs.client();
    client.ok("BGREWRITEAOF");
    wait_for_rewrite(&mut client);
    client.ok("SET of:redis 1");
    client.ok("SAVE");
    let expected = content(&mut client);
    theirs.shut_down("NOSAVE");
    for args in [LOG, SNAPSHOT] {
        let mut again = ours.follow(shoal_binary(), args);
        assert_eq!(content(&mut again.client()), expected, "{}", again.log());
        again.shut_down("NOSAVE");
    }
}
