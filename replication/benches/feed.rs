//! Appending to the feed from 1 to 8 threads, with the backlog on and nobody reading.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::Offset;
use proto::resp::encode_command;
use replication::feed::Feed;
use std::sync::Barrier;
use std::time::{Duration, Instant};

fn unit() -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(&[b"SET".as_slice(), b"key:000000123456", &[b'x'; 64]], &mut out);
    out
}

/// Time that `threads` take to append `each` units apiece.
fn run(feed: &Feed, unit: &[u8], threads: usize, each: u64) -> Duration {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                barrier.wait();
                for _ in 0..each {
                    feed.append(None, [(0u16, unit)].as_slice());
                }
            });
        }
        barrier.wait();
        Instant::now()
    })
    .elapsed()
}

fn append(c: &mut Criterion) {
    let unit = unit();
    let mut group = c.benchmark_group("feed append");
    group.throughput(Throughput::Elements(1));
    for threads in [1, 2, 4, 8] {
        let feed = Feed::new(Offset(0), 1 << 20);
        feed.turn_backlog_on();
        group.bench_function(format!("{threads} threads"), |b| {
            b.iter_custom(|n| run(&feed, &unit, threads, n.div_ceil(threads as u64)))
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = append
}
criterion_main!(benches);
