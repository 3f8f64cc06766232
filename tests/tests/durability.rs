//! In-sync durability of a cluster of processes: what was acknowledged is held by every member of the in-sync set, and
//! survives the death of the primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tests::server::free_port;
use tests::{Client, Server, Value, wait_for};

/// A primary, its replica and a witness.
struct Trio {
    nodes: Vec<Server>,
    args: Vec<Vec<String>>,
    ids: Vec<String>,
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn info(server: &Server, section: &str, field: &str) -> Option<String> {
    let text = Client::connect(server.port).ok()?.try_call(&["INFO", section]).ok()?;
    let text = text.as_text()?.to_string();
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_string())
}

impl Trio {
    fn start(durability: &str, more: &[&str]) -> Trio {
        let args: Vec<Vec<String>> = (0..3)
            .map(|_| {
                let bus = free_port().to_string();
                let own =
                    ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
                let class = ["--durability", durability, "--save", ""];
                let all = own.iter().chain(&class).chain(more);
                all.map(|w| w.to_string()).collect()
            })
            .collect();
        let nodes: Vec<Server> = args.iter().map(|a| Server::start(&words(a))).collect();
        nodes[0].client().call("CLUSTER ADDSLOTSRANGE 0 16383");
        let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", nodes[0].port, args[0][5]);
        let ids: Vec<String> = nodes
            .iter()
            .map(|n| n.client().call("CLUSTER MYID").as_text().expect("an id").to_string())
            .collect();
        for node in &nodes[1..] {
            wait_for("MEET", || (!node.client().call(&meet).is_error()).then_some(()));
        }
        let follow = format!("CLUSTER REPLICATE {}", ids[0]);
        wait_for("REPLICATE", || (!nodes[1].client().call(&follow).is_error()).then_some(()));
        let trio = Trio { nodes, args, ids };
        trio.wait_whole();
        trio
    }

    /// Who serves all slots, as most see it: not one that is stopped.
    fn primary(&self) -> usize {
        wait_for("a primary that serves", || {
            (0..2).find(|i| {
                let Ok(mut client) = Client::connect(self.nodes[*i].port) else { return false };
                let role = info(&self.nodes[*i], "replication", "role");
                role.as_deref() == Some("master")
                    && client.try_call(&["GET", "nothing"]).is_ok_and(|v| !v.is_error())
            })
        })
    }

    fn copies(&self, i: usize) -> Option<String> {
        info(&self.nodes[i], "replication", "in_sync_copies")
    }

    /// Waits until both copies are in the set and a failover would succeed.
    fn wait_whole(&self) -> usize {
        wait_for("both copies in the set", || {
            let i = self.primary();
            let text = self.nodes[i].client().call("CLUSTER INFO").as_text()?.to_string();
            let is_whole = self.copies(i)? == "2" && text.contains("cluster_can_fail_over:yes");
            is_whole.then_some(i)
        })
    }

    fn kill(&mut self, i: usize) {
        self.nodes[i].kill();
    }
    fn restart(&mut self, i: usize) {
        let args = self.args[i].clone();
        self.nodes[i].restart(&words(&args));
    }
}

fn is_ok(value: &Value) -> bool {
    value.as_text() == Some("OK")
}

#[test]
fn a_silent_replica_holds_writes_until_it_is_dropped_and_is_added_again() {
    let trio = Trio::start("in-sync", &[]);
    assert_eq!(trio.ids.len(), 3);
    let mut client = trio.nodes[0].client();
    assert!(is_ok(&client.call("SET before 1")));
    let replica = &trio.nodes[1];
    // What was acknowledged is there, without any wait.
    let mut reader = replica.client();
    reader.call("READONLY");
    assert_eq!(reader.call("GET before").as_text(), Some("1"));

    replica.signal(libc::SIGSTOP);
    let started = Instant::now();
    assert!(is_ok(&client.call("SET held 1")));
    let held = started.elapsed();
    assert!(held >= Duration::from_millis(100), "acknowledged after {held:?} without the replica");
    assert!(held < Duration::from_secs(5), "the silent member held the write for {held:?}");
    assert_eq!(trio.copies(0).as_deref(), Some("1"));
    let started = Instant::now();
    assert!(is_ok(&client.call("SET alone 1")) && client.call("GET alone").as_text() == Some("1"));
    assert!(started.elapsed() < Duration::from_millis(300), "alone nothing waits for others");

    replica.signal(libc::SIGCONT);
    wait_for("it is added again", || (trio.copies(0)? == "2").then_some(()));
    assert!(is_ok(&client.call("SET after 1")));
    assert_eq!(reader.call("GET after").as_text(), Some("1"));
    assert_eq!(reader.call("GET alone").as_text(), Some("1"));
}

