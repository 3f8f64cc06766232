//! LATENCY: spikes of latency, and how long each command takes.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::observe::{SLOW, latency};
use engine::histogram;
use engine::spec::{Arg, Command, Group, Handler, flag};
use engine::{Error, HostOutcome, Spec};
use std::sync::atomic::Ordering;

type Outcome = Result<HostOutcome, Error>;

const SUB: Command = Command {
    group: Group::Server,
    since: "2.8.13",
    arity: 2,
    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
    tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
    run: Handler::Host,
    ..Command::BASE
};

pub static COMMANDS: &[Command] = &[Command {
    name: "latency",
    summary: "A container for latency diagnostics commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    flags: 0,
    tips: &[],
    run: Handler::Container,
    subcommands: &[
        Command { name: "doctor", summary: "Returns a human-readable latency analysis report.", ..SUB },
        Command {
            name: "graph",
            summary: "Returns a latency graph for an event.",
            arity: 3,
            args: &[Arg::string("event")],
            ..SUB
        },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            flags: flag::LOADING | flag::STALE,
            tips: &[],
            ..SUB
        },
        Command {
            name: "histogram",
            summary: "Returns the cumulative distribution of latencies of a subset or all commands.",
            since: "7.0.0",
            complexity: "O(N) where N is the number of commands with latency information being retrieved.",
            arity: -2,
            args: &[Arg::string("command").multiple().optional()],
            ..SUB
        },
        Command {
            name: "history",
            summary: "Returns timestamp-latency samples for an event.",
            arity: 3,
            args: &[Arg::string("event")],
            ..SUB
        },
        Command { name: "latest", summary: "Returns the latest latency samples for all events.", ..SUB },
        Command {
            name: "reset",
            summary: "Resets the latency data for one or more events.",
            arity: -2,
            args: &[Arg::string("event").multiple().optional()],
            tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
            ..SUB
        },
    ],
    ..SUB
}];

fn history<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let samples = cx.shared().observe.events.get(cx.args[2]).map(|(_, s)| s.samples).unwrap_or_default();
    cx.out.array(samples.len());
    for sample in samples {
        cx.out.array(2);
        cx.out.int(sample.at_s);
        cx.out.int(sample.ms as i64);
    }
    Ok(HostOutcome::Done)
}

fn latest<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let events = cx.shared().observe.events.all();
    cx.out.array(events.len());
    for (name, series) in events {
        let last = series.samples.back().copied().unwrap_or(latency::Sample { at_s: 0, ms: 0 });
        cx.out.array(4);
        cx.out.bulk(name.as_bytes());
        cx.out.int(last.at_s);
        cx.out.int(last.ms as i64);
        cx.out.int(series.max_ms as i64);
    }
    Ok(HostOutcome::Done)
}

fn graph<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let (name, series) = cx
        .shared()
        .observe
        .events
        .get(cx.args[2])
        .ok_or_else(|| Error::err(&format!("No samples available for event '{}'", cx.text(2))))?;
    let text = series.graph(name, cx.host.setting.now.wall.0 / 1000);
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn doctor<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let settings = cx.host.setting.settings;
    let events = cx.shared().observe.events.all();
    let now_s = cx.host.setting.now.wall.0 / 1000;
    let text = latency::report(&events, now_s, settings.latency_threshold_ms, settings.log_limits[SLOW]);
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn reset<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let events = &cx.host.shared.observe.events;
    let count = match &cx.args[2..] {
        [] => events.reset(None),
        names => names.iter().map(|name| events.reset(Some(name))).sum(),
    };
    cx.out.int(count as i64);
    Ok(HostOutcome::Done)
}

fn histogram<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let stats = cx.stats();
    let table = &cx.host.shared.engine.table;
    let with_subs = |s: &'static Spec| std::iter::once(s).chain(s.subcommands.iter().copied());
    let asked: Vec<&'static Spec> = match &cx.args[2..] {
        [] => table.commands().flat_map(with_subs).collect(),
        names => names.iter().filter_map(|name| table.by_full_name(name)).flat_map(with_subs).collect(),
    };
    let per_us = cx.host.shared.counters.ticks_per_us.load(Ordering::Relaxed).max(1);
    let is_on = cx.host.setting.settings.is_latency_tracked;
    let has_run = |s: &&&Spec| is_on && stats.times(s.id).iter().any(|n| *n > 0);
    let shown: Vec<&&Spec> = asked.iter().filter(has_run).collect();
    cx.out.map(shown.len());
    for spec in shown {
        let times = stats.times(spec.id);
        let steps = cumulative(&times, per_us);
        cx.out.bulk(spec.full_name.as_bytes());
        cx.out.map(2);
        cx.out.bulk(b"calls");
        cx.out.int(times.iter().map(|n| *n as i64).sum());
        cx.out.bulk(b"histogram_usec");
        cx.out.map(steps.len());
        for (us, count) in steps {
            cx.out.int(us as i64);
            cx.out.int(count as i64);
        }
    }
    Ok(HostOutcome::Done)
}

/// How many took at most so many microseconds, in powers of two of 1024 ns, where the number grows.
fn cumulative(times: &[u32], ticks_per_us: u64) -> Vec<(u64, u64)> {
    let mut steps: Vec<(u64, u64)> = Vec::new();
    let (mut limit_ns, mut count) = (1024u64, 0);
    for (bucket, n) in times.iter().enumerate().filter(|(_, n)| **n > 0) {
        let ns = histogram::highest(bucket) as u128 * 1000 / ticks_per_us as u128;
        while (limit_ns as u128) < ns && limit_ns < 1 << 62 {
            limit_ns *= 2;
        }
        count += *n as u64;
        let us = limit_ns / 1000;
        match steps.last_mut() {
            Some(last) if last.0 == us => last.1 = count,
            _ => steps.push((us, count)),
        }
    }
    steps
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("latency|doctor", doctor::<E>),
        ("latency|graph", graph::<E>),
        ("latency|help", |cx| cx.help()),
        ("latency|histogram", histogram::<E>),
        ("latency|history", history::<E>),
        ("latency|latest", latest::<E>),
        ("latency|reset", reset::<E>),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_powers_of_two() {
        let mut times = [0; histogram::BUCKETS];
        // At 1000 ticks a microsecond: 0.5, 0.9 and 3 microseconds.
        [500, 900, 3000].iter().for_each(|ticks| times[histogram::bucket(*ticks)] += 1);
        assert_eq!(cumulative(&times, 1000), [(1, 2), (4, 3)]);
    }
}
