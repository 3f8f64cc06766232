//! MEMORY: what keys take. What the server takes is told by the node.

use crate::Error;
use crate::cx::Cx;
use crate::number::parse_i64;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};

const SUB: Command = Command {
    group: Group::Server,
    since: "4.0.0",
    complexity: "Depends on how much memory is allocated, could be slow",
    arity: 2,
    run: Handler::Host,
    ..Command::BASE
};

pub static COMMANDS: &[Command] = &[Command {
    name: "memory",
    summary: "A container for memory diagnostics commands.",
    complexity: "Depends on subcommand.",
    arity: -2,
    run: Handler::Container,
    subcommands: &[
        Command { name: "doctor", summary: "Outputs a memory problems report.", complexity: "O(1)", ..SUB },
        Command {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            complexity: "O(1)",
            flags: flag::LOADING | flag::STALE,
            ..SUB
        },
        Command { name: "malloc-stats", summary: "Returns the allocator statistics.", ..SUB },
        Command {
            name: "purge",
            summary: "Asks the allocator to release memory.",
            tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
            ..SUB
        },
        Command {
            name: "stats",
            summary: "Returns details about memory usage.",
            complexity: "O(1)",
            tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
            ..SUB
        },
        Command {
            name: "usage",
            summary: "Estimates the memory usage of a key.",
            complexity: "O(1): collections keep count of what they take.",
            arity: -3,
            flags: flag::READONLY,
            acl: acl::READ,
            keys: &[KeySpec::one(2, key::RO)],
            args: &[Arg::key("key", 0), Arg::integer("count").token("SAMPLES").optional()],
            run: Handler::Keys(usage),
            ..SUB
        },
    ],
    ..SUB
}];

fn usage(cx: &mut Cx) -> Result<(), Error> {
    let mut i = 3;
    while i < cx.args.len() {
        if !cx.is_word(i, "SAMPLES") || i + 1 == cx.args.len() {
            return Err(Error::Syntax);
        }
        // Nothing is sampled: what a value takes is known.
        let samples = parse_i64(cx.args[i + 1]).ok_or(Error::NotInteger)?;
        if samples < 0 {
            return Err(Error::Syntax);
        }
        i += 2;
    }
    match cx.keys.peek(cx.args[2]).map(|entry| entry.bytes()) {
        Some(bytes) => cx.out.int(bytes as i64),
        None => cx.out.null(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn a_longer_value_takes_more() {
        let mut runner = Runner::default();
        let mut usage = |lines: &[&str]| -> usize {
            runner.all(lines).trim_start_matches(':').trim_end().parse().expect("a number")
        };
        let small = usage(&["SET k v", "MEMORY USAGE k"]);
        let large = usage(&[&format!("SET k {}", "x".repeat(1000)), "MEMORY USAGE k SAMPLES 0"]);
        assert!(small > 0 && large >= small + 990 && large < 2000, "{small} {large}");
    }

    #[test]
    fn what_is_not_there_takes_nothing() {
        assert_eq!(run(&["MEMORY USAGE k"]), "$-1\r\n");
        assert_eq!(run(&["MEMORY USAGE k SAMPLES"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["MEMORY USAGE k SAMPLES -1"]), "-ERR syntax error\r\n");
    }
}
