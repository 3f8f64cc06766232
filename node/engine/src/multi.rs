//! Transactions: MULTI queues, EXEC locks the slots of all queued commands at once, runs them and replays them as one
//! unit; WATCH marks.

use crate::blocking::{Presence, SlotSide, Watched};
use crate::keys::Keys;
use crate::locks::Locks;
use crate::session::Session;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};
use crate::table::Spec;
use crate::{Args, Engine, Error, Turn};
use proto::Slot;
use proto::resp::Reply;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

/// The commands that steer a connection's transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowCommand {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// Commands queued since MULTI.
#[derive(Default)]
pub struct Multi {
    pub queue: Vec<(&'static Spec, Vec<Vec<u8>>)>,
    /// A command was refused while queueing: EXEC will refuse all.
    pub is_aborted: bool,
    /// Bytes of the queued arguments.
    pub bytes: usize,
    /// Flags that some of them has, and those that some of them lacks.
    some: u32,
    lacking: u32,
}

impl Multi {
    pub fn push(&mut self, spec: &'static Spec, args: Args) {
        self.push_as(spec, args, spec.command.flags);
    }
    /// As [`Multi::push`], with other flags than the declared ones: a script may say what it will do.
    pub fn push_as(&mut self, spec: &'static Spec, args: Args, flags: u32) {
        self.some |= flags;
        self.lacking |= !flags;
        self.bytes += args.iter().map(|a| a.len()).sum::<usize>();
        self.queue.push((spec, args.iter().map(|a| a.to_vec()).collect()));
    }
    /// The slots of all keys, ascending and each once.
    pub fn slots(&self) -> SmallVec<[Slot; 4]> {
        let mut slots: SmallVec<[Slot; 4]> = SmallVec::new();
        for (spec, args) in &self.queue {
            let args: SmallVec<[&[u8]; 8]> = args.iter().map(|a| a.as_slice()).collect();
            slots.extend(spec.slots(&args).unwrap_or_default());
        }
        slots.sort_unstable();
        slots.dedup();
        slots
    }
    /// Flags that all queued commands have.
    pub fn common_flags(&self) -> u32 {
        !self.lacking
    }
    /// Whether it may run on another thread than its connection's: none of its commands changes what the connection is
    /// subscribed to.
    pub fn may_run_aside(&self) -> bool {
        self.queue.iter().all(|(spec, _)| !(spec.has(flag::PUBSUB) && spec.has(flag::NOSCRIPT)))
    }
    /// Union of the queued commands' flags.
    pub fn flags(&self) -> u32 {
        self.some
    }
}

/// Database, name and mark of a key that is watched.
pub type WatchedKey = (u16, Vec<u8>, Arc<Watched>);

/// Keys that a connection watches.
pub struct Watches {
    /// Bytes that the keys take, about.
    pub bytes: usize,
    pub keys: Vec<WatchedKey>,
    flag: Arc<AtomicBool>,
}

impl Watches {
    pub fn is_dirty(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}

/// Watches the keys, whose slots are locked.
pub fn watch(session: &mut Session, keys: &mut Keys<'_>, args: Args) {
    let watches = session.watches.get_or_insert_with(|| {
        Box::new(Watches { bytes: 0, keys: Vec::new(), flag: Arc::new(AtomicBool::new(false)) })
    });
    for key in &args[1..] {
        if watches.keys.iter().any(|(db, watched, _)| *db == session.db && watched == key) {
            continue;
        }
        let watched = Watched::new(&watches.flag, keys.presence(key) == Presence::Expired);
        keys.side(Slot::of_key(key)).watch(session.db, key, &watched);
        const BESIDE: usize = 128; // places in two tables
        watches.bytes += key.len() + BESIDE;
        watches.keys.push((session.db, key.to_vec(), watched));
    }
}

/// Forgets all watched keys. Waits for nobody: marks in slots that are held, maybe by a script without end, go when keys
/// are forgotten the next time. Called outside of any lock.
pub fn unwatch(session: &mut Session, engine: &Engine) {
    let Some(watches) = session.watches.take() else { return };
    let mut left = engine.scripts.left.lock().unwrap_or_else(PoisonError::into_inner);
    left.extend(watches.keys);
    left.retain(|key| !remove_mark(engine, key));
}

/// False: the slot is held.
fn remove_mark(engine: &Engine, (db, key, watched): &WatchedKey) -> bool {
    let Some(mut guard) = engine.keyspace.lock(Slot::of_key(key)) else { return false };
    let state = guard.state_mut();
    if let Some(side) = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
        side.unwatch(*db, key, watched);
        if side.is_empty() {
            state.side = None;
        }
    }
    true
}

/// Whether a watched key changed or expired since. Their slots are locked.
pub fn is_watch_broken(session: &Session, keys: &mut Keys<'_>) -> bool {
    let Some(watches) = &session.watches else { return false };
    watches.is_dirty()
        || watches.keys.iter().any(|(db, key, watched)| {
            keys.db = *db;
            let presence = keys.presence(key);
            keys.db = session.db;
            presence == Presence::Expired && !watched.is_expired()
        })
}

/// The slots of the watched keys, ascending and each once.
pub fn watched_slots(session: &Session) -> SmallVec<[Slot; 4]> {
    let mut slots: SmallVec<[Slot; 4]> =
        session.watches.iter().flat_map(|w| &w.keys).map(|(_, key, _)| Slot::of_key(key)).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// MULTI, DISCARD and UNWATCH; EXEC and WATCH need locks and live in [`crate::execute`].
pub fn unlocked(
    command: FlowCommand,
    session: &mut Session,
    engine: &Engine,
    out: &mut Reply,
) -> Result<(), Error> {
    match command {
        FlowCommand::Multi if session.in_multi() => {
            return Err(Error::text("ERR MULTI calls can not be nested"));
        }
        FlowCommand::Multi => session.multi = Some(Box::default()),
        FlowCommand::Discard if !session.in_multi() => return Err(Error::text("ERR DISCARD without MULTI")),
        FlowCommand::Discard => {
            session.multi = None;
            unwatch(session, engine);
        }
        FlowCommand::Unwatch => unwatch(session, engine),
        FlowCommand::Exec | FlowCommand::Watch => unreachable!("these take locks"),
    }
    out.ok();
    Ok(())
}

/// Locks for a transaction: the slots of its keys and of what it watches.
pub fn locks<'g>(session: &Session, turn: &Turn<'g>) -> Result<Locks<'g>, Slot> {
    let mut slots = session.multi.as_ref().map(|m| m.slots()).unwrap_or_default();
    slots.extend(watched_slots(session));
    slots.sort_unstable();
    slots.dedup();
    Locks::take_for(turn, &slots)
}

