//! Receives a full sync: the old data goes, the snapshot's keys come in as they arrive.
//!
//! Invariant: from the first dropped key to the last loaded one the node has no history: when that is cut off, what
//! was loaded is dropped as well, and the next sync is a full one.

use super::wire::{LinkEnd, Wire};
use super::{LinkStage, ReplicationState};
use crate::env::Env;
use crate::persist::Applier;
use crate::persist::load::{LoadRule, RdbLoader};
use crate::shared::Shared;
use proto::{Mono, Offset, ReplId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How the snapshot's end is found.
enum Length {
    Bytes(u64),
    /// These 40 bytes follow it.
    Mark(Vec<u8>),
}

const MARK_BYTES: usize = 40;

/// While a snapshot is loaded. Dropped before its end, it leaves an empty keyspace.
struct Loading<'a, E: Env> {
    shared: &'a Shared<E>,
    is_done: bool,
}

impl<E: Env> Drop for Loading<'_, E> {
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.flush_all();
            self.shared.engine.scripts.libraries.flush();
        }
        // The log, if there is to be one, begins anew with what is here now.
        self.shared.persist.start_log();
        self.shared.state.is_loading.store(false, Ordering::Release);
        // The log begins anew with what is here now.
        self.shared.persist.start_log();
    }
}

/// Loads the snapshot that follows in `wire` and begins the history `replid` at `offset` here. What came behind the
/// snapshot is left in `wire`.
pub async fn receive<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    applier: &mut Applier<E>,
    replid: ReplId,
    offset: Offset,
) -> Result<(), LinkEnd> {
    let length = length(&wire.line().await?)?;
    {
        let mut state = shared.replication.state();
        state.has_history = false;
        state.link.stage = LinkStage::Sync;
        state.link.sync_read = 0;
        state.link.sync_total = match length {
            Length::Bytes(n) => Some(n),
            Length::Mark(_) => None,
        };
    }
    // Our replicas have what is dropped now: they ask again, and get what we get.
    shared.replication.next_turn();
    // The log of the data before stands until the next one is complete.
    shared.persist.stop_log().await;
    // Offsets of another history: nothing of the one that comes is on disk.
    shared.state.log_synced.store(0, Ordering::Release);
    shared.state.is_loading.store(true, Ordering::Release);
    let mut loading = Loading { shared, is_done: false };
    tracing::info!("MASTER <-> REPLICA sync: Flushing old data");
    shared.flush_all();
    // The snapshot has the primary's.
    shared.engine.scripts.libraries.flush();
    tracing::info!("MASTER <-> REPLICA sync: Loading DB in memory");
    let (keys, db) = load(shared, wire, &length).await?;
    if !applier.select(db) {
        return Err(LinkEnd::Protocol(format!("the stream has a database {db}, we do not")));
    }
    shared.state.stream_db.store(db.into(), Ordering::Relaxed);
    {
        let mut state = shared.replication.state();
        state.history.replace(replid);
        state.has_history = true;
        state.is_history_loaded = false;
        state.may_discard = None;
        shared.feed.restart(offset);
        shared.restart_release(offset.0);
    }
    // Whoever asked while we loaded got nothing, but may hold a place in the bytes before.
    shared.replication.next_turn();
    loading.is_done = true;
    tracing::info!("Done loading RDB, keys loaded: {keys}.");
    Ok(())
}

fn length(line: &str) -> Result<Length, LinkEnd> {
    if line.starts_with('-') {
        return Err(LinkEnd::Refused(line.to_string()));
    }
    let nonsense = || LinkEnd::Protocol(format!("not the begin of a snapshot: {line:?}"));
    if let Some(mark) = line.strip_prefix("$EOF:") {
        return match mark.len() {
            MARK_BYTES => Ok(Length::Mark(mark.as_bytes().to_vec())),
            _ => Err(nonsense()),
        };
    }
    line.strip_prefix('$').and_then(|n| n.parse().ok()).map(Length::Bytes).ok_or_else(nonsense)
}

