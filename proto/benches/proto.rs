//! Parsing requests and hashing keys to slots: what every command pays before it begins.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::Slot;
use proto::resp::{Limits, Request, encode_command, parse_request};
use std::hint::black_box;
use std::time::Duration;

fn command(args: &[&[u8]], times: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..times {
        encode_command(args, &mut out);
    }
    out
}

/// Parses a whole buffer as a connection does; gives the number of commands.
fn parse_all(buf: &[u8], args: &mut Vec<proto::resp::Span>) -> usize {
    let limits = Limits::authenticated(512 << 20);
    let (mut at, mut commands, mut partial) = (0, 0, None);
    args.clear();
    while at < buf.len() {
        match parse_request(buf, at, &limits, args, &mut partial) {
            Ok(Request::Command { end }) => at = end,
            other => panic!("a whole command: {other:?}"),
        }
        commands += 1;
    }
    commands
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let get: &[&[u8]] = &[b"GET", b"key:000000123456"];
    let set: &[&[u8]] = &[b"SET", b"key:000000123456", &[b'x'; 64]];
    for (name, words, times) in
        [("GET", get, 1), ("SET 64", set, 1), ("64 GETs", get, 64), ("64 SETs", set, 64)]
    {
        let buf = command(words, times);
        let mut args = Vec::with_capacity(256);
        group.throughput(Throughput::Elements(times as u64));
        group.bench_function(name, |b| b.iter(|| assert_eq!(parse_all(black_box(&buf), &mut args), times)));
    }
    group.finish();
}

fn slot(c: &mut Criterion) {
    let mut group = c.benchmark_group("slot of key");
    for (name, key) in [
        ("16 bytes", "key:000000123456"),
        ("with {tag}", "{user:123456}:cart"),
        ("64 bytes", &"k".repeat(64)),
    ] {
        group.bench_function(name, |b| b.iter(|| Slot::of_key(black_box(key.as_bytes()))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = parse, slot
}
criterion_main!(benches);
