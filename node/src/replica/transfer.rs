//! The snapshot of a full sync on its way: how long it is, where it ends, and how it gets into a file.

use super::wire::{LinkEnd, Wire};
use super::{LinkStage, TemporaryFile};
use crate::env::Env;
use crate::persist::{FileSink, SnapshotSink};
use crate::shared::Shared;
use bytes::Bytes;
use proto::Mono;
use std::sync::Arc;
use std::time::Duration;

/// How the snapshot's end is found.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Length {
    Bytes(u64),
    /// These 40 bytes follow it.
    Mark(Vec<u8>),
}

pub(super) const MARK_BYTES: usize = 40;
/// Bytes written to the file at a time.
const WRITE_BYTES: usize = 256 * 1024;
/// Redis: an empty line tells the primary now and then that we live.
const SAY_EVERY: Duration = Duration::from_secs(1);

impl Length {
    /// Of the line before a snapshot.
    pub(super) fn parse(line: &str) -> Result<Length, LinkEnd> {
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
    pub(super) fn bytes(&self) -> Option<u64> {
        match self {
            Length::Bytes(n) => Some(*n),
            Length::Mark(_) => None,
        }
    }
}

/// Shows how far a transfer is, and tells the primary that we live.
pub(super) struct Progress<'a, E: Env> {
    shared: &'a Shared<E>,
    said: Mono,
}

impl<'a, E: Env> Progress<'a, E> {
    pub(super) fn begin(shared: &'a Shared<E>, length: &Length) -> Progress<'a, E> {
        let mut state = shared.replication.state();
        state.link.stage = LinkStage::Sync;
        state.link.sync_read = 0;
        state.link.sync_total = length.bytes();
        drop(state);
        Progress::loading(shared)
    }
    /// Of the file, when all has come.
    pub(super) fn loading(shared: &'a Shared<E>) -> Progress<'a, E> {
        Progress { shared, said: shared.env.now().mono }
    }
    /// So much of the snapshot has come.
    pub(super) fn received(&self, bytes: u64) {
        let now = self.shared.env.now().mono;
        let mut state = self.shared.replication.state();
        state.link.sync_read = bytes;
        state.link.last_io = Some(now);
    }
    /// To be called now and then.
    pub(super) async fn say(&mut self, wire: &mut Wire<E::Stream>) -> Result<(), LinkEnd> {
        let now = self.shared.env.now().mono;
        if now.since(self.said) > SAY_EVERY {
            self.said = now;
            wire.send(b"\n").await?;
        }
        Ok(())
    }
}

/// Puts the snapshot into a file, durably. What came behind it is left in `wire`.
pub(super) async fn store<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    length: &Length,
    file: &TemporaryFile,
) -> Result<(), LinkEnd> {
    let mut progress = Progress::begin(shared, length);
    let mut sink = FileSink::new(&shared.env, &file.path, |_| {});
    let (mut splitter, mut received) = (Splitter::default(), 0);
    let mut unwritten = Vec::new();
    loop {
        let mut bytes = wire.take();
        if bytes.is_empty() {
            wire.fill().await?;
            bytes = wire.take();
        }
        let (is_last, behind) = splitter.take(length, &bytes, &mut unwritten);
        if is_last {
            wire.give_back(&bytes[bytes.len() - behind..]);
        }
        if is_last || unwritten.len() >= WRITE_BYTES {
            received += unwritten.len() as u64;
            sink.write(Bytes::from(std::mem::take(&mut unwritten))).await.map_err(LinkEnd::Io)?;
        }
        progress.received(received + unwritten.len() as u64);
        if is_last {
            return sink.finish().await.map_err(LinkEnd::Io);
        }
        progress.say(wire).await?;
    }
}

/// Tells the bytes of a snapshot from what comes behind it.
#[derive(Default)]
struct Splitter {
    taken: u64,
    /// The last bytes that came, which may be the begin of the mark.
    held: Vec<u8>,
}

impl Splitter {
    /// Adds to `out` what of `bytes`, and of what was held back, belongs to the snapshot for certain. Returns whether that
    /// is all of it, and how many of `bytes` belong to what comes behind.
    fn take(&mut self, length: &Length, bytes: &[u8], out: &mut Vec<u8>) -> (bool, usize) {
        match length {
            Length::Bytes(n) => {
                let ours = (n - self.taken).min(bytes.len() as u64) as usize;
                self.taken += ours as u64;
                out.extend_from_slice(&bytes[..ours]);
                (self.taken == *n, bytes.len() - ours)
            }
            Length::Mark(mark) => {
                self.held.extend_from_slice(bytes);
                let found = memchr::memmem::find(&self.held, mark);
                let ours = found.unwrap_or(self.held.len().saturating_sub(mark.len() - 1));
                out.extend(self.held.drain(..ours));
                (found.is_some(), found.map_or(0, |_| self.held.len() - mark.len()))
            }
        }
    }
}

/// Looks for the mark that ends a snapshot of unknown length.
#[derive(Default)]
pub(super) struct EndMark {
    /// The last bytes that came, fewer than a mark has.
    tail: Vec<u8>,
}

impl EndMark {
    /// Whether the mark ends in `bytes`, which follow those of the call before.
    pub(super) fn is_in(&mut self, bytes: &[u8], mark: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Vec<u8> {
        (0..MARK_BYTES as u8).collect()
    }

    #[test]
    fn the_end_mark_is_found_however_it_is_cut() {
        let mark = mark();
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
    fn a_snapshot_is_told_from_the_stream_however_it_is_cut() {
        let text = [&[7; 100][..], &mark(), &[9; 50]].concat();
        for (length, marked) in [(Length::Mark(mark()), 40), (Length::Bytes(100), 0)] {
            let text = [&text[..100], &text[140 - marked..]].concat();
            for step in 1..text.len() {
                let (mut splitter, mut out, mut at) = (Splitter::default(), Vec::new(), 0);
                for part in text.chunks(step) {
                    at += part.len();
                    let (is_last, behind) = splitter.take(&length, part, &mut out);
                    if is_last {
                        at -= behind;
                        break;
                    }
                }
                assert_eq!((out, at), (vec![7; 100], 100 + marked), "{step}");
            }
        }
    }

    #[test]
    fn both_forms_of_a_snapshot_are_known() {
        assert!(matches!(Length::parse("$1234"), Ok(Length::Bytes(1234))));
        let line = format!("$EOF:{}", "a".repeat(40));
        assert!(matches!(Length::parse(&line), Ok(Length::Mark(mark)) if mark == [b'a'; 40]));
        assert!(matches!(Length::parse("$EOF:short"), Err(LinkEnd::Protocol(_))));
        assert!(matches!(Length::parse("$-1"), Err(LinkEnd::Protocol(_))));
        assert!(matches!(Length::parse("-ERR no"), Err(LinkEnd::Refused(_))));
    }
}
