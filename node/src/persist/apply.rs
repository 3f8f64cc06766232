//! Applies commands that another node, or an earlier life of this one, has carried out already: a primary's stream and
//! the append-only file.
//!
//! A unit is a command, or what stands between MULTI and EXEC. It is carried out whole, under the locks of all its
//! keys and inside the gate, so that a snapshot stands between two units. Nothing is appended to the feed here: who
//! relays a stream appends the unit's bytes in the callback, which runs inside the gate as well.
//!
//! Invariant: a transaction of which the end never comes changes nothing.

use crate::env::Env;
use crate::pubsub::Space;
use crate::shared::Shared;
use crate::worker::Setting;
use engine::blocking::Mailbox;
use engine::multi::Multi;
use engine::spec::Handler;
use engine::{Args, Error, Host, HostOutcome, Local, Outcome, Session, Spec, Status, execute};
use proto::Slot;
use proto::resp::{Limits, Partial, Reply, Request, Span, parse_request};
use smallvec::SmallVec;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use storage::{GateClosed, GateReader};

/// Longest unit of a stream, in bytes. Choice: twice the longest argument, and below what spans can say.
const UNIT_BYTES_MAX: usize = 1 << 30;
/// Errors that are logged; the rest are counted.
const ERRORS_LOGGED_MAX: u64 = 20;

/// Why a stream or a log cannot be applied any further. What came before is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// The bytes are no commands.
    Protocol(String),
    /// A command that this node does not know, or a database that it does not have.
    Command(String),
    /// A unit above [`UNIT_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Protocol(what) => write!(f, "protocol error: {what}"),
            ApplyError::Command(what) => write!(f, "{what}"),
            ApplyError::TooLong => write!(f, "a transaction above {UNIT_BYTES_MAX} bytes"),
        }
    }
}

/// A piece of a stream that was carried out, or passed over.
pub struct Applied<'a> {
    /// Its bytes as they came: one unit, or one command that changes no data.
    pub raw: &'a [u8],
    /// The slot of all its keys; `None`: of several, or none.
    pub slot: Option<Slot>,
    /// Database of its first command.
    pub db: u16,
    /// Database that is selected behind it.
    pub db_after: u16,
    /// The arguments of a command between two nodes, which is not carried out: PING, REPLCONF.
    pub link_command: Option<&'a [&'a [u8]]>,
}

/// See the module's head. Runs on the thread that owns it; waits for slots that workers hold, which is brief.
pub struct Applier<E: Env> {
    shared: Arc<Shared<E>>,
    local: Local,
    gate: GateReader,
    session: Session,
    out: Reply,
    /// The stream from the begin of the unit that is not whole yet.
    buffer: Vec<u8>,
    /// Where the next command begins in `buffer`.
    at: usize,
    partial: Option<Box<Partial>>,
    /// Commands since an open MULTI.
    open: Option<Vec<Vec<Span>>>,
    errors: u64,
}

type Command<'a> = SmallVec<[&'a [u8]; 8]>;

impl<E: Env> Applier<E> {
    pub fn new(shared: Arc<Shared<E>>) -> Applier<E> {
        let local = Local::new(shared.env.rand(), Arc::new(Nobody));
        Applier {
            local,
            gate: shared.engine.keyspace.gate().register(),
            session: Session::for_replay(),
            out: Reply::new(false),
            buffer: Vec::new(),
            at: 0,
            partial: None,
            open: None,
            errors: 0,
            shared,
        }
    }

    /// The database that is selected.
    pub fn db(&self) -> u16 {
        self.session.db
    }
    /// Selects a database, as the head of a snapshot says (`repl-stream-db`). False: there is none with that number.
    pub fn select(&mut self, db: u16) -> bool {
        let exists = db < self.shared.engine.keyspace.databases();
        if exists {
            self.session.db = db;
        }
        exists
    }
    /// Commands that were answered with an error: this node and the one that carried them out first differ.
    pub fn errors(&self) -> u64 {
        self.errors
    }
    /// Bytes that came and belong to no whole unit yet.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }
    /// Takes the next bytes of a stream, in pieces of any length, and applies each unit that is whole. `each` is called
    /// for each in order, inside the gate: whoever relays the stream appends `raw` to the feed there.
    pub fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(&Applied<'_>)) -> Result<(), ApplyError> {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut done = 0;
        let result = self.run(&buffer, &mut done, each);
        self.buffer = buffer;
        self.buffer.drain(..done);
        self.at -= done;
        for span in self.open.iter_mut().flatten().flatten() {
            span.start -= done as u32;
        }
        result?;
        if self.buffer.len() > UNIT_BYTES_MAX { Err(ApplyError::TooLong) } else { Ok(()) }
    }

