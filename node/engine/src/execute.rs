//! The way of one command: resolve, admit, queue or lock, run, replay, serve, unlock.

use crate::acl::Context;
use crate::admission::{self, Route};
use crate::blocking::{self, Waiter};
use crate::cx::{Cx, EngineCx, Replay, Unfinished, Waiting};
use crate::keys::Keys;
use crate::locks::{Locks, Place, Places};
use crate::multi::{self, FlowCommand};
use crate::script;
use crate::session::{ReplyMode, Session};
use crate::spec::{Handler, flag};
use crate::table::Spec;
use crate::turn::{HostOutcome, Ran, Turn};
use crate::{Args, Error, Rng};
use proto::Slot;
use proto::resp::Reply;
use smallvec::SmallVec;
use std::sync::Arc;

/// What became of a command.
pub enum Outcome {
    /// The reply was written.
    Done,
    /// The slot is held by another for longer than one spins, or pauses for a move. Nothing was done: run it again.
    Busy(Slot),
    /// Nothing was done: run it again with the gate closed.
    NeedsGate,
    /// Nothing was done: it takes long, and is to run where it makes nobody wait. Only with [`Turn::may_move`].
    Elsewhere,
    /// The client waits for keys; the reply comes through the mailbox.
    Blocked(Arc<Waiter>),
    /// The host answers later.
    Later,
    /// The connection ends after its replies are sent.
    Close,
}

/// Runs a command of `args`, the name first. `resolved`: what [`crate::Table::resolve`] says of them.
/// `raw`: the command as it stood on the wire, if it was RESP.
pub fn execute(
    turn: &mut Turn,
    session: &mut Session,
    resolved: &Result<&'static Spec, Error>,
    args: Args,
    raw: Option<&[u8]>,
    out: &mut Reply,
) -> Outcome {
    let start = out.len();
    out.set_resp3(session.is_resp3);
    let result = match resolved {
        Ok(spec) => run_resolved(turn, session, spec, args, raw, out),
        Err(error) => Err(error.clone()),
    };
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => {
            refuse(turn, session, resolved.as_ref().ok().copied(), &error);
            out.truncate(start);
            out.error(&error.to_string());
            Outcome::Done
        }
    };
    let is_final = !matches!(outcome, Outcome::Busy(_) | Outcome::NeedsGate | Outcome::Elsewhere);
    if is_final {
        finish(session, out, start, resolved.as_ref().map_or(0, |spec| spec.command.flags));
    }
    outcome
}

/// Answers BUSY in the place of [`execute`] while a slow script has the gate closed. False: it has ended meanwhile.
/// Touches no slot: keys stay watched.
pub fn refuse_busy(
    turn: &mut Turn,
    session: &mut Session,
    resolved: &Result<&'static Spec, Error>,
    out: &mut Reply,
) -> bool {
    let Some(mut error) = turn.busy_script() else { return false };
    let spec = resolved.as_ref().ok().copied();
    if session.in_multi() && spec.is_some_and(|s| matches!(s.command.run, Handler::Flow(FlowCommand::Exec))) {
        session.multi = None;
        error = abort(&error);
    }
    refuse(turn, session, spec, &error);
    let start = out.len();
    out.set_resp3(session.is_resp3);
    out.error(&error.to_string());
    finish(session, out, start, spec.map_or(0, |spec| spec.command.flags));
    true
}

/// One-shot states end with the command.
fn finish(session: &mut Session, out: &mut Reply, start: usize, flags: u32) {
    if flags & flag::ASKING == 0 && !session.in_multi() {
        session.is_asking = false;
    }
    if session.is_watched() && flags & flag::KEEPS_STATES == 0 && !session.in_multi() {
        session.is_caching = false;
    }
    const SUBSCRIBES: u32 = flag::PUBSUB | flag::SUBSCRIBED;
    if flags & SUBSCRIBES == SUBSCRIBES {
        // Confirmations are messages and no replies: a client that wants none of those gets them all the same.
        if matches!(session.reply_mode, ReplyMode::Skip | ReplyMode::SkipNext) {
            session.reply_mode = ReplyMode::On;
        }
        return;
    }
    match session.reply_mode {
        ReplyMode::On => {}
        ReplyMode::Off => out.truncate(start),
        ReplyMode::SkipNext => {
            out.truncate(start);
            session.reply_mode = ReplyMode::Skip;
        }
        ReplyMode::Skip => {
            out.truncate(start);
            session.reply_mode = ReplyMode::On;
        }
    }
}

