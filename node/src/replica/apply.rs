//! Applies the stream of a primary: its commands run through the engine, and its bytes go into our own feed as they
//! came, so that our offsets are the primary's.
//!
//! Invariant: a unit is carried out and appended inside one stay in the gate: who has the gate closed sees both or
//! neither.
//! Invariant: the feed ends where a command or a transaction ends; what has come of the next one waits here.

use crate::env::Env;
use crate::pubsub::Space;
use crate::shared::Shared;
use engine::stats::Stats;
use engine::{Args, Error, Host, HostOutcome, Local, Outcome, Rng, Session, Spec, Turn, Unit, execute};
use proto::resp::{Limits, Partial, Reply, Request, Span, parse_request};
use proto::{ClusterView, Now};
use smallvec::SmallVec;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::{GateClosed, GateReader};

/// See the module's head.
pub struct Applier<E: Env> {
    shared: Arc<Shared<E>>,
    local: Local,
    gate: GateReader,
    session: Session,
    out: Reply,
    /// What came and was not applied; commands of an unfinished transaction included.
    buf: Vec<u8>,
    /// Where in `buf` the next command begins.
    at: usize,
    partial: Option<Box<Partial>>,
    /// REPLCONF GETACK was read.
    wants_ack: bool,
    complaints: u32,
}

/// Errors of a stream that are logged; more of them say nothing new.
const COMPLAINTS_MAX: u32 = 20;

impl<E: Env> Applier<E> {
    /// An applier of a stream in which `db` is selected.
    pub fn new(shared: Arc<Shared<E>>, db: u16) -> Applier<E> {
        let local = Local {
            rng: Rng::new(shared.env.rand()),
            stats: Stats::new(shared.engine.table.len()),
            unit: Unit::default(),
            mailbox: shared.mail[0].clone(),
        };
        let gate = shared.engine.keyspace.gate().register();
        let mut session = Session::for_replay();
        session.db = db;
        Applier {
            local,
            gate,
            session,
            out: Reply::new(false),
            buf: Vec::new(),
            at: 0,
            partial: None,
            wants_ack: false,
            complaints: 0,
            shared,
        }
    }

    /// Whether the primary asked for an acknowledgement since the last time.
    pub fn take_ack_request(&mut self) -> bool {
        std::mem::take(&mut self.wants_ack)
    }

    /// Applies what is complete after `bytes` came. `Err`: what the stream holds is no RESP, or a transaction is
    /// larger than any client's may be; what came before it is applied.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.buf.extend_from_slice(bytes);
        let settings = self.shared.settings.load_full();
        let limits = Limits::authenticated(settings.engine.proto_max_bulk_len);
        let result = self.run_complete(&settings, &limits);
        self.publish_stats();
        result?;
        if self.buf.len() > settings.query_bytes_max {
            return Err("a command or transaction is larger than client-query-buffer-limit".into());
        }
        Ok(())
    }

    fn run_complete(
        &mut self,
        settings: &crate::config::NodeSettings,
        limits: &Limits,
    ) -> Result<(), String> {
        let mut spans: Vec<Span> = Vec::new();
        let Applier { shared, local, gate, session, out, buf, partial, wants_ack, complaints, .. } = self;
        let shared = &**shared;
        let view = shared.view.load_full();
        let around = Around { shared, settings, view: view.as_deref(), now: shared.env.now() };
        let (mut at, mut appended, mut applied) = (self.at, 0, 0);
        let result = loop {
            let inside = gate.enter_wait();
            // Ends at the end of what is complete, or at a command that needs the gate closed.
            let stop = loop {
                spans.clear();
                let end = match parse_request(buf, at, limits, &mut spans, partial) {
                    Err(error) => break Err(error.0),
                    Ok(Request::Incomplete) => break Ok(None),
                    Ok(Request::Inline { args, .. }) if !args.is_empty() => {
                        break Err("an inline command in the stream".into());
                    }
                    Ok(Request::Inline { end, .. } | Request::Command { end }) => end,
                };
                if !spans.is_empty() {
                    let args: SmallVec<[&[u8]; 8]> = spans.iter().map(|s| s.of(buf)).collect();
                    let mut host = StreamHost { shared, wants_ack };
                    if around.needs_gate(local, &mut host, session, &args, &buf[at..end], None, out) {
                        break Ok(Some(end));
                    }
                    complain(out, complaints, &args);
                }
                at = end;
                if !session.in_multi() {
                    applied = end;
                }
            };
            append(shared, session, &buf[appended..applied]);
            appended = applied;
            drop(inside);
            let end = match stop {
                Ok(Some(end)) => end,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let closed = shared.engine.keyspace.gate().close();
            let args: SmallVec<[&[u8]; 8]> = spans.iter().map(|s| s.of(buf)).collect();
            let mut host = StreamHost { shared, wants_ack };
            around.needs_gate(local, &mut host, session, &args, &buf[at..end], Some(&closed), out);
            complain(out, complaints, &args);
            at = end;
            if !session.in_multi() {
                append(shared, session, &buf[appended..end]);
                (appended, applied) = (end, end);
            }
            drop(closed);
        };
        buf.drain(..applied);
        self.at = at - applied;
        result
    }

    fn publish_stats(&self) {
        // The workers' come first, ours behind them.
        if let Some(stats) = self.shared.stats.last()
            && let Ok(mut stats) = stats.lock()
        {
            stats.clone_from(&self.local.stats);
        }
    }

    /// Drops all data here, which the feed does not learn. Replicas of ours were told to ask again.
    pub fn drop_data(&mut self) {
        let args: [&[u8]; 1] = [b"FLUSHALL"];
        let shared = self.shared.clone();
        let settings = shared.settings.load_full();
        let now = shared.env.now();
        let closed = shared.engine.keyspace.gate().close();
        let mut turn = Turn {
            engine: &shared.engine,
            settings: &settings.engine,
            cluster: None,
            status: shared.status(now.mono),
            now,
            ticks: shared.env.ticks(),
            exclusive: Some(&closed),
            local: &mut self.local,
            host: &mut StreamHost { shared: &shared, wants_ack: &mut false },
        };
        let resolved = shared.engine.table.resolve(&args);
        let outcome = execute(&mut turn, &mut Session::for_replay(), resolved, &args, None, &mut self.out);
        assert!(matches!(outcome, Outcome::Done), "with the gate closed nothing holds up a flush");
        self.out.clear();
    }

    /// The database that the stream has selected.
    pub fn select(&mut self, db: u16) {
        self.session.db = db;
        self.shared.replication.stream_db.store(db, Ordering::Release);
    }
}