/// Loads all keys; returns how many, and the database that the stream goes on in.
async fn load<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    length: &Length,
) -> Result<(u64, u16), LinkEnd> {
    // What has expired is loaded as well: removing it is the primary's.
    let rule = LoadRule { skips_expired: false, may_replace: true, is_exclusive: false };
    let mut loader = RdbLoader::new(shared, rule);
    let mut received = 0u64;
    let mut end = EndMark::default();
    let mut said = shared.env.now().mono;
    loop {
        let mut bytes = wire.take();
        if bytes.is_empty() {
            wire.fill().await?;
            bytes = wire.take();
        }
        // Behind the announced length the stream begins.
        let of_file = match length {
            Length::Bytes(n) => (n - received).min(bytes.len() as u64) as usize,
            Length::Mark(_) => bytes.len(),
        };
        received += of_file as u64;
        let is_last = match length {
            Length::Bytes(n) => *n == received,
            Length::Mark(mark) => end.is_in(&bytes, mark),
        };
        let pushed = match is_last {
            false => loader.push(&bytes[..of_file]),
            true => loader.push_last(&bytes[..of_file]).map(|()| true),
        };
        let is_ended = pushed.map_err(|error| LinkEnd::Protocol(error.to_string()))?;
        wire.give_back(&bytes[of_file..]);
        let now = shared.env.now().mono;
        note_progress(&shared.replication, received, now);
        if is_ended {
            break;
        }
        // Redis: an empty line tells the primary that we live.
        if now.since(said) > Duration::from_secs(1) {
            said = now;
            wire.send(b"\n").await?;
        }
        // Others on this thread have had to wait for that.
        tokio::task::yield_now().await;
    }
    finish(wire, length, received, loader.rest()).await?;
    let loaded = loader.loaded();
    Ok((loaded.keys, loaded.stream_db.unwrap_or(0)))
}

/// Looks for the mark that ends a snapshot of unknown length.
#[derive(Default)]
struct EndMark {
    /// The last bytes that came, fewer than a mark has.
    tail: Vec<u8>,
}

impl EndMark {
    /// Whether the mark ends in `bytes`, which follow those of the call before.
    fn is_in(&mut self, bytes: &[u8], mark: &[u8]) -> bool {
        // The mark may have begun before.
        self.tail.extend_from_slice(&bytes[..bytes.len().min(mark.len() - 1)]);
        let is_in =
            memchr::memmem::find(&self.tail, mark).is_some() || memchr::memmem::find(bytes, mark).is_some();
        if bytes.len() >= mark.len() {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - (mark.len() - 1)..]);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(mark.len() - 1));
        }
        is_in
    }
}

/// Takes the mark, or what the length announced beyond the end. `rest`: what the decoder got beyond the end.
async fn finish<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    length: &Length,
    received: u64,
    rest: &[u8],
) -> Result<(), LinkEnd> {
    match length {
        Length::Mark(mark) => {
            let mut rest = rest.to_vec();
            while rest.len() < MARK_BYTES {
                wire.fill().await?;
                rest.extend(wire.take());
            }
            if rest[..MARK_BYTES] != mark[..] {
                return Err(LinkEnd::Protocol("the snapshot's end mark is another".into()));
            }
            wire.give_back(&rest[MARK_BYTES..]);
            Ok(())
        }
        Length::Bytes(n) if *n == received => Ok(()),
        Length::Bytes(_) => Err(LinkEnd::Protocol("the snapshot is shorter than announced".into())),
    }
}

fn note_progress(replication: &ReplicationState, received: u64, now: Mono) {
    let mut state = replication.state();
    state.link.sync_read = received;
    state.link.last_io = Some(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_mark_is_found_however_it_is_cut() {
        let mark: Vec<u8> = (0..MARK_BYTES as u8).collect();
        let text = [&[7; 100][..], &mark, &[9; 50]].concat();
        for step in 1..text.len() {
            let mut end = EndMark::default();
            let mut seen = 0;
            let found = text.chunks(step).position(|part| {
                seen += part.len();
                end.is_in(part, &mark)
            });
            assert!(found.is_some() && seen >= 140 && seen - step < 140, "{step}");
        }
        assert!(!EndMark::default().is_in(&text[..139], &mark));
    }

    #[test]
    fn both_forms_of_a_snapshot_are_known() {
        assert!(matches!(length("$1234"), Ok(Length::Bytes(1234))));
        let line = format!("$EOF:{}", "a".repeat(40));
        assert!(matches!(length(&line), Ok(Length::Mark(mark)) if mark == [b'a'; 40]));
        assert!(matches!(length("$EOF:short"), Err(LinkEnd::Protocol(_))));
        assert!(matches!(length("$-1"), Err(LinkEnd::Protocol(_))));
        assert!(matches!(length("-ERR no"), Err(LinkEnd::Refused(_))));
    }
}