fn refuse(turn: &mut Turn, session: &mut Session, spec: Option<&'static Spec>, error: &Error) {
    turn.stats.count_error(error.code());
    let is_exec = spec.is_some_and(|s| s.has(flag::NOT_QUEUED));
    let spec = spec.or_else(|| match error {
        Error::Arity(name) => turn.engine.table.by_any_name(name.as_bytes()),
        _ => None,
    });
    if let Some(spec) = spec {
        turn.stats.commands[spec.id].rejected.add(1);
    }
    if let Some(multi) = &mut session.multi
        && !is_exec
    {
        multi.is_aborted = true;
    }
}

fn run_resolved(
    turn: &mut Turn,
    session: &mut Session,
    spec: &'static Spec,
    args: Args,
    raw: Option<&[u8]>,
    out: &mut Reply,
) -> Result<Outcome, Error> {
    // Nearly all commands of all connections: no gate has anything to say about them.
    if session.is_plain()
        && (spec.command.flags | flag::ANY) & (turn.watched | flag::EXCLUSIVE) == 0
        && let Handler::Keys(_) = spec.command.run
    {
        return run_keys(turn, session, spec, args, raw, out);
    }
    if let Err(error) = admission::admit(turn, session, spec, args) {
        return Err(aborted(turn, session, spec, error));
    }
    let is_queued = session.in_multi() && !spec.has(flag::NOT_QUEUED);
    if is_queued {
        // Redirects are told while queueing, so that the client need not send the rest.
        let slots = spec.slots(args).unwrap_or_default();
        admission::route(turn, session, &slots, spec.command.flags)?;
        let flags = match spec.command.run {
            Handler::Script(command) => script::run::flags_of(turn.engine, command, args, spec.command.flags),
            _ => spec.command.flags,
        };
        session.multi.as_mut().expect("in a transaction").push_as(spec, args, flags);
        out.simple("QUEUED");
        return Ok(Outcome::Done);
    }
    if spec.has(flag::EXCLUSIVE) && turn.exclusive.is_none() {
        return Ok(Outcome::NeedsGate);
    }
    // Scripts say themselves whether they write.
    let may_write = spec.has(flag::WRITE | flag::MAY_REPLICATE) && !spec.has(flag::SCRIPT);
    if (turn.status.is_paused && may_write || turn.status.is_paused_for_all) && !session.is_primary_link {
        return Ok(Outcome::Busy(Slot::default()));
    }
    match spec.command.run {
        Handler::Keys(_) => run_keys(turn, session, spec, args, raw, out),
        Handler::Host => {
            let (outcome, is_replayed) = run_host(turn, session, spec, args, out)?;
            if is_replayed {
                replay(turn, session, args, raw, 0);
            }
            Ok(outcome)
        }
        Handler::Script(command) => script::run::execute(turn, session, spec, command, args, out),
        Handler::Engine(_) => {
            if run_engine(turn, spec, args, session.db, out) {
                replay(turn, session, args, raw, 1);
            }
            Ok(Outcome::Done)
        }
        Handler::Flow(command) => run_flow(turn, session, spec, command, args, out),
        Handler::Container => Err(match args.get(1) {
            Some(name) => crate::table::unknown_subcommand(spec, name),
            None => Error::Arity(spec.full_name.clone()),
        }),
    }
}

/// Runs a command of a transaction's flow; writes its reply or its error.
fn run_flow(
    turn: &mut Turn,
    session: &mut Session,
    spec: &'static Spec,
    command: FlowCommand,
    args: Args,
    out: &mut Reply,
) -> Result<Outcome, Error> {
    let db = session.db;
    let result = match command {
        FlowCommand::Exec => exec(turn, session, out),
        FlowCommand::Watch => watch(turn, session, spec, args, out),
        _ => multi::unlocked(command, session, turn.engine, out).map(|()| Outcome::Done),
    };
    if matches!(result, Ok(Outcome::Busy(_) | Outcome::NeedsGate)) {
        return result;
    }
    let ticks = turn.local.lap(turn.ticks);
    let stats = turn.stats.ran(spec.id, ticks);
    if ticks >= turn.told_ticks {
        tell(turn, spec, args, ticks, db, false);
    }
    result.or_else(|error| {
        stats.failed.add(1);
        turn.stats.count_error(error.code());
        out.error(&error.to_string());
        Ok(Outcome::Done)
    })
}

