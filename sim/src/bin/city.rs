//! `cargo run -p sim --profile sim --bin city -- [--seeds N] [--seed S] [--trace] [--tell]`
//!
//! Runs seeds S, S+1, ... and prints what each did; for a failure the line that repeats it. `--trace` prints the trace
//! alone, for comparing two processes; `--tell` prints what happens as it happens, the nodes' logs included.

use sim::city::{Plan, run};
use std::time::Instant;

fn main() {
    let (mut seeds, mut first, mut is_trace, mut is_told) = (1u64, 1u64, false, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|w| w.parse().ok());
        let parsed = match word.as_str() {
            "--seeds" => number().map(|n| seeds = n),
            "--seed" => number().map(|n| first = n),
            "--trace" => {
                is_trace = true;
                Some(())
            }
            "--tell" => {
                is_told = true;
                Some(())
            }
            _ => None,
        };
        if parsed.is_none() {
            eprintln!("usage: city [--seeds N] [--seed S] [--trace] [--tell]");
            std::process::exit(2);
        }
    }
    if is_told {
        node::log::start("notice", "").expect("the standard output is there");
    }
    let (started, mut failed, mut sim_ms) = (Instant::now(), 0, 0);
    for seed in first..first + seeds {
        let plan = Plan { is_told, ..Plan::from_seed(seed) };
        if !is_trace {
            println!("{plan:?}");
        }
        let report = run(&plan);
        sim_ms += report.sim_ms;
        if is_trace {
            println!("{:016x}", report.trace);
            continue;
        }
        println!(
            "seed {seed}: {} acknowledged, {} unknown, {} faults, {} moves, {:.1} simulated s",
            report.acknowledged,
            report.unknown,
            report.faults,
            report.moves,
            report.sim_ms as f64 / 1000.0
        );
        if !report.failures.is_empty() {
            failed += 1;
            report.failures.iter().for_each(|f| println!("  FAILED: {f}"));
            println!("  repeat: cargo run -p sim --profile sim --bin city -- --seed {seed}");
        }
    }
    if !is_trace {
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        println!(
            "{seeds} seeds, {failed} failed, {:.1} seeds/min, {:.0} simulated s per real s",
            seeds as f64 / minutes,
            sim_ms as f64 / 60_000.0 / minutes
        );
    }
    std::process::exit(i32::from(failed > 0));
}
