//! One run: form the cluster, write while faults come and go, then all is healed: the cluster must serve, and everything
//! that was promised must be there.

use super::client::{Answer, Client, PORT};
use super::env::SimEnv;
use super::oracle::Oracle;
use super::plan::{Durability, Fault, Plan};
use node::config::load_args;
use proto::resp::Value;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};
use turmoil::Sim;

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// Changes whenever anything that a client saw, or when it saw it, changes.
    pub trace: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub sim_ms: u64,
    pub faults: usize,
    /// Connections that went from one worker to another.
    pub moves: u64,
    /// Broken promises, and what did not come back; empty: all is well.
    pub failures: Vec<String>,
}

/// What clients and the director of faults share.
#[derive(Default)]
struct Stage {
    oracle: RefCell<Oracle>,
    is_formed: Cell<bool>,
    is_over: Cell<bool>,
    is_judged: Cell<bool>,
    trace: Cell<u64>,
    is_told: Cell<bool>,
    failures: RefCell<Vec<String>>,
    /// Requests of the director that an administrator carries out.
    orders: RefCell<Vec<Fault>>,
    /// Who is primary of each shard's slots, as last seen: index of the host.
    primaries: RefCell<Vec<usize>>,
}

impl Stage {
    fn note(&self, what: &str) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_micros() as u64;
        if self.is_told.get() {
            println!("{:>10.3} {what}", at as f64 / 1e6);
        }
        let mut hash = self.trace.get() ^ at.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for byte in what.bytes() {
            hash = (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.trace.set(hash.rotate_left(5));
    }
    fn fail(&self, what: String) {
        self.failures.borrow_mut().push(what);
    }
}

const NODE_TIMEOUT_MS: u64 = 1000;
/// Longest time that a healed cluster may take to serve everything.
const HEAL_MAX: Duration = Duration::from_secs(60);

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> Report {
    let stage = Rc::new(Stage::default());
    stage.is_told.set(plan.is_told);
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .epoch(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .simulation_duration(Duration::from_secs(900))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(plan.latency_ms_max))
        .tcp_capacity(65_536)
        .build();
    let envs: Vec<SimEnv> = (0..plan.nodes())
        .map(|i| SimEnv::new(plan.seed.wrapping_mul(31) + i as u64 * 977 + 7, plan.drift_ppm[i], 0))
        .collect();
    for (i, env) in envs.iter().enumerate() {
        host(&mut sim, i, env.clone(), plan.workers, plan.durability);
    }
    let ips: Vec<IpAddr> = (0..plan.nodes()).map(|i| sim.lookup(name(i))).collect();
    for c in 0..plan.clients {
        let (stage, ips, seed, durability) = (stage.clone(), ips.clone(), plan.seed, plan.durability);
        sim.client(format!("client-{c}"), async move {
            write(c, ips, stage, seed, durability).await;
            Ok(())
        });
    }
    {
        let (stage, ips, shards) = (stage.clone(), ips.clone(), plan.shards);
        sim.client("admin", async move {
            administer(ips, shards, stage).await;
            Ok(())
        });
    }
    direct(&mut sim, plan, &envs, &stage);
    let oracle = stage.oracle.borrow();
    Report {
        seed: plan.seed,
        trace: stage.trace.get(),
        acknowledged: oracle.acknowledged,
        unknown: oracle.unknown,
        sim_ms: sim.elapsed().as_millis() as u64,
        faults: plan.faults.len(),
        moves: envs.iter().map(SimEnv::moves).sum(),
        failures: stage.failures.borrow().clone(),
    }
}

fn name(i: usize) -> String {
    format!("node-{i}")
}

fn host(sim: &mut Sim<'_>, i: usize, env: SimEnv, workers: usize, durability: Durability) {
    sim.host(name(i), move || {
        let env = env.clone();
        async move {
            env.begin();
            let (port, timeout, workers) =
                (PORT.to_string(), NODE_TIMEOUT_MS.to_string(), workers.to_string());
            let args: Vec<String> = [
                ["--port", &port],
                ["--bind", "0.0.0.0"],
                ["--save", ""],
                ["--appendonly", "yes"],
                // In memory the set alone keeps the promises.
                ["--appendfsync", if durability == Durability::InSync { "everysec" } else { "always" }],
                ["--durability", durability.name()],
                ["--cluster-enabled", "yes"],
                ["--cluster-node-timeout", &timeout],
                ["--workers", &workers],
                ["--protected-mode", "no"],
            ]
            .iter()
            .flatten()
            .map(|w| w.to_string())
            .collect();
            let config =
                load_args(&args, &|_| Err(std::io::ErrorKind::NotFound.into()), &mut || Ok(String::new()));
            let config = config.map_err(|e| e.to_string())?;
            if let Err(error) = node::run(env.clone(), config).await {
                // A node that cannot start has ended, as its process would.
                node::Env::exit(&env, 1);
                eprintln!("node-{i}: {error}");
            }
            // The director takes the host down; until then it only is there.
            std::future::pending::<()>().await;
            Ok(())
        }
    });
}

/// Steps the simulation and lets the faults happen.
fn direct(sim: &mut Sim<'_>, plan: &Plan, envs: &[SimEnv], stage: &Rc<Stage>) {
    let until = |sim: &mut Sim<'_>, is_done: &dyn Fn() -> bool, what: &str| {
        let deadline = sim.elapsed() + HEAL_MAX;
        while !is_done() && !stage.is_judged.get() {
            if sim.elapsed() > deadline {
                stage.fail(format!("in vain: {what}"));
                stage.is_judged.set(true);
            }
            step(sim, stage, envs);
        }
    };
    until(sim, &|| stage.is_formed.get(), "the cluster forms");
    for (gap_ms, fault) in &plan.faults {
        wait(sim, stage, envs, *gap_ms);
        let primary = |shard: usize| stage.primaries.borrow().get(shard).copied();
        stage.note(&format!("{fault:?}"));
        match *fault {
            Fault::CrashPrimary { shard, down_ms } => {
                if let Some(i) = primary(shard) {
                    crash(sim, &[i], down_ms, stage, envs, false);
                }
            }
            Fault::CrashReplica { shard, down_ms } => {
                if let Some(i) = replica_of(plan, stage, shard) {
                    crash(sim, &[i], down_ms, stage, envs, false);
                }
            }
            Fault::CutPrimary { shard, for_ms } => {
                if let Some(i) = primary(shard) {
                    for j in (0..plan.nodes()).filter(|j| *j != i) {
                        sim.partition(name(i), name(j));
                    }
                    wait(sim, stage, envs, for_ms);
                    for j in (0..plan.nodes()).filter(|j| *j != i) {
                        sim.repair(name(i), name(j));
                    }
                }
            }
            Fault::PowerFailure { down_ms } => {
                let all: Vec<usize> = (0..plan.nodes()).collect();
                crash(sim, &all, down_ms, stage, envs, true);
            }
            Fault::MoveSlots { .. } | Fault::HandOver { .. } => {
                stage.orders.borrow_mut().push(*fault);
                until(sim, &|| stage.orders.borrow().is_empty(), "an order is carried out");
            }
        }
        // A shard of two copies stands the next fault only when both are whole again.
        stage.is_formed.set(false);
        until(sim, &|| stage.is_formed.get(), "the cluster heals");
    }
    wait(sim, stage, envs, 500);
    stage.is_over.set(true);
    until(sim, &|| stage.is_judged.get(), "the end is judged");
}

