//! Background work, ten times a second: what has expired, what is above its limits, who has been silent for long.

use super::setting::Setting;
use super::{Core, Worker};
use crate::connection::{Connection, Phase};
use crate::env::Env;
use engine::{Turn, evict};
use std::rc::Rc;
use std::sync::atomic::Ordering;

impl<E: Env> Worker<E> {
    pub(super) fn round(self: &Rc<Self>) {
        if let Some(batch) = &mut *self.batch.borrow_mut() {
            batch.give_back();
        }
        if self.shared.state.is_cron_paused.load(Ordering::Relaxed) {
            return;
        }
        Setting::with(&self.shared, |setting| self.round_in(setting));
    }

    pub(super) fn round_in(self: &Rc<Self>, setting: &Setting) {
        let Setting { settings, now, status, .. } = *setting;
        let left = self.left_waiters.take();
        self.left_waiters.borrow_mut().extend(left.into_iter().filter(|(w, slot)| !self.take_out(w, *slot)));
        self.refuse_errands(setting);
        if self.index == 0 {
            crate::memory::renew(&self.shared);
        }
        self.gather(setting);
        if !status.is_replica
            && !status.is_loading
            && !status.is_paused
            && self.shared.state.is_expiring.load(Ordering::Relaxed)
        {
            let begun = self.shared.env.now().mono;
            self.expire(setting);
            let ms = self.shared.env.now().mono.since(begun).as_millis() as u64;
            if settings.latency_threshold_ms > 0 && ms >= settings.latency_threshold_ms {
                self.shared.observe.events.add("expire-cycle", now.wall.0 / 1000, ms);
            }
        }
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        if setting.view.is_some() {
            connections.iter().for_each(|c| self.redirect_waiter(c, setting));
        }
        for connection in connections {
            self.check_output(&connection, settings, now);
            // What a replica has not got stands in the feed, and its link counts it.
            let is_replica = connection.session.borrow().is_replica;
            if !is_replica
                && connection.client.output_bytes.load(Ordering::Relaxed) != connection.output_bytes()
            {
                self.count_buffers(&connection);
            }
            let idle_ms = now.wall.0 - connection.client.last_active_ms.load(Ordering::Relaxed);
            let may_idle = {
                let session = connection.session.borrow();
                session.is_subscribed() || session.is_replica
            };
            let is_waiting = connection.phase() != Phase::Ready;
            if settings.timeout_s > 0
                && idle_ms > settings.timeout_s as i64 * 1000
                && !may_idle
                && !is_waiting
            {
                connection.close(false);
            }
        }
    }

    /// A client that waits for keys which have gone to another shard runs its command again, and is told where to.
    pub(super) fn redirect_waiter(self: &Rc<Self>, connection: &Rc<Connection<E>>, setting: &Setting) {
        let Some(waiter) = connection.waiter() else { return };
        let is_welcome = {
            let mut core = self.core.borrow_mut();
            let mut host = crate::host::RoundHost { shared: &self.shared, mail: &self.mail };
            let turn = setting.turn(&self.shared, self.stats(), &mut core.local, &mut host, None);
            let session = connection.session.borrow();
            engine::admission::route(&turn, &session, &waiter.slots(), waiter.spec().command.flags).is_ok()
        };
        if !is_welcome {
            self.run_again(connection);
        }
    }

    /// Runs `f` with what commands run with, on nobody's behalf.
    pub(crate) fn with_turn<R>(&self, setting: &Setting, f: impl FnOnce(&mut Turn) -> R) -> R {
        let mut core = self.core.borrow_mut();
        let mut host = crate::host::RoundHost { shared: &self.shared, mail: &self.mail };
        f(&mut setting.turn(&self.shared, self.stats(), &mut core.local, &mut host, None))
    }

    pub(super) fn expire(self: &Rc<Self>, setting: &Setting) {
        // A primary of a cluster without a lease may have been replaced: its keys are not its to remove.
        if setting.view.is_some() && !setting.status.has_lease {
            return;
        }
        let workers = self.shared.mail.len();
        const KEYS_PER_ROUND_MAX: usize = 20_000;
        let mut core = self.core.borrow_mut();
        let Core { local, expire_cursor, .. } = &mut *core;
        let mut host = crate::host::RoundHost { shared: &self.shared, mail: &self.mail };
        let mut gate = self.gate.borrow_mut();
        let Some(_inside) = gate.enter_soon() else { return };
        if self.shared.state.is_replica.load(Ordering::Relaxed) {
            return;
        }
        let mut turn = setting.turn(&self.shared, self.stats(), local, &mut host, None);
        let (cursor, _) =
            engine::expire::cycle(&mut turn, self.index, workers, *expire_cursor, KEYS_PER_ROUND_MAX);
        *expire_cursor = cursor;
        // The limit may have been lowered, or raised since the round began. Whether there is room is the next write's
        // business.
        if self.shared.settings().engine.maxmemory == turn.settings.maxmemory {
            let _ = evict::make_room(&mut turn);
        }
    }
}
