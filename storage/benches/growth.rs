//! Wall-clock time of each of ten million inserts, as a histogram: growth shows as a tail, if anywhere. Five million go
//! into one slot, five million into all. The clock itself costs some 25 ns a reading.

use hdrhistogram::Histogram;
use proto::Slot;
use std::io::Write;
use std::time::Instant;
use storage::{Expiry, Keyspace};

const KEYS: u64 = 5_000_000;

fn run(tag: &str) {
    let keyspace = Keyspace::new(1, [1, 2]);
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).expect("bounds in order");
    let mut buffer = [0u8; 40];
    for i in 0..KEYS {
        let mut rest = &mut buffer[..];
        write!(rest, "{tag}{:x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).expect("the key fits");
        let left = rest.len();
        let key = &buffer[..40 - left];
        let begun = Instant::now();
        let mut guard = keyspace.lock_wait(Slot::of_key(key));
        guard.db_mut(0).set_str(key, keyspace.hash(key), b"value", Expiry::None);
        drop(guard);
        histogram.saturating_record(begun.elapsed().as_nanos().max(1) as u64);
    }
    print!("{KEYS} inserts, tag '{tag}', ns:");
    for quantile in [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999] {
        print!("  {}%: {}", quantile * 100.0, histogram.value_at_quantile(quantile));
    }
    println!("  longest: {}", histogram.max());
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    if std::env::args().any(|a| a == "--bench") {
        run("");
        run("{t}");
    }
}