fn wait(sim: &mut Sim<'_>, stage: &Stage, envs: &[SimEnv], ms: u64) {
    let end = sim.elapsed() + Duration::from_millis(ms);
    while sim.elapsed() < end && !stage.is_judged.get() {
        step(sim, stage, envs);
    }
}

fn step(sim: &mut Sim<'_>, stage: &Stage, envs: &[SimEnv]) {
    if let Err(error) = sim.step() {
        stage.fail(format!("the simulation ended: {error}"));
        stage.is_judged.set(true);
    }
    for (i, env) in envs.iter().enumerate() {
        if let Some(code) = env.take_exit() {
            stage.fail(format!("node-{i} ended by itself with {code}"));
            stage.is_judged.set(true);
        }
    }
}

fn crash(sim: &mut Sim<'_>, nodes: &[usize], down_ms: u64, stage: &Stage, envs: &[SimEnv], is_power: bool) {
    for i in nodes {
        sim.crash(name(*i));
        if is_power {
            envs[*i].mem_disk().crash(stage.trace.get() ^ *i as u64);
        }
    }
    wait(sim, stage, envs, down_ms);
    for i in nodes {
        sim.bounce(name(*i));
    }
}

fn replica_of(plan: &Plan, stage: &Stage, shard: usize) -> Option<usize> {
    let primary = *stage.primaries.borrow().get(shard)?;
    // Shard s began with hosts s and s + shards.
    let first = primary % plan.shards;
    (0..plan.nodes()).find(|i| i % plan.shards == first && *i != primary)
}

