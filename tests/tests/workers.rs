//! Connections that move from worker to worker: whoever uses one does not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tests::{Client, Server, Value, wait_for};

const WORKERS: usize = 3;

fn start() -> Server {
    Server::start(&["--workers", &WORKERS.to_string(), "--save", ""])
}

fn moves(client: &mut Client) -> u64 {
    client.info("worker_moves").parse().expect("a number")
}

/// So many clients are left, and stand in the list.
fn wait_for_clients(client: &mut Client, count: usize) {
    wait_for("clients to be gone", || (client.info("connected_clients") == count.to_string()).then_some(()));
    assert_eq!(client.text("CLIENT LIST").lines().count(), count);
}

/// So many workers serve, and `least` connections have moved because of that.
fn gather(client: &mut Client, active: usize, least: u64) {
    let before = moves(client);
    client.ok(&format!("CONFIG SET workers-active {active}"));
    wait_for("connections to move", || (moves(client) >= before + least).then_some(()));
    assert_eq!(client.info("workers_active"), active.to_string());
}

/// Pipelines of writes whose replies tell their order, until the end is asked for and for a few more.
fn count_up(mut client: Client, key: &str, is_over: &AtomicBool) -> i64 {
    const PIPELINE: i64 = 20;
    let (mut count, mut left) = (0, 3);
    while left > 0 {
        left -= is_over.load(Ordering::Relaxed) as u32;
        let sent = format!("INCR {key}\r\nGET {key}\r\n").repeat(PIPELINE as usize);
        // In two pieces, so that a worker meets commands that have not come whole.
        let (first, second) = sent.as_bytes().split_at(count as usize * 7 % sent.len());
        client.send_raw(first).expect("it serves");
        client.send_raw(second).expect("it serves");
        for _ in 0..PIPELINE {
            count += 1;
            assert_eq!(client.receive().expect("it serves"), Value::Int(count));
            let got = client.receive().expect("it serves");
            assert_eq!(got.as_text(), Some(count.to_string().as_str()));
        }
    }
    count
}

#[test]
fn connections_that_are_busy_move_and_nothing_is_lost() {
    let server = start();
    let mut client = server.client();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy: Vec<_> = (0..9)
            .map(|i| {
                let (server, is_over) = (&server, &is_over);
                scope.spawn(move || count_up(server.client(), &format!("key:{i}"), is_over))
            })
            .collect();
        for active in [1, 3, 2, 1, 2, 3, 1, 3] {
            gather(&mut client, active, 1);
        }
        is_over.store(true, Ordering::Relaxed);
        for (i, busy) in busy.into_iter().enumerate() {
            let count = busy.join().expect("it counted");
            assert_eq!(client.text(&format!("GET key:{i}")), count.to_string());
        }
    });
    wait_for_clients(&mut client, 1);
}

#[test]
fn what_a_client_has_set_up_goes_with_it() {
    let server = start();
    let mut client = server.client();
    let mut others: Vec<(i64, Client)> = (0..12)
        .map(|i| {
            let mut other = server.client();
            let id = other.ok("CLIENT ID").as_int().expect("a number");
            other.ok(&format!("SELECT {}", i % 3));
            other.ok(&format!("CLIENT SETNAME name{i}"));
            if i % 2 == 0 {
                other.ok("HELLO 3");
            }
            (id, other)
        })
        .collect();
    client.ok("ACL SETUSER limited on nopass ~* +@all -get");
    others[0].1.ok("AUTH limited x");
    for active in [1, WORKERS, 1] {
        gather(&mut client, active, 8);
        for (i, (id, other)) in others.iter_mut().enumerate() {
            assert_eq!(other.ok("CLIENT ID"), Value::Int(*id));
            assert_eq!(other.text("CLIENT GETNAME"), format!("name{i}"));
            assert!(other.text("CLIENT INFO").contains(&format!(" db={} ", i % 3)));
            assert_eq!(matches!(other.ok("CONFIG GET port"), Value::Map(_)), i % 2 == 0);
        }
        assert!(others[0].1.call("GET key").is_error());
    }
    let (id, mut killed) = others.pop().expect("there are more");
    assert_eq!(client.ok(&format!("CLIENT KILL ID {id}")), Value::Int(1));
    assert!(killed.try_call(&["PING"]).is_err());
    wait_for_clients(&mut client, 12);
}

#[test]
fn what_is_under_way_ends_as_it_would_have() {
    let server = start();
    let mut client = server.client();
    // Each stands on every worker.
    let of_each = |line: &str| -> Vec<Client> {
        (0..WORKERS)
            .map(|_| {
                let mut client = server.client();
                client.ok(line);
                client
            })
            .collect()
    };
    let mut queueing = of_each("MULTI");
    queueing.iter_mut().for_each(|c| assert_eq!(c.text("INCR counted"), "QUEUED"));
    let mut watching = of_each("WATCH watched");
    let mut listening = of_each("SUBSCRIBE channel");
    let mut looking_on = of_each("MONITOR");
    let mut waiting = of_each("PING");
    waiting.iter_mut().for_each(|c| c.send(&["BLPOP", "list", "0"]).expect("it serves"));
    let mut half_said = of_each("PING");
    half_said.iter_mut().for_each(|c| c.send_raw(b"*2\r\n$3\r\nGET\r\n$7\r\ncou").expect("it serves"));
    wait_for("all to wait", || (client.info("blocked_clients") == WORKERS.to_string()).then_some(()));
    // Nothing keeps these where they are; with them each worker has looked at all of its connections.
    let mut others = of_each("PING");
    for active in [1, WORKERS, 1] {
        gather(&mut client, active, 2);
    }
    others.iter_mut().for_each(|c| assert_eq!(c.text("PING"), "PONG"));
    for queueing in &mut queueing {
        assert!(matches!(queueing.ok("EXEC"), Value::Array(replies) if replies.len() == 1));
    }
    client.ok("SET watched 1");
    for watching in &mut watching {
        assert_eq!(watching.ok("MULTI").as_text(), Some("OK"));
        assert_eq!(watching.ok("EXEC"), Value::Null);
    }
    assert_eq!(client.ok("PUBLISH channel said"), Value::Int(WORKERS as i64));
    for listening in &mut listening {
        let said = listening.receive().expect("it is told");
        assert_eq!(said.as_list().and_then(|l| l[2].as_text()), Some("said"));
    }
    client.ok("RPUSH list a b c d");
    for waiting in &mut waiting {
        assert!(waiting.receive().expect("it is served").as_list().is_some());
        assert_eq!(waiting.text("PING"), "PONG");
    }
    for half_said in &mut half_said {
        half_said.send_raw(b"nted\r\n").expect("it serves");
        assert_eq!(half_said.receive().expect("it serves").as_text(), Some(WORKERS.to_string().as_str()));
    }
    client.ok("ECHO the-last");
    for looking_on in &mut looking_on {
        wait_for("the last command", || {
            let line = looking_on.receive().expect("it is told");
            line.as_text().is_some_and(|line| line.contains("the-last")).then_some(())
        });
    }
    drop((queueing, watching, listening, looking_on, waiting, half_said, others));
    wait_for_clients(&mut client, 1);
    client.ok("CONFIG SET workers-active 0");
    wait_for("all to serve", || (client.info("workers_active") == WORKERS.to_string()).then_some(()));
}