/// What a client is told of a refusal. That of an EXEC ends its transaction.
fn aborted(turn: &Turn, session: &mut Session, spec: &Spec, error: Error) -> Error {
    if !matches!(spec.command.run, Handler::Flow(FlowCommand::Exec)) || !session.in_multi() {
        return error;
    }
    session.multi = None;
    multi::unwatch(session, turn.engine);
    abort(&error)
}

fn abort(error: &Error) -> Error {
    Error::Text(format!("EXECABORT Transaction discarded because of: {error}").into())
}

/// Runs a command of the node; writes its reply or its error. Says as well whether it is to be replayed.
pub(crate) fn run_host(
    turn: &mut Turn,
    session: &mut Session,
    spec: &'static Spec,
    args: Args,
    out: &mut Reply,
) -> Result<(Outcome, bool), Error> {
    let db = session.db;
    let result = turn.host.run(spec, args, session, out);
    if !matches!(result, Ok(HostOutcome::NeedsGate)) {
        let ticks = turn.local.lap(turn.ticks);
        turn.stats.ran(spec.id, ticks);
        turn.told_ticks = turn.host.told_ticks();
        if ticks >= turn.told_ticks {
            tell(turn, spec, args, ticks, db, false);
        }
    }
    let stats = &turn.stats.commands[spec.id];
    match result {
        Ok(HostOutcome::Done) => Ok((Outcome::Done, false)),
        Ok(HostOutcome::Replayed) => Ok((Outcome::Done, true)),
        Ok(HostOutcome::Later) => Ok((Outcome::Later, false)),
        Ok(HostOutcome::Close) => Ok((Outcome::Close, false)),
        Ok(HostOutcome::NeedsGate) => Ok((Outcome::NeedsGate, false)),
        Err(error) => {
            stats.failed.add(1);
            turn.stats.count_error(error.code());
            out.error(&error.to_string());
            Ok((Outcome::Done, false))
        }
    }
}

/// Replays a command that has no keys, as it came. `dirty`: changes that it counts as.
fn replay(turn: &mut Turn, session: &mut Session, args: Args, raw: Option<&[u8]>, dirty: u64) {
    let locks = Locks::take_for(turn, &[]).expect("no lock is asked for");
    let mut keys = keys(turn, session, locks);
    keys.effects.dirty += dirty;
    push(&mut keys, args, raw);
    conclude(turn, session, &mut keys, &[]);
}

/// Runs a command without keys; writes its reply or its error. Returns whether it is to be replayed.
pub(crate) fn run_engine(turn: &mut Turn, spec: &'static Spec, args: Args, db: u16, out: &mut Reply) -> bool {
    let Handler::Engine(run) = spec.command.run else { unreachable!("the caller has looked") };
    let start = out.len();
    let mut cx = EngineCx { turn, args, out, has_changed: false };
    let result = run(&mut cx);
    let has_changed = cx.has_changed;
    let ticks = turn.local.lap(turn.ticks);
    if ticks >= turn.told_ticks {
        tell(turn, spec, args, ticks, db, false);
    }
    let stats = turn.stats.ran(spec.id, ticks);
    if let Err(error) = result {
        stats.failed.add(1);
        turn.stats.count_error(error.code());
        out.truncate(start);
        out.error(&error.to_string());
        return false;
    }
    has_changed
}

/// A slot that another holds: the client waits, or is told that a script is in the way.
pub(crate) fn held(turn: &Turn, slot: Slot) -> Result<Outcome, Error> {
    match turn.busy_script() {
        Some(error) => Err(error),
        None => Ok(Outcome::Busy(slot)),
    }
}

fn run_keys(
    turn: &mut Turn,
    session: &mut Session,
    spec: &'static Spec,
    args: Args,
    raw: Option<&[u8]>,
    out: &mut Reply,
) -> Result<Outcome, Error> {
    if spec.is_single_key {
        let place = Place::of_only(turn, args[1]);
        return run_placed(turn, session, spec, args, raw, out, place.into(), &[place.at.slot]);
    }
    if spec.is_routed
        && let Some(slot) = spec.routed_slot(args)
    {
        admission::route(turn, session, &[slot], spec.command.flags)?;
    }
    let mut places = Places::of(&turn.engine.keyspace, spec, args, turn.first_key.as_slice());
    let slots = places.number();
    run_placed(turn, session, spec, args, raw, out, places, &slots)
}

