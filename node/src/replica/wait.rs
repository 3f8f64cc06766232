//! WAIT and WAITAOF: a client waits until what it wrote is with enough replicas, or on enough disks.

use super::append;
use crate::env::Env;
use crate::mail::Note;
use crate::shared::Shared;
use proto::{Offset, resp::Reply};
use replication::acks::{Finished, Tally};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a client waits for, and how long.
pub struct Wait {
    /// Everything before it.
    pub offset: Offset,
    pub needed: Tally,
    /// 0: for ever.
    pub timeout_ms: u64,
    /// Else it is answered at once.
    pub may_wait: bool,
}

/// Answers at once with who has what was written if that is enough or the client may not wait; else asks for
/// acknowledgements and answers `None`: the reply comes as a letter.
pub fn wait_for_copies<E: Env>(shared: &Shared<E>, client: u64, wait: &Wait) -> Option<Tally> {
    let mut state = shared.replication.state();
    // Before the wait is noted, and under the lock that whoever syncs takes: no progress is missed.
    let finished = state.acks.set_log_synced(log_synced(shared));
    let tally = state.acks.tally(wait.needed, wait.offset);
    if tally.satisfies(wait.needed) || !wait.may_wait {
        drop(state);
        answer(shared, finished);
        return Some(tally);
    }
    let now = shared.env.now().mono;
    let deadline = (wait.timeout_ms > 0).then(|| now + Duration::from_millis(wait.timeout_ms));
    state.acks.wait(client, wait.offset, wait.needed, deadline);
    let lacks_copies = state.acks.lacks_copies(wait.needed, wait.offset);
    drop(state);
    answer(shared, finished);
    shared.replication.round_due.notify_one();
    if lacks_copies {
        ask_for_acks(shared);
    }
    None
}

/// The log's durable end; `None` where there is to be no log.
fn log_synced<E: Env>(shared: &Shared<E>) -> Option<Offset> {
    shared.settings().appendonly.then(|| Offset(shared.state.log_synced.load(Ordering::Acquire)))
}

/// The log is durable up to another offset, or has ended.
pub fn log_was_synced<E: Env>(shared: &Shared<E>) {
    let synced = log_synced(shared);
    let mut state = shared.replication.state();
    let finished = state.acks.set_log_synced(synced);
    let hopeless = if synced.is_none() { state.acks.take_waits_for_log() } else { Vec::new() };
    drop(state);
    answer(shared, finished);
    for client in hopeless {
        let bytes = format!("-{NO_LOG}\r\n").into_bytes();
        shared.tell_id(client, Note::Reply { bytes, written: 0 });
    }
}

/// What WAITAOF says where there is nothing to wait for.
pub const NO_LOG: &str = "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.";

/// Ends a client's wait before its time; what it is told then. `None`: it does not wait.
pub fn end_wait<E: Env>(shared: &Shared<E>, client: u64) -> Option<Vec<u8>> {
    let finished = shared.replication.state().acks.end_wait(client)?;
    Some(encode(finished.tally))
}

/// Asks all replicas to acknowledge what they have, sooner than they would by themselves. Not during a hand-over: its
/// candidate must reach the feed's end, which therefore stands still.
pub fn ask_for_acks<E: Env>(shared: &Shared<E>) {
    if !shared.state.is_paused.load(Ordering::Relaxed) {
        ask_for_last_acks(shared);
    }
}

/// As [`ask_for_acks`], at the beginning of a hand-over.
pub fn ask_for_last_acks<E: Env>(shared: &Shared<E>) {
    if !shared.replication.state().replicas.is_empty() {
        append(shared, &[b"REPLCONF", b"GETACK", b"*"]);
    }
}

/// Tells clients who has what they wrote.
pub(super) fn answer<E: Env>(shared: &Shared<E>, finished: Vec<Finished>) {
    for Finished { client, tally } in finished {
        shared.tell_id(client, Note::Reply { bytes: encode(tally), written: 0 });
    }
}

fn encode(tally: Tally) -> Vec<u8> {
    // The same in both protocols.
    let mut out = Reply::new(false);
    write(tally, &mut out);
    out.take()
}

/// Writes a tally as WAIT or WAITAOF says it.
pub fn write(tally: Tally, out: &mut Reply) {
    match tally {
        Tally::Copies(copies) => out.int(copies as i64),
        Tally::Synced { is_local, copies } => {
            out.array(2);
            out.int(is_local.into());
            out.int(copies as i64);
        }
    }
}

/// The node is no primary any more: nobody will acknowledge.
pub(super) fn end_all<E: Env>(shared: &Shared<E>) {
    const TEXT: &[u8] =
        b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";
    let clients = shared.replication.state().acks.take_waits();
    for client in clients {
        shared.tell_id(client, Note::Reply { bytes: TEXT.to_vec(), written: 0 });
    }
}
