//! Replies of a connection's commands, and what is known of it afterwards.

use super::batch::INPUT_BYTES_MAX;
use super::run::Tally;
use super::setting::Setting;
use super::{Core, LONG_REPLY_BYTES, Worker};
use crate::config::NodeSettings;
use crate::connection::{Connection, Phase};
use crate::env::Env;
use proto::Now;
use proto::resp::Reply;
use std::rc::Rc;
use std::sync::atomic::Ordering;

impl<E: Env> Worker<E> {
    /// Sends what the group's commands answered, or holds it until the feed is released.
    pub(super) fn reply(
        &self,
        core: &mut Core,
        connection: &Rc<Connection<E>>,
        setting: &Setting,
        written_before: u64,
        tally: &Tally,
    ) {
        let session = connection.session.borrow();
        let state = &self.shared.state;
        let until = if !state.is_gated.load(Ordering::Acquire) {
            0
        } else if tally.is_data && state.is_read_gated.load(Ordering::Acquire) {
            self.shared.feed.end().0
        } else if session.written != written_before {
            session.written
        } else {
            0
        };
        // Others can change keys that it watches.
        let is_as_it_was = tally.is_plain && session.watches.is_none();
        drop(session);
        // Whoever has the reply finds the others told of what it says.
        if is_as_it_was {
            connection.client.saw(tally.ran, setting.now);
        } else {
            self.describe(connection, tally.ran, setting.now);
        }
        if connection.phase() == Phase::Closing {
            self.leave(connection);
        }
        self.stats().net_out.add(core.out.len() as u64);
        let released = self.released();
        if released.term != setting.term && (tally.is_data || until > 0) {
            // What ran here is acknowledged by nobody: its outcome is not known.
            connection.set_phase(Phase::Closed);
        } else if core.out.len() > LONG_REPLY_BYTES
            && self.is_too_long(connection, core.out.len(), setting.settings)
        {
            connection.close(false);
        } else if !connection.is_closed() {
            connection.send(core.out.as_bytes(), until, released);
        }
        if core.out.len() > INPUT_BYTES_MAX {
            core.out = Reply::new(false);
        }
        self.check_output(connection, setting.settings, setting.now);
        self.count_buffers(connection);
        if connection.phase() == Phase::InBatch {
            connection.set_phase(Phase::Ready);
        }
        // It reads on, or goes on with what was put off, or ends; unless it waits for the socket already.
        if !connection.is_at_ease() {
            connection.wake();
        }
    }

    /// Whether so many bytes more are above the client's hard limit: then it gets none of them.
    pub(crate) fn is_too_long(
        &self,
        connection: &Rc<Connection<E>>,
        bytes: usize,
        settings: &NodeSettings,
    ) -> bool {
        let class = if connection.session.borrow().is_subscribed() { 2 } else { 0 };
        let hard_bytes = settings.output_limits[class].hard_bytes;
        let is_too_long = hard_bytes > 0 && (connection.output_bytes() + bytes) as u64 > hard_bytes;
        if is_too_long {
            tracing::warn!(
                client = connection.id,
                bytes,
                "client closed: its reply is above the output limit"
            );
        }
        is_too_long
    }

    pub(crate) fn check_output(&self, connection: &Rc<Connection<E>>, settings: &NodeSettings, now: Now) {
        if connection.output_bytes() == 0 {
            return;
        }
        let class = if connection.session.borrow().is_subscribed() { 2 } else { 0 };
        if connection.is_over_limit(settings.output_limits[class], now.mono.as_ms()) {
            tracing::warn!(
                client = connection.id,
                bytes = connection.output_bytes(),
                "client closed: it does not read its replies"
            );
            connection.close(false);
        }
    }

    /// Renews what CLIENT LIST shows.
    pub(crate) fn describe(&self, connection: &Rc<Connection<E>>, ran: usize, now: Now) {
        use crate::clients::state;
        let client = &connection.client;
        let session = connection.session.borrow();
        client.saw(ran, now);
        client.db.store(session.db, Ordering::Relaxed);
        client.resp.store(if session.is_resp3 { 3 } else { 2 }, Ordering::Relaxed);
        client.multi.store(session.multi.as_ref().map_or(-1, |m| m.queue.len() as i64), Ordering::Relaxed);
        client.multi_bytes.store(session.multi.as_ref().map_or(0, |m| m.bytes), Ordering::Relaxed);
        client.watched.store(session.watches.as_ref().map_or(0, |w| w.keys.len()), Ordering::Relaxed);
        let is_blocked = match connection.phase() {
            Phase::Blocked => true,
            Phase::Waiting => connection.is_postponed.get(),
            _ => false,
        };
        let flags = [
            (is_blocked, state::BLOCKED),
            (session.in_multi(), state::MULTI),
            (session.is_subscribed(), state::SUBSCRIBED),
            (session.is_replica, state::REPLICA),
            (session.is_monitor, state::MONITOR),
            (session.tracking().is_some(), state::TRACKING),
            (session.tracking().is_some_and(|t| t.is_bcast), state::BCAST),
            (session.is_readonly, state::READONLY),
            (session.is_no_evict, state::NO_EVICT),
            (session.is_no_touch, state::NO_TOUCH),
            (session.watches.as_ref().is_some_and(|w| w.is_dirty()), state::DIRTY),
        ];
        let set = flags.iter().filter(|(is, _)| *is).fold(0, |set, (_, f)| set | f);
        client.state.store(set, Ordering::Relaxed);
        for (count, n) in client.subscriptions.iter().zip(session.subscriptions) {
            count.store(n as u32, Ordering::Relaxed);
        }
        let watched_bytes = session.watches.as_ref().map_or(0, |w| w.bytes);
        client.name_bytes.store(watched_bytes + connection.subscriptions.borrow().bytes, Ordering::Relaxed);
    }

    /// As [`Worker::count_memory`] for a connection as it stands.
    pub(super) fn count_buffers(&self, connection: &Connection<E>) {
        let query = connection.input.borrow().len();
        if query == 0 && connection.output_bytes() == 0 && connection.client.has_empty_buffers() {
            return;
        }
        let begun = connection.partial.borrow().as_ref().map_or(0, |partial| partial.begun());
        self.count_memory(connection, query.saturating_sub(begun), begun);
    }

    /// Renews what is known of a connection's buffers. Where all clients' take too much, the largest clients go.
    pub(super) fn count_memory(&self, connection: &Connection<E>, query_bytes: usize, argument_bytes: usize) {
        let client = &connection.client;
        client.query_bytes.store(query_bytes, Ordering::Relaxed);
        client.argument_bytes.store(argument_bytes, Ordering::Relaxed);
        client.output_bytes.store(connection.output_bytes(), Ordering::Relaxed);
        client.shared_bytes.store(connection.shared_bytes(), Ordering::Relaxed);
        self.shared.clients.count_bytes(client);
        self.shared.evict_clients();
    }
}