#[inline]
fn run_placed(
    turn: &mut Turn,
    session: &mut Session,
    spec: &'static Spec,
    args: Args,
    raw: Option<&[u8]>,
    out: &mut Reply,
    places: Places,
    slots: &[Slot],
) -> Result<Outcome, Error> {
    let route = match turn.cluster {
        Some(_) => admission::route(turn, session, slots, spec.command.flags)?,
        None => Route::Here,
    };
    let locks = match Locks::take_for(turn, slots) {
        Ok(locks) => locks,
        Err(slot) if session.is_primary_link => return Ok(Outcome::Busy(slot)),
        Err(slot) => return held(turn, slot),
    };
    admission::check_import(session)?;
    let mut keys = keys(turn, session, locks);
    keys.take_places(places);
    if session.is_watched() {
        keys.may_read_any = session.may_read_any_key(spec, args);
    }
    if let Some(slot) = paused(&mut keys, session, slots) {
        keys.give_back(turn);
        return Ok(Outcome::Busy(slot));
    }
    if let [slot, ..] = *slots
        && route != Route::Here
        && let Err(error) = admission::check_presence(turn, session, route, &mut keys, spec, args, slot)
    {
        conclude(turn, session, &mut keys, slots);
        return Err(error);
    }
    let waiting = if session.is_primary_link { Waiting::Refused } else { Waiting::Allowed };
    let unfinished = run_one(turn, spec, args, raw, out, &mut keys, waiting);
    if session.is_watched() {
        remember(turn, session, &mut keys, spec, args);
    }
    let outcome = outcome(turn, session, &mut keys, spec, args, unfinished);
    conclude(turn, session, &mut keys, slots);
    Ok(outcome)
}

/// What becomes of a command that ran under its locks, which are still held.
#[inline]
pub(crate) fn outcome(
    turn: &Turn,
    session: &Session,
    keys: &mut Keys<'_>,
    spec: &'static Spec,
    args: Args,
    unfinished: Option<Unfinished>,
) -> Outcome {
    match unfinished {
        None => Outcome::Done,
        Some(Unfinished::NeedsGate) => Outcome::NeedsGate,
        Some(Unfinished::Waits(request)) => {
            let mailbox = &turn.local.mailbox;
            Outcome::Blocked(blocking::enqueue(keys, session, spec, args, *request, mailbox))
        }
    }
}

/// A slot that pauses for a hand-over: its commands wait.
pub(crate) fn paused(keys: &mut Keys<'_>, session: &Session, slots: &[Slot]) -> Option<Slot> {
    if session.is_primary_link {
        return None;
    }
    slots.iter().copied().find(|slot| keys.locks.guard(*slot).state().ownership == storage::Ownership::Paused)
}

/// The keyspace as this session's commands see it.
#[inline]
pub(crate) fn keys<'g>(turn: &mut Turn<'g>, session: &Session, locks: Locks<'g>) -> Keys<'g> {
    let mut keys = Keys::new(turn, locks, session.db);
    keys.may_expire &= !session.is_primary_link;
    keys.sees_expired = session.is_primary_link;
    keys.is_no_touch = session.is_no_touch;
    keys
}

/// Runs one command whose slots are locked; writes its reply or its error, or tells why there is none.
#[inline]
pub(crate) fn run_one(
    turn: &mut Turn,
    spec: &'static Spec,
    args: Args,
    raw: Option<&[u8]>,
    out: &mut Reply,
    keys: &mut Keys<'_>,
    waiting: Waiting,
) -> Option<Unfinished> {
    let Handler::Keys(run) = spec.command.run else {
        unreachable!("only commands with keys run under locks")
    };
    let start = out.len();
    let dirty = keys.effects.dirty;
    let mut cx = Cx::new(args, keys, out, &mut turn.local.rng, waiting);
    let result = run(&mut cx);
    let (unfinished, replay) = (cx.unfinished, cx.replay);
    if matches!(result, Err(Error::NeedsGate)) {
        out.truncate(start);
        return Some(Unfinished::NeedsGate);
    }
    let ticks = turn.local.lap(turn.ticks);
    let stats = keys.stats.ran(spec.id, ticks);
    if let Err(error) = result {
        stats.failed.add(1);
        out.truncate(start);
        keys.stats.count_error(error.code());
        out.error(&error.to_string());
    }
    if ticks >= turn.told_ticks {
        tell(turn, spec, args, ticks, keys.db, unfinished.is_some());
    }
    let is_as_is = replay == Replay::AsIs && spec.has(flag::WRITE | flag::MAY_REPLICATE);
    if keys.effects.dirty > dirty && is_as_is && turn.engine.feed.is_attached() {
        push(keys, args, raw);
    }
    unfinished
}

