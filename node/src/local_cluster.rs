//! `--local-cluster N`: a cluster of N separate processes on this machine, for trying things out. Half of them (at least
//! one) are primaries, the others their replicas. Ends with all of them.

use proto::resp::{Value, decode, encode_command};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NODES_MAX: usize = 50;
const FIRST_PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    port: u16,
    process: Child,
}

/// Forms the cluster and stays until it is told to end. `options` go to every node. `Err`: why it could not be formed.
pub fn run(nodes: usize, options: &[String]) -> Result<(), String> {
    if !(1..=NODES_MAX).contains(&nodes) {
        return Err(format!("--local-cluster takes 1 to {NODES_MAX} nodes"));
    }
    let dir = std::env::temp_dir().join(format!("shoal-local-{}", std::process::id()));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    // Signals are caught before the first child exists, so that none is left behind.
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(|e| e.to_string())?;
    let mut cluster = start_all(nodes, options, &dir)?;
    let result = form(&mut cluster).map(|()| {
        announce(&cluster, &dir);
        runtime.block_on(signals.wait());
        println!("Stopping {nodes} nodes");
    });
    stop_all(&mut cluster);
    let _ = std::fs::remove_dir_all(&dir);
    result
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
    async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn start_all(nodes: usize, options: &[String], dir: &std::path::Path) -> Result<Vec<Node>, String> {
    let program = std::env::current_exe().map_err(|e| format!("this binary cannot be found: {e}"))?;
    let mut cluster = Vec::new();
    for port in free_ports(nodes)? {
        match start(&program, port, options, dir.join(port.to_string())) {
            Ok(process) => cluster.push(Node { port, process }),
            Err(error) => {
                stop_all(&mut cluster);
                return Err(format!("node {port} could not be started: {error}"));
            }
        }
    }
    Ok(cluster)
}

/// Ports whose bus ports are free as well, counted from 7000.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let ports: Vec<u16> =
        (FIRST_PORT..20_000).filter(|p| is_free(*p) && is_free(p + 10_000)).take(count).collect();
    if ports.len() == count { Ok(ports) } else { Err("no free ports between 7000 and 20000".into()) }
}

fn start(program: &PathBuf, port: u16, options: &[String], dir: PathBuf) -> std::io::Result<Child> {
    std::fs::create_dir_all(&dir)?;
    let log = std::fs::File::create(dir.join("log"))?;
    let parent = std::process::id();
    let mut command = Command::new(program);
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(&dir)
        .args([
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-announce-ip",
            "127.0.0.1",
        ])
        .args(["--save", "", "--appendonly", "yes", "--workers", "1"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: both calls are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            // A node ends with the launcher, however that ends; its own terminal signals come through the launcher.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            libc::setpgid(0, 0);
            if libc::getppid() as u32 != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    command.spawn()
}

fn stop_all(cluster: &mut [Node]) {
    for node in cluster.iter() {
        // SAFETY: the process is our child and was not waited for, so that its id is still its own.
        unsafe { libc::kill(node.process.id() as libc::pid_t, libc::SIGTERM) };
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    for node in cluster.iter_mut() {
        while !matches!(node.process.try_wait(), Ok(Some(_))) {
            if Instant::now() > deadline {
                let _ = node.process.kill();
                let _ = node.process.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn form(cluster: &mut [Node]) -> Result<(), String> {
    let ports: Vec<u16> = cluster.iter().map(|n| n.port).collect();
    let primaries = (ports.len() / 2).max(1);
    for node in cluster.iter_mut() {
        poll("a node to answer", || {
            if let Ok(Some(status)) = node.process.try_wait() {
                return Err(format!("node {} ended with {status}", node.port));
            }
            Ok(call(node.port, &["PING"]).is_ok_and(|v| v.as_text() == Some("PONG")))
        })?;
    }
    for (i, port) in ports[..primaries].iter().enumerate() {
        let bound = |i: usize| (i * proto::Slot::COUNT / primaries).to_string();
        let last = ((i + 1) * proto::Slot::COUNT / primaries - 1).to_string();
        retry(*port, &["CLUSTER", "ADDSLOTSRANGE", &bound(i), &last])?;
    }
    for port in &ports[1..] {
        retry(
            *port,
            &["CLUSTER", "MEET", "127.0.0.1", &ports[0].to_string(), &(ports[0] + 10_000).to_string()],
        )?;
    }
    let expected = format!("cluster_known_nodes:{}", ports.len());
    for port in &ports {
        poll("the nodes to meet", || Ok(info(*port, "CLUSTER").contains(&expected)))?;
    }
    for (i, port) in ports[primaries..].iter().enumerate() {
        let of = text(&call(ports[i % primaries], &["CLUSTER", "MYID"])?);
        retry(*port, &["CLUSTER", "REPLICATE", &of])?;
    }
    for (i, port) in ports.iter().enumerate() {
        poll("the cluster to serve", || Ok(info(*port, "CLUSTER").contains("cluster_state:ok")))?;
        if i >= primaries {
            poll("the replicas to follow", || Ok(info(*port, "INFO").contains("master_link_status:up")))?;
        }
    }
    if ports.len() >= 3 {
        poll("enough voters", || Ok(info(ports[0], "CLUSTER").contains("cluster_can_fail_over:yes")))?;
    }
    Ok(())
}

fn info(port: u16, command: &str) -> String {
    let words: &[&str] = if command == "INFO" { &["INFO", "replication"] } else { &["CLUSTER", "INFO"] };
    call(port, words).map(|v| text(&v)).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_text().unwrap_or_default().to_string()
}

/// Asks until the answer is no error: decisions may meet each other at first.
fn retry(port: u16, words: &[&str]) -> Result<(), String> {
    let mut last = String::new();
    poll(&format!("`{}`", words.join(" ")), || match call(port, words)? {
        Value::Error(error) => {
            last = error;
            Ok(false)
        }
        _ => Ok(true),
    })
    .map_err(|e| format!("{e}: {last}"))
}

fn poll(what: &str, mut is_done: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if is_done()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("waited in vain for {what}"))
}

fn call(port: u16, words: &[&str]) -> Result<Value, String> {
    let fail = |e: std::io::Error| format!("node {port}: {e}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(15))).map_err(fail)?;
    let mut request = Vec::new();
    encode_command(words, &mut request);
    stream.write_all(&request).map_err(fail)?;
    let (mut reply, mut chunk) = (Vec::new(), [0u8; 4096]);
    loop {
        match decode(&reply) {
            Ok(Some((value, _))) => return Ok(value),
            Ok(None) => {}
            Err(error) => return Err(format!("node {port}: {}", error.0)),
        }
        match stream.read(&mut chunk).map_err(fail)? {
            0 => return Err(format!("node {port} closed the connection")),
            n => reply.extend_from_slice(&chunk[..n]),
        }
    }
}

fn announce(cluster: &[Node], dir: &std::path::Path) {
    let ports: Vec<String> = cluster.iter().map(|n| n.port.to_string()).collect();
    let primaries = (cluster.len() / 2).max(1);
    println!(
        "A cluster of {primaries} primaries and {} replicas serves on 127.0.0.1, ports {}.",
        cluster.len() - primaries,
        ports.join(" ")
    );
    println!("Connect:   redis-cli -c -p {}     or     shoal-cli -p {}", ports[0], ports[0]);
    println!("Look:      shoal-cli cluster check 127.0.0.1:{}", ports[0]);
    println!("Files:     {}", dir.display());
    println!("Ctrl-C stops all nodes and removes their files.");
}
