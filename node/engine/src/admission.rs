//! What may run, here and now: an ordered list of gates, as in Redis's `processCommand`. Each refusal changes nothing.

use crate::acl::Context;
use crate::keys::Keys;
use crate::spec::flag;
use crate::table::Spec;
use crate::turn::Status;
use crate::{Args, Error, Session, Settings, Turn, evict};
use proto::view::{ClusterView, Role};
use proto::{NodeId, Slot};
use std::sync::atomic::Ordering;

/// Flags of commands that some gate may refuse now, whoever sends them; one look per batch instead of a list of gates
/// per command.
pub fn watched(status: &Status, settings: &Settings) -> u32 {
    let is_stale = status.is_replica && !status.is_link_up && !settings.replica_serve_stale_data;
    if status.is_loading || is_stale || status.is_paused_for_all || status.is_busy {
        return flag::ANY;
    }
    let is_write_watched = status.is_replica
        || status.is_log_failing
        || status.is_save_failing
        || status.is_paused
        || status.is_short_of_copies
        || settings.min_replicas_to_write > 0;
    let writes = if is_write_watched { flag::WRITE | flag::MAY_REPLICATE } else { 0 };
    writes | if settings.maxmemory > 0 { flag::DENYOOM } else { 0 }
}

/// Gates that need neither keys nor locks.
pub fn admit(turn: &mut Turn, session: &Session, spec: &Spec, args: Args) -> Result<(), Error> {
    admit_as(turn, session, spec, args, spec.command.flags)
}

