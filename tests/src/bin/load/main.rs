//! Load for the measure in `tests/versus`: fills servers, rewrites keys, and sends commands at a fixed rate.
//!
//! At a fixed rate the loop is open: a command has a time at which it is meant to be sent, and its latency counts from
//! there, so that a server that stalls is charged for everything that should have been sent meanwhile (no coordinated
//! omission). One thread serves all connections and spins; it is meant to have a CPU of its own. `--watch CPU` names the
//! server's: commands that were due while either CPU was taken away from this machine are counted apart (see `robbed`).
//!
//! Commands are templates, words between spaces: `{i}` the running number (12 digits, `{i:10}` for 10), `{p:N}` the
//! number permuted below N, `{m:K}` the number modulo K, `{r:N}` a random number below N (12 digits), `{x:L}` L bytes,
//! `{v:MIN:MAX}` between MIN and MAX bytes. Random numbers are seeded. Prints one line of JSON.

mod disturber;
mod fill;
mod rate;
mod robbed;
mod template;

use rate::Plan;
use std::io;
use std::time::Duration;
use template::{Rng, Template};

const USAGE: &str = "usage:
  load fill PORT COUNT TEMPLATE [--seed S]
  load churn PORT KEYS ROUNDS MIN MAX [--seed S]
  load rate PORT PER_SECOND SECONDS CONNECTIONS TEMPLATE... [--seed S] [--watch CPU]
       [--disturb PAUSE_MS COMMAND [| COMMAND]...]";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = run(&args) {
        eprintln!("load: {error}");
        std::process::exit(1);
    }
}

fn run(args: &[String]) -> io::Result<()> {
    let mut plain = Vec::new();
    let (mut seed, mut watched, mut disturbers) = (1, None, Vec::new());
    let mut at = 0;
    while at < args.len() {
        match args[at].as_str() {
            "--seed" => {
                seed = number(args.get(at + 1))?;
                at += 2;
            }
            "--watch" => {
                watched = Some(number(args.get(at + 1))? as usize);
                at += 2;
            }
            "--disturb" => {
                let pause = Duration::from_millis(number(args.get(at + 1))?);
                let text = args.get(at + 2).ok_or_else(usage)?;
                let commands = text.split(" | ").map(Template::new).collect::<io::Result<Vec<_>>>()?;
                disturbers.push((pause, commands));
                at += 3;
            }
            _ => {
                plain.push(&args[at]);
                at += 1;
            }
        }
    }
    let rng = Rng(seed | 1);
    let arg = |i: usize| plain.get(i).copied();
    match arg(0).map(String::as_str) {
        Some("fill") => {
            let template = Template::new(arg(3).ok_or_else(usage)?)?;
            fill::fill(number(arg(1))? as u16, number(arg(2))?, &template, rng)
        }
        Some("churn") => {
            let (min, max) = (number(arg(4))?, number(arg(5))?);
            fill::churn(number(arg(1))? as u16, number(arg(2))?, number(arg(3))?, min, max, rng)
        }
        Some("rate") if plain.len() > 5 => {
            let templates = plain[5..].iter().map(|t| Template::new(t)).collect::<io::Result<Vec<_>>>()?;
            let plan = Plan {
                port: number(arg(1))? as u16,
                per_second: number(arg(2))?,
                seconds: number(arg(3))?,
                connections: number(arg(4))? as usize,
                watched,
            };
            rate::rate(&plan, &templates, disturbers, rng)
        }
        _ => Err(usage()),
    }
}

fn usage() -> io::Error {
    io::Error::other(USAGE)
}

fn number(text: Option<&String>) -> io::Result<u64> {
    text.and_then(|t| t.parse().ok()).ok_or_else(usage)
}