const FLOW: u32 =
    flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY | flag::NOT_QUEUED;

pub static COMMANDS: &[Command] = &[
    Command {
        name: "multi",
        summary: "Starts a transaction.",
        since: "1.2.0",
        group: Group::Transactions,
        arity: 1,
        flags: FLOW,
        acl: acl::TRANSACTION,
        run: Handler::Flow(FlowCommand::Multi),
        ..Command::BASE
    },
    Command {
        name: "exec",
        summary: "Executes all commands in a transaction.",
        since: "1.2.0",
        group: Group::Transactions,
        complexity: "Depends on commands in the transaction",
        arity: 1,
        flags: (FLOW | flag::SKIP_SLOWLOG | flag::LONG) & !(flag::FAST | flag::ALLOW_BUSY),
        acl: acl::TRANSACTION,
        run: Handler::Flow(FlowCommand::Exec),
        ..Command::BASE
    },
    Command {
        name: "discard",
        summary: "Discards a transaction.",
        since: "2.0.0",
        group: Group::Transactions,
        complexity: "O(N), when N is the number of queued commands",
        arity: 1,
        flags: FLOW,
        acl: acl::TRANSACTION,
        run: Handler::Flow(FlowCommand::Discard),
        ..Command::BASE
    },
    Command {
        name: "watch",
        summary: "Monitors changes to keys to determine the execution of a transaction.",
        since: "2.2.0",
        group: Group::Transactions,
        complexity: "O(1) for every key.",
        arity: -2,
        flags: FLOW,
        acl: acl::TRANSACTION,
        keys: &[KeySpec::range(1, -1, 1, key::RO)],
        args: &[Arg::key("key", 0).multiple()],
        run: Handler::Flow(FlowCommand::Watch),
        ..Command::BASE
    },
    Command {
        name: "unwatch",
        summary: "Forgets about watched keys of a transaction.",
        since: "2.2.0",
        group: Group::Transactions,
        arity: 1,
        flags: FLOW & !flag::NOT_QUEUED,
        acl: acl::TRANSACTION,
        run: Handler::Flow(FlowCommand::Unwatch),
        ..Command::BASE
    },
];