/// What holds for the commands that came together.
struct Around<'a, E: Env> {
    shared: &'a Shared<E>,
    settings: &'a crate::config::NodeSettings,
    view: Option<&'a ClusterView>,
    now: Now,
}

impl<E: Env> Around<'_, E> {
    /// Runs a command. True: nothing was done, it needs the gate closed.
    fn needs_gate(
        &self,
        local: &mut Local,
        host: &mut StreamHost<'_, E>,
        session: &mut Session,
        args: Args,
        raw: &[u8],
        exclusive: Option<&GateClosed<'_>>,
        out: &mut Reply,
    ) -> bool {
        let engine = &self.shared.engine;
        let mut turn = Turn {
            engine,
            settings: &self.settings.engine,
            cluster: self.view,
            status: self.shared.status(self.now.mono),
            now: self.now,
            ticks: self.shared.env.ticks(),
            exclusive,
            local,
            host,
        };
        loop {
            match execute(&mut turn, session, engine.table.resolve(args), args, Some(raw), out) {
                // A worker holds one of the slots for a moment.
                Outcome::Busy(_) => std::thread::yield_now(),
                outcome => return matches!(outcome, Outcome::NeedsGate),
            }
        }
    }
}

/// Appends what was carried out. The caller is inside the gate, or has it closed.
fn append<E: Env>(shared: &Shared<E>, session: &Session, bytes: &[u8]) {
    if !bytes.is_empty() {
        shared.feed.append_stream(bytes, None, session.db);
        shared.replication.stream_db.store(session.db, Ordering::Release);
    }
}

/// An error means that we are not the same as our primary any more; Redis logs it and goes on as well.
fn complain(out: &mut Reply, complaints: &mut u32, args: Args) {
    if out.as_bytes().first() == Some(&b'-') && *complaints < COMPLAINTS_MAX {
        *complaints += 1;
        let error = String::from_utf8_lossy(out.as_bytes());
        let command = String::from_utf8_lossy(args[0]);
        tracing::warn!("The command '{command}' of the primary failed here: {}", error.trim_end());
    }
    out.clear();
}

/// The node as the commands of a stream see it.
struct StreamHost<'a, E: Env> {
    shared: &'a Shared<E>,
    wants_ack: &'a mut bool,
}

impl<E: Env> Host for StreamHost<'_, E> {
    fn run(
        &mut self,
        spec: &'static Spec,
        args: Args,
        session: &mut Session,
        out: &mut Reply,
    ) -> Result<HostOutcome, Error> {
        match spec.full_name.as_str() {
            "select" => {
                let number = engine::number::parse_i64(args[1]).and_then(|n| u16::try_from(n).ok());
                let db = number.filter(|db| *db < self.shared.settings().engine.databases);
                session.db = db.ok_or(Error::text("ERR DB index is out of range"))?;
            }
            "ping" => {}
            "replconf" => *self.wants_ack |= args.get(1).is_some_and(|a| a.eq_ignore_ascii_case(b"getack")),
            "publish" => drop(self.shared.publish(Space::Channel, args[1], args[2])),
            "spublish" => drop(self.shared.publish(Space::Sharded, args[1], args[2])),
            name => return Err(Error::err(&format!("'{name}' does not belong into a stream of writes"))),
        }
        out.ok();
        Ok(HostOutcome::Done)
    }
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        self.shared.persist.dispose(garbage);
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.shared.publish(Space::Channel, channel, message);
    }
}