    /// `done`: where the last whole unit ends.
    fn run(
        &mut self,
        buffer: &[u8],
        done: &mut usize,
        each: &mut dyn FnMut(&Applied<'_>),
    ) -> Result<(), ApplyError> {
        let limits = Limits::authenticated(self.shared.settings().engine.proto_max_bulk_len);
        loop {
            let mut spans = Vec::new();
            let request = parse_request(buffer, self.at, &limits, &mut spans, &mut self.partial);
            let end = match request.map_err(|e| ApplyError::Protocol(e.0))? {
                Request::Incomplete => return Ok(()),
                Request::Command { end } => end,
                // An empty line is a sign of life.
                Request::Inline { args, end } if args.is_empty() => end,
                Request::Inline { .. } => return Err(ApplyError::Protocol("expected '*'".into())),
            };
            self.at = end;
            let name: &[u8] = spans.first().map_or(b"", |s| s.of(buffer));
            let is_open = self.open.is_some();
            if name.eq_ignore_ascii_case(b"MULTI") && !is_open {
                self.open = Some(Vec::new());
                continue;
            }
            let is_exec = name.eq_ignore_ascii_case(b"EXEC") && is_open;
            if let Some(open) = &mut self.open
                && !is_exec
            {
                open.push(spans);
                continue;
            }
            let raw = &buffer[*done..end];
            if is_exec {
                let queued = self.open.take().expect("checked above");
                let commands: Vec<Command> =
                    queued.iter().map(|c| c.iter().map(|s| s.of(buffer)).collect()).collect();
                self.unit(&commands, true, raw, each)?;
            } else {
                let command: Command = spans.iter().map(|s| s.of(buffer)).collect();
                match is_link_command(name) {
                    true => self.pass(raw, &command, each),
                    false => self.unit(&[command], false, raw, each)?,
                }
            }
            *done = end;
        }
    }

    /// Applies one unit that somebody else has parsed: all of it or none.
    pub fn apply(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<(), ApplyError> {
        let is_multi = commands.len() != 1;
        let commands: Vec<Command> = commands.iter().map(|c| c.iter().map(Vec::as_slice).collect()).collect();
        self.unit(&commands, is_multi, b"", &mut |_| {})
    }

    fn pass(&mut self, raw: &[u8], command: &Command, each: &mut dyn FnMut(&Applied<'_>)) {
        let db = self.session.db;
        let _inside = self.gate.enter_wait();
        let link_command = Some(command.as_slice()).filter(|c| !c.is_empty());
        each(&Applied { raw, slot: None, db, db_after: db, link_command });
    }

    fn unit(
        &mut self,
        commands: &[Command],
        is_multi: bool,
        raw: &[u8],
        each: &mut dyn FnMut(&Applied<'_>),
    ) -> Result<(), ApplyError> {
        let mut specs: SmallVec<[&'static Spec; 1]> = SmallVec::new();
        let mut slots: SmallVec<[Slot; 4]> = SmallVec::new();
        for command in commands {
            let spec = match command.as_slice() {
                [] => Err(Error::text("ERR an empty command")),
                args => self.shared.engine.table.resolve_replayed(args),
            };
            let spec = spec.map_err(|e| ApplyError::Command(e.to_string()))?;
            self.check_select(spec, command)?;
            slots.extend(spec.slots(command).unwrap_or_default());
            specs.push(spec);
        }
        slots.sort_unstable();
        slots.dedup();
        if is_multi {
            let mut multi = Multi::default();
            specs.iter().zip(commands).for_each(|(spec, args)| multi.push(spec, args));
            self.session.multi = Some(Box::new(multi));
        }
        let exec: &[&[u8]] = &[b"EXEC"];
        let (spec, args) = match is_multi {
            true => (self.shared.engine.table.resolve_replayed(exec).expect("EXEC is declared"), exec),
            false => (specs[0], commands[0].as_slice()),
        };
        let slot = if let [slot] = *slots { Some(slot) } else { None };
        let db = self.session.db;
        let applied = Applied { raw, slot, db, db_after: db, link_command: None };
        self.execute(spec, args, &applied, each);
        Ok(())
    }

    /// Data that would go into another database than it came from is worse than none.
    fn check_select(&self, spec: &Spec, args: &[&[u8]]) -> Result<(), ApplyError> {
        if spec.full_name == "select" && selected(args, self.shared.engine.keyspace.databases()).is_none() {
            let db = String::from_utf8_lossy(args[1]);
            return Err(ApplyError::Command(format!("database {db} is out of range: raise 'databases'")));
        }
        Ok(())
    }

    fn execute(
        &mut self,
        spec: &'static Spec,
        args: Args,
        applied: &Applied<'_>,
        each: &mut dyn FnMut(&Applied<'_>),
    ) {
        let shared = self.shared.clone();
        let settings = shared.settings();
        let stats = shared.stats.last().expect("one is the control thread's");
        let errors = stats.errors.get();
        let now = shared.env.now();
        let setting = Setting {
            settings: &settings,
            view: None,
            now,
            status: Status::default(),
            beside_bytes: 0,
            watched: 0,
            told_ticks: u64::MAX,
            large_bytes: usize::MAX,
            is_tracked: shared.tracking.is_on(),
            users_epoch: 0,
            term: 0,
            slots_left: 0,
        };
        let mut host = StreamHost { shared: &shared };
        self.out.clear();
        self.local.ticked = (shared.env.ticks())();
        loop {
            let inside = self.gate.enter_wait();
            let mut turn = setting.turn(&shared, stats, &mut self.local, &mut host, None);
            match execute(&mut turn, &mut self.session, &Ok(spec), args, None, &mut self.out) {
                // Somebody holds the slot; he is not long about it, or is ended.
                Outcome::Busy(_) => shared.end_slow_scripts(),
                Outcome::NeedsGate => {
                    drop(inside);
                    let Some(closed): Option<GateClosed<'_>> = shared.engine.keyspace.gate().try_close()
                    else {
                        shared.end_slow_scripts();
                        continue;
                    };
                    let mut turn = setting.turn(&shared, stats, &mut self.local, &mut host, Some(&closed));
                    execute(&mut turn, &mut self.session, &Ok(spec), args, None, &mut self.out);
                    each(&Applied { db_after: self.session.db, ..*applied });
                    break;
                }
                _ => {
                    each(&Applied { db_after: self.session.db, ..*applied });
                    break;
                }
            }
            drop(inside);
            std::thread::yield_now();
        }
        if stats.errors.get() != errors {
            self.report(spec);
        }
    }

    fn report(&mut self, spec: &Spec) {
        self.errors += 1;
        if self.errors <= ERRORS_LOGGED_MAX {
            let reply = String::from_utf8_lossy(&self.out.as_bytes()[..self.out.len().min(200)]).into_owned();
            tracing::warn!(
                "'{}' failed although it succeeded where it came from: {}",
                spec.full_name,
                reply.trim_end()
            );
        }
    }
}

/// Commands that two nodes exchange and that are no part of the data.
fn is_link_command(name: &[u8]) -> bool {
    name.is_empty() || name.eq_ignore_ascii_case(b"PING") || name.eq_ignore_ascii_case(b"REPLCONF")
}

fn selected(args: &[&[u8]], databases: u16) -> Option<u16> {
    let number = engine::number::parse_i64(args.get(1)?)?;
    u16::try_from(number).ok().filter(|db| *db < databases)
}

/// The host of a stream: of the commands that the node runs itself, it has those that a stream may hold.
struct StreamHost<'a, E: Env> {
    shared: &'a Shared<E>,
}

impl<E: Env> Host for StreamHost<'_, E> {
    fn run(
        &mut self,
        spec: &'static Spec,
        args: Args,
        session: &mut Session,
        out: &mut Reply,
    ) -> Result<HostOutcome, Error> {
        assert!(matches!(spec.command.run, Handler::Host));
        match (spec.full_name.as_str(), args) {
            ("select", _) => {
                let databases = self.shared.engine.keyspace.databases();
                session.db =
                    selected(args, databases).ok_or_else(|| Error::err("DB index is out of range"))?;
                out.ok();
            }
            ("publish", [_, channel, message]) => {
                out.int(self.shared.publish(Space::Channel, channel, message) as i64);
            }
            ("spublish", [_, channel, message]) => {
                out.int(self.shared.publish(Space::Sharded, channel, message) as i64);
            }
            ("ping", _) => out.simple("PONG"),
            (name, _) => {
                return Err(Error::err(&format!("'{name}' does not belong into a stream of writes")));
            }
        }
        Ok(HostOutcome::Done)
    }
    fn invalidate(&mut self, changed: &[engine::ChangedKey]) {
        crate::tracking::invalidate(self.shared, None, changed);
    }
    fn invalidate_all(&mut self) {
        crate::tracking::invalidate_all(self.shared);
    }
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        self.shared.dispose(garbage);
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.shared.publish(Space::Channel, channel, message);
    }
}

/// Nobody waits behind a stream.
struct Nobody;

impl Mailbox for Nobody {
    fn deliver(&self, _session: u64, _reply: Vec<u8>, _written: u64) {}
    fn retry(&self, _session: u64) {}
}
