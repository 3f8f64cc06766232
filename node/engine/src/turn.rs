//! What holds for a batch of commands: time, configuration, cluster view, role. Read once, so that each command of
//! the batch sees the same.

use crate::acl::{Context, Denied};
use crate::blocking::Mailbox;
use crate::keys::Effects;
use crate::propagate::Unit;
use crate::script::LocalScripts;
use crate::session::Session;
use crate::stats::Stats;
use crate::table::Spec;
use crate::{Args, Engine, Error, Kept, Rng, Settings};
use proto::resp::Reply;
use proto::{ClusterView, Now};
use std::any::Any;
use std::sync::Arc;
use storage::{GateClosed, KeyAhead};

/// Surroundings of a batch.
pub struct Turn<'a> {
    pub engine: &'a Engine,
    pub settings: &'a Settings,
    /// `None` when cluster mode is off.
    pub cluster: Option<&'a ClusterView>,
    pub status: Status,
    /// What [`crate::admission::watched`] says of status and settings.
    pub watched: u32,
    pub now: Now,
    /// What takes memory beside keys and values and counts for `maxmemory`, in bytes; 0 while there is no limit.
    pub beside_bytes: u64,
    /// A counter for measuring commands, such as the cycle counter; constant in simulation.
    pub ticks: fn() -> u64,
    /// Commands that take so many ticks are told to the host; 0: all are, since somebody looks on.
    pub told_ticks: u64,
    /// Clients want to be told of keys that change.
    pub is_tracked: bool,
    /// What runs is part of a script.
    pub is_script: bool,
    /// A script that takes long may be given up before it has done anything, to run elsewhere.
    pub may_move: bool,
    /// Slot and hash of the command's first key, where whoever runs it has them already.
    pub first_key: Option<KeyAhead>,
    /// The gate is closed: this worker alone runs, and may take any slot.
    pub exclusive: Option<&'a GateClosed<'a>>,
    /// Where a long command that holds no lock may let closers of the gate pass; `None`: it may not.
    pub passage: Option<&'a Passage<'a>>,
    /// Counters of whoever runs this.
    pub stats: &'a Stats,
    pub local: &'a mut Local,
    pub host: &'a mut dyn Host,
}

/// Lets whoever waits to close the gate do so. False: what the turn was told holds no more, or nobody waits for the
/// reply; the command is to end soon, and what it says will not be used.
pub struct Passage<'a>(pub &'a dyn Fn() -> bool);

/// The node's state as far as it decides what may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    pub is_loading: bool,
    pub is_replica: bool,
    /// The link to the primary is up. Meaningless on a primary.
    pub is_link_up: bool,
    /// Cluster mode: this node is a primary and its lease holds.
    pub has_lease: bool,
    /// The last snapshot failed and writes must not go on.
    pub is_save_failing: bool,
    /// The AOF cannot be written.
    pub is_log_failing: bool,
    /// Replicas whose last acknowledgement is recent.
    pub good_replicas: u32,
    /// Writes wait: a hand-over of the primary's role is under way.
    pub is_paused: bool,
    /// All commands wait: CLIENT PAUSE.
    pub is_paused_for_all: bool,
    /// The in-sync set is smaller than writes demand.
    pub is_short_of_copies: bool,
    /// A slow script runs, and everybody is told so.
    pub is_busy: bool,
}

impl Turn<'_> {
    /// What a client is told while a slow script runs. `None`: none does.
    pub(crate) fn busy_script(&self) -> Option<Error> {
        self.engine.scripts.control.busy(self.now.mono, self.settings.busy_reply_threshold_ms)
    }
}

/// What a worker keeps between batches.
pub struct Local {
    pub rng: Rng,
    pub unit: Kept<Unit>,
    pub effects: Kept<Effects>,
    /// When the last command ended, in [`Turn::ticks`]: the next one begins there. Set it before a batch.
    pub ticked: u64,
    /// Where replies for clients go that wait in this or another worker.
    pub mailbox: Arc<dyn Mailbox>,
    pub scripts: LocalScripts,
}

impl Local {
    pub fn new(seed: u64, mailbox: Arc<dyn Mailbox>) -> Local {
        Local {
            rng: Rng::new(seed),
            unit: Kept::new(Unit::default()),
            effects: Kept::new(Effects::default()),
            ticked: 0,
            mailbox,
            scripts: LocalScripts::new(seed),
        }
    }

    /// Ticks since the last command ended; this one ends now.
    #[inline]
    pub(crate) fn lap(&mut self, ticks: fn() -> u64) -> u64 {
        let now = ticks();
        now.wrapping_sub(std::mem::replace(&mut self.ticked, now))
    }
}

/// A key that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangedKey {
    pub key: Vec<u8>,
    /// The client's command changed it, and not its expiry.
    pub is_own: bool,
}

/// A command that ran.
#[derive(Clone, Copy)]
pub struct Ran<'a> {
    pub spec: &'static Spec,
    pub args: Args<'a>,
    pub ticks: u64,
    pub db: u16,
    /// A script called it.
    pub is_script: bool,
    /// It found nothing, and its client waits.
    pub is_waiting: bool,
}

/// The node, as the engine sees it.
pub trait Host {
    /// Runs a command whose handler is [`crate::spec::Handler::Host`].
    fn run(
        &mut self,
        spec: &'static Spec,
        args: Args,
        session: &mut Session,
        out: &mut Reply,
    ) -> Result<HostOutcome, Error>;
    /// Takes what was removed from the keyspace and is too large to be freed here.
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>);
    /// A keyspace notification that somebody may have subscribed to.
    fn publish(&mut self, channel: &[u8], message: &[u8]);
    /// A user was denied a command.
    fn denied(&mut self, _denied: &Denied, _context: Context, _spec: &Spec, _args: Args, _session: &Session) {
    }
    /// The client read these keys, whose slots are locked, and wants to be told when they change.
    fn remember(&mut self, _keys: &mut dyn Iterator<Item = &[u8]>) {}
    /// Keys changed, whose slots are locked, while clients want to be told so.
    fn invalidate(&mut self, _changed: &[ChangedKey]) {}
    /// All keys of a database are gone.
    fn invalidate_all(&mut self) {}
    /// A command has emptied all databases. No slot is locked, the command is replayed, its reply not yet sent.
    fn emptied(&mut self, _closed: &GateClosed<'_>) {}
    /// A command ran that took as long as [`Turn::told_ticks`], maybe with slots locked.
    fn ran(&mut self, _ran: &Ran) {}
    /// A script begins, while all commands are told.
    fn begins(&mut self, _ran: &Ran) {}
    /// What [`Turn::told_ticks`] is now, after a command that may have changed it.
    fn told_ticks(&self) -> u64 {
        u64::MAX
    }
    /// A line that a script logs, of level 0 (debug) to 3 (warning).
    fn log(&mut self, _level: u8, _line: &[u8]) {}
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostOutcome {
    /// The reply was written.
    Done,
    /// As `Done`; the command is replayed elsewhere as it came.
    Replayed,
    /// The reply comes later; the connection runs nothing else until then.
    Later,
    /// The connection ends after its replies are sent.
    Close,
    /// Nothing was done: run it again with the gate closed.
    NeedsGate,
}