/// Keeps in mind what a client has read that wants to be told when it changes. The slots are still locked.
#[cold]
pub(crate) fn remember(turn: &mut Turn, session: &Session, keys: &mut Keys<'_>, spec: &Spec, args: Args) {
    if session.remembers_keys() && spec.has(flag::READONLY) {
        remember_keys(turn, keys, spec, args);
    }
}

/// Keeps the keys of a command in mind.
pub(crate) fn remember_keys(turn: &mut Turn, keys: &mut Keys<'_>, spec: &Spec, args: Args) {
    // What changed before was changed before the client read it.
    keys.tell_changes(turn.host);
    let places = spec.key_positions(args).unwrap_or_default();
    turn.host.remember(&mut places.iter().map(|place| args[*place]));
}

/// Tells the host of a command that was slow, or that somebody wants to see.
#[cold]
pub(crate) fn tell(turn: &mut Turn, spec: &'static Spec, args: Args, ticks: u64, db: u16, is_waiting: bool) {
    let ran = Ran { spec, args, ticks, db, is_script: turn.is_script, is_waiting };
    turn.host.ran(&ran);
}

/// Replays a command as it came.
fn push(keys: &mut Keys<'_>, args: Args, raw: Option<&[u8]>) {
    match raw {
        Some(bytes) => keys.unit.push_raw(keys.db, bytes),
        None => keys.unit.push(keys.db, args),
    }
}

/// What follows from a command or a transaction: waiters are served, the unit goes into the feed, the locks are
/// released, replies of the served and notifications go out.
#[inline]
pub(crate) fn conclude<'g>(turn: &mut Turn<'g>, session: &mut Session, keys: &mut Keys<'g>, slots: &[Slot]) {
    settle(turn, session, keys, slots);
    keys.give_back(turn);
}

/// As [`conclude`], where another command follows with the same [`Keys`].
#[inline]
pub(crate) fn settle<'g>(turn: &mut Turn<'g>, session: &mut Session, keys: &mut Keys<'g>, slots: &[Slot]) {
    if keys.effects.dirty > 0 {
        keys.stats.dirty.add(keys.effects.dirty);
    }
    if !keys.effects.ready.is_empty() {
        serve(turn, session, keys, slots);
    } else if !keys.unit.is_empty() {
        append(turn, session, keys, slots);
    }
    keys.release(turn);
}

/// What serves a client that waited is replayed after what it waited for, as a unit of its own. Their slots are locked:
/// nothing comes between them.
#[cold]
fn serve<'g>(turn: &mut Turn<'g>, session: &mut Session, keys: &mut Keys<'g>, slots: &[Slot]) {
    append(turn, session, keys, slots);
    keys.unit.clear();
    let mut rng = std::mem::replace(&mut turn.local.rng, Rng::new(0));
    let mut served = Vec::new();
    blocking::serve(keys, &mut rng, &mut |keys, waiter| {
        served.push((append(turn, session, keys, &[]), waiter));
        keys.unit.clear();
    });
    append(turn, session, keys, &[]);
    turn.local.rng = rng;
    served.into_iter().for_each(|(written, served)| served.deliver(written));
}

fn append(turn: &Turn, session: &mut Session, keys: &Keys<'_>, slots: &[Slot]) -> u64 {
    if keys.unit.is_empty() || session.is_primary_link {
        return session.written;
    }
    let slot = match slots {
        [slot] => Some(*slot),
        _ => match *keys.locks.slots() {
            [slot] => Some(slot),
            _ => None,
        },
    };
    session.written = turn.engine.feed.append(slot, &keys.unit);
    session.written
}

fn watch(
    turn: &mut Turn,
    session: &mut Session,
    spec: &Spec,
    args: Args,
    out: &mut Reply,
) -> Result<Outcome, Error> {
    if session.in_multi() {
        return Err(Error::text("ERR WATCH inside MULTI is not allowed"));
    }
    let slots = spec.slots(args).unwrap_or_default();
    admission::route(turn, session, &slots, 0)?;
    let locks = match Locks::take_for(turn, &slots) {
        Ok(locks) => locks,
        Err(slot) => return held(turn, slot),
    };
    let mut keys = keys(turn, session, locks);
    multi::watch(session, &mut keys, args);
    conclude(turn, session, &mut keys, &slots);
    out.ok();
    Ok(Outcome::Done)
}

