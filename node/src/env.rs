//! Time, randomness, network, threads and disk reach the node through this trait alone; the real node and the simulation
//! implement it.
//!
//! Invariant: nothing else in the node names a socket type, a clock, a random source or a file system.

use crate::socket::{Listener, Socket, Stream};
use crate::tls::{Acceptor, Connector, Tls, TlsSettings};
use bytes::BufMut;
use proto::{Mono, Now, WallMs};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use storage::Disk;
use tokio::io::{AsyncRead, AsyncWrite};

/// A thread's work, made on the thread itself, so that it need not be `Send`.
pub type ThreadMain = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The world around a node.
pub trait Env: Clone + Send + Sync + 'static {
    /// A connection, bound to the thread that uses it.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;
    /// A connection on its way to the thread that will use it.
    type Socket: Send + 'static;
    type Listener: 'static;

    fn listen(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Self::Listener>>;
    /// The next connection: it, the peer's address and our own.
    fn accept(
        &self,
        on: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Socket, SocketAddr, SocketAddr)>>;
    /// Listens at a path of this machine; see [`crate::socket::listen_at`].
    fn listen_unix(&self, _path: &str, _mode: u32) -> io::Result<Self::Listener> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Binds a connection to this thread.
    fn adopt(&self, socket: Self::Socket) -> io::Result<Self::Stream>;
    /// Frees a connection from this thread. None of TLS, which has state of its own.
    fn release(&self, stream: Self::Stream) -> io::Result<Self::Socket>;
    fn connect(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Self::Stream>>;
    /// As [`Env::connect`], from an address of ours; empty: from any.
    fn connect_from(
        &self,
        _own: &str,
        host: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<Self::Stream>> {
        self.connect(host, port)
    }
    fn local_addr(&self, stream: &Self::Stream) -> Option<SocketAddr>;
    /// Reads once, at most `max` bytes, to the end of `buf`. 0: the peer is gone.
    fn poll_read(
        stream: &mut Self::Stream,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        buf.reserve(max);
        tokio_util::io::poll_read_buf(Pin::new(stream), cx, &mut buf.limit(max))
    }
    /// Whether it is known without reading that [`Env::poll_read`] would have to wait; then `cx` is woken as it would be.
    fn is_drained(_stream: &Self::Stream, _cx: &mut Context<'_>) -> bool {
        false
    }
    /// Writes once; who has to wait comes again with the same bytes.
    fn poll_write(stream: &mut Self::Stream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(stream).poll_write(cx, bytes)
    }
    /// Reads certificates and keys. `Err`: the line for the log.
    fn load_tls(&self, _settings: &TlsSettings) -> Result<Tls, String> {
        Err("TLS is not supported here".into())
    }
    /// What the peer of an accepted connection sends first is a TLS handshake.
    fn secure_accepted(&self, _socket: Self::Socket, _with: &Acceptor) -> io::Result<Self::Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Puts TLS on a connection of ours; on return the handshake is over.
    fn secure_connected(
        &self,
        _stream: Self::Stream,
        _with: &Connector,
        _host: &str,
    ) -> impl Future<Output = io::Result<Self::Stream>> {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
    /// Whether a connection speaks TLS.
    fn is_secure(&self, _stream: &Self::Stream) -> bool {
        false
    }

    fn now(&self) -> Now;
    /// The only source of entropy.
    fn rand(&self) -> u64;
    /// Runs `main` on a thread of its own; in simulation as a task of this one.
    fn spawn_thread(&self, name: &str, main: ThreadMain);
    /// Whether long commands may run on threads of their own: not where all that a node does has one order.
    fn has_side_threads(&self) -> bool {
        false
    }
    /// This thread serves clients: when it wakes it wants the processor soon, and seldom for long.
    fn step_forward(&self) {}
    /// Lets threads that serve clients go before this one, which works in the background.
    fn step_back(&self) {}
    /// Time that this thread has had the processor, in us.
    fn busy_us(&self) -> u64 {
        self.now().mono.0
    }
    /// Time for which this thread has queued for a processor, in us; 0 where that is not known.
    fn waited_us(&self) -> u64 {
        0
    }
    /// Time that all threads of the process have had processors, in us.
    fn all_busy_us(&self) -> u64 {
        self.now().mono.0
    }
    fn disk(&self) -> Arc<dyn Disk>;
    /// Runs what may block (the disk) where it holds up nobody.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T>;
    /// Holds up this thread: a worker's rest, DEBUG SLEEP.
    fn stall(&self, time: Duration);
    /// A counter for measuring commands; constant in simulation.
    fn ticks(&self) -> fn() -> u64;
    /// Whether so much of the allocator's memory is free here and there that compacting it pays.
    fn is_memory_sparse(&self) -> bool;
    /// Which allocator this is, and what it counts; `None` where it is not the process's own.
    fn allocator(&self) -> Option<(&'static str, crate::alloc::Memory)>;
    /// Makes the allocator give back what it keeps for later.
    fn purge_allocator(&self) {}
    /// The node has started: gives back the memory of what only its start needed.
    fn has_started(&self) {}
    /// Gives the process a title, which `make` makes of the name it was started by; `None`: none.
    fn set_title(&self, _make: &dyn Fn(&str) -> Option<String>) {}
    /// Ends the process, or in simulation the node.
    fn exit(&self, code: i32);
}

/// The machine that the process runs on.
#[derive(Clone)]
pub struct Real {
    disk: Arc<dyn Disk>,
    /// Removed when the process ends in order; empty: none.
    pid_file: Arc<str>,
    /// A Unix socket, which goes with the process as well.
    unix_path: Arc<OnceLock<String>>,
    allocator: Option<&'static str>,
    wall: Arc<WallClock>,
    title: Option<Arc<Title>>,
}

/// Where the process's title stands.
struct Title {
    /// By which the process was started.
    program: String,
    place: Mutex<crate::title::Place>,
}

/// How far the wall clock is ahead of the monotonic one. Looked at every ten milliseconds: a clock is read for each batch of
/// commands, and a second one would cost a lone command one part in a hundred.
#[derive(Default)]
struct WallClock {
    ahead_us: AtomicI64,
    /// When it was looked at, on the monotonic clock; 0: never.
    looked_us: AtomicI64,
}

impl WallClock {
    /// `wall_us`: reads the wall clock.
    fn ahead_us(&self, mono_us: i64, wall_us: impl FnOnce() -> i64) -> i64 {
        const VALID_US: i64 = 10_000;
        let looked = self.looked_us.load(Ordering::Acquire);
        if looked != 0 && (0..VALID_US).contains(&(mono_us - looked)) {
            return self.ahead_us.load(Ordering::Relaxed);
        }
        let ahead = wall_us() - mono_us;
        self.ahead_us.store(ahead, Ordering::Relaxed);
        self.looked_us.store(mono_us.max(1), Ordering::Release);
        ahead
    }
}

impl Real {
    /// `disk`: the data directory.
    pub fn new(disk: Arc<dyn Disk>) -> Real {
        Real {
            disk,
            pid_file: "".into(),
            unix_path: Arc::default(),
            allocator: None,
            wall: Arc::default(),
            title: None,
        }
    }
    /// As well with a file that holds the process's id and goes with it.
    pub fn with_pid_file(self, path: &str) -> Real {
        Real { pid_file: path.into(), ..self }
    }
    /// As well with [`crate::alloc::Jemalloc`] as the process's allocator.
    pub fn with_jemalloc(self) -> Real {
        Real { allocator: Some("jemalloc-5.3.1"), ..self }
    }
    /// As well with a title that may be set. `program`: by which the process was started.
    pub fn with_title(self, program: String, place: Option<crate::title::Place>) -> Real {
        let title = place.map(|place| Arc::new(Title { program, place: Mutex::new(place) }));
        Real { title, ..self }
    }
    fn remove_pid_file(&self) {
        if !self.pid_file.is_empty() {
            tracing::info!("Removing the pid file.");
            // It may have been removed by hand.
            let _ = std::fs::remove_file(&*self.pid_file);
        }
    }
}

impl Env for Real {
    type Stream = Stream;
    type Socket = Socket;
    type Listener = Listener;

    async fn listen(&self, host: &str, port: u16) -> io::Result<Self::Listener> {
        let addr: SocketAddr =
            tokio::net::lookup_host((host, port)).await?.next().ok_or(io::ErrorKind::NotFound)?;
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        const BACKLOG: i32 = 511; // Redis's tcp-backlog
        socket.listen(BACKLOG)?;
        tokio::net::TcpListener::from_std(socket.into()).map(Listener::Tcp)
    }

    async fn accept(&self, on: &Self::Listener) -> io::Result<(Self::Socket, SocketAddr, SocketAddr)> {
        on.accept().await
    }

    fn listen_unix(&self, path: &str, mode: u32) -> io::Result<Self::Listener> {
        let listener = crate::socket::listen_at(path, mode)?;
        let _ = self.unix_path.set(path.into());
        Ok(listener)
    }

    fn adopt(&self, socket: Self::Socket) -> io::Result<Self::Stream> {
        socket.adopt()
    }

    fn release(&self, stream: Self::Stream) -> io::Result<Self::Socket> {
        stream.release()
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<Self::Stream> {
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Stream::Tcp(stream))
    }

    async fn connect_from(&self, own: &str, host: &str, port: u16) -> io::Result<Self::Stream> {
        let Ok(own) = own.parse::<std::net::IpAddr>() else { return self.connect(host, port).await };
        let is_same_kind = |addr: &SocketAddr| addr.is_ipv4() == own.is_ipv4();
        let addr = tokio::net::lookup_host((host, port)).await?.find(is_same_kind);
        let addr = addr.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = match addr.is_ipv4() {
            true => tokio::net::TcpSocket::new_v4()?,
            false => tokio::net::TcpSocket::new_v6()?,
        };
        socket.bind(SocketAddr::new(own, 0))?;
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Stream::Tcp(stream))
    }

    fn local_addr(&self, stream: &Self::Stream) -> Option<SocketAddr> {
        match stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
            Stream::Tls(stream) => stream.tcp().local_addr().ok(),
        }
    }

    #[inline]
    fn poll_read(
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        stream.poll_read_some(cx, buf, max)
    }

    #[inline]
    fn is_drained(stream: &Stream, cx: &mut Context<'_>) -> bool {
        stream.is_drained(cx)
    }

    #[inline]
    fn poll_write(stream: &mut Stream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        stream.poll_write_some(cx, bytes)
    }

    fn load_tls(&self, settings: &TlsSettings) -> Result<Tls, String> {
        Tls::load(settings)
    }

    fn secure_accepted(&self, socket: Socket, with: &Acceptor) -> io::Result<Socket> {
        socket.secure(with)
    }

    async fn secure_connected(&self, stream: Stream, with: &Connector, host: &str) -> io::Result<Stream> {
        stream.secure(with, host).await
    }

    fn is_secure(&self, stream: &Stream) -> bool {
        matches!(stream, Stream::Tls(_))
    }

    fn now(&self) -> Now {
        let clock = |id| {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the pointer is to a live timespec; both clocks exist on every Linux that we support.
            let result = unsafe { libc::clock_gettime(id, &mut time) };
            assert_eq!(result, 0, "the clock cannot be read");
            // 32 bits wide on some machines.
            #[allow(clippy::unnecessary_cast)]
            let pair = (time.tv_sec as i64, time.tv_nsec as i64);
            pair
        };
        let micros = |(s, ns): (i64, i64)| s * 1_000_000 + ns / 1000;
        // BOOTTIME goes on while the machine sleeps: a lease must not survive that.
        let mono = micros(clock(libc::CLOCK_BOOTTIME));
        let ahead = self.wall.ahead_us(mono, || micros(clock(libc::CLOCK_REALTIME)));
        Now { mono: Mono(mono as u64), wall: WallMs((mono + ahead) / 1000) }
    }

    fn rand(&self) -> u64 {
        let mut bytes = [0u8; 8];
        // SAFETY: the buffer is eight bytes long, as said.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        assert_eq!(got, 8, "the kernel has no random numbers");
        u64::from_ne_bytes(bytes)
    }

    fn spawn_thread(&self, name: &str, main: ThreadMain) {
        let thread = std::thread::Builder::new().name(name.to_string());
        thread
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(tokio::runtime::LocalOptions::default())
                    .expect("the kernel refuses an event queue");
                runtime.block_on(async move { main().await });
            })
            .expect("the kernel refuses a thread");
    }

    fn has_side_threads(&self) -> bool {
        true
    }

    fn step_forward(&self) {
        // SAFETY: no pointers; 0 is the calling thread.
        schedule(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) });
        const SLACK_NS: libc::c_ulong = 1; // else a rest takes 50 us more
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
    }

    fn step_back(&self) {
        // A tenth of the core is left to this thread where the others want all of it: it may hold what they wait for.
        const NICE: i32 = 10;
        schedule(NICE);
    }

    fn busy_us(&self) -> u64 {
        processor_us(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    fn waited_us(&self) -> u64 {
        // Time on a processor and in the queue for one, both in ns, and how often it had one.
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited_ns = stat.split_whitespace().nth(1).and_then(|ns| ns.parse::<u64>().ok());
        waited_ns.unwrap_or(0) / 1000
    }

    fn all_busy_us(&self) -> u64 {
        processor_us(libc::CLOCK_PROCESS_CPUTIME_ID)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("work on the disk does not panic")
    }

    fn stall(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn ticks(&self) -> fn() -> u64 {
        cycles
    }

    fn is_memory_sparse(&self) -> bool {
        storage::slab::usage().is_sparse()
    }

    fn allocator(&self) -> Option<(&'static str, crate::alloc::Memory)> {
        let name = self.allocator?;
        Some((name, crate::alloc::memory()?))
    }

    fn purge_allocator(&self) {
        if self.allocator.is_some() {
            crate::alloc::purge();
        }
    }

    fn has_started(&self) {
        give_back_program();
    }

    fn set_title(&self, make: &dyn Fn(&str) -> Option<String>) {
        if let Some(Title { program, place }) = self.title.as_deref()
            && let Some(title) = make(program)
        {
            place.lock().unwrap_or_else(PoisonError::into_inner).write(&title);
        }
    }

    fn exit(&self, code: i32) {
        if code == 0 {
            self.remove_pid_file();
            if let Some(path) = self.unix_path.get() {
                tracing::info!("Removing the unix socket file.");
                let _ = std::fs::remove_file(path);
            }
            tracing::warn!("Redis is now ready to exit, bye bye...");
        }
        std::process::exit(code)
    }
}

/// Gives back the program's own pages, many of which only its start has needed: the others are mapped again when they are
/// met, from the kernel's cache of the file. Breakpoints that a debugger has set by now go with them.
fn give_back_program() {
    // From the linker: where the program begins, and where its code ends.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    // SAFETY: no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let (start, end) = ((&raw const __executable_start).cast_mut(), (&raw const etext).addr());
    let len = (end - start.addr()) / page * page;
    // SAFETY: headers, constants and code, which nobody writes to: whoever comes there finds what is in the file.
    unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) };
}

/// Processor time of this thread or of the process.
fn processor_us(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec, and every thread and process has its clock.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// Sets the priority of this thread and asks for slices of a tenth of a millisecond: Linux 6.12 and later let a thread
/// with short slices run as soon as it wakes, where it would wait for the 3 ms that another was promised. Where the
/// kernel refuses, the thread runs as the others do.
fn schedule(nice: i32) {
    const SLICE_NS: u64 = 100_000; // the shortest that the kernel takes
    /// `struct sched_attr` of sched_setattr(2), in its first version.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const { assert!(size_of::<Attributes>() == 48) };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: SLICE_NS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the structure has the size that it says, and lives through the call; 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// The cycle counter: 9 ns a look against 20 for the clock.
#[cfg(target_arch = "x86_64")]
fn cycles() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn cycles() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
