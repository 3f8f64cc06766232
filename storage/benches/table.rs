//! Lookups in a million keys with 1, 4 and 16 in flight, writing strings, and the slot lock.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use proto::Slot;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use storage::{Expiry, KeyAhead, Keyspace};

const KEYS: u64 = 1_000_000;

fn key(i: u64) -> Vec<u8> {
    format!("key:{i:012}").into_bytes()
}

/// A key with its place, as a worker has it after parsing.
struct Wanted {
    key: Vec<u8>,
    slot: Slot,
    hash: u64,
}

impl Wanted {
    fn new(keyspace: &Keyspace, i: u64) -> Wanted {
        let key = key(i);
        Wanted { slot: Slot::of_key(&key), hash: keyspace.hash(&key), key }
    }
}

fn filled() -> Keyspace {
    let keyspace = Keyspace::new(1, [1, 2]);
    for i in 0..KEYS {
        let w = Wanted::new(&keyspace, i);
        keyspace.lock_wait(w.slot).db_mut(0).set_str(&w.key, w.hash, &[b'x'; 64], Expiry::None);
    }
    keyspace
}

/// Keys in an order that no cache foresees; `from`: above the table's keys for misses.
fn wanted(keyspace: &Keyspace, from: u64) -> Vec<Wanted> {
    let spread = |i: u64| i.wrapping_mul(2_654_435_761) % KEYS;
    (0..200_000).map(|i| Wanted::new(keyspace, from + spread(i))).collect()
}

/// Looks a group up as a batch does: all slots, all segments, all entries, then the lookups.
fn probe(keyspace: &Keyspace, group: &[Wanted]) -> usize {
    if group.len() > 1 {
        let ahead: Vec<KeyAhead> = group.iter().map(|w| keyspace.key_ahead(&w.key)).collect();
        keyspace.prefetch(0, &ahead);
    }
    let found = |w: &&Wanted| {
        let guard = keyspace.try_lock(w.slot).expect("nobody else is here");
        guard.db(0).get(&w.key, w.hash).is_some_and(|e| black_box(e.clock()) == 0)
    };
    group.iter().filter(found).count()
}

fn lookups(c: &mut Criterion) {
    let keyspace = filled();
    for (name, from, per_key) in [("probe hit", 0, 1), ("probe miss", KEYS, 0)] {
        let keys = wanted(&keyspace, from);
        let mut group = c.benchmark_group(name);
        for in_flight in [1, 4, 16] {
            let mut groups = keys.chunks_exact(in_flight).cycle();
            group.throughput(Throughput::Elements(in_flight as u64));
            group.bench_function(format!("{in_flight} in flight"), |b| {
                b.iter(|| {
                    let one = groups.next().expect("the groups come round");
                    assert_eq!(probe(&keyspace, one), in_flight * per_key);
                })
            });
        }
        group.finish();
    }
}

fn writes(c: &mut Criterion) {
    let keyspace = Keyspace::new(1, [1, 2]);
    let w = Wanted::new(&keyspace, 1);
    let mut guard = keyspace.lock_wait(w.slot);
    let mut group = c.benchmark_group("set_str");
    for len in [16, 64, 1000, 5000] {
        let value = vec![b'v'; len];
        group.bench_function(format!("new key, {len} bytes, and delete"), |b| {
            b.iter(|| {
                assert!(guard.db_mut(0).set_str(&w.key, w.hash, black_box(&value), Expiry::None).is_none());
                assert!(guard.db_mut(0).delete(&w.key, w.hash));
            })
        });
        guard.db_mut(0).set_str(&w.key, w.hash, &value, Expiry::None);
        group.bench_function(format!("overwrite, {len} bytes"), |b| {
            b.iter(|| guard.db_mut(0).set_str(&w.key, w.hash, black_box(&value), Expiry::None))
        });
        guard.db_mut(0).delete(&w.key, w.hash);
    }
    group.finish();
    drop(guard);
    c.bench_function("insert 10 000 keys into an empty keyspace", |b| {
        let all: Vec<Wanted> = (0..10_000).map(|i| Wanted::new(&keyspace, i)).collect();
        b.iter_batched(
            || Keyspace::new(1, [1, 2]),
            |keyspace| {
                for w in &all {
                    keyspace.lock_wait(w.slot).db_mut(0).set_str(&w.key, w.hash, b"value", Expiry::None);
                }
                keyspace
            },
            BatchSize::LargeInput,
        )
    });
}

fn lock(c: &mut Criterion) {
    let keyspace = Keyspace::new(1, [1, 2]);
    let slot = Slot::default();
    let mut group = c.benchmark_group("slot lock");
    group.bench_function("uncontended", |b| b.iter(|| drop(black_box(keyspace.try_lock(slot)))));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                keyspace.lock_wait(slot).state_mut().writes += 1;
            }
        });
        group.bench_function("contended by one other thread", |b| {
            b.iter(|| keyspace.lock_wait(slot).state_mut().writes += 1)
        });
        is_over.store(true, Ordering::Relaxed);
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50);
    targets = lookups, writes, lock
}
criterion_main!(benches);
