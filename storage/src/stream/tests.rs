//! Streams against a plain model, and what they cost.

use super::*;
use crate::Thresholds;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Pairs = Vec<Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    /// Milliseconds and sequence above the last id, kind of fields, length of a value.
    Add(u64, u64, u8, usize),
    /// An entry by its number, or an id that may not be there.
    Delete(usize),
    DeleteId(u64, u64),
    TrimLen(usize, bool, usize),
    TrimFrom(usize, bool),
    TrimFromId(u64),
    /// The last id goes up without an entry.
    Skip(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let ms = prop_oneof![4 => Just(0u64), 4 => 1..40u64, 1 => 1000..1_000_000u64, 1 => Just(1u64 << 40)];
    let seq = prop_oneof![6 => Just(0u64), 2 => 1..400u64, 1 => Just(1u64 << 50)];
    let len = prop_oneof![5 => 0..12usize, 2 => 60..70usize, 1 => Just(5000usize)];
    prop_oneof![
        30 => (ms.clone(), seq, 0..5u8, len).prop_map(|(m, s, k, l)| Op::Add(m, s, k, l)),
        6 => any::<usize>().prop_map(Op::Delete),
        1 => (0..100u64, 0..3u64).prop_map(|(m, s)| Op::DeleteId(m, s)),
        1 => (0..40usize, any::<bool>(), prop_oneof![Just(0usize), 1..30usize])
            .prop_map(|(n, a, l)| Op::TrimLen(n, a, l)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(i, a)| Op::TrimFrom(i, a)),
        1 => (0..100u64).prop_map(Op::TrimFromId),
        1 => ms.prop_map(Op::Skip),
    ]
}

fn pairs(kind: u8, len: usize, n: usize) -> Pairs {
    let text = |s: &str| s.as_bytes().to_vec();
    let number = n.wrapping_mul(0x9E37_79B9).to_string();
    match kind {
        0 => vec![text("temp"), number.into(), text("hum"), text("7")],
        1 => vec![text("temp"), vec![b'x'; len], text("hum"), text("-12")],
        2 => vec![text("hum"), text("1"), text("temp"), text("2")],
        3 => vec![text("17"), vec![n as u8; len]],
        _ => Vec::new(),
    }
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<StreamId, Pairs>,
    last: StreamId,
    max_deleted: StreamId,
}

impl Model {
    fn nth(&self, n: usize) -> Option<StreamId> {
        self.entries.keys().nth(n % self.entries.len().max(1)).copied()
    }

    fn apply(&mut self, log: &mut Log, op: &Op, n: usize, t: &Thresholds) {
        match *op {
            Op::Add(ms, seq, kind, len) => {
                let up =
                    StreamId::new(self.last.ms + ms, if ms == 0 { self.last.seq + 1 + seq } else { seq });
                log.append(up, &pairs(kind, len, n), t);
                self.entries.insert(up, pairs(kind, len, n));
                self.last = up;
            }
            Op::Delete(i) => {
                if let Some(id) = self.nth(i) {
                    self.delete(log, id);
                }
            }
            Op::DeleteId(ms, seq) => self.delete(log, StreamId::new(ms, seq)),
            Op::TrimLen(max, is_approximate, limit) => {
                let gone = log.trim(Trim::Len(max), is_approximate, limit);
                if !is_approximate && limit == 0 {
                    assert_eq!(gone, self.entries.len().saturating_sub(max));
                }
                assert!(self.entries.len() - gone >= max.min(self.entries.len()));
                assert!(limit == 0 || gone <= limit.max(self.entries.len().saturating_sub(max)));
                (0..gone).for_each(|_| drop(self.entries.pop_first()));
            }
            Op::TrimFrom(i, is_approximate) => {
                let from = self.nth(i).unwrap_or(StreamId::MIN);
                self.trim_from(log, from, is_approximate);
            }
            Op::TrimFromId(ms) => self.trim_from(log, StreamId::new(ms, 1), false),
            Op::Skip(ms) => {
                self.last.ms += ms;
                log.last_id = self.last;
            }
        }
    }

    fn delete(&mut self, log: &mut Log, id: StreamId) {
        let was_there = self.entries.remove(&id).is_some();
        assert_eq!(log.delete(id), was_there);
        if was_there {
            self.max_deleted = self.max_deleted.max(id);
        }
    }

    fn trim_from(&mut self, log: &mut Log, from: StreamId, is_approximate: bool) {
        let below = self.entries.range(..from).count();
        let gone = log.trim(Trim::From(from), is_approximate, 0);
        assert!(if is_approximate { gone <= below } else { gone == below });
        (0..gone).for_each(|_| drop(self.entries.pop_first()));
    }

    fn check(&self, log: &Log, n: usize) {
        assert_eq!(log.len(), self.entries.len());
        assert_eq!(log.first_id(), self.nth(0).unwrap_or_default());
        assert_eq!(log.top_id(), self.entries.keys().next_back().copied());
        assert_eq!((log.last_id, log.max_deleted_id), (self.last, self.max_deleted));
        let plain = |e: Entry<'_>| {
            let fields: Pairs = e.fields.flat_map(|(name, value)| [name.to_vec(), value.to_vec()]).collect();
            (e.id, fields)
        };
        let bounds = [(StreamId::MIN, StreamId::MAX)].into_iter().chain(
            [(n, n / 3), (n / 2, n), (n / 7, n / 7)].into_iter().filter_map(|(a, b)| {
                let (a, b) = (self.nth(a)?, self.nth(b)?);
                Some((a, b.prev()?))
            }),
        );
        for (from, to) in bounds {
            let expect: Vec<(StreamId, Pairs)> = self
                .entries
                .iter()
                .filter(|(id, _)| (from..=to).contains(*id))
                .map(|(id, p)| (*id, p.clone()))
                .collect();
            assert!(log.range(from, to).map(plain).eq(expect.iter().cloned()));
            assert!(log.range_rev(from, to).map(plain).eq(expect.into_iter().rev()));
        }
    }
}