/// Writes ever larger numbers to keys of its own. A write counts as promised when it is durable at its primary (the reply
/// waits for that) and at a replica (WAIT); in the in-sync classes as soon as it is answered.
async fn write(me: usize, ips: Vec<IpAddr>, stage: Rc<Stage>, seed: u64, durability: Durability) {
    const KEYS: u64 = 8;
    let mut client = Client::new(ips);
    let mut serial = 0u64;
    let mut dice = seed ^ (me as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while !stage.is_over.get() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if !stage.is_formed.get() && serial == 0 {
            continue;
        }
        serial += 1;
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let key = format!("client-{me}:{}", dice % KEYS);
        let value = serial.to_string();
        stage.oracle.borrow_mut().sent(&key, serial);
        stage.note(&format!("{key}={value}?"));
        let (answer, node) = client.keyed(&key, &["SET", &key, &value], dice >> 8).await;
        match answer {
            Answer::Reply(Value::Simple(ok)) if ok == "OK" && durability != Durability::Async => {
                stage.oracle.borrow_mut().acknowledged(&key, serial);
                stage.note(&format!("{key}={value}"));
            }
            Answer::Reply(Value::Simple(ok)) if ok == "OK" => {
                let waited = client.ask(node, &["WAIT", "1", "800"]).await;
                if matches!(waited, Answer::Reply(Value::Int(n)) if n >= 1) {
                    stage.oracle.borrow_mut().acknowledged(&key, serial);
                    stage.note(&format!("{key}={value} at {node}"));
                } else {
                    stage.oracle.borrow_mut().unknown += 1;
                }
            }
            Answer::Reply(Value::Error(_)) => stage.oracle.borrow_mut().refused(&key, serial),
            _ => stage.oracle.borrow_mut().unknown += 1,
        }
        if durability != Durability::Async && dice.is_multiple_of(5) {
            look(&mut client, &key, dice >> 8, &stage).await;
        }
    }
}

/// Reads what was just written: it shows no less than was acknowledged, and what it shows is a promise (D14).
async fn look(client: &mut Client, key: &str, pick: u64, stage: &Stage) {
    let (answer, _) = client.keyed(key, &["GET", key], pick).await;
    let Answer::Reply(value) = answer else { return };
    if value.is_error() {
        return;
    }
    let shown = value.as_text().and_then(|t| t.parse().ok()).unwrap_or(0);
    stage.note(&format!("{key} shows {shown}"));
    if let Err(broken) = stage.oracle.borrow_mut().shown(key, shown) {
        stage.fail(broken);
    }
}

/// Forms the cluster, carries out orders, watches until all is whole, and judges the end.
async fn administer(ips: Vec<IpAddr>, shards: usize, stage: Rc<Stage>) {
    let mut client = Client::new(ips.clone());
    form(&mut client, &ips, shards).await;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if is_whole(&mut client, &ips, shards, &stage).await {
            stage.is_formed.set(true);
        }
        let order = stage.orders.borrow().first().copied();
        if let Some(order) = order {
            carry_out(&mut client, &ips, shards, &stage, order).await;
            stage.orders.borrow_mut().clear();
        }
        if stage.is_over.get() && stage.is_formed.get() {
            judge(&mut client, &stage).await;
            stage.is_judged.set(true);
            return;
        }
    }
}

