//! Sends commands drawn from the command table to Shoal and to Redis, and reports what they answer differently.
//!
//! Prints each difference with the fewest commands that show it. Exit code 1: there were some.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::Server;
use tests::differential::draw::{Args, Draw};
use tests::differential::grammar::{self, Grammar};
use tests::differential::judge::{agree, contents};
use tests::differential::peer::{Peer, Reply};
use tests::differential::shrink::shrink;

const USAGE: &str = "usage: differential SHOAL-SERVER REDIS-SERVER [--seed N] [--cases N] [--steps N] [--seconds N] [--only COMMAND]... [--newer-than VERSION]";
const ARGS: &[&str] = &["--save", "", "--proto-max-bulk-len", "1mb"];
const DATABASES: &[&str] = &["0", "1", "15"];

struct Options {
    binaries: Vec<PathBuf>,
    seed: u64,
    cases: u64,
    steps: usize,
    limit: Duration,
    only: BTreeSet<String>,
    /// Commands that came later are drawn, and a few that make values for them.
    newer_than: Option<String>,
}

/// What makes and changes the values that later commands work on.
const BASICS: &[&str] =
    &["hset", "hdel", "hincrby", "hgetall", "set", "del", "rename", "copy", "sadd", "xadd"];

fn main() {
    let outcome = options().and_then(|options| run(&options).map_err(|e| e.to_string()));
    match outcome {
        Ok(0) => {}
        Ok(_) => std::process::exit(1),
        Err(error) => {
            eprintln!("differential: {error}\n{USAGE}");
            std::process::exit(2);
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        binaries: Vec::new(),
        seed: 1,
        cases: u64::MAX,
        steps: 150,
        limit: Duration::from_secs(30),
        only: BTreeSet::new(),
        newer_than: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok()).ok_or(format!("{arg} takes a number"));
        match arg.as_str() {
            "--seed" => options.seed = number()?,
            "--cases" => options.cases = number()?,
            "--steps" => options.steps = number()? as usize,
            "--seconds" => options.limit = Duration::from_secs(number()?),
            "--newer-than" => options.newer_than = Some(args.next().ok_or("--newer-than takes a version")?),
            "--only" => _ = options.only.insert(args.next().ok_or("--only takes a command")?),
            _ => options.binaries.push(arg.into()),
        }
    }
    if options.binaries.len() != 2 {
        return Err("two servers are compared".into());
    }
    Ok(options)
}

/// Two servers that are given the same commands.
struct Pair {
    servers: [RefCell<Server>; 2],
    grammars: BTreeMap<String, Grammar>,
}

/// Where two servers first differ: the command's number and what each answered, or the contents of a key.
struct Difference {
    command: String,
    ours: String,
    theirs: String,
}

fn run(options: &Options) -> io::Result<usize> {
    let start =
        |binary: &PathBuf| Server::start_binary(binary, &["--save", "", "--proto-max-bulk-len", "1mb"]);
    let servers = [start(&options.binaries[0]), start(&options.binaries[1])];
    let mut grammars = grammar::read(&mut servers[0].client());
    let known = grammar::read(&mut servers[1].client());
    grammars.retain(|name, _| {
        known.contains_key(name) && (options.only.is_empty() || options.only.contains(name))
    });
    if let Some(version) = &options.newer_than {
        grammars.retain(|name, g| BASICS.contains(&name.as_str()) || grammar::is_newer(&g.since, version));
    }
    let version = servers[1].client().info("redis_version");
    grammars.values_mut().for_each(|g| grammar::drop_newer(&mut g.args, &version));
    let pair = Pair { servers: servers.map(RefCell::new), grammars };
    println!("{} commands", Draw::new(&pair.grammars, 0).names().count());
    let (began, mut sent, mut cases) = (Instant::now(), 0, 0);
    let mut seen = BTreeMap::<String, (usize, String)>::new();
    while cases < options.cases && began.elapsed() < options.limit {
        let mut draw = Draw::new(&pair.grammars, options.seed + cases);
        let mut commands = Vec::new();
        (0..options.steps).for_each(|_| draw.step(&mut commands));
        cases += 1;
        sent += commands.len();
        let protocol = if cases % 2 == 0 { "3" } else { "2" };
        let Some(first) = pair.compare(&commands, protocol) else { continue };
        // One report for each command and kind of answer is enough.
        let entry = seen.entry(kind_of(&first)).or_default();
        entry.0 += 1;
        if entry.0 > 1 {
            continue;
        }
        let kind = kind_of(&first);
        let fewest =
            shrink(commands, |fewer| pair.compare(fewer, protocol).is_some_and(|d| kind_of(&d) == kind));
        let shown = pair.compare(&fewest, protocol).unwrap_or(first);
        entry.1 = report(options.seed + cases - 1, protocol, &fewest, &shown);
        println!("{}", entry.1);
    }
    println!(
        "{cases} cases, {sent} commands in {:.0} s, seeds {} to {}: {} differences",
        began.elapsed().as_secs_f64(),
        options.seed,
        options.seed + cases.saturating_sub(1),
        seen.len(),
    );
    seen.iter().for_each(|(kind, (times, _))| println!("{times:>5} {kind}"));
    Ok(seen.len())
}

