//! One sorted set of a million members.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use storage::{Thresholds, ZSet};

const MEMBERS: u64 = 1_000_000;

/// Each number once, in an order that no cache foresees.
fn spread(i: u64) -> u64 {
    i.wrapping_mul(2_654_435_761) % MEMBERS
}

fn member(i: u64) -> Vec<u8> {
    format!("member:{i:012}").into_bytes()
}

fn zset(c: &mut Criterion) {
    let thresholds = Thresholds::default();
    let mut set = ZSet::new();
    let members: Vec<Vec<u8>> = (0..MEMBERS).map(member).collect();
    for i in 0..MEMBERS {
        set.insert(&members[i as usize], spread(i) as f64, &thresholds);
    }
    let mut next = 0;
    let mut pick = move || {
        next += 1;
        spread(next % MEMBERS) as usize
    };
    let mut group = c.benchmark_group("sorted set of a million");
    group.bench_function("score", |b| b.iter(|| set.score(&members[pick()]).expect("it is there")));
    group.bench_function("rank", |b| b.iter(|| set.rank(&members[pick()]).expect("it is there")));
    group.bench_function("at", |b| b.iter(|| black_box(set.at(pick())).is_some()));
    group.bench_function("range of 10", |b| {
        b.iter(|| {
            let start = pick().min(MEMBERS as usize - 10);
            assert_eq!(set.range(start, start + 10).fold(0, |n, _| n + 1), 10);
        })
    });
    let mut turn = 0;
    group.bench_function("insert with a new score", |b| {
        b.iter(|| {
            turn += 1;
            set.insert(&members[pick()], spread(turn) as f64 + 0.5, &thresholds).expect("it was there")
        })
    });
    group.bench_function("insert and remove a new member", |b| {
        b.iter(|| {
            turn += 1;
            let name = format!("new:{turn}");
            assert_eq!(set.insert(name.as_bytes(), spread(turn) as f64, &thresholds), None);
            set.remove(name.as_bytes()).expect("it was there")
        })
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50);
    targets = zset
}
criterion_main!(benches);
