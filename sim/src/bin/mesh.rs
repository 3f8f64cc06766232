//! `cargo run -p sim --profile sim --bin mesh -- --seeds N --profile Q --seed S [--mutation W2]`
//!
//! Runs seeds S, S+1, ... and prints seeds a minute, what the runs did, and for a failure the line that repeats it.

use sim::mesh::{Batch, Mutant, Plan, Profile, parse_mutant, run};
use std::time::Instant;

fn main() {
    let args = Args::parse().unwrap_or_else(|what| {
        eprintln!(
            "{what}\nusage: mesh [--seeds N] [--profile Q|R|D|S] [--seed S] [--mutation RULE] [--trace]"
        );
        std::process::exit(2);
    });
    let started = Instant::now();
    let mut batch = Batch::default();
    for seed in args.first..args.first + args.seeds {
        let plan = Plan::from_seed(args.profile, seed).with_mutant(args.mutant);
        if args.seeds == 1 {
            println!("{plan:?}");
        }
        batch.add(&run(&plan, args.trace));
        if let Some((line, _)) = batch.failures.last().filter(|_| batch.failures.len() <= 20)
            && batch.failed_now
        {
            println!("{line}");
        }
    }
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!("{}", batch.summary());
    println!(
        "{:.0} seeds/min, {:.2} M events/s",
        args.seeds as f64 / minutes,
        batch.events as f64 / minutes / 6e7
    );
    std::process::exit(i32::from(!batch.failures.is_empty()));
}

struct Args {
    seeds: u64,
    first: u64,
    profile: Profile,
    mutant: Mutant,
    trace: bool,
}

impl Args {
    fn parse() -> Result<Args, String> {
        let mut args = Args { seeds: 100, first: 1, profile: Profile::Q, mutant: Mutant::None, trace: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |v: String| v.parse::<u64>().map_err(|_| format!("{v} is no number"));
            match word.as_str() {
                "--seeds" => args.seeds = number(value()?)?,
                "--seed" => args.first = number(value()?)?,
                "--profile" => {
                    let name = value()?;
                    args.profile = Profile::parse(&name).ok_or(format!("no profile {name}"))?;
                }
                "--mutation" => {
                    let name = value()?;
                    args.mutant = parse_mutant(&name).ok_or(format!("no mutation {name}"))?;
                }
                "--trace" => args.trace = true,
                _ => return Err(format!("unknown word {word}")),
            }
        }
        Ok(args)
    }
}