proptest! {
    #[test]
    fn behaves_as_a_sorted_map(
        ops in prop::collection::vec(op(), 1..250),
        entries in prop_oneof![Just(1usize), Just(4), Just(100), Just(0)],
        bytes in prop_oneof![Just(64usize), Just(4096), Just(0)],
    ) {
        let t = Thresholds {
            stream_node_max_bytes: bytes,
            stream_node_max_entries: entries,
            ..Thresholds::default()
        };
        let (mut log, mut model) = (Log::default(), Model::default());
        for (n, op) in ops.iter().enumerate() {
            model.apply(&mut log, op, n, &t);
            if n % 8 == 0 {
                model.check(&log, n);
            }
        }
        model.check(&log, ops.len());
        let mut copy = log.clone();
        model.check(&copy, 3);
        copy.trim(Trim::Len(0), false, 0);
        prop_assert_eq!(copy.heap_bytes(), 0);
    }
}

fn series(count: u64, value: impl Fn(u64) -> u64) -> Stream {
    let mut stream = Stream::new();
    for n in 0..count {
        // About a hundred a millisecond, as a pipelining client adds them.
        let id = StreamId::new(1_700_000_000_000 + n / 100, n % 100);
        let (temp, hum) = (value(n).to_string(), value(n * 7).to_string());
        stream.log.append(id, &["temp", &temp, "hum", &hum], &Thresholds::default());
    }
    stream
}

#[test]
fn a_million_entries_of_small_integers_take_less_than_13_bytes_each() {
    let stream = series(1_000_000, |n| n % 1_000_000);
    let each = stream.heap_bytes() as f64 / 1e6;
    assert!(each < 13.0, "{each} bytes an entry");
    let each = series(1_000_000, |n| n % 1000).heap_bytes() as f64 / 1e6;
    assert!(each < 8.0, "{each} bytes an entry");
}

#[test]
fn a_short_stream_has_no_tree() {
    let stream = series(3, |n| n);
    assert!(stream.heap_bytes() <= 64, "{}", stream.heap_bytes());
    assert!(size_of::<Stream>() <= 224, "{}", size_of::<Stream>());
}

#[test]
fn memory_comes_back_with_deleted_entries() {
    let mut stream = series(10_000, |n| n);
    let full = stream.heap_bytes();
    let ids: Vec<StreamId> = stream.log.range(StreamId::MIN, StreamId::MAX).map(|e| e.id).collect();
    for id in ids.iter().enumerate().filter(|(n, _)| n % 10 != 0).map(|(_, id)| *id) {
        assert!(stream.log.delete(id));
    }
    assert_eq!(stream.log.len(), 1000);
    assert!(stream.heap_bytes() < full / 3, "{} of {full}", stream.heap_bytes());
}

#[test]
fn approximate_trimming_takes_whole_blocks() {
    let mut stream = series(1000, |n| n);
    assert_eq!(stream.log.blocks_len(), 10);
    assert_eq!(stream.log.trim(Trim::Len(555), true, 0), 400);
    assert_eq!(stream.log.trim(Trim::Len(0), true, 250), 200);
    assert_eq!(stream.log.trim(Trim::Len(0), true, 99), 0);
    assert_eq!(stream.log.len(), 400);
}

#[test]
fn a_group_knows_how_far_it_has_read() {
    let mut stream = series(10, |n| n);
    let ids: Vec<StreamId> = stream.log.range(StreamId::MIN, StreamId::MAX).map(|e| e.id).collect();
    stream.add_group(b"g", Group::new(StreamId::MIN, Some(0)));
    stream.add_group(b"late", Group::new(ids[4], None));
    let lag = |s: &Stream, name: &[u8]| s.group(name).unwrap().lag(&s.log);
    assert_eq!((lag(&stream, b"g"), lag(&stream, b"late")), (Some(10), None));
    stream.with_group(b"g", |log, group| ids[..3].iter().for_each(|id| group.advance(log, *id)));
    assert_eq!(lag(&stream, b"g"), Some(7));
    // A deletion ahead makes it unknown, until the end is reached.
    stream.log.delete(ids[8]);
    assert_eq!(lag(&stream, b"g"), None);
    stream.with_group(b"g", |log, group| ids[3..].iter().for_each(|id| group.advance(log, *id)));
    assert_eq!((lag(&stream, b"g"), stream.group(b"g").unwrap().entries_read), (Some(0), Some(10)));
}

#[test]
fn groups_bytes_come_back() {
    let mut stream = Stream::new();
    assert!(stream.add_group(b"g", Group::new(StreamId::MIN, None)));
    assert!(!stream.add_group(b"g", Group::new(StreamId::MAX, None)));
    stream.with_group(b"g", |_, group| {
        let owner = group.add_consumer(b"c", 5).unwrap();
        group.assign(StreamId::new(1, 1), Pending { owner, delivered_ms: 5, deliveries: 1 });
    });
    assert!(stream.heap_bytes() > 300);
    assert!(stream.is_referenced(StreamId::new(1, 1)));
    assert!(stream.acknowledge_everywhere(StreamId::new(1, 1)));
    stream.remove_group(b"g").unwrap();
    assert_eq!(stream.heap_bytes(), 0);
}
