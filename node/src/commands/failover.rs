//! FAILOVER: a primary outside of a cluster hands its role over.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::replica::failover::{self, Failover, Refusal};
use engine::spec::{Arg, Command, Group, Handler, flag};
use engine::{Error, HostOutcome};
use std::time::Duration;

type Outcome = Result<HostOutcome, Error>;

const FAILOVER: Command = Command {
    name: "failover",
    summary: "Starts a coordinated failover from a server to one of its replicas.",
    since: "6.2.0",
    complexity: "O(1)",
    group: Group::Server,
    arity: -1,
    flags: flag::ADMIN | flag::NOSCRIPT | flag::STALE,
    run: Handler::Host,
    args: &[
        Arg::block(
            "target",
            &[Arg::string("host"), Arg::integer("port"), Arg::word("force", "FORCE").optional()],
        )
        .token("TO")
        .optional(),
        Arg::word("abort", "ABORT").optional(),
        Arg::integer("milliseconds").token("TIMEOUT").optional(),
    ],
    ..Command::BASE
};
fn run<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let shared = cx.shared().clone();
    if shared.settings().is_cluster {
        return Err(Error::text(
            "ERR FAILOVER not allowed in cluster mode. Use CLUSTER FAILOVER command instead.",
        ));
    }
    if cx.args.len() == 2 && cx.is_word(1, "ABORT") {
        if !cx.host.is_exclusive {
            return Ok(HostOutcome::NeedsGate);
        }
        return match failover::abort_closed(&shared, "Failover manually aborted") {
            true => cx.ok(),
            false => Err(Error::text("ERR No failover in progress.")),
        };
    }
    let Request { to, is_forced, timeout_ms } = parse(cx)?;
    let deadline = (timeout_ms > 0).then(|| shared.env.now().mono + Duration::from_millis(timeout_ms));
    failover::begin(&shared, Failover::new(to, is_forced, deadline)).map_err(|refusal| {
        Error::text(match refusal {
            Refusal::InProgress => "ERR FAILOVER already in progress.",
            Refusal::IsReplica => "ERR FAILOVER is not valid when server is a replica.",
            Refusal::NoReplicas => "ERR FAILOVER requires connected replicas.",
            Refusal::ForceAlone => {
                "ERR FAILOVER with force option requires both a timeout and target HOST and IP."
            }
            Refusal::NotAReplica => "ERR FAILOVER target HOST and PORT is not a replica.",
            Refusal::NotOnline => "ERR FAILOVER target replica is not online.",
        })
    })?;
    cx.ok()
}

struct Request {
    to: Option<(String, u16)>,
    is_forced: bool,
    /// 0: none was said.
    timeout_ms: u64,
}

fn parse<E: Env>(cx: &HostCx<E>) -> Result<Request, Error> {
    let mut request = Request { to: None, is_forced: false, timeout_ms: 0 };
    let (mut at, len) = (1, cx.args.len());
    while at < len {
        if cx.is_word(at, "TIMEOUT") && at + 1 < len && request.timeout_ms == 0 {
            request.timeout_ms = match u64::try_from(cx.int(at + 1)?) {
                Ok(ms) if ms > 0 => ms,
                _ => return Err(Error::text("ERR FAILOVER timeout must be greater than 0")),
            };
            at += 2;
        } else if cx.is_word(at, "TO") && at + 2 < len && request.to.is_none() {
            // A port that none can be is no replica's.
            let port = u16::try_from(cx.int(at + 2)?).unwrap_or(0);
            request.to = Some((cx.text(at + 1), port));
            at += 3;
        } else if cx.is_word(at, "FORCE") && !request.is_forced {
            request.is_forced = true;
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok(request)
}

pub static COMMANDS: &[Command] = &[FAILOVER];

pub fn functions<E: Env>() -> Functions<E> {
    &[("failover", run::<E>)]
}
