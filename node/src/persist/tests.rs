//! The machinery of persistence on a node without workers.

use super::*;
use crate::config::{Config, NodeSettings};
use crate::env::Real;
use crate::shared::{Shared, throttle};
use bytes::Bytes;
use proto::Slot;
use std::cell::RefCell;
use std::io;
use std::sync::atomic::Ordering;
use storage::MemDisk;
use storage::rdb::{Event, LoadOptions, RdbError};

pub fn node() -> Arc<Shared<Real>> {
    let config = Config::default();
    let settings = NodeSettings::from(&config);
    crate::node::build(Real::new(Arc::new(MemDisk::new())), config, settings, 1).0
}

pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

pub fn stream(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        proto::resp::encode_command(&line.split(' ').collect::<Vec<_>>(), &mut out);
    }
    out
}

fn push(applier: &mut Applier<Real>, lines: &[&str]) {
    applier.push(&stream(lines), &mut |_| {}).unwrap();
}

fn get(shared: &Shared<Real>, db: u16, key: &str) -> Option<String> {
    let keyspace = &shared.engine.keyspace;
    let guard = keyspace.lock_wait(Slot::of_key(key.as_bytes()));
    let entry = guard.db(db).get(key.as_bytes(), keyspace.hash(key.as_bytes()))?;
    match entry.value() {
        storage::ValueRef::Str(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => Some("collection".into()),
    }
}

#[test]
fn a_stream_in_pieces_of_any_length_is_applied_in_whole_units() {
    let bytes = stream(&[
        "SELECT 0",
        "SET a 1",
        "PING",
        "MULTI",
        "SET b 1",
        "SELECT 2",
        "INCR c",
        "EXEC",
        "SELECT 2",
        "DEL x",
        "FLUSHALL",
        "SET d 1",
        "MULTI",
        "SET never 1",
    ]);
    for piece in [1, 7, bytes.len()] {
        let shared = node();
        let mut applier = Applier::new(shared.clone());
        let (mut relayed, mut units, mut pings) = (Vec::new(), Vec::new(), 0);
        for part in bytes.chunks(piece) {
            let mut each = |a: &Applied| {
                relayed.extend_from_slice(a.raw);
                pings += a.link_command.is_some() as u32;
                units.push((a.db, a.slot));
                if units.len() == 4 {
                    assert_eq!(get(&shared, 2, "c").as_deref(), Some("1"), "carried out before it is told");
                }
            };
            applier.push(part, &mut each).unwrap();
        }
        let slot = |key: &str| Some(Slot::of_key(key.as_bytes()));
        let expected = [
            (0, None),
            (0, slot("a")),
            (0, None),
            (0, None),
            (2, None),
            (2, slot("x")),
            (2, None),
            (2, slot("d")),
        ];
        assert_eq!((units.as_slice(), pings), (&expected[..], 1));
        assert!(bytes.starts_with(&relayed));
        assert_eq!(applier.pending_bytes(), bytes.len() - relayed.len());
        let found: Vec<_> =
            [(0, "a"), (0, "b"), (2, "c"), (2, "d"), (2, "never")].map(|(db, k)| get(&shared, db, k)).into();
        assert_eq!(found, [None, None, None, Some("1".into()), None]);
        assert!(shared.dirty() >= 4);
        assert!(!shared.feed.is_attached() && shared.feed.end().0 == 0);
    }
}

#[test]
fn what_a_stream_must_not_hold_stops_it() {
    let try_stream = |bytes: &[u8]| Applier::new(node()).push(bytes, &mut |_| {});
    assert!(matches!(try_stream(b"*1\r\nx"), Err(ApplyError::Protocol(_))));
    assert!(matches!(try_stream(b"SET a 1\r\n"), Err(ApplyError::Protocol(_))));
    assert!(matches!(try_stream(&stream(&["NOSUCH a"])), Err(ApplyError::Command(_))));
    assert!(matches!(try_stream(&stream(&["SELECT 99"])), Err(ApplyError::Command(_))));
    let shared = node();
    let mut applier = Applier::new(shared.clone());
    push(&mut applier, &["SET a text", "INCR a", "SET b 1"]);
    assert_eq!((applier.errors(), get(&shared, 0, "b").as_deref()), (1, Some("1")));
}

/// Collects a snapshot; does something else between its writes.
struct Sink<'a> {
    bytes: Vec<u8>,
    start: Option<SnapshotStart>,
    meanwhile: RefCell<Box<dyn FnMut() -> io::Result<()> + 'a>>,
}

