//! Copies that an asynchronous session works on: its script changes nothing and is seen by nobody, and others are served
//! meanwhile.
//!
//! Redis forks a process for that. Here the script runs on a keyspace of its own, which begins empty, in an engine of its
//! own whose feed nobody reads. A key is copied there before it is first used, in all databases and under the locks that a
//! command would take; the declared keys are copied together. What needs more than the keys that it names (KEYS, FLUSHALL,
//! SORT with patterns) has nothing to look at here and is refused, as is what would tell others (PUBLISH).
//!
//! The difference to a fork: keys that were not declared are seen as they were when they were first used, and not as they
//! were when the session began.

use super::Debugger;
use crate::acl::{Context, Denied};
use crate::keys::Keys;
use crate::propagate::{Feed, Unit};
use crate::settings::EvictionPolicy;
use crate::spec::{Handler, flag};
use crate::stats::Stats;
use crate::turn::{Host, HostOutcome};
use crate::{Args, Engine, Error, Outcome, Session, Spec, Turn, execute};
use proto::Slot;
use proto::resp::Reply;
use smallvec::SmallVec;
use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use storage::{Keyspace, Value};

const NEEDS_ALL: &str = "ERR An asynchronous debugging session has copies of the keys that are named alone, and this command looks at more: use SCRIPT DEBUG SYNC";
const TELLS_OTHERS: &str = "ERR An asynchronous debugging session is seen by nobody, and this command would tell others: use SCRIPT DEBUG SYNC";

/// A copy of a key in one database.
pub struct Copied {
    db: u16,
    key: Vec<u8>,
    value: Value,
    expire_ms: Option<i64>,
    clock: u32,
}

/// The keys that have been copied, be they there or not.
#[derive(Default)]
pub struct Copies(RefCell<BTreeSet<Vec<u8>>>);

/// Copies keys in all databases, as they are at one moment. The caller is inside the gate. `Err`: this slot is held by
/// somebody for long.
pub fn copies_of(keyspace: &Keyspace, keys: &[&[u8]]) -> Result<Vec<Copied>, Slot> {
    let slots: BTreeSet<Slot> = keys.iter().map(|key| Slot::of_key(key)).collect();
    let slots: Vec<Slot> = slots.into_iter().collect();
    let mut locks = crate::locks::Locks::take(keyspace, &slots)?;
    let mut copies = Vec::new();
    for key in keys {
        let guard = locks.guard(Slot::of_key(key));
        for db in 0..keyspace.databases() {
            if let Some(entry) = guard.db(db).get(key, keyspace.hash(key)) {
                copies.push(Copied {
                    db,
                    key: key.to_vec(),
                    value: crate::commands::generic::copy_of(entry.value()),
                    expire_ms: entry.expire_ms(),
                    clock: entry.clock(),
                });
            }
        }
    }
    Ok(copies)
}

impl Debugger {
    /// Copies the keys of a command that have not been used before. Nothing where there are no copies. `Ok(false)`: the
    /// script is to end. `Err`: the command cannot run on copies.
    pub(crate) fn bring(&self, keys: &mut Keys<'_>, spec: &Spec, args: Args) -> Result<bool, Error> {
        let Some(Copies(known)) = self.copies() else { return Ok(true) };
        let places = spec.key_positions(args).unwrap_or_default();
        may_run(spec, args)?;
        let mut wanted: SmallVec<[&[u8]; 8]> = places.iter().map(|place| args[*place]).collect();
        wanted.retain(|key| !known.borrow().contains(*key));
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return Ok(true);
        }
        let limit = keys.settings.maxmemory;
        if limit > 0 && keys.keyspace.used_bytes() > limit {
            return Err(Error::Oom);
        }
        let Some(copies) = self.client().copy(&wanted) else { return Ok(false) };
        known.borrow_mut().extend(wanted.iter().map(|key| key.to_vec()));
        let db = keys.db;
        for Copied { db, key, value, expire_ms, clock } in copies {
            keys.db = db;
            keys.store(&key, value, expire_ms);
            keys.set_clock(&key, clock);
        }
        keys.db = db;
        Ok(true)
    }
}

/// Whether a command finds all it needs in copies, and is seen by nobody.
fn may_run(spec: &Spec, args: Args) -> Result<(), Error> {
    if spec.has(flag::SCRIPT) {
        return Ok(());
    }
    let has_pattern = spec.has(flag::ANY_KEY) && args[1..].iter().skip(1).any(|arg| arg.contains(&b'*'));
    let is_host = matches!(spec.command.run, Handler::Host);
    if spec.has(flag::EXCLUSIVE | flag::WHOLE_DB) || has_pattern || is_host && !spec.command.keys.is_empty() {
        return Err(Error::text(NEEDS_ALL));
    }
    if is_host && spec.has(flag::WRITE | flag::MAY_REPLICATE | flag::PUBSUB | flag::ADMIN) {
        return Err(Error::text(TELLS_OTHERS));
    }
    Ok(())
}

/// As [`execute`] for an EVAL that is debugged on copies. `turn` is of the node's own engine; its local state has the
/// debugger. `seed`: of the hash of the copies' tables.
pub fn execute_on_copies(
    turn: &mut Turn,
    session: &mut Session,
    spec: &'static Spec,
    args: Args,
    seed: [u64; 2],
    out: &mut Reply,
) -> Outcome {
    let keyspace = Arc::new(Keyspace::new(turn.engine.keyspace.databases(), seed));
    let mut settings = turn.settings.clone();
    if settings.maxmemory > 0 {
        // What is left of the node's memory is for the copies. They are not evicted: the script would miss them.
        let left = settings.maxmemory.saturating_sub(turn.engine.keyspace.used_bytes());
        settings.maxmemory = keyspace.used_bytes() + left;
        settings.maxmemory_policy = EvictionPolicy::NoEviction;
    }
    let engine = Engine {
        keyspace: keyspace.clone(),
        table: turn.engine.table.clone(),
        feed: Arc::new(NoFeed),
        scripts: Arc::default(),
    };
    let stats = Stats::new(engine.table.len());
    let closed = keyspace.gate().close();
    let mut quiet = Quiet(turn.host);
    let mut own = Turn {
        engine: &engine,
        settings: &settings,
        told_ticks: u64::MAX,
        is_tracked: false,
        may_move: false,
        first_key: None,
        exclusive: Some(&closed),
        passage: None,
        stats: &stats,
        local: turn.local,
        host: &mut quiet,
        ..*turn
    };
    execute(&mut own, session, &Ok(spec), args, None, out)
}

/// A feed that nobody reads.
struct NoFeed;

impl Feed for NoFeed {
    fn is_attached(&self) -> bool {
        false
    }
    fn append(&self, _slot: Option<Slot>, _unit: &Unit) -> u64 {
        0
    }
}

/// The node, for a script that is seen by nobody: what it may ask is answered, and what it may say goes into the log.
struct Quiet<'a>(&'a mut dyn Host);

impl Host for Quiet<'_> {
    fn run(
        &mut self,
        spec: &'static Spec,
        args: Args,
        session: &mut Session,
        out: &mut Reply,
    ) -> Result<HostOutcome, Error> {
        self.0.run(spec, args, session, out)
    }
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        // The node counts what it frees: this was never its own.
        drop(garbage);
    }
    fn publish(&mut self, _channel: &[u8], _message: &[u8]) {}
    fn denied(&mut self, denied: &Denied, context: Context, spec: &Spec, args: Args, session: &Session) {
        self.0.denied(denied, context, spec, args, session);
    }
    fn log(&mut self, level: u8, line: &[u8]) {
        self.0.log(level, line);
    }
}
