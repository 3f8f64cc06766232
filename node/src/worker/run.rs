//! Execution: a batch's memory is asked for ahead, then its commands run in order, connection by connection.

use super::batch::{ArgList, Batch, Group, Item};
use super::setting::Setting;
use super::{Core, Worker};
use crate::connection::{Connection, OUTPUT_PAUSE_BYTES, Phase};
use crate::debugger;
use crate::env::Env;
use crate::errand::{self, Choice};
use crate::host::NodeHost;
use crate::mail::{Letter, Note};
use crate::observe;
use crate::persist::{Emptied, PersistRequest};
use crate::users::Renewed;
use engine::spec::flag;
use engine::{Args, Lane, Outcome, Session, Spec, Turn, evict, execute};
use proto::Slot;
use proto::resp::Reply;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use storage::{GateClosed, GateInside};

/// Being inside the gate, for a batch.
struct Inside<'a> {
    gate: GateInside<'a>,
    /// The gate was left: what was true for the batch may be no more.
    has_left: bool,
    /// A slow script has the gate closed: the rest of the batch does without.
    is_given_up: bool,
}

impl Inside<'_> {
    /// What was true for the command before is true for the next one.
    #[inline]
    fn is_steady(&self) -> bool {
        !self.has_left && self.gate.is_inside()
    }
}

/// How the next command stands to the gate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Inside,
    /// What was read for the turn is true no more: it runs in another.
    Outdated,
    /// A slow script has it closed.
    Outside,
}

/// What the commands of a group came to.
#[derive(Default)]
pub(super) struct Tally {
    /// How many ran; the others are put off.
    pub ran: usize,
    /// How many of these are answered later.
    later: usize,
    /// Replies may show data.
    pub is_data: bool,
    /// They were no other commands than those of a lane: the session is as it was.
    pub is_plain: bool,
}

