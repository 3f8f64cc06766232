//! The city's own checks: a seed decides a run, and runs of some seeds keep every promise.

use std::process::Command;

fn city(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_city")).args(args).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn same_seed_same_trace_in_two_processes() {
    for seed in ["3", "7"] {
        let trace = city(&["--seed", seed, "--trace"]);
        assert_eq!(trace, city(&["--seed", seed, "--trace"]), "seed {seed}");
    }
    assert_ne!(city(&["--seed", "3", "--trace"]), city(&["--seed", "7", "--trace"]));
}

#[test]
fn connections_move_between_two_workers() {
    let told = city(&["--seed", "4717"]);
    assert!(told.contains(" workers: 2,"), "another seed is needed: {told}");
    assert!(!told.contains(" 0 moves,"), "{told}");
}

/// Seeds that once failed, with what they found.
const REGRESSIONS: [(&str, &str); 3] = [
    ("13", "a connection whose slot was paused for a move kept its worker from ever resting"),
    ("49", "the control loop went round without time passing while a deadline lay in the past"),
    ("62", "a hand-over waited in vain for a feed that other clients' WAIT made longer"),
];

#[test]
fn seeds_that_once_failed() {
    for (seed, found) in REGRESSIONS {
        let told = city(&["--seed", seed]);
        assert!(told.contains("0 failed"), "{found}: {told}");
    }
}