#[test]
fn a_read_of_what_is_not_acknowledged_waits_as_well() {
    let trio = Trio::start("in-sync", &[]);
    trio.nodes[1].signal(libc::SIGSTOP);
    let (mut writer, mut reader) = (trio.nodes[0].client(), trio.nodes[0].client());
    let started = Instant::now();
    writer.send(&["SET", "dirty", "1"]).expect("it serves");
    wait_for("the read sees it", || (reader.call("GET dirty").as_text() == Some("1")).then_some(()));
    assert!(started.elapsed() >= Duration::from_millis(100), "a dirty read after {:?}", started.elapsed());
    assert!(is_ok(&writer.receive().expect("an answer")));
    trio.nodes[1].signal(libc::SIGCONT);
}

#[test]
fn writes_are_refused_below_min_in_sync() {
    let trio = Trio::start("in-sync", &["--min-in-sync", "2"]);
    let mut client = trio.nodes[0].client();
    assert!(is_ok(&client.call("SET k 1")));
    trio.nodes[1].signal(libc::SIGSTOP);
    let refusal = wait_for("a refusal", || Some(client.call("SET k 2")).filter(Value::is_error));
    assert_eq!(refusal, Value::Error("NOREPLICAS Not enough in-sync copies to write.".into()));
    trio.nodes[1].signal(libc::SIGCONT);
    wait_for("writes go on", || is_ok(&client.call("SET k 3")).then_some(()));
}

/// Writes ever larger numbers to a key of its own, to whoever serves; returns the last that was acknowledged.
fn load(ports: Vec<u16>, key: String, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let (mut acknowledged, mut serial, mut at) = (0, 0u64, 0);
        let mut client = None;
        while !stop.load(Ordering::Relaxed) {
            serial += 1;
            if client.is_none() {
                client = Client::connect(ports[at % ports.len()]).ok();
            }
            let answer =
                client.as_mut().map(|c: &mut Client| c.try_call(&["SET", &key, &serial.to_string()]));
            match answer {
                Some(Ok(value)) if is_ok(&value) => acknowledged = serial,
                _ => {
                    (client, at) = (None, at + 1);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        acknowledged
    })
}

fn survives_kills(durability: &str, more: &[&str], rounds: usize) {
    let mut trio = Trio::start(durability, more);
    for round in 0..rounds {
        let primary = trio.wait_whole();
        let stop = Arc::new(AtomicBool::new(false));
        let ports: Vec<u16> = trio.nodes[..2].iter().map(|n| n.port).collect();
        let loads: Vec<_> =
            (0..4).map(|n| load(ports.clone(), format!("{round}:{n}"), stop.clone())).collect();
        std::thread::sleep(Duration::from_millis(150 + 37 * round as u64));
        trio.kill(primary);
        let next = 1 - primary;
        wait_for("the replica takes over", || {
            let mut client = Client::connect(trio.nodes[next].port).ok()?;
            is_ok(&client.try_call(&["SET", "taken over", "1"]).ok()?).then_some(())
        });
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Relaxed);
        let promised: Vec<u64> = loads.into_iter().map(|l| l.join().expect("the load ends well")).collect();
        let mut client = trio.nodes[next].client();
        for (n, promised) in promised.iter().enumerate() {
            assert!(*promised > 0, "round {round}: nothing was acknowledged");
            let shown = client.call(&format!("GET {round}:{n}"));
            let shown: u64 = shown.as_text().and_then(|t| t.parse().ok()).unwrap_or(0);
            assert!(shown >= *promised, "round {round}: {promised} was acknowledged, {shown} is there");
        }
        trio.restart(primary);
    }
    trio.wait_whole();
}

#[test]
fn nothing_acknowledged_is_lost_with_the_primary() {
    survives_kills("in-sync", &[], 10);
}

#[test]
fn nothing_acknowledged_is_lost_with_the_primary_in_the_fsync_class() {
    survives_kills("in-sync-fsync", &["--appendonly", "yes"], 3);
}

#[test]
fn a_script_without_end_costs_no_lease() {
    let trio = Trio::start("in-sync", &["--busy-reply-threshold", "50", "--workers", "2"]);
    let primary = &trio.nodes[0];
    let mut other = primary.client();
    let mut stuck = primary.client();
    stuck.send(&["EVAL", "redis.call('SET', KEYS[1], 1) while true do end", "1", "held"]).unwrap();
    wait_for("a slow script", || format!("{:?}", other.call("GET held")).contains("BUSY").then_some(()));
    // A snapshot meets it as well: it begins when the script has ended.
    primary.client().send(&["BGSAVE"]).unwrap();
    // Several times as long as a lease.
    let uptime = || info(primary, "server", "uptime_in_seconds").and_then(|s| s.parse::<u64>().ok());
    let began = wait_for("INFO", uptime);
    wait_for("some leases", || {
        let reply = other.call("SET elsewhere 1");
        assert!(is_ok(&reply), "the primary serves: {reply:?}");
        uptime().filter(|now| *now >= began + 4)
    });
}
