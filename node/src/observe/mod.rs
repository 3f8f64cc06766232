//! What the node keeps of the commands that ran: those that were slow or large, spikes of latency, and whoever looks on
//! (MONITOR).
//!
//! Commands are judged by the clock that is read at the end of each one anyway: the engine tells only those that took as
//! long as one number, which is the smaller of all limits, and 0 while somebody looks on. What is told is cold.

pub mod latency;
pub mod logs;

use crate::clients::Client;
use crate::config::NodeSettings;
use crate::env::Env;
use crate::mail::{Letter, Note};
use crate::shared::Shared;
use engine::spec::flag;
use engine::{Args, Ran, Spec};
use latency::Events;
use logs::{CommandLog, Entry};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kinds of logs, by place.
pub const SLOW: usize = 0;
pub const LARGE_REQUEST: usize = 1;
pub const LARGE_REPLY: usize = 2;

/// See the module's head.
#[derive(Default)]
pub struct Observe {
    /// Commands that take so many ticks are told.
    told_ticks: AtomicU64,
    /// Commands whose request or reply is as long may belong into a log.
    large_bytes: AtomicUsize,
    pub logs: [CommandLog; 3],
    pub events: Events,
    /// Clients that look on, and their workers.
    monitors: Mutex<Vec<(u64, usize)>>,
}

impl Observe {
    fn monitors(&self) -> MutexGuard<'_, Vec<(u64, usize)>> {
        self.monitors.lock().unwrap_or_else(PoisonError::into_inner)
    }
    #[inline]
    pub fn told_ticks(&self) -> u64 {
        self.told_ticks.load(Ordering::Relaxed)
    }
    #[inline]
    pub fn large_bytes(&self) -> usize {
        self.large_bytes.load(Ordering::Relaxed)
    }
    pub fn monitors_len(&self) -> usize {
        self.monitors().len()
    }

    /// Makes the limits follow settings, clock and who looks on.
    pub fn renew(&self, settings: &NodeSettings, ticks_per_us: u64) {
        let slow_us = u64::try_from(settings.log_limits[SLOW]).unwrap_or(u64::MAX);
        let latency_us = match settings.latency_threshold_ms {
            0 => u64::MAX,
            ms => ms * 1000,
        };
        let ticks = match self.monitors().is_empty() {
            true => slow_us.min(latency_us).saturating_mul(ticks_per_us.max(1)),
            false => 0,
        };
        self.told_ticks.store(ticks, Ordering::Relaxed);
        let large = |log: usize| usize::try_from(settings.log_limits[log]).unwrap_or(usize::MAX);
        self.large_bytes.store(large(LARGE_REQUEST).min(large(LARGE_REPLY)), Ordering::Relaxed);
    }
}

impl<E: Env> Shared<E> {
    /// Makes the limits of what is told about commands follow what holds now.
    pub fn renew_observe(&self) {
        let per_us = self.counters.ticks_per_us.load(Ordering::Relaxed);
        self.observe.renew(&self.settings(), per_us);
    }
}

/// MONITOR: the client is told of every command from now on.
pub fn begin_monitoring<E: Env>(shared: &Shared<E>, client: &Client) {
    shared.observe.monitors().push((client.id, client.worker()));
    shared.renew_observe();
}

/// A client looks on no more, if it did.
pub fn end_monitoring<E: Env>(shared: &Shared<E>, client: u64) {
    shared.observe.monitors().retain(|(id, _)| *id != client);
    shared.renew_observe();
}

/// A command ran that took long, or somebody looks on.
pub fn ran<E: Env>(shared: &Shared<E>, client: &Client, ran: &Ran) {
    let settings = shared.settings();
    let us = ran.ticks / shared.counters.ticks_per_us.load(Ordering::Relaxed).max(1);
    if !ran.is_waiting {
        let is_slow = u64::try_from(settings.log_limits[SLOW]).is_ok_and(|limit| us >= limit);
        if is_slow && !ran.spec.has(flag::SKIP_SLOWLOG) {
            log(shared, client, SLOW, ran.spec, ran.args, us);
        }
        let ms = us / 1000;
        if settings.latency_threshold_ms > 0 && ms >= settings.latency_threshold_ms {
            let event = if ran.spec.has(flag::FAST) { "fast-command" } else { "command" };
            shared.observe.events.add(event, shared.env.now().wall.0 / 1000, ms);
        }
    }
    if !ran.spec.has(flag::SKIP_MONITOR | flag::ADMIN) {
        show(shared, client, ran);
    }
}

/// A command that waited was served, while all commands are told: its own time is not known.
pub fn was_served<E: Env>(shared: &Shared<E>, client: &Client, spec: &Spec, args: Args) {
    if shared.settings().log_limits[SLOW] == 0 && !spec.has(flag::SKIP_SLOWLOG) {
        log(shared, client, SLOW, spec, args, 0);
    }
}

/// A command whose request or reply is as long as [`Observe::large_bytes`].
pub fn was_large<E: Env>(
    shared: &Shared<E>,
    client: &Client,
    spec: &Spec,
    args: Args,
    request: usize,
    reply: usize,
) {
    if spec.has(flag::SKIP_SLOWLOG) {
        return;
    }
    let settings = shared.settings();
    for (kind, bytes) in [(LARGE_REQUEST, request), (LARGE_REPLY, reply)] {
        if usize::try_from(settings.log_limits[kind]).is_ok_and(|limit| bytes >= limit) {
            log(shared, client, kind, spec, args, bytes as u64);
        }
    }
}

fn log<E: Env>(shared: &Shared<E>, client: &Client, kind: usize, spec: &Spec, args: Args, value: u64) {
    let entry = Entry {
        id: 0,
        at_s: shared.env.now().wall.0 / 1000,
        value,
        args: logs::trimmed(spec, args),
        peer: client.peer.to_string(),
        name: client.text().name.clone(),
    };
    shared.observe.logs[kind].push(entry, shared.settings().log_lens[kind]);
}

/// Shows a command to whoever looks on.
pub fn show<E: Env>(shared: &Shared<E>, client: &Client, ran: &Ran) {
    let monitors = shared.observe.monitors();
    if monitors.is_empty() {
        return;
    }
    let now = shared.env.now();
    let (s, us) =
        (now.wall.0.div_euclid(1000), now.wall.0.rem_euclid(1000) * 1000 + (now.mono.0 % 1000) as i64);
    let from = if ran.is_script { "lua".to_string() } else { client.peer.to_string() };
    let mut line = format!("+{s}.{us:06} [{} {from}]", ran.db).into_bytes();
    for (i, arg) in ran.args.iter().enumerate() {
        line.push(b' ');
        match logs::is_secret(ran.spec, ran.args, i) {
            true => line.extend_from_slice(b"\"(redacted)\""),
            false => logs::quote(arg, &mut line),
        }
    }
    line.extend_from_slice(b"\r\n");
    let line = shared.messages.make(line);
    for (client, worker) in monitors.iter() {
        shared.mail[*worker].post(Letter::Client(*client, Note::Push(line.clone())));
    }
}