async fn insist(client: &mut Client, node: IpAddr, words: &[&str]) {
    for _ in 0..400 {
        match client.ask(node, words).await {
            Answer::Reply(value) if !value.is_error() => return,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn form(client: &mut Client, ips: &[IpAddr], shards: usize) {
    let bound = |i: usize| i * proto::Slot::COUNT / shards;
    for (i, ip) in ips.iter().enumerate().take(shards) {
        let (first, last) = (bound(i).to_string(), (bound(i + 1) - 1).to_string());
        insist(client, *ip, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
    }
    let (first, port) = (ips[0].to_string(), PORT.to_string());
    for ip in &ips[1..] {
        insist(client, *ip, &["CLUSTER", "MEET", &first, &port]).await;
    }
    for (i, ip) in ips.iter().enumerate().skip(shards) {
        for _ in 0..400 {
            let Answer::Reply(id) = client.ask(ips[i % shards], &["CLUSTER", "MYID"]).await else { continue };
            let id = id.as_text().unwrap_or_default().to_string();
            if matches!(client.ask(*ip, &["CLUSTER", "REPLICATE", &id]).await, Answer::Reply(v) if !v.is_error())
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether every node serves and follows, and a failover would succeed. Notes who is primary where.
async fn is_whole(client: &mut Client, ips: &[IpAddr], shards: usize, stage: &Stage) -> bool {
    let mut primaries: Vec<(u64, usize)> = Vec::new();
    for (i, ip) in ips.iter().enumerate() {
        let Answer::Reply(info) = client.ask(*ip, &["CLUSTER", "INFO"]).await else { return false };
        let info = info.as_text().unwrap_or_default().to_string();
        let known = format!("cluster_known_nodes:{}", ips.len());
        if !info.contains("cluster_state:ok") || !info.contains(&known) || !info.contains("can_fail_over:yes")
        {
            return false;
        }
        let Answer::Reply(role) = client.ask(*ip, &["INFO", "replication"]).await else { return false };
        let role = role.as_text().unwrap_or_default().to_string();
        if role.contains("role:master") {
            if !role.contains("connected_slaves:1") || !role.contains("state=online") {
                return false;
            }
            if role.contains("in_sync_copies:") && !role.contains("in_sync_copies:2") {
                return false;
            }
            let Answer::Reply(nodes) = client.ask(*ip, &["CLUSTER", "NODES"]).await else { return false };
            let nodes = nodes.as_text().unwrap_or_default().to_string();
            let mine = nodes.lines().find(|l| l.contains("myself")).unwrap_or_default();
            let last: Option<u64> =
                mine.split(' ').nth(8).and_then(|r| r.split('-').next_back()).and_then(|n| n.parse().ok());
            primaries.push((last.unwrap_or(0), i));
        } else if !role.contains("master_link_status:up") {
            return false;
        }
    }
    primaries.sort_unstable();
    if primaries.len() != shards {
        return false;
    }
    let primaries: Vec<usize> = primaries.into_iter().map(|(_, i)| i).collect();
    if *stage.primaries.borrow() != primaries {
        stage.note(&format!("primaries are {primaries:?}"));
    }
    *stage.primaries.borrow_mut() = primaries;
    true
}

async fn carry_out(client: &mut Client, ips: &[IpAddr], shards: usize, stage: &Stage, order: Fault) {
    let primaries = stage.primaries.borrow().clone();
    match order {
        Fault::HandOver { shard } => {
            let Some(primary) = primaries.get(shard) else { return };
            let replica = (0..ips.len()).find(|i| i % shards == primary % shards && i != primary);
            if let Some(replica) = replica {
                // A refusal is an answer as well: the shard stays as it is.
                client.ask(ips[replica], &["CLUSTER", "FAILOVER"]).await;
            }
        }
        Fault::MoveSlots { from } => {
            let Some(source) = primaries.get(from) else { return };
            let target = primaries[(from + 1) % primaries.len()];
            let Answer::Reply(nodes) = client.ask(ips[*source], &["CLUSTER", "NODES"]).await else { return };
            let nodes = nodes.as_text().unwrap_or_default().to_string();
            let mine = nodes.lines().find(|l| l.contains("myself")).unwrap_or_default();
            let Some(range) = mine.split(' ').nth(8) else { return };
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else { return };
            let last = first + (last - first) / 3;
            let Answer::Reply(id) = client.ask(ips[target], &["CLUSTER", "MYID"]).await else { return };
            let id = id.as_text().unwrap_or_default().to_string();
            let (first, last) = (first.to_string(), last.to_string());
            let words = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &first, &last, "NODE", &id];
            client.ask(ips[*source], &words).await;
            for _ in 0..400 {
                let Answer::Reply(moves) = client.ask(ips[*source], &["CLUSTER", "GETSLOTMIGRATIONS"]).await
                else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let text = format!("{moves:?}");
                if !["connecting", "snapshotting", "replicating", "paused", "granted"]
                    .iter()
                    .any(|s| text.contains(s))
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            stage.fail("a slot migration did not end".into());
        }
        _ => {}
    }
}

/// Reads every key that was written and compares it with what was promised.
async fn judge(client: &mut Client, stage: &Stage) {
    let keys = stage.oracle.borrow().keys();
    for (i, key) in keys.iter().enumerate() {
        let mut value = None;
        for attempt in 0..100 {
            let (answer, _) = client.keyed(key, &["GET", key], (i + attempt) as u64).await;
            match answer {
                Answer::Reply(v) if !v.is_error() => {
                    value = Some(v.as_text().and_then(|t| t.parse().ok()));
                    break;
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        match value {
            None => stage.fail(format!("{key} cannot be read")),
            Some(value) => {
                stage.note(&format!("{key} is {value:?}"));
                if let Err(broken) = stage.oracle.borrow().judge(key, value) {
                    stage.fail(broken);
                }
            }
        }
    }
}