impl SnapshotSink for Sink<'_> {
    fn begin(&mut self, start: &SnapshotStart) {
        self.start = Some(*start);
    }
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.bytes.extend_from_slice(&bytes);
        tokio::task::yield_now().await;
        self.meanwhile.borrow_mut()()
    }
}

fn sink<'a>(meanwhile: impl FnMut() -> io::Result<()> + 'a) -> Sink<'a> {
    Sink { bytes: Vec::new(), start: None, meanwhile: RefCell::new(Box::new(meanwhile)) }
}

fn fill(applier: &mut Applier<Real>, value: &str) {
    let lines: Vec<String> = (0..3000).map(|i| format!("SET key:{i} {value}{}", "x".repeat(500))).collect();
    push(applier, &lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_snapshot_is_of_its_instant_while_writing_goes_on() {
    let shared = node();
    // Whose history it is stands in a snapshot that somebody may go on from.
    shared.feed.turn_backlog_on();
    shared.config().set("rdbcompression", &["no".into()], true).unwrap();
    shared.publish_config(&shared.config().clone());
    let applier = RefCell::new(Applier::new(shared.clone()));
    fill(&mut applier.borrow_mut(), "old");
    push(&mut applier.borrow_mut(), &["SELECT 3", "SET other 1", "SELECT 0"]);
    let mut sink = sink(|| {
        fill(&mut applier.borrow_mut(), "new");
        Ok(())
    });
    shared.feed.turn_backlog_on();
    let done = run(snapshot(&shared, &SnapshotRequest::default(), &mut sink)).unwrap();
    assert_eq!((done.keys, done.bytes), (3001, sink.bytes.len() as u64));
    assert_eq!(done.start.offset, sink.start.unwrap().offset);
    let (mut keys, mut aux) = (0, Vec::new());
    storage::rdb::load::<RdbError>(&mut &sink.bytes[..], LoadOptions::default(), &mut |event| {
        match event {
            Event::Key(r) => {
                keys += 1;
                let storage::Value::Str(value) = &r.value else { panic!("only strings") };
                assert!(value.starts_with(b"old") && r.db == 0 || r.db == 3, "{:?}", r.key);
            }
            Event::Aux(name, _) => aux.push(String::from_utf8(name).unwrap()),
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(keys, 3001);
    assert!(aux.contains(&"repl-id".to_string()) && aux.contains(&"aof-base".to_string()));
    assert_eq!(shared.state.throttle.load(Ordering::Relaxed) & throttle::SNAPSHOT, 0);
}

#[test]
fn a_failed_sink_ends_its_snapshot_and_the_next_waits_for_its_turn() {
    let shared = node();
    fill(&mut Applier::new(shared.clone()), "old");
    let mut bad = sink(|| Err(io::Error::other("no space")));
    let mut good = sink(|| Ok(()));
    let request = SnapshotRequest::default();
    let (first, second) = run(async {
        tokio::join!(snapshot(&shared, &request, &mut bad), snapshot(&shared, &request, &mut good))
    });
    assert_eq!(first.unwrap_err().to_string(), "no space");
    assert_eq!(second.unwrap().keys, 3000);
    run(async {
        let turn = shared.persist.snapshots.lock().await;
        let closed = shared.engine.keyspace.gate().close();
        let mut whole = Vec::new();
        let mut write = |b: &[u8]| -> io::Result<()> {
            whole.extend_from_slice(b);
            Ok(())
        };
        let done = snapshot::snapshot_exclusive(&shared, &request, &closed, &turn, &mut write).unwrap();
        assert_eq!((done.keys, done.bytes), (3000, whole.len() as u64));
    });
}
