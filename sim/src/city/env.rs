//! A node's world inside turmoil.

use node::Env;
use node::env::ThreadMain;
use proto::{Mono, Now, WallMs};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::{Disk, MemDisk};
use turmoil::net::{TcpListener, TcpStream};

/// One host's. Clones share it; it survives the host's crashes, as a machine does.
#[derive(Clone)]
pub struct SimEnv {
    inner: Arc<Inner>,
}

struct Inner {
    disk: MemDisk,
    entropy: Mutex<u64>,
    /// How much faster the monotonic clock runs than the simulation's, in millionths.
    drift_ppm: i64,
    /// What the wall clock shows besides, in ms.
    skew_ms: i64,
    /// Code of [`Env::exit`] plus one; 0: it was not called.
    exited: AtomicI64,
    lives: AtomicU64,
    moves: AtomicU64,
}

impl SimEnv {
    pub fn new(seed: u64, drift_ppm: i64, skew_ms: i64) -> SimEnv {
        let inner = Inner {
            disk: MemDisk::new(),
            entropy: Mutex::new(seed | 1),
            drift_ppm,
            skew_ms,
            exited: AtomicI64::new(0),
            lives: AtomicU64::new(0),
            moves: AtomicU64::new(0),
        };
        SimEnv { inner: Arc::new(inner) }
    }
    pub fn mem_disk(&self) -> &MemDisk {
        &self.inner.disk
    }
    /// The code that the node ended with since the last look.
    pub fn take_exit(&self) -> Option<i32> {
        match self.inner.exited.swap(0, Ordering::Relaxed) {
            0 => None,
            code => Some((code - 1) as i32),
        }
    }
    /// How many connections have gone from one worker to another.
    pub fn moves(&self) -> u64 {
        self.inner.moves.load(Ordering::Relaxed)
    }
    /// A new life of the node begins.
    pub fn begin(&self) {
        self.inner.lives.fetch_add(1, Ordering::Relaxed);
        self.inner.exited.store(0, Ordering::Relaxed);
    }
}

impl Env for SimEnv {
    type Stream = TcpStream;
    type Socket = TcpStream;
    type Listener = TcpListener;

    async fn listen(&self, _host: &str, port: u16) -> io::Result<TcpListener> {
        TcpListener::bind(("0.0.0.0", port)).await
    }
    async fn accept(&self, on: &TcpListener) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
        let (stream, peer) = on.accept().await?;
        let own = stream.local_addr()?;
        Ok((stream, peer, own))
    }
    fn adopt(&self, socket: TcpStream) -> io::Result<TcpStream> {
        Ok(socket)
    }
    fn release(&self, stream: TcpStream) -> io::Result<TcpStream> {
        self.inner.moves.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }
    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let ip: IpAddr = host.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        TcpStream::connect((ip, port)).await
    }
    fn local_addr(&self, stream: &TcpStream) -> Option<SocketAddr> {
        stream.local_addr().ok()
    }

    fn now(&self) -> Now {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_micros() as i64;
        let drifted = elapsed + elapsed / 1000 * self.inner.drift_ppm / 1000;
        let since_epoch = turmoil::since_epoch().unwrap_or_default().as_millis() as i64;
        // An origin of an hour, so that subtracting intervals never meets zero.
        Now { mono: Mono(3_600_000_000 + drifted as u64), wall: WallMs(since_epoch + self.inner.skew_ms) }
    }
    fn rand(&self) -> u64 {
        let mut state = self.inner.entropy.lock().expect("no panic while it is held");
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn spawn_thread(&self, _name: &str, main: ThreadMain) {
        tokio::task::spawn_local(main());
    }
    /// Of two workers each has two fifths of a core and queues for one as long: they gather, find that it did not help, and
    /// after some time try again.
    fn busy_us(&self) -> u64 {
        self.now().mono.0 / 5 * 2
    }
    fn waited_us(&self) -> u64 {
        self.busy_us()
    }
    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.inner.disk.clone())
    }
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        // A disk takes its time; others go on meanwhile.
        tokio::time::sleep(Duration::from_millis(1)).await;
        work()
    }
    fn stall(&self, _time: Duration) {}
    fn ticks(&self) -> fn() -> u64 {
        || 0
    }
    /// The allocator is the process's and knows of other runs in it: a run that looked would not repeat.
    fn is_memory_sparse(&self) -> bool {
        false
    }
    fn allocator(&self) -> Option<(&'static str, node::alloc::Memory)> {
        None
    }
    fn exit(&self, code: i32) {
        self.inner.exited.store(code as i64 + 1, Ordering::Relaxed);
    }
}
