//! Server processes, ours and Redis's, each with a folder of its own.

use crate::{Client, DEADLINE, wait_for};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A server that ends with its owner; so does its folder.
pub struct Server {
    binary: PathBuf,
    child: Option<Child>,
    pub port: u16,
    pub dir: PathBuf,
    owns_dir: bool,
}

impl Server {
    /// Starts a server with these arguments in an empty folder.
    pub fn start(args: &[&str]) -> Server {
        Server::start_binary(shoal_binary(), args)
    }

    /// Starts a server of ours or Redis's with these arguments in an empty folder.
    pub fn start_binary(binary: &Path, args: &[&str]) -> Server {
        let mut server = Server::new(binary.to_path_buf(), fresh_dir(), true);
        server.restart(args);
        server
    }

    /// Starts another server, ours or Redis's, on the files of this one, which must have ended.
    pub fn follow(&self, binary: &Path, args: &[&str]) -> Server {
        assert!(self.child.is_none(), "two servers on the same files");
        let mut server = Server::new(binary.to_path_buf(), self.dir.clone(), false);
        server.restart(args);
        server
    }

    fn new(binary: PathBuf, dir: PathBuf, owns_dir: bool) -> Server {
        Server { binary, child: None, port: free_port(), dir, owns_dir }
    }

    /// Starts again on the same files, and waits until it serves.
    pub fn restart(&mut self, args: &[&str]) {
        self.spawn(args);
        wait_for("the server to serve", || {
            let child = self.child.as_mut().expect("just spawned");
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("the server ended with {status}: {}", self.log());
            }
            let mut client = Client::connect(self.port).ok()?;
            client.try_call(&["PING"]).ok().filter(|v| v.as_text() == Some("PONG"))
        });
    }

    /// Starts again on the same files, and waits until it takes connections, whether it has loaded or not.
    pub fn restart_to_load(&mut self, args: &[&str]) {
        self.spawn(args);
        wait_for("the server to listen", || Client::connect(self.port).ok());
    }

    /// Starts on the same files and waits for its end, which must come.
    pub fn restart_to_fail(&mut self, args: &[&str]) -> (ExitStatus, String) {
        self.spawn(args);
        (self.wait(), self.log())
    }

    fn spawn(&mut self, args: &[&str]) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::File::create(self.dir.join("log")).expect("the folder is ours");
        let port = self.port.to_string();
        let child = Command::new(&self.binary)
            .args(["--port", &port, "--dir", self.dir.to_str().expect("a path of ASCII")])
            .args(["--enable-debug-command", "yes", "--enable-protected-configs", "yes"])
            .args(args)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a file can be duplicated"))
            .stdout(log)
            .spawn()
            .expect("the binary is there");
        self.child = Some(child);
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port).expect("the server serves")
    }
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    pub fn signal(&self, signal: i32) {
        let id = self.child.as_ref().expect("it runs").id();
        // SAFETY: kill has no preconditions; the id is of a child that was not waited for, so it is ours.
        assert_eq!(unsafe { libc::kill(id as libc::pid_t, signal) }, 0);
    }

    /// SHUTDOWN with these words, and waits for the end.
    pub fn shut_down(&mut self, words: &str) {
        let mut client = self.client();
        client.send(&format!("SHUTDOWN {words}").split_whitespace().collect::<Vec<_>>()).expect("it serves");
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("it is ours") {
                return status;
            }
            if started.elapsed() > DEADLINE {
                let _ = child.kill();
                panic!("the server does not end: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The one file of the log's folder whose name ends so.
    pub fn log_file(&self, ending: &str) -> PathBuf {
        let folder = fs::read_dir(self.dir.join("appendonlydir")).expect("there is a log");
        let paths = folder.map(|e| e.expect("readable").path());
        let mut found: Vec<PathBuf> = paths.filter(|p| p.to_string_lossy().ends_with(ending)).collect();
        assert_eq!(found.len(), 1, "{ending}: {found:?}");
        found.remove(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.owns_dir && !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn fresh_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("shoal-test-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("the folder for temporary files is ours");
    dir
}

/// A port that nobody has at present: each once in this process, and outside the range that the kernel gives to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 4_000;
    const COUNT: u32 = 6_000;
    let start = std::process::id() * 97;
    loop {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("0.0.0.0", port as u16)).is_ok() {
            return port as u16;
        }
    }
}

/// Our server, built as this test was.
pub fn shoal_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("the kernel knows it");
        // target/PROFILE/deps/TEST-HASH
        let profile = test.parent().and_then(Path::parent).expect("cargo's folders");
        let is_release = profile.file_name().is_some_and(|n| n == "release");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "-q", "-p", "node", "--bin", "shoal-server"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if is_release {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo is there").success(), "the server does not build");
        profile.join("shoal-server")
    })
}

/// Our command line client, built as this test was.
pub fn shoal_cli_binary() -> PathBuf {
    let profile = shoal_binary().parent().expect("cargo's folder").to_path_buf();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "-q", "-p", "cli", "--bin", "shoal-cli"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.file_name().is_some_and(|n| n == "release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo is there").success(), "the client does not build");
    profile.join("shoal-cli")
}

/// Redis's own server, where it is installed.
pub fn redis_binary() -> Option<&'static Path> {
    let path = Path::new("/usr/bin/redis-server");
    path.exists().then_some(path)
}
