//! Order over several connections, which different workers serve: whoever has a reply finds all others told of what it
//! says.

use tests::{Client, Server, Value, wait_for};

/// More workers than connections in a test: each connection has one of its own.
fn start() -> Server {
    Server::start(&["--workers", "4", "--save", ""])
}

fn id_of(client: &mut Client) -> i64 {
    client.ok("CLIENT ID").as_int().expect("a number")
}

fn wait_for_flag(client: &mut Client, id: i64, flag: &str) {
    let line = format!("CLIENT LIST ID {id}");
    wait_for("the client's state", || client.text(&line).contains(&format!("flags={flag} ")).then_some(()));
}

/// The kind of a push message, or nothing.
fn pushed(value: &Value) -> Option<&str> {
    match value {
        Value::Push(items) => items.first()?.as_text(),
        _ => None,
    }
}

#[test]
fn the_list_of_clients_is_as_they_were_told() {
    let server = start();
    let (mut one, mut other) = (server.client(), server.client());
    let line = format!("CLIENT LIST ID {}", id_of(&mut one));
    for round in 0..300 {
        one.ok("MONITOR");
        assert!(other.text(&line).contains("flags=O "), "round {round}");
        one.ok("RESET");
        assert!(other.text(&line).contains("flags=N "), "round {round}");
    }
}

#[test]
fn who_said_goodbye_is_gone() {
    let server = start();
    let mut other = server.client();
    for round in 0..100 {
        let mut one = server.client();
        one.ok("SUBSCRIBE channel");
        one.ok("QUIT");
        assert_eq!(other.ok("PUBLISH channel x"), Value::Int(0), "round {round}");
        assert_eq!(other.text("CLIENT LIST").lines().count(), 1, "round {round}");
    }
}

#[test]
fn a_killed_client_is_neither_served_nor_told() {
    let server = start();
    let mut other = server.client();
    for round in 0..100 {
        let (mut waits, mut listens) = (server.client(), server.client());
        let ids = [id_of(&mut waits), id_of(&mut listens)];
        waits.send(&["BLPOP", "list", "0"]).unwrap();
        listens.ok("SUBSCRIBE channel");
        wait_for_flag(&mut other, ids[0], "b");
        for id in ids {
            assert_eq!(other.ok(&format!("CLIENT KILL ID {id}")), Value::Int(1));
        }
        assert_eq!(other.ok("PUBLISH channel x"), Value::Int(0), "round {round}");
        other.ok("RPUSH list a");
        assert_eq!(other.ok("LLEN list"), Value::Int(1), "round {round}");
        other.ok("DEL list");
    }
}

#[test]
fn a_client_that_was_unblocked_takes_nothing() {
    let server = start();
    let (mut waits, mut other) = (server.client(), server.client());
    let id = id_of(&mut waits);
    for round in 0..200 {
        waits.send(&["BLPOP", "list", "0"]).unwrap();
        wait_for_flag(&mut other, id, "b");
        // In one go: the push is not later than the letter to the waiting client's worker.
        other.send(&["CLIENT", "UNBLOCK", &id.to_string()]).unwrap();
        other.send(&["RPUSH", "list", "a"]).unwrap();
        assert_eq!(other.receive().unwrap(), Value::Int(1));
        assert_eq!(other.receive().unwrap(), Value::Int(1));
        assert_eq!(waits.receive().unwrap(), Value::Null, "round {round}");
        assert_eq!(other.ok("LLEN list"), Value::Int(1));
        other.ok("DEL list");
        assert_eq!(other.ok(&format!("CLIENT UNBLOCK {id}")), Value::Int(0));
    }
}

#[test]
fn messages_come_before_replies_to_what_was_sent_after_them() {
    let server = start();
    let (mut listens, mut other) = (server.client(), server.client());
    listens.ok("HELLO 3");
    listens.ok("SUBSCRIBE channel");
    listens.ok("CLIENT TRACKING ON");
    for round in 0..1000 {
        assert_eq!(other.ok("PUBLISH channel x"), Value::Int(1));
        let first = listens.call("GET key");
        assert_eq!(pushed(&first), Some("message"), "round {round}");
        listens.receive().unwrap();
        other.ok("INCR key");
        let first = listens.call("PING");
        assert_eq!(pushed(&first), Some("invalidate"), "round {round}");
        assert_eq!(listens.receive().unwrap().as_text(), Some("PONG"));
    }
}

#[test]
fn who_speaks_resp3_by_its_reply_is_told_in_resp3() {
    let server = start();
    let mut other = server.client();
    for round in 0..100 {
        let mut tracks = server.client();
        tracks.ok("HELLO 3");
        tracks.ok("CLIENT TRACKING ON");
        tracks.ok("GET key");
        other.ok("INCR key");
        assert_eq!(pushed(&tracks.call("PING")), Some("invalidate"), "round {round}");
    }
}

#[test]
fn the_largest_clients_go_first_and_the_others_stay() {
    let server = start();
    let mut other = server.client();
    other.ok("CLIENT NO-EVICT ON");
    let sizes = [100_000, 3_000_000, 500_000];
    let clients: Vec<Client> = sizes
        .iter()
        .map(|size| {
            let mut client = server.client();
            client.ok(&format!("CLIENT SETNAME c{size}"));
            client.send_raw(format!("*2\r\n${size}\r\n{}", "x".repeat(*size)).as_bytes()).unwrap();
            client
        })
        .collect();
    // Counted are the bytes that have come of the argument, as by Redis.
    wait_for("what they send", || {
        let list = other.text("CLIENT LIST");
        sizes.iter().all(|size| list.contains(&format!(" qbuf={size} "))).then_some(())
    });
    let mut left = |max: &str| {
        other.ok(&format!("CONFIG SET maxmemory-clients {max}"));
        let list = other.text("CLIENT LIST");
        sizes.map(|size| list.contains(&format!("name=c{size} ")))
    };
    assert_eq!(left("4000000"), [true, true, true]);
    assert_eq!(left("3000000"), [true, false, true]);
    assert_eq!(left("300000"), [true, false, false]);
    assert_eq!(other.info("evicted_clients"), "2");
    other.ok("CONFIG SET maxmemory 20000000");
    other.ok("CONFIG SET maxmemory-clients 1%");
    assert_eq!(other.text("CLIENT LIST").lines().count(), 2);
    other.ok("CONFIG SET maxmemory 2000000");
    assert_eq!(other.text("CLIENT LIST").lines().count(), 1);
    drop(clients);
}

#[test]
fn what_is_sent_behind_a_command_that_waits_waits_as_well() {
    let server = start();
    let (mut waits, mut other) = (server.client(), server.client());
    let id = id_of(&mut waits);
    // In one packet: one batch.
    waits.send_raw(b"SET k 1\r\nBLPOP list 0\r\nSET k 2\r\nGET k\r\n").unwrap();
    wait_for_flag(&mut other, id, "b");
    assert_eq!(other.text("GET k"), "1");
    other.ok("RPUSH list a");
    let replies: Vec<_> = (0..4).map(|_| waits.receive().unwrap()).collect();
    assert!(matches!(&replies[1], Value::Array(items) if items.len() == 2), "{replies:?}");
    assert_eq!(replies[3].as_text(), Some("2"));
}
