//! Allocations per command: none for GET, none for a SET that overwrites a value of its size, one for a new key.

// The slab counts its objects in debug builds only.
#![cfg(debug_assertions)]

use engine::blocking::Mailbox;
use engine::stats::Stats;
use engine::{Args, Engine, Error, Feed, Host, HostOutcome, Local, Outcome, Session, Settings, Spec, Status};
use engine::{Table, Turn, Unit, execute};
use proto::resp::Reply;
use proto::{Mono, Now, Slot, WallMs};
use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;
use storage::Keyspace;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more; nobody asks for it either.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: by the caller's contract; so below.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(p, layout, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of this thread so far, from the general allocator or the slab.
fn so_far() -> u64 {
    ALLOCATIONS.get() + storage::slab::taken().0
}

struct NoFeed;
impl Feed for NoFeed {
    fn is_attached(&self) -> bool {
        false
    }
    fn append(&self, _slot: Option<Slot>, _unit: &Unit) -> u64 {
        0
    }
}

struct NoMail;
impl Mailbox for NoMail {
    fn deliver(&self, _session: u64, _reply: Vec<u8>, _written: u64) {}
    fn retry(&self, _session: u64) {}
}

struct NoHost;
impl Host for NoHost {
    fn run(
        &mut self,
        spec: &'static Spec,
        _args: Args,
        _session: &mut Session,
        _out: &mut Reply,
    ) -> Result<HostOutcome, Error> {
        panic!("{} is not of the engine", spec.full_name)
    }
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        drop(garbage);
    }
    fn publish(&mut self, _channel: &[u8], _message: &[u8]) {}
}

/// An engine with one client and a reply buffer that has grown already.
struct Bench {
    engine: Engine,
    settings: Settings,
    stats: Stats,
    local: Local,
    session: Session,
    out: Reply,
}

impl Bench {
    fn new() -> Bench {
        let table = Table::new(engine::commands::all());
        let local = Local::new(1, Arc::new(NoMail));
        let stats = Stats::new(table.len());
        let engine = Engine {
            keyspace: Arc::new(Keyspace::new(16, [1, 2])),
            table,
            feed: Arc::new(NoFeed),
            scripts: Arc::default(),
        };
        let mut bench = Bench {
            engine,
            settings: Settings::default(),
            stats,
            local,
            session: Session::new(1),
            out: Reply::new(false),
        };
        bench.out.reserve(1 << 16);
        bench
    }

    /// Runs a command; gives the allocations it made and the reply.
    fn run(&mut self, args: Args) -> (u64, &[u8]) {
        self.out.clear();
        let mut turn = Turn {
            engine: &self.engine,
            settings: &self.settings,
            cluster: None,
            status: Status::default(),
            beside_bytes: 0,
            now: Now { mono: Mono(0), wall: WallMs(1_700_000_000_000) },
            ticks: || 0,
            told_ticks: u64::MAX,
            is_tracked: false,
            is_script: false,
            may_move: false,
            first_key: None,
            watched: engine::admission::watched(&Status::default(), &self.settings),
            exclusive: None,
            passage: None,
            stats: &self.stats,
            local: &mut self.local,
            host: &mut NoHost,
        };
        let before = so_far();
        let resolved = self.engine.table.resolve(args);
        let outcome = execute(&mut turn, &mut self.session, &resolved, args, None, &mut self.out);
        let made = so_far() - before;
        assert!(matches!(outcome, Outcome::Done));
        (made, self.out.as_bytes())
    }
}

fn key(i: u32) -> Vec<u8> {
    format!("{{t}}key:{i:012}").into_bytes()
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn get_allocates_nothing() {
    let mut bench = Bench::new();
    bench.run(&[b"SET", &key(1), &[b'x'; 64]]);
    bench.run(&[b"GET", &key(1)]);
    assert_eq!(bench.run(&[b"GET", &key(1)]).0, 0);
    assert_eq!(bench.run(&[b"GET", &key(2)]), (0, b"$-1\r\n".as_slice()));
    // Case and another length of the name take the same way.
    assert_eq!(bench.run(&[b"get", &key(1)]).0, 0);
}

#[test]
fn overwriting_with_an_equal_size_allocates_nothing() {
    for len in [0, 3, 64, 1000, 5000] {
        let mut bench = Bench::new();
        bench.run(&[b"SET", &key(1), &vec![b'a'; len]]);
        assert_eq!(
            bench.run(&[b"SET", &key(1), &vec![b'b'; len]]),
            (0, b"+OK\r\n".as_slice()),
            "{len} bytes"
        );
    }
}

#[test]
fn a_new_key_is_one_allocation_apart_from_growth() {
    let mut bench = Bench::new();
    bench.run(&[b"SET", &key(0), &[b'x'; 64]]);
    let keys: Vec<Vec<u8>> = (1..=10_000).map(key).collect();
    let made: Vec<u64> = keys.iter().map(|k| bench.run(&[b"SET", k, &[b'x'; 64]]).0).collect();
    // A segment grows three times until it holds 62, then splits in two: never more than one in ten inserts here.
    let grown = made.iter().filter(|&&n| n > 1).count();
    assert!(made.iter().all(|&n| n >= 1) && grown * 10 < made.len(), "{grown} of {}", made.len());
    assert!(made.iter().max().is_some_and(|&n| n <= 8), "{:?}", made.iter().max());
}

#[test]
fn counting_a_number_up_allocates_at_most_its_text() {
    let mut bench = Bench::new();
    for _ in 0..11 {
        bench.run(&[b"INCR", &key(1)]);
    }
    let (made, reply) = bench.run(&[b"INCR", &key(1)]);
    assert!(made <= 1 && reply == b":12\r\n", "{made} allocations");
}