/// As [`admit`], with other flags than the declared ones: a script may say what it will do.
pub fn admit_as(
    turn: &mut Turn,
    session: &Session,
    spec: &Spec,
    args: Args,
    flags: u32,
) -> Result<(), Error> {
    if !session.is_authenticated() && !spec.has(flag::NO_AUTH) {
        return Err(Error::text("NOAUTH Authentication required."));
    }
    if session.is_primary_link {
        return Ok(());
    }
    if session.in_multi() && spec.has(flag::NO_MULTI) {
        return Err(Error::text("ERR Command not allowed inside a transaction"));
    }
    if let Err(denied) = session.check(spec, args) {
        let context = if session.in_multi() { Context::Multi } else { Context::Toplevel };
        turn.host.denied(&denied, context, spec, args, session);
        return Err(denied.error(spec));
    }
    // Redis: whatever is queued takes memory, be it a command that takes none.
    let is_queued = session.in_multi() && !spec.has(flag::NOT_QUEUED);
    if is_queued || (flags | queued_flags(session, spec)) & flag::DENYOOM != 0 {
        evict::make_room(turn)?;
    }
    let is_write = (flags | queued_flags(session, spec)) & flag::WRITE != 0;
    if is_write {
        may_write(turn, spec)?;
    }
    if session.is_subscribed() && !session.is_resp3 && !spec.has(flag::SUBSCRIBED) {
        let name = &spec.full_name;
        return Err(Error::err(&format!(
            "Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        )));
    }
    let status = &turn.status;
    let is_stale = status.is_replica && !status.is_link_up && !turn.settings.replica_serve_stale_data;
    let common = flags & common_flags(session, spec);
    if is_stale && common & flag::STALE == 0 {
        return Err(Error::text(
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        ));
    }
    if status.is_loading && common & flag::LOADING == 0 {
        return Err(Error::text("LOADING Redis is loading the dataset in memory"));
    }
    if status.is_busy && spec.command.flags & flag::ALLOW_BUSY == 0 {
        // It may have ended meanwhile.
        return turn.busy_script().map_or(Ok(()), Err);
    }
    Ok(())
}

/// For EXEC, what the queued commands would do.
fn queued_flags(session: &Session, spec: &Spec) -> u32 {
    match &session.multi {
        Some(multi) if spec.has(flag::NOT_QUEUED) => multi.flags(),
        _ => 0,
    }
}

/// For EXEC, what all queued commands have.
fn common_flags(session: &Session, spec: &Spec) -> u32 {
    match &session.multi {
        Some(multi) if spec.has(flag::NOT_QUEUED) => multi.common_flags(),
        _ => u32::MAX,
    }
}

pub(crate) fn may_write(turn: &Turn, spec: &Spec) -> Result<(), Error> {
    let status = &turn.status;
    // While a role is handed over writes wait, until it is known whose they are.
    if status.is_replica && !status.is_paused {
        // In a cluster a key leads to its owner; what has no key would change this replica alone.
        let is_refused =
            turn.settings.replica_read_only && (turn.cluster.is_none() || spec.has(flag::WHOLE_DB));
        return if is_refused { Err(Error::ReadOnlyReplica) } else { Ok(()) };
    }
    if status.is_log_failing {
        return Err(Error::text(
            "MISCONF Errors writing to the AOF file: the disk refuses. Writes are disabled.",
        ));
    }
    if status.is_save_failing {
        return Err(Error::text(
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.",
        ));
    }
    if turn.settings.min_replicas_to_write > status.good_replicas {
        return Err(Error::text("NOREPLICAS Not enough good replicas to write."));
    }
    if status.is_short_of_copies {
        return Err(Error::text("NOREPLICAS Not enough in-sync copies to write."));
    }
    Ok(())
}

/// Where a command with keys may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    Here,
    /// Here if all its keys are here; the slot is leaving key by key.
    HereOrAsk(NodeId),
    /// Here because the client was told to ask here; the slot is arriving key by key.
    Importing,
}

/// Decides by slot, for a command or a transaction with these flags. `slots`: of all keys, ascending; a command without keys runs here.
pub fn route(turn: &Turn, session: &Session, slots: &[Slot], flags: u32) -> Result<Route, Error> {
    let is_write = flags & flag::WRITE != 0;
    // RESTORE-ASKING asks by itself.
    let is_asking = session.is_asking || flags & flag::ASKING != 0;
    let Some(view) = turn.cluster else { return Ok(Route::Here) };
    if session.is_primary_link || slots.is_empty() {
        return Ok(Route::Here);
    }
    if session.importing.is_some() {
        // The move's target takes them; without a lease it may have been replaced.
        return match turn.status.has_lease {
            true => Ok(Route::Here),
            false => Err(Error::text("CLUSTERDOWN The cluster is down")),
        };
    }
    let [slot] = *slots else { return Err(Error::CrossSlot) };
    let Some(owner) = view.owner(slot) else {
        return Err(Error::text("CLUSTERDOWN Hash slot not served"));
    };
    if !view.is_ok && turn.settings.cluster_require_full_coverage {
        return match (turn.settings.cluster_allow_reads_when_down, is_write) {
            (false, _) => Err(Error::text("CLUSTERDOWN The cluster is down")),
            (true, true) => {
                Err(Error::text("CLUSTERDOWN The cluster is down and only accepts read commands"))
            }
            (true, false) => route_by_owner(turn, view, session, slot, owner.id, (is_write, is_asking)),
        };
    }
    route_by_owner(turn, view, session, slot, owner.id, (is_write, is_asking))
}

/// Whether what a connection brings from another shard is still wanted. To be asked under the locks of the slots, so that
/// whoever ends it knows after a turn of each lock that nothing more comes.
pub fn check_import(session: &Session) -> Result<(), Error> {
    match &session.importing {
        Some(is_wanted) if !is_wanted.load(Ordering::Acquire) => {
            Err(Error::text("ERR The slot migration that this connection belongs to has ended"))
        }
        _ => Ok(()),
    }
}

fn route_by_owner(
    turn: &Turn,
    view: &ClusterView,
    session: &Session,
    slot: Slot,
    owner: NodeId,
    (is_write, is_asking): (bool, bool),
) -> Result<Route, Error> {
    let hint = if view.hints.is_empty() { None } else { view.hint(slot) };
    if owner == view.myself {
        if !turn.status.has_lease {
            return Err(Error::text("CLUSTERDOWN The cluster is down"));
        }
        return Ok(match hint {
            Some(hint) if hint.is_migrating => Route::HereOrAsk(hint.to),
            _ => Route::Here,
        });
    }
    if let Some(hint) = hint
        && hint.is_importing
        && hint.to == view.myself
        && is_asking
    {
        return if turn.status.has_lease {
            Ok(Route::Importing)
        } else {
            Err(Error::text("CLUSTERDOWN The cluster is down"))
        };
    }
    if view.me().role == Role::Replica(owner) && session.is_readonly && !is_write {
        return Ok(Route::Here);
    }
    Err(redirect(view, session, "MOVED", slot, owner))
}

fn redirect(view: &ClusterView, session: &Session, verb: &str, slot: Slot, to: NodeId) -> Error {
    match view.node(&to) {
        Some(node) => {
            let port = node.client_port(session.is_tls);
            Error::Text(format!("{verb} {slot} {}:{port}", node.ip).into())
        }
        None => Error::text("CLUSTERDOWN Hash slot not served"),
    }
}

/// For slots on the way: whether the keys are here. Their slots are locked.
pub fn check_presence(
    turn: &Turn,
    session: &Session,
    route: Route,
    keys: &mut Keys<'_>,
    spec: &Spec,
    args: Args,
    slot: Slot,
) -> Result<(), Error> {
    if route == Route::Here {
        return Ok(());
    }
    let places = spec.key_positions(args).unwrap_or_default();
    let missing = places.iter().filter(|i| keys.peek(args[**i]).is_none()).count();
    match route {
        Route::HereOrAsk(to) if missing > 0 => {
            // Some here and some there: neither side could run it.
            if missing < places.len() {
                return Err(Error::TryAgain);
            }
            Err(redirect(turn.cluster.expect("routed in a cluster"), session, "ASK", slot, to))
        }
        Route::Importing if missing > 0 && places.len() > 1 => Err(Error::TryAgain),
        _ => Ok(()),
    }
}
