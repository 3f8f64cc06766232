//! Processes and clients for the tests of replication: starts servers, speaks RESP, waits by looking again.

use proto::resp::{Value, decode, encode_command};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest time anything may take here.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server process with a folder of its own. Killed when dropped.
pub struct Server {
    child: Child,
    program: PathBuf,
    args: Vec<String>,
    pub port: u16,
    dir: PathBuf,
}

/// The server of this build.
fn shoal() -> PathBuf {
    let exe = std::env::current_exe().expect("the test knows where it is");
    let target = exe.parent().and_then(Path::parent).expect("a folder of the build");
    let server = target.join("shoal-server");
    if !server.exists() {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let status = Command::new(cargo).args(["build", "-p", "node"]).status();
        assert!(status.is_ok_and(|s| s.success()), "the server can be built");
    }
    server
}

/// A port that nobody uses now: each once in this process, and outside the range that the kernel gives to clients and
/// of the ports of a cluster's bus, 10000 above.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 10_000;
    let start = std::process::id() * 97;
    loop {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("0.0.0.0", port as u16)).is_ok() {
            return port as u16;
        }
    }
}

impl Server {
    pub fn shoal(args: &[&str]) -> Server {
        let mut all = vec!["--enable-debug-command", "yes", "--workers", "2"];
        all.extend(args);
        Server::start(&shoal(), &all)
    }
    /// A stock Redis, if there is one on this machine.
    pub fn redis(args: &[&str]) -> Option<Server> {
        let path = Path::new("/usr/bin/redis-server");
        let mut all = vec!["--save", "", "--enable-debug-command", "yes"];
        all.extend(args);
        path.exists().then(|| Server::start(path, &all))
    }

    fn start(program: &Path, args: &[&str]) -> Server {
        let port = free_port();
        let dir = std::env::temp_dir().join(format!("shoal-replication-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder for the server");
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        let child = launch(program, &args, port, &dir);
        Server { child, program: program.into(), args, port, dir }
    }

    /// Stops the process where it stands, or lets it go on. A process that is killed need not go on.
    pub fn freeze(&self, yes: bool) {
        let signal = if yes { libc::SIGSTOP } else { libc::SIGCONT };
        // SAFETY: the process is our child and was not waited for, so its number is its own.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0, "our own child takes signals");
    }

    /// Saves, ends and starts again.
    pub fn restart(&mut self) {
        eventually("nothing is being written", || self.info("aof_rewrite_in_progress") == "0");
        self.client().send(&["SHUTDOWN", "SAVE"]);
        let status = self.child.wait().expect("the server ends");
        assert!(status.success(), "{status}");
        self.child = launch(&self.program, &self.args, self.port, &self.dir);
    }

    pub fn client(&self) -> Client {
        Client::to(self.port)
    }
    pub fn run(&self, command: &str) -> String {
        self.client().run(command)
    }
    pub fn replicate(&self, primary: &Server) {
        assert_eq!(self.run(&format!("REPLICAOF 127.0.0.1 {}", primary.port)), "OK");
    }
    /// A field of INFO; empty if it is not there.
    pub fn info(&self, field: &str) -> String {
        let text = self.run("INFO everything");
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_string()
    }
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
    /// Names of what is in the server's folder.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).expect("the server has a folder");
        entries.map(|e| e.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect()
    }
    /// Waits until this replica has everything of its primary.
    pub fn catch_up(&self, primary: &Server) {
        let what = || {
            let (up, mine) = (self.info("master_link_status"), self.info("master_repl_offset"));
            up == "up" && mine == primary.info("master_repl_offset")
        };
        eventually_or("the replica has everything", what, || {
            format!("{}\n---\n{}", primary.log(), self.log())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn launch(program: &Path, args: &[String], port: u16, dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log");
    let mut child = Command::new(program)
        .args(["--port", &port.to_string(), "--dir"])
        .arg(dir)
        .args(args)
        .stdout(Stdio::from(log))
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts");
    let is_ready = || Client::try_to(port).is_some_and(|mut c| !c.run("PING").starts_with("LOADING"));
    eventually("the server answers", is_ready);
    assert!(child.try_wait().is_ok_and(|status| status.is_none()), "it is our server that answers");
    child
}

/// Looks again until `what` holds.
pub fn eventually(name: &str, what: impl FnMut() -> bool) {
    eventually_or(name, what, String::new);
}

pub fn eventually_or(name: &str, mut what: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < PATIENCE, "never came true: {name}\n{}", explain());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A connection that speaks RESP2.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    pub fn to(port: u16) -> Client {
        Client::try_to(port).expect("the server listens")
    }
    fn try_to(port: u16) -> Option<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Client { stream, input: Vec::new() })
    }

    /// Sends words separated by spaces; the reply as text, elements of arrays separated by spaces.
    pub fn run(&mut self, command: &str) -> String {
        self.send(&command.split(' ').collect::<Vec<_>>());
        self.receive()
    }
    pub fn send(&mut self, args: &[&str]) {
        let mut bytes = Vec::new();
        encode_command(args, &mut bytes);
        self.stream.write_all(&bytes).expect("the server reads");
    }
    /// A snapshot whose length is said before; nothing ends its last line.
    pub fn receive_file(&mut self) -> Vec<u8> {
        loop {
            let start = self.input.iter().take_while(|b| **b == b'\n').count();
            if let Some(end) = self.input[start..].iter().position(|b| *b == b'\n') {
                let line = String::from_utf8_lossy(&self.input[start..start + end]).trim().to_string();
                let len: usize = line.strip_prefix('$').and_then(|n| n.parse().ok()).expect("a length");
                let from = start + end + 1;
                if self.input.len() >= from + len {
                    let file = self.input[from..from + len].to_vec();
                    self.input.drain(..from + len);
                    return file;
                }
            }
            self.more();
        }
    }
    fn more(&mut self) {
        let mut buf = [0; 65536];
        let n = self.stream.read(&mut buf).expect("an answer in time");
        assert!(n > 0, "the server closed the connection");
        self.input.extend_from_slice(&buf[..n]);
    }
    pub fn receive(&mut self) -> String {
        loop {
            if let Some((value, used)) = decode(&self.input).expect("the server speaks RESP") {
                self.input.drain(..used);
                return text(&value);
            }
            self.more();
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Error(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        value => match (value.as_bytes(), value.as_int()) {
            (Some(bytes), _) => String::from_utf8_lossy(bytes).into_owned(),
            (None, Some(n)) => n.to_string(),
            _ => "(nil)".into(),
        },
    }
}