/// Differences of one kind are reported once: the command, and the answers without their numbers.
fn kind_of(difference: &Difference) -> String {
    let name: String = difference.command.split(' ').next().unwrap_or_default().to_string();
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).take(48).collect()
    };
    match (difference.ours.starts_with("Error"), difference.theirs.starts_with("Error")) {
        (true, true) => format!("{name}: {} / {}", plain(&difference.ours), plain(&difference.theirs)),
        (is_ours, is_theirs) => format!("{name}: error {is_ours} / {is_theirs}"),
    }
}

fn report(seed: u64, protocol: &str, commands: &[Args], difference: &Difference) -> String {
    let lines: Vec<String> = commands.iter().map(|args| format!("    {}", show(args))).collect();
    format!(
        "seed {seed}, protocol {protocol}:\n{}\n  at {}\n  ours   {}\n  theirs {}\n",
        lines.join("\n"),
        difference.command,
        difference.ours,
        difference.theirs,
    )
}

fn show(args: &[Vec<u8>]) -> String {
    let word = |w: &Vec<u8>| match w.is_empty() || w.iter().any(|b| !b.is_ascii_graphic()) {
        true => format!("\"{}\"", w.escape_ascii()),
        false => w.escape_ascii().to_string(),
    };
    args.iter().map(word).collect::<Vec<_>>().join(" ")
}

impl Pair {
    /// The first difference that these commands show on empty servers.
    fn compare(&self, commands: &[Args], protocol: &str) -> Option<Difference> {
        let begin = [vec![b"FLUSHALL".to_vec()], vec![b"HELLO".to_vec(), protocol.into()]];
        let run = |server: &RefCell<Server>| -> Result<(Peer, Vec<Reply>), String> {
            let attempt = || {
                let mut peer = Peer::connect(server.borrow().port)?;
                peer.run(&begin)?;
                let replies = peer.run(commands)?;
                Ok((peer, replies))
            };
            attempt().map_err(|error: io::Error| {
                let log = server.borrow().log();
                // A fresh one for what comes next.
                server.borrow_mut().kill();
                server.borrow_mut().restart(ARGS);
                let last: Vec<&str> = log.lines().rev().take(6).collect();
                format!("{error}; its log ends, last line first:\n    {}", last.join("\n    "))
            })
        };
        let (ours, theirs) = (run(&self.servers[0]), run(&self.servers[1]));
        let lost =
            |ours: String, theirs: String| Some(Difference { command: "connection".into(), ours, theirs });
        let ((mut our_peer, ours), (mut their_peer, theirs)) = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (ours, theirs) => {
                let text = |r: Result<_, String>| r.map_or_else(|e| e, |_| "serves".into());
                return lost(text(ours), text(theirs));
            }
        };
        let mut queued: Vec<&Args> = Vec::new();
        for ((args, ours), theirs) in commands.iter().zip(&ours).zip(&theirs) {
            let is_same = match args[0].as_slice() {
                b"MULTI" => {
                    queued.clear();
                    ours == theirs
                }
                b"EXEC" => self.agree_all(&queued, ours, theirs),
                _ => {
                    queued.push(args);
                    agree(args, ours, theirs, &self.grammars)
                }
            };
            if !is_same {
                let text = |r: &Reply| {
                    if r.value.is_error() {
                        format!("{:?}", r.value)
                    } else {
                        format!("{:?} {}", r.value, r.raw.escape_ascii())
                    }
                };
                return Some(Difference { command: show(args), ours: text(ours), theirs: text(theirs) });
            }
        }
        match (contents(&mut our_peer, DATABASES), contents(&mut their_peer, DATABASES)) {
            (Ok(ours), Ok(theirs)) => {
                let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
                let key = keys.into_iter().find(|k| ours.get(*k) != theirs.get(*k))?;
                let text = |of: &BTreeMap<String, String>| of.get(key).cloned().unwrap_or("nothing".into());
                Some(Difference {
                    command: format!("contents of {key}"),
                    ours: text(&ours),
                    theirs: text(&theirs),
                })
            }
            (ours, theirs) => lost(format!("{:?}", ours.err()), format!("{:?}", theirs.err())),
        }
    }

    /// Replies of a transaction, each to its command.
    fn agree_all(&self, queued: &[&Args], ours: &Reply, theirs: &Reply) -> bool {
        match (ours.value.as_list(), theirs.value.as_list()) {
            (Some(a), Some(b)) if a.len() == b.len() && a.len() == queued.len() => {
                let reply =
                    |value: &tests::Value| Reply { value: value.clone(), raw: format!("{value:?}").into() };
                a.iter()
                    .zip(b)
                    .zip(queued)
                    .all(|((a, b), args)| agree(args, &reply(a), &reply(b), &self.grammars))
            }
            _ => ours == theirs,
        }
    }
}
