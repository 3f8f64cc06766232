//! This node as a replica: connects, introduces itself, syncs, applies the stream, acknowledges; again and again.
//!
//! Invariant: every wait has a deadline, repl-timeout; a link that is silent for that long is closed.

use super::wire::{LinkEnd, Wire};
use super::{LinkStage, Target};
use super::{failover, load};
use crate::config::Durability;
use crate::env::Env;
use crate::persist::{Applied, Applier};
use crate::shared::Shared;
use proto::{Offset, ReplId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The first pause before another try, and the longest. Choice: Redis tries once a second; a link that was cut for a
/// moment is back sooner.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Bytes of a stream that wait while clients are paused; then the primary's sending stops. Choice: what it holds for a
/// replica that does not read at all, by default.
const HELD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How often is looked whether the pause is over.
const HELD_LOOK: Duration = Duration::from_millis(50);
/// Bytes of the stream that are carried out at a time. Choice: less than a millisecond of short commands.
const APPLY_BYTES: usize = 16 * 1024;
/// Redis acknowledges once a second.
const ACK_EVERY: Duration = Duration::from_secs(1);

/// Follows whatever primary is the target, for as long as the node lives.
pub async fn run<E: Env>(shared: &Arc<Shared<E>>) {
    let mut pause = PAUSE_MIN;
    loop {
        let (number, target) = {
            let state = shared.replication.state();
            (state.target_number, state.target.clone())
        };
        let Some(target) = target else {
            shared.replication.target_changed.notified().await;
            pause = PAUSE_MIN;
            continue;
        };
        let end = tokio::select! {
            biased;
            () = changed(shared, number) => None,
            end = follow_once(shared, &target) => end.err(),
        };
        let was_up = shared.state.is_link_up.load(Ordering::Acquire);
        set_down(shared, number);
        let Some(end) = end else {
            pause = PAUSE_MIN;
            continue;
        };
        match was_up {
            true => tracing::warn!("Connection with master lost: {end}"),
            false => tracing::warn!("MASTER {}:{} <-> REPLICA sync: {end}", target.host, target.port),
        }
        pause = if was_up { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            biased;
            () = changed(shared, number) => pause = PAUSE_MIN,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Ends when the target is another than that of `number`.
async fn changed<E: Env>(shared: &Shared<E>, number: u64) {
    while shared.replication.state().target_number == number {
        shared.replication.target_changed.notified().await;
    }
}

fn set_down<E: Env>(shared: &Shared<E>, number: u64) {
    let now = shared.env.now().mono;
    let mut state = shared.replication.state();
    if state.target_number == number {
        shared.state.is_link_up.store(false, Ordering::Release);
        state.link.stage = LinkStage::Connect;
        state.link.down_since.get_or_insert(now);
    }
}

fn set_stage<E: Env>(shared: &Shared<E>, stage: LinkStage) {
    let mut state = shared.replication.state();
    state.link.stage = stage;
    state.link.last_io = Some(shared.env.now().mono);
}

/// One link from its begin to its end.
async fn follow_once<E: Env>(shared: &Arc<Shared<E>>, target: &Target) -> Result<(), LinkEnd> {
    let timeout = Duration::from_secs(shared.settings().repl_timeout_s);
    set_stage(shared, LinkStage::Connecting);
    tracing::info!("Connecting to MASTER {}:{}", target.host, target.port);
    let own = shared.config().get("bind-source-addr").to_string();
    let is_tls = shared.settings().is_replication_tls;
    let connect = crate::tls::connect(shared, &own, &target.host, target.port, is_tls);
    let stream = match tokio::time::timeout(timeout, connect).await {
        Err(_) => return Err(LinkEnd::TimedOut),
        Ok(result) => result.map_err(LinkEnd::Io)?,
    };
    tracing::info!("MASTER <-> REPLICA sync started");
    let mut wire = Wire::new(stream, timeout);
    set_stage(shared, LinkStage::Handshake);
    introduce(shared, target, &mut wire).await?;
    let mut applier = sync(shared, target, &mut wire).await?;
    {
        let mut state = shared.replication.state();
        state.link.stage = LinkStage::Connected;
        state.link.down_since = None;
        shared.state.is_link_up.store(true, Ordering::Release);
    }
    shared.replication.acknowledged.notify_one();
    stream_from(shared, &mut wire, &mut applier).await
}

async fn introduce<E: Env>(
    shared: &Arc<Shared<E>>,
    target: &Target,
    wire: &mut Wire<E::Stream>,
) -> Result<(), LinkEnd> {
    let settings = shared.settings.load_full();
    wire.command(&[b"PING"]).await?;
    let answer = wire.line().await?;
    // As Redis: these errors say that somebody is there who wants a password.
    const TOLERATED: [&str; 4] = ["+", "-NOAUTH", "-NOPERM", "-ERR operation not permitted"];
    if !TOLERATED.iter().any(|t| answer.starts_with(t)) {
        return Err(LinkEnd::Refused(answer));
    }
    if !settings.masterauth.is_empty() {
        let password = settings.masterauth.as_bytes();
        match settings.masteruser.as_bytes() {
            b"" => wire.command(&[b"AUTH", password]).await?,
            user => wire.command(&[b"AUTH", user, password]).await?,
        }
        let answer = wire.line().await?;
        if answer.starts_with('-') {
            return Err(LinkEnd::Refused(format!("Unable to AUTH to MASTER: {answer}")));
        }
    }
    let own_port = match settings.is_replication_tls && settings.tls_port != 0 {
        true => settings.tls_port,
        false => settings.port,
    };
    let port = match (settings.replica_announce_port, settings.announce_port) {
        (0, 0) => own_port,
        (0, port) => port,
        (port, _) => port,
    };
    let ip = match settings.replica_announce_ip.is_empty() {
        true => settings.announce_ip.clone(),
        false => settings.replica_announce_ip.clone(),
    };
    let port = port.to_string();
    replconf(wire, &[b"REPLCONF", b"listening-port", port.as_bytes()]).await?;
    if !ip.is_empty() {
        replconf(wire, &[b"REPLCONF", b"ip-address", ip.as_bytes()]).await?;
    }
    replconf(wire, &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]).await?;
    if let Some(node) = target.node {
        let words = [node.to_string(), target.generation.to_string(), target.tenure.to_string()];
        let [node, generation, tenure] = words.each_ref().map(|w| w.as_bytes());
        replconf(wire, &[b"REPLCONF", b"shoal-node", node, generation, tenure]).await?;
    }
    Ok(())
}

/// What a primary does not understand of this it can do without.
async fn replconf<S>(wire: &mut Wire<S>, args: &[&[u8]]) -> Result<(), LinkEnd>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    wire.command(args).await?;
    let answer = wire.line().await?;
    if answer.starts_with('-') {
        tracing::debug!(
            "(Non critical) Master does not understand {:?}: {answer}",
            String::from_utf8_lossy(args[1])
        );
    }
    Ok(())
}

/// Asks for the stream; on return it follows in `wire`, and the data here is that of the feed's end.
async fn sync<E: Env>(
    shared: &Arc<Shared<E>>,
    target: &Target,
    wire: &mut Wire<E::Stream>,
) -> Result<Applier<E>, LinkEnd> {
    let (has_history, replid) = {
        let state = shared.replication.state();
        let is_given_up = target.node.is_some() && state.may_discard == Some(target.generation);
        (state.has_history && !is_given_up, state.history.replid())
    };
    let end = shared.feed.end();
    let is_hand_over = failover::is_in_progress(shared);
    let (replid, place) = match has_history {
        true => (replid.to_string(), (end.0 + 1).to_string()),
        false => ("?".into(), "-1".into()),
    };
    if has_history {
        tracing::info!("Trying a partial resynchronization (request {replid}:{place}).");
    }
    let request: [&[u8]; 4] = [b"PSYNC", replid.as_bytes(), place.as_bytes(), b"FAILOVER"];
    wire.command(&request[..if is_hand_over { 4 } else { 3 }]).await?;
    let answer = wire.line().await?;
    if is_hand_over {
        match answer.starts_with('+') {
            true => failover::finish(shared),
            false => failover::abort(shared, "Failover target rejected psync request"),
        }
    }
    let words: Vec<&str> = answer.split_whitespace().collect();
    let mut applier = Applier::new(shared.clone());
    let db = shared.state.stream_db.load(Ordering::Relaxed);
    assert!(applier.select(db as u16), "the database was selected before");
    match words[..] {
        ["+CONTINUE"] => {}
        ["+CONTINUE", replid] => {
            let replid = parse_replid(replid)?;
            rename(shared, replid, end);
        }
        ["+FULLRESYNC", ..] if has_history && target.node.is_some() && end > Offset(0) => {
            // D10: what others may count on is not thrown away before its generation has ended.
            refuse(shared, target);
            return Err(LinkEnd::Refused("a full sync, while this copy may be counted on".into()));
        }
        ["+FULLRESYNC", replid, offset] => {
            let offset: u64 =
                offset.parse().map_err(|_| LinkEnd::Protocol(format!("no offset: {offset:?}")))?;
            let replid = parse_replid(replid)?;
            tracing::info!("Full resync from master: {replid}:{offset}");
            set_stage(shared, LinkStage::Sync);
            load::receive(shared, wire, &mut applier, replid, Offset(offset)).await?;
            tracing::info!("MASTER <-> REPLICA sync: Finished with success");
            return Ok(applier);
        }
        ["-DIVERGED", ..] => {
            refuse(shared, target);
            return Err(LinkEnd::Refused(answer));
        }
        _ => return Err(LinkEnd::Refused(answer)),
    }
    tracing::info!("MASTER <-> REPLICA sync: Master accepted a Partial Resynchronization.");
    Ok(applier)
}

/// Tells the control loop that the copy of this generation cannot be continued.
fn refuse<E: Env>(shared: &Shared<E>, target: &Target) {
    shared.replication.state().is_refused = Some(target.generation);
    shared.replication.acknowledged.notify_one();
}

fn parse_replid(text: &str) -> Result<ReplId, LinkEnd> {
    ReplId::from_hex(text.as_bytes()).ok_or_else(|| LinkEnd::Protocol(format!("no replid: {text:?}")))
}

/// The primary's history has another name from here on.
fn rename<E: Env>(shared: &Shared<E>, replid: ReplId, end: Offset) {
    let mut state = shared.replication.state();
    if state.history.replid() != replid {
        state.history.shift(replid, end);
        tracing::info!("Master replication ID changed to {replid}");
        drop(state);
        shared.replication.next_turn();
    }
}

async fn stream_from<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    applier: &mut Applier<E>,
) -> Result<(), LinkEnd> {
    // Where acknowledgements hold up replies they are sent for all that came at once.
    let settings = shared.settings.load_full();
    let is_prompt = settings.durability != Durability::Async;
    let ack_every = match is_prompt {
        true => settings.in_sync_lag() / 4,
        false => ACK_EVERY,
    };
    let (mut ack_due, mut is_asked) = (shared.env.now().mono, false);
    // The primary asked, and this much was not yet on our disk.
    let mut unsynced: Option<Offset> = None;
    loop {
        // Redis: a paused replica takes what its primary sends, and does not carry it out.
        let is_held = shared.pause.holds_writes(shared.env.now().mono);
        let bytes = if is_held { Vec::new() } else { wire.take() };
        shared.replication.state().link.unapplied_bytes = wire.unused_bytes() as u64;
        if !bytes.is_empty() {
            shared.counters.net_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            for piece in bytes.chunks(APPLY_BYTES) {
                let result = applier.push(piece, &mut |unit| is_asked |= relay(shared, unit));
                result.map_err(|error| LinkEnd::Protocol(error.to_string()))?;
                // Others on this thread, such as a snapshot for a replica of ours, have had to wait for that. A primary
                // that sends all the time would leave them next to nothing.
                tokio::task::yield_now().await;
            }
            if is_asked {
                unsynced = Some(shared.feed.end());
            }
            is_asked |= is_prompt;
            shared.replication.state().link.last_io = Some(shared.env.now().mono);
        }
        if std::mem::take(&mut is_asked) || shared.env.now().mono >= ack_due {
            acknowledge(shared, wire).await?;
            ack_due = shared.env.now().mono + ack_every;
        }
        let log_synced = Offset(shared.state.log_synced.load(Ordering::Acquire));
        unsynced = unsynced.filter(|end| shared.settings().appendonly && log_synced < *end);
        // `fill` ends by itself after repl-timeout, but is begun anew with each acknowledgement.
        let last_io = shared.replication.state().link.last_io;
        let now = shared.env.now().mono;
        let silence = last_io.map_or(Duration::ZERO, |at| now.since(at));
        // What is not read while we hold back is not missed.
        let is_full = wire.unused_bytes() >= HELD_BYTES_MAX;
        if !is_full && silence > Duration::from_secs(shared.settings().repl_timeout_s) {
            return Err(LinkEnd::TimedOut);
        }
        tokio::select! {
            biased;
            filled = wire.fill(), if wire.unused_bytes() < HELD_BYTES_MAX => {
                filled?;
                shared.replication.state().link.last_io = Some(shared.env.now().mono);
            }
            () = tokio::time::sleep(HELD_LOOK), if is_held => {}
            () = shared.replication.log_synced.notified(), if is_prompt || unsynced.is_some() => is_asked = true,
            () = tokio::time::sleep(ack_due.since(now)) => {}
        }
    }
}

/// Appends what was carried out to our own feed, inside the gate. True: the primary wants an acknowledgement.
fn relay<E: Env>(shared: &Shared<E>, unit: &Applied<'_>) -> bool {
    shared.feed.append_stream(unit.raw, unit.slot, unit.db);
    shared.state.stream_db.store(unit.db_after.into(), Ordering::Relaxed);
    match unit.link_command {
        Some([name, what, ..]) => {
            name.eq_ignore_ascii_case(b"replconf") && what.eq_ignore_ascii_case(b"getack")
        }
        _ => false,
    }
}

async fn acknowledge<E: Env>(shared: &Shared<E>, wire: &mut Wire<E::Stream>) -> Result<(), LinkEnd> {
    let offset = shared.feed.end().to_string();
    if !shared.settings().appendonly {
        return wire.command(&[b"REPLCONF", b"ACK", offset.as_bytes()]).await;
    }
    // Redis 7.2: what is on our disk. Older primaries do not look behind the first offset.
    let synced = shared.state.log_synced.load(Ordering::Acquire).to_string();
    wire.command(&[b"REPLCONF", b"ACK", offset.as_bytes(), b"FACK", synced.as_bytes()]).await
}
