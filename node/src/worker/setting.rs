//! What holds for all commands of a turn.

use crate::config::NodeSettings;
use crate::env::Env;
use crate::shared::Shared;
use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use engine::stats::Stats;
use engine::{Host, Local, Status, Turn};
use proto::{ClusterView, Now};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::GateClosed;

/// What holds for all commands of a turn.
pub struct Setting<'a> {
    pub settings: &'a NodeSettings,
    pub view: Option<&'a ClusterView>,
    pub now: Now,
    pub status: Status,
    /// See [`Turn::beside_bytes`].
    pub beside_bytes: u64,
    pub watched: u32,
    /// See [`crate::observe::Observe`].
    pub told_ticks: u64,
    pub large_bytes: usize,
    /// Clients want to be told of keys that change.
    pub is_tracked: bool,
    /// State of the users; sessions with another take theirs anew.
    pub users_epoch: u64,
    /// The term in which the batch began.
    pub term: u64,
    /// As it was before the view was looked at.
    pub slots_left: u64,
}

/// Settings and view as a thread saw them last: to look whether they are still the same costs next to nothing.
pub struct Known<E: Env> {
    settings: Cache<SettingsOf<E>, Arc<NodeSettings>>,
    view: Cache<ViewOf<E>, Option<Arc<ClusterView>>>,
}

struct SettingsOf<E: Env>(Arc<Shared<E>>);
struct ViewOf<E: Env>(Arc<Shared<E>>);

impl<E: Env> Deref for SettingsOf<E> {
    type Target = ArcSwap<NodeSettings>;
    fn deref(&self) -> &Self::Target {
        &self.0.settings
    }
}
impl<E: Env> Deref for ViewOf<E> {
    type Target = ArcSwapOption<ClusterView>;
    fn deref(&self) -> &Self::Target {
        &self.0.view
    }
}

impl<E: Env> Known<E> {
    pub fn new(shared: &Arc<Shared<E>>) -> Known<E> {
        Known { settings: Cache::new(SettingsOf(shared.clone())), view: Cache::new(ViewOf(shared.clone())) }
    }
}

impl<'a> Setting<'a> {
    /// Runs `f` with what holds now.
    pub fn with<E: Env, T>(shared: &Arc<Shared<E>>, f: impl FnOnce(&Setting) -> T) -> T {
        Setting::with_known(shared, &mut Known::new(shared), f)
    }

    /// As [`Setting::with`]. It is looked at in an order that counts.
    pub fn with_known<E: Env, T>(
        shared: &Shared<E>,
        known: &mut Known<E>,
        f: impl FnOnce(&Setting) -> T,
    ) -> T {
        let settings = &**known.settings.load();
        let slots_left = shared.state.slots_left.load(Ordering::Acquire);
        let view = known.view.load().as_deref();
        let now = shared.env.now();
        // Before the status: a lease that is seen after a term ended belongs to a later one.
        let term = shared.state.term.load(Ordering::Acquire);
        let mut status = shared.status(now.mono);
        // Without a view nobody knows whose slots these are, whatever has been published since.
        status.is_loading |= settings.is_cluster && view.is_none();
        let watched = engine::admission::watched(&status, &settings.engine);
        let has_limit = settings.engine.maxmemory > 0;
        f(&Setting {
            settings,
            view,
            now,
            status,
            beside_bytes: if has_limit { crate::memory::counted(shared) } else { 0 },
            watched,
            told_ticks: shared.observe.told_ticks(),
            large_bytes: shared.observe.large_bytes(),
            is_tracked: shared.tracking.is_on(),
            users_epoch: shared.users.epoch(),
            term,
            slots_left,
        })
    }

    /// The role changed or loading began, with the gate closed, since this was read, or slots left: it is true no more. To be asked
    /// inside the gate.
    pub fn is_outdated(&self, state: &crate::shared::State) -> bool {
        self.status.is_replica != state.is_replica.load(Ordering::Relaxed)
            || self.status.is_loading != state.is_loading.load(Ordering::Relaxed)
            || self.slots_left != state.slots_left.load(Ordering::Relaxed)
    }

    /// Served as a primary of a cluster, whose lease has ended since.
    pub fn has_lost_lease<E: Env>(&self, shared: &Shared<E>) -> bool {
        self.view.is_some() && self.status.has_lease && !shared.status(shared.env.now().mono).has_lease
    }

    /// More memory is used than `maxmemory` allows.
    #[inline]
    pub(super) fn is_short_of_memory<E: Env>(&self, shared: &Shared<E>) -> bool {
        let limit = self.settings.engine.maxmemory;
        limit > 0 && shared.engine.keyspace.used_bytes() + self.beside_bytes > limit
    }

    pub fn turn<'t, E: Env>(
        &self,
        shared: &'t Shared<E>,
        stats: &'t Stats,
        local: &'t mut Local,
        host: &'t mut dyn Host,
        exclusive: Option<&'t GateClosed<'t>>,
    ) -> Turn<'t>
    where
        'a: 't,
    {
        Turn {
            engine: &shared.engine,
            settings: &self.settings.engine,
            cluster: self.view,
            status: self.status,
            beside_bytes: self.beside_bytes,
            watched: self.watched,
            now: self.now,
            ticks: shared.env.ticks(),
            told_ticks: self.told_ticks,
            is_tracked: self.is_tracked,
            is_script: false,
            may_move: false,
            first_key: None,
            exclusive,
            passage: None,
            stats,
            local,
            host,
        }
    }
}