/// Runs a command in the lane, if it is one for it.
#[inline]
fn run_plain<'g, E: Env>(
    lane: &mut Lane<'g>,
    turn: &mut Turn<'g>,
    session: &mut Session,
    batch: &Batch<E>,
    item: &Item,
    out: &mut Reply,
) -> Option<Outcome> {
    let (spec, keys) = (item.spec?, batch.keys(item));
    let (buf, spans) = (batch.bytes(item.buffer), item.args(&batch.spans));
    let raw = item.raw.of(buf);
    let (two, three, four, many): ([&[u8]; 2], [&[u8]; 3], [&[u8]; 4], ArgList<'_>);
    // Without a loop where they are as many as nearly always.
    let args: Args = match spans {
        [a, b] => {
            two = [a.of(buf), b.of(buf)];
            &two
        }
        [a, b, c] => {
            three = [a.of(buf), b.of(buf), c.of(buf)];
            &three
        }
        [a, b, c, d] => {
            four = [a.of(buf), b.of(buf), c.of(buf), d.of(buf)];
            &four
        }
        _ => {
            many = batch.args(item);
            &many
        }
    };
    lane.run(turn, session, spec, keys, args, raw, out)
}

/// What a browser sends that a hostile page makes talk to us: Redis ends such connections too, lest the body of a
/// request be taken for commands.
fn is_cross_protocol(name: &[u8]) -> bool {
    [&b"post"[..], b"host:"].iter().any(|n| n.eq_ignore_ascii_case(name))
}

impl<E: Env> Worker<E> {
    /// Runs everything in the batch, and empties it: of parts of commands, too, which their connections have kept.
    pub fn run_batch(self: &Rc<Self>) {
        let Some(mut batch) = self.batch.take() else { return };
        if !batch.groups.is_empty() {
            self.run_commands(&mut batch);
        }
        self.ran.set(batch.items.len());
        batch.clear();
        *self.batch.borrow_mut() = Some(batch);
    }

    fn run_commands(self: &Rc<Self>, batch: &mut Batch<E>) {
        if !self.mail.is_empty() {
            self.open_letters();
        }
        let known = &mut *self.known.borrow_mut();
        Setting::with_known(&self.shared, known, |setting| {
            if setting.is_short_of_memory(&self.shared) {
                self.make_room(setting);
            }
            self.run_groups(setting, batch);
        });
    }

    /// Evicts before anything runs, whatever it is, as Redis does before each command. Whoever tracks what went learns of
    /// it before the replies.
    #[cold]
    fn make_room(self: &Rc<Self>, setting: &Setting) {
        {
            let mut gate = self.gate.borrow_mut();
            let Some(_inside) = gate.enter_soon() else { return };
            if setting.is_outdated(&self.shared.state) {
                return;
            }
            // Whether there is room is the business of each command that needs some.
            let _ = self.with_turn(setting, evict::make_room);
        }
        self.open_letters();
    }

    fn run_groups(self: &Rc<Self>, setting: &Setting, batch: &mut Batch<E>) {
        self.shared
            .engine
            .keyspace
            .set_clock(evict::fresh(setting.now.wall.0, setting.settings.engine.maxmemory_policy.is_lfu()));
        let mut groups = std::mem::take(&mut batch.groups);
        let mut prefetched = 0;
        {
            let mut core = self.core.borrow_mut();
            core.local.ticked = (self.shared.env.ticks())();
            let mut gate = self.gate.borrow_mut();
            let mut inside = Inside { gate: gate.stand_before(), has_left: true, is_given_up: false };
            let linger = &mut *self.linger.borrow_mut();
            for group in &groups {
                linger.count(&group.connection.last_seen);
                inside.has_left |= inside.gate.give_way_soon();
                self.run_group(&mut core, &mut inside, batch, group, setting, &mut prefetched);
            }
            linger.turn_ends(groups.len(), setting.now.mono, setting.settings.rest, || {
                self.shared.env.all_busy_us()
            });
        }
        groups.clear();
        batch.groups = groups;
    }

    fn run_group(
        self: &Rc<Self>,
        core: &mut Core,
        inside: &mut Inside,
        batch: &Batch<E>,
        group: &Group<E>,
        setting: &Setting,
        prefetched: &mut usize,
    ) {
        let connection = &group.connection;
        core.out.clear();
        if connection.session.borrow().users_epoch != setting.users_epoch {
            self.renew_user(connection);
        }
        let mut session = connection.session.borrow_mut();
        let written = session.written;
        let looked_up = || self.stats().hits.get() + self.stats().misses.get();
        let looked_up_before = looked_up();
        let mut tally = self.run_items(core, inside, batch, group, setting, &mut session, prefetched);
        tally.is_data |= looked_up() != looked_up_before || session.written != written;
        drop(session);
        if tally.ran > 0 && connection.is_ready() {
            self.postpone(connection, false);
        }
        if tally.ran > tally.later && setting.has_lost_lease(&self.shared) {
            // W12: what was read may belong to another primary by now; nobody may see it as an answer. What is answered
            // later read nothing: it may be what ended the lease, such as CLUSTER REPLICATE.
            connection.set_phase(Phase::Closed);
        }
        self.put_off(connection, batch, group.items.start + tally.ran..group.items.end);
        self.reply(core, connection, setting, written, &tally);
    }

    fn run_items(
        self: &Rc<Self>,
        core: &mut Core,
        inside: &mut Inside,
        batch: &Batch<E>,
        group: &Group<E>,
        setting: &Setting,
        session: &mut Session,
        prefetched: &mut usize,
    ) -> Tally {
        let connection = &group.connection;
        let Core { local, out, .. } = core;
        let mut host = self.host(connection, setting, false);
        let mut turn = setting.turn(&self.shared, self.stats(), local, &mut host, None);
        let mut tally = Tally { is_plain: true, ..Tally::default() };
        let (mut ran_plain, mut is_ready) = (None, connection.is_ready());
        let mut lane = Lane::open(&mut turn, session, out);
        for place in group.items.clone() {
            if place >= *prefetched {
                *prefetched = batch.prefetch(&self.shared.engine.keyspace, place);
            }
            // A client that does not read is not served ahead: the rest waits until it has read.
            let is_ahead = tally.ran > 0 && out.len() + connection.output_bytes() > OUTPUT_PAUSE_BYTES;
            if is_ahead || !is_ready {
                break;
            }
            let (item, before) = (&batch.items[place], out.len());
            // Commands that a stale replica answers show no data, unless they look up keys after all.
            tally.is_data |= item.spec.is_none_or(|s| !s.has(flag::STALE));
            let entry = if inside.is_steady() { Entry::Inside } else { self.enter(inside, setting) };
            let plain = match &mut lane {
                Some(lane) if entry == Entry::Inside => run_plain(lane, &mut turn, session, batch, item, out),
                _ => None,
            };
            let outcome = match plain {
                Some(outcome) => {
                    ran_plain = item.spec;
                    outcome
                }
                None => {
                    ran_plain = None;
                    tally.is_plain = false;
                    lane.take().into_iter().for_each(|lane| lane.close(&mut turn));
                    let outcome = self.run_item(
                        &mut turn,
                        session,
                        (inside, entry),
                        connection,
                        batch,
                        item,
                        setting,
                        out,
                    );
                    lane = Lane::open(&mut turn, session, out);
                    is_ready = connection.is_ready();
                    outcome
                }
            };
            if (item.raw.len as usize).max(out.len() - before) >= setting.large_bytes {
                self.was_large(connection, batch, item, out.len() - before);
            }
            tally.ran += 1;
            if !matches!(outcome, Outcome::Done) {
                tally.is_plain = false;
                self.keep(connection, item, outcome, setting, &mut tally);
                is_ready = connection.is_ready();
            }
        }
        lane.into_iter().for_each(|lane| lane.close(&mut turn));
        if let Some(spec) = ran_plain {
            connection.client.command.store(spec.id + 1, Ordering::Relaxed);
        }
        tally
    }

    /// Keeps a connection whose command has no reply yet, or whose last it was.
    fn keep(
        &self,
        connection: &Rc<Connection<E>>,
        item: &Item,
        outcome: Outcome,
        setting: &Setting,
        tally: &mut Tally,
    ) {
        match outcome {
            Outcome::Done => {}
            Outcome::Busy(_) => {
                self.postpone(connection, setting.status.is_paused);
                connection.set_phase(Phase::Parked);
                self.parked.borrow_mut().push(connection.clone());
                tally.ran -= 1;
            }
            Outcome::Blocked(waiter) => self.block(connection, waiter),
            // The answer comes through the letter box, which this thread opens later.
            Outcome::Later => {
                connection.set_phase(Phase::Waiting);
                let is_blocked = item.spec.is_some_and(|s| s.has(flag::WAITS));
                self.postpone(connection, is_blocked);
                tally.later += 1;
            }
            Outcome::Close => connection.set_phase(Phase::Closing),
            Outcome::NeedsGate | Outcome::Elsewhere => {
                unreachable!("run_item closes the gate, or sends it on")
            }
        }
    }

    fn host<'a>(
        &'a self,
        connection: &'a Rc<Connection<E>>,
        setting: &'a Setting<'a>,
        is_exclusive: bool,
    ) -> NodeHost<'a, E> {
        NodeHost {
            shared: &self.shared,
            client: &connection.client,
            connection: Some(connection),
            setting,
            is_exclusive,
            emptied: None,
        }
    }

    /// Goes inside the gate, where it is not, and looks whether the turn still holds.
    fn enter(&self, inside: &mut Inside, setting: &Setting) -> Entry {
        if !inside.gate.is_inside() && !self.goes_inside(inside, setting) {
            return Entry::Outside;
        }
        if inside.has_left && setting.is_outdated(&self.shared.state) {
            return Entry::Outdated;
        }
        inside.has_left = false;
        Entry::Inside
    }

    /// False: a slow script has the gate closed.
    fn goes_inside(&self, inside: &mut Inside, setting: &Setting) -> bool {
        inside.has_left = true;
        let slow_ms = setting.settings.engine.busy_reply_threshold_ms;
        while !inside.is_given_up && !inside.gate.return_soon() {
            let now = self.shared.env.now().mono;
            // A script that is slow and not outside has closed it.
            inside.is_given_up = self.shared.engine.keyspace.gate().is_held()
                && self.shared.engine.scripts.control.is_slow(now, slow_ms);
        }
        inside.gate.is_inside()
    }

    /// Runs any command.
    fn run_item(
        self: &Rc<Self>,
        turn: &mut Turn,
        session: &mut Session,
        (inside, entry): (&mut Inside, Entry),
        connection: &Rc<Connection<E>>,
        batch: &Batch<E>,
        item: &Item,
        setting: &Setting,
        out: &mut Reply,
    ) -> Outcome {
        let args = &*batch.args(item);
        if item.is_error {
            out.error(&format!("ERR {}", String::from_utf8_lossy(args[0])));
            return Outcome::Close;
        }
        let engine = &self.shared.engine;
        let resolved = match item.spec {
            Some(spec) => Ok(spec),
            None => engine.table.resolve(args),
        };
        if resolved.is_err() && is_cross_protocol(args[0]) {
            tracing::warn!(client = connection.id, peer = %connection.client.peer, "closed: it speaks HTTP");
            connection.close(false);
            return Outcome::Done;
        }
        if let Ok(spec) = &resolved {
            connection.client.command.store(spec.id + 1, Ordering::Relaxed);
        }
        match entry {
            Entry::Inside => {}
            Entry::Outdated => return Outcome::Busy(Slot::default()),
            Entry::Outside if resolved.as_ref().is_ok_and(|spec| spec.runs_outside_the_gate()) => {
                if setting.is_outdated(&self.shared.state) {
                    return Outcome::Busy(Slot::default());
                }
            }
            Entry::Outside => return errand::gate_is_held(&self.shared, turn, session, &resolved, out),
        }
        let send_on = |spec, session: &mut Session, out: &mut Reply| {
            let spans = item.args(&batch.spans);
            self.send_errand(connection, spec, batch.raw(item), spans, item.raw.start, session, out)
        };
        let mut timed = None;
        if let Ok(spec) = &resolved
            && spec.has(flag::LONG)
            // It would stand behind the slow script that it is to be told of.
            && !setting.status.is_busy
        {
            let parts = (batch.raw(item), item.args(&batch.spans), item.raw.start);
            if let Some(outcome) = debugger::intercept(self, connection, spec, args, parts, session, out) {
                return outcome;
            }
            let choice = self.errands.borrow().choose(&self.shared, spec, args, session);
            let Choice::InLine(script) = choice else { return send_on(*spec, session, out) };
            timed = script.map(|script| (script, self.shared.env.now().mono));
        }
        turn.may_move = timed.is_some();
        turn.first_key = batch.keys(item).first().copied();
        let outcome = execute(turn, session, &resolved, args, Some(batch.raw(item)), out);
        turn.may_move = false;
        turn.first_key = None;
        if let Some((script, begun)) = timed {
            let us = self.shared.env.now().mono.since(begun).as_micros() as u64;
            let last = turn.local.scripts.last;
            self.errands.borrow_mut().judge(script, us, last);
        }
        match outcome {
            Outcome::Elsewhere => {
                let spec = resolved.as_ref().expect("a script's command was found");
                send_on(*spec, session, out)
            }
            Outcome::NeedsGate => {
                inside.has_left = true;
                inside.gate.leave();
                let raw = batch.raw(item);
                let outcome = self.run_alone(turn, session, connection, &resolved, args, raw, setting, out);
                inside.gate.return_soon();
                outcome
            }
            outcome => outcome,
        }
    }

    /// Runs a command with the gate closed.
    fn run_alone(
        self: &Rc<Self>,
        turn: &mut Turn,
        session: &mut Session,
        connection: &Rc<Connection<E>>,
        resolved: &Result<&'static Spec, engine::Error>,
        args: Args,
        raw: &[u8],
        setting: &Setting,
        out: &mut Reply,
    ) -> Outcome {
        // Who is inside for long is a script on a side thread: it may be ended only while others are served.
        let closed: Option<GateClosed<'_>> = self.shared.engine.keyspace.gate().try_close();
        if closed.is_none() {
            return errand::gate_is_held(&self.shared, turn, session, resolved, out);
        }
        if setting.is_outdated(&self.shared.state) {
            return Outcome::Busy(Slot::default());
        }
        let start = out.len();
        let mut host = self.host(connection, setting, true);
        let mut alone = setting.turn(&self.shared, self.stats(), turn.local, &mut host, closed.as_ref());
        let outcome = execute(&mut alone, session, resolved, args, Some(raw), out);
        turn.told_ticks = alone.told_ticks;
        drop(closed);
        match host.emptied.take() {
            Some(emptied) if !setting.has_lost_lease(&self.shared) => {
                self.answer_when_saved(connection, emptied, out.split_off(start), session.written);
                Outcome::Later
            }
            _ => outcome,
        }
    }

    /// Holds a reply back until the disk has what it says.
    #[cold]
    fn answer_when_saved(
        &self,
        connection: &Connection<E>,
        mut emptied: Emptied,
        reply: Vec<u8>,
        written: u64,
    ) {
        let (mail, client) = (self.mail.clone(), connection.id);
        emptied.then =
            Some(Box::new(move || mail.post(Letter::Client(client, Note::Reply { bytes: reply, written }))));
        self.shared.persist.request(PersistRequest::Emptied(emptied));
    }

    /// Counts a connection among those that wait while it is paused.
    pub(super) fn postpone(&self, connection: &Connection<E>, is_paused: bool) {
        let was_paused = connection.is_postponed.replace(is_paused);
        match (was_paused, is_paused) {
            (false, true) => self.shared.counters.blocked.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.shared.counters.blocked.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// A command whose request or reply is long.
    #[cold]
    fn was_large(&self, connection: &Rc<Connection<E>>, batch: &Batch<E>, item: &Item, reply: usize) {
        let args = batch.args(item);
        if let Ok(spec) = self.shared.engine.table.find(&args) {
            observe::was_large(&self.shared, &connection.client, spec, &args, item.raw.len as usize, reply);
        }
    }

    /// Users have changed: the connection's own may have other rights now, or be gone.
    #[cold]
    pub(super) fn renew_user(&self, connection: &Rc<Connection<E>>) {
        if let Renewed::Gone = self.shared.users.renew(&mut connection.session.borrow_mut()) {
            connection.close(false);
        }
    }

    /// Whoever waits for keys that its user may not use any more runs its command again, to be told so.
    pub(super) fn recheck_waiting(self: &Rc<Self>) {
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            let Some(waiter) = connection.waiter() else { continue };
            self.renew_user(&connection);
            if !waiter.is_allowed_to(&connection.session.borrow()) {
                self.run_again(&connection);
            }
        }
    }

    /// Commands that could not run yet go back to the connection, before what it read later.
    fn put_off(&self, connection: &Rc<Connection<E>>, batch: &Batch<E>, items: Range<usize>) {
        if items.is_empty() || matches!(connection.phase(), Phase::Closing | Phase::Closed) {
            return;
        }
        let mut input = Vec::new();
        for item in &batch.items[items] {
            input.extend_from_slice(batch.raw(item));
        }
        input.extend_from_slice(&connection.input.borrow());
        *connection.input.borrow_mut() = input;
        *connection.partial.borrow_mut() = None;
        connection.has_deferred.set(true);
    }
}