fn exec(turn: &mut Turn, session: &mut Session, out: &mut Reply) -> Result<Outcome, Error> {
    let Some(transaction) = &session.multi else { return Err(Error::text("ERR EXEC without MULTI")) };
    if transaction.is_aborted {
        session.multi = None;
        multi::unwatch(session, turn.engine);
        return Err(Error::text("EXECABORT Transaction discarded because of previous errors."));
    }
    let flags = transaction.flags();
    let is_all = flags & (flag::EXCLUSIVE | flag::WHOLE_DB | flag::SCRIPT | flag::ANY_KEY) != 0;
    if is_all && turn.exclusive.is_none() {
        return Ok(Outcome::NeedsGate);
    }
    if turn.status.is_paused && flags & (flag::WRITE | flag::MAY_REPLICATE) != 0 {
        return Ok(Outcome::Busy(Slot::default()));
    }
    let slots = transaction.slots();
    let route = match admission::route(turn, session, &slots, flags & !flag::ASKING) {
        Ok(route) => route,
        Err(error) => {
            session.multi = None;
            multi::unwatch(session, turn.engine);
            return Err(error);
        }
    };
    let locks = match multi::locks(session, turn) {
        Ok(locks) => locks,
        Err(slot) => {
            return held(turn, slot).map_err(|error| {
                session.multi = None;
                multi::unwatch(session, turn.engine);
                abort(&error)
            });
        }
    };
    if let Err(error) = admission::check_import(session) {
        drop(locks);
        session.multi = None;
        multi::unwatch(session, turn.engine);
        return Err(error);
    }
    let mut keys = keys(turn, session, locks);
    if let Some(slot) = paused(&mut keys, session, &slots) {
        keys.give_back(turn);
        return Ok(Outcome::Busy(slot));
    }
    let transaction = *session.multi.take().expect("checked above");
    if multi::is_watch_broken(session, &mut keys) {
        out.null_array();
    } else {
        run_queue(turn, session, &mut keys, transaction, route, out);
    }
    conclude(turn, session, &mut keys, &slots);
    multi::unwatch(session, turn.engine);
    Ok(Outcome::Done)
}

fn run_queue<'g>(
    turn: &mut Turn<'g>,
    session: &mut Session,
    keys: &mut Keys<'g>,
    transaction: multi::Multi,
    route: Route,
    out: &mut Reply,
) {
    out.array(transaction.queue.len());
    for (spec, args) in &transaction.queue {
        let args: SmallVec<[&[u8]; 8]> = args.iter().map(|a| a.as_slice()).collect();
        keys.db = session.db;
        if let Err(denied) = session.check(spec, &args) {
            turn.host.denied(&denied, Context::Multi, spec, &args, session);
            let error = denied.error_in_exec();
            keys.stats.count_error(error.code());
            out.error(&error.to_string());
            continue;
        }
        keys.may_read_any = session.is_free() || session.may_read_any_key(spec, &args);
        match spec.command.run {
            Handler::Keys(_) => {
                let slot = spec.slots(&args).and_then(|s| s.first().copied()).unwrap_or_default();
                if let Err(error) = admission::check_presence(turn, session, route, keys, spec, &args, slot) {
                    out.error(&error.to_string());
                    continue;
                }
                run_one(turn, spec, &args, None, out, keys, Waiting::Refused);
                if session.is_watched() {
                    remember(turn, session, keys, spec, &args);
                }
            }
            Handler::Host => match run_host(turn, session, spec, &args, out) {
                Ok((Outcome::Done, true)) => push(keys, &args, None),
                Ok((Outcome::Done, false)) => {}
                _ => panic!("{} in a transaction answers at once", spec.full_name),
            },
            Handler::Script(command) => {
                script::run::execute_queued(turn, session, spec, command, &args, keys, out);
            }
            Handler::Engine(_) => {
                let has_changed = run_engine(turn, spec, &args, session.db, out);
                if has_changed {
                    keys.effects.dirty += 1;
                    push(keys, &args, None);
                }
            }
            // Inside a transaction there is nothing left to forget.
            Handler::Flow(_) => out.ok(),
            Handler::Container => out.error(&Error::Arity(spec.full_name.clone()).to_string()),
        }
    }
}
