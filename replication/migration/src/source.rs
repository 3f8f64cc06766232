//! The source's side of one move; driven by the present primary of the shard that gives the slots (S8).
//!
//! Items are numbered from 0 = BEGIN; the driver keeps them until they are safe, and sends them again when asked.
//! Invariant: once a commit was sent, only a decided version lets the slots be served again (S2).

use super::{Mutation, Tag};
use proto::{Epoch, Mono, Now};
use std::time::Duration;

/// Pause without a commit sent (chapter 7): longer, and the writes wait too long.
const PAUSE_MAX: Duration = Duration::from_millis(600);
/// From the commit's sending to asking for a cancel.
const COMMIT_MAX: Duration = Duration::from_millis(1200);
/// Between two sendings of the same request.
const RETRY: Duration = Duration::from_millis(200);
/// Before a move whose pause ran out is tried again; doubled each time up to 8 s.
const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Items the target may be behind when the pause begins. Choice: what is applied and acknowledged in some ms.
const BEHIND_MAX: u64 = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Tick,
    /// The contents of the slots at BEGIN are all numbered; items up to here exist.
    Copied {
        items: u64,
    },
    /// Writes to the slots have made more items.
    Written {
        items: u64,
    },
    /// Answer to [`Effect::Pause`]: no write is under way any more; these are all the items.
    Paused {
        items: u64,
    },
    /// What the target says about this attempt.
    Ack {
        tag: Tag,
        applied: u64,
        safe: u64,
    },
    /// A version was adopted that lists the move, with the epochs of its two shards.
    Listed {
        epoch_from: Epoch,
        epoch_to: Epoch,
    },
    /// A version was adopted that does not list the move any more.
    Gone {
        is_moved: bool,
    },
    /// The operator does not want it any more.
    Cancel,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Number the items of this attempt from BEGIN on.
    Begin(Tag),
    /// Stop reads and writes of the slots; answer [`Event::Paused`].
    Pause,
    /// Serve the slots again.
    Resume,
    AskCommit(Tag),
    AskCancel(u64),
    /// The slots are another's: purge them through our stream (S7), and forget the move.
    Moved,
    /// The move is off; the slots are ours as before.
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Copying,
    /// Copied; waits until the target is close.
    Following {
        not_before: Mono,
    },
    Pausing {
        since: Mono,
    },
    Paused {
        since: Mono,
        items: u64,
    },
    Committing {
        since: Mono,
        next_ask: Mono,
    },
    Ended,
}

/// See the module's head.
#[derive(Debug)]
pub struct Source {
    tag: Tag,
    phase: Phase,
    items: u64,
    applied: u64,
    safe: u64,
    backoff: Duration,
    wants_cancel: bool,
    next_cancel: Mono,
    mutation: Option<Mutation>,
}

impl Source {
    /// Begins an attempt.
    pub fn new(tag: Tag, mutation: Option<Mutation>, now: Now, out: &mut Vec<Effect>) -> Source {
        out.push(Effect::Begin(tag));
        Source {
            tag,
            phase: Phase::Copying,
            items: 0,
            applied: 0,
            safe: 0,
            backoff: BACKOFF,
            wants_cancel: false,
            next_cancel: now.mono,
            mutation,
        }
    }

    pub fn tag(&self) -> Tag {
        self.tag
    }
    /// Items before this one are with the target for good and need not be kept.
    pub fn safe(&self) -> u64 {
        self.safe
    }
    pub fn applied(&self) -> u64 {
        self.applied
    }
    /// The slots must not be served, whatever the topology says (S1).
    pub fn is_stopped(&self) -> bool {
        match self.phase {
            Phase::Pausing { .. } | Phase::Paused { .. } => true,
            Phase::Committing { .. } => self.mutation != Some(Mutation::S1),
            _ => false,
        }
    }
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
    pub fn next_deadline(&self) -> Mono {
        let phase = match self.phase {
            Phase::Copying | Phase::Ended => Mono(u64::MAX),
            Phase::Following { not_before } => not_before,
            Phase::Pausing { since } | Phase::Paused { since, .. } => since + PAUSE_MAX,
            Phase::Committing { since, next_ask } => next_ask.min(since + COMMIT_MAX),
        };
        if self.wants_cancel && !self.has_ended() { phase.min(self.next_cancel) } else { phase }
    }

    pub fn step(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        if self.has_ended() {
            return;
        }
        match event {
            Event::Tick => {}
            Event::Copied { items } => {
                self.items = self.items.max(items);
                if self.phase == Phase::Copying {
                    self.phase = Phase::Following { not_before: now.mono };
                }
            }
            Event::Written { items } => self.items = self.items.max(items),
            Event::Paused { items } => {
                if let Phase::Pausing { since } = self.phase {
                    self.items = self.items.max(items);
                    self.phase = Phase::Paused { since, items: self.items };
                }
            }
            Event::Ack { tag, applied, safe } if tag == self.tag => {
                self.applied = self.applied.max(applied.min(self.items));
                self.safe = self.safe.max(safe.min(self.applied));
            }
            Event::Ack { .. } => {}
            Event::Listed { epoch_from, epoch_to } => self.on_listed(now, epoch_from, epoch_to, out),
            Event::Gone { is_moved } => self.on_gone(is_moved, out),
            Event::Cancel => self.wants_cancel = true,
        }
        self.go_on(now, out);
    }

    /// S6: another primary on either side knows nothing of this attempt. S3 kills a commit of it that is under way,
    /// so the slots may be served again.
    fn on_listed(&mut self, now: Now, epoch_from: Epoch, epoch_to: Epoch, out: &mut Vec<Effect>) {
        let tag = Tag { id: self.tag.id, epoch_from, epoch_to };
        if tag == self.tag {
            return;
        }
        self.resume(out);
        let fresh = Source::new(tag, self.mutation, now, out);
        *self = Source { wants_cancel: self.wants_cancel, next_cancel: self.next_cancel, ..fresh };
    }

    fn on_gone(&mut self, is_moved: bool, out: &mut Vec<Effect>) {
        if is_moved {
            out.push(Effect::Moved);
        } else {
            self.resume(out);
            out.push(Effect::Cancelled);
        }
        self.phase = Phase::Ended;
    }

    fn resume(&mut self, out: &mut Vec<Effect>) {
        let is_stopped =
            matches!(self.phase, Phase::Pausing { .. } | Phase::Paused { .. } | Phase::Committing { .. });
        if is_stopped {
            out.push(Effect::Resume);
        }
    }

    fn go_on(&mut self, now: Now, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Following { not_before } if now.mono >= not_before && self.is_close() => {
                if self.mutation == Some(Mutation::S1) {
                    self.commit(now, out);
                } else {
                    self.phase = Phase::Pausing { since: now.mono };
                    out.push(Effect::Pause);
                }
            }
            // S1, S4: stopped, and all of it held by the target's whole set.
            Phase::Paused { items, .. } if self.safe >= items => self.commit(now, out),
            Phase::Pausing { since } | Phase::Paused { since, .. } if now.mono >= since + PAUSE_MAX => {
                // S2: nothing was sent, so a time-out may resume.
                out.push(Effect::Resume);
                self.phase = Phase::Following { not_before: now.mono + self.backoff };
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
            Phase::Committing { since, next_ask } => self.wait_for_decision(now, since, next_ask, out),
            _ => {}
        }
        let is_committing = matches!(self.phase, Phase::Committing { .. });
        if self.wants_cancel && !is_committing && !self.has_ended() && now.mono >= self.next_cancel {
            self.next_cancel = now.mono + RETRY;
            out.push(Effect::AskCancel(self.tag.id));
        }
    }

    fn is_close(&self) -> bool {
        self.safe + BEHIND_MAX >= self.items && self.safe > 0
    }

    fn commit(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.phase = Phase::Committing { since: now.mono, next_ask: now.mono + RETRY };
        out.push(Effect::AskCommit(self.tag));
    }

    /// S2: a time-out asks for another decision; one of the two wins.
    fn wait_for_decision(&mut self, now: Now, since: Mono, next_ask: Mono, out: &mut Vec<Effect>) {
        if now.mono < next_ask {
            return;
        }
        if now.mono >= since + COMMIT_MAX || self.wants_cancel {
            if self.mutation == Some(Mutation::S2) {
                out.push(Effect::Resume);
                self.phase = Phase::Following { not_before: now.mono + self.backoff };
                return;
            }
            out.push(Effect::AskCancel(self.tag.id));
        } else {
            out.push(Effect::AskCommit(self.tag));
        }
        self.phase = Phase::Committing { since, next_ask: now.mono + RETRY };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::WallMs;

    const TAG: Tag = Tag { id: 7, epoch_from: Epoch(3), epoch_to: Epoch(4) };

    fn at(ms: u64) -> Now {
        Now { mono: Mono::from_ms(ms), wall: WallMs(0) }
    }
    struct Story(Source);
    impl Story {
        fn new() -> Story {
            let mut out = Vec::new();
            let source = Source::new(TAG, None, at(0), &mut out);
            assert_eq!(out, [Effect::Begin(TAG)]);
            Story(source)
        }
        fn step(&mut self, ms: u64, event: Event) -> Vec<Effect> {
            let mut out = Vec::new();
            self.0.step(at(ms), event, &mut out);
            out
        }
        fn ack(&mut self, ms: u64, applied: u64, safe: u64) -> Vec<Effect> {
            self.step(ms, Event::Ack { tag: TAG, applied, safe })
        }
        fn committed() -> Story {
            let mut s = Story::new();
            s.step(1, Event::Copied { items: 10 });
            assert_eq!(s.ack(2, 10, 10), [Effect::Pause]);
            assert_eq!(s.step(3, Event::Paused { items: 10 }), [Effect::AskCommit(TAG)]);
            s
        }
    }

    #[test]
    fn s1_the_slots_stop_before_the_commit_is_sent() {
        let mut s = Story::new();
        assert_eq!(s.step(1, Event::Copied { items: 10 }), []);
        assert_eq!(s.ack(2, 10, 10), [Effect::Pause]);
        assert!(s.0.is_stopped());
        assert_eq!(s.step(3, Event::Paused { items: 12 }), []);
        assert_eq!(s.ack(4, 12, 11), [], "S4: applied is not safe");
        assert_eq!(s.ack(5, 12, 12), [Effect::AskCommit(TAG)]);
        assert_eq!(s.step(6, Event::Gone { is_moved: true }), [Effect::Moved]);
        assert!(s.0.has_ended());
    }

    #[test]
    fn s2_before_the_commit_a_time_out_resumes() {
        let mut s = Story::new();
        s.step(1, Event::Copied { items: 10 });
        s.ack(2, 10, 10);
        s.step(3, Event::Paused { items: 12 });
        assert_eq!(s.step(601, Event::Tick), []);
        assert_eq!(s.step(602, Event::Tick), [Effect::Resume]);
        assert!(!s.0.is_stopped());
        assert_eq!(s.step(851, Event::Tick), []);
        assert_eq!(s.step(852, Event::Tick), [Effect::Pause]);
    }

    #[test]
    fn s2_after_the_commit_only_a_decision_resumes() {
        let mut s = Story::committed();
        assert_eq!(s.step(204, Event::Tick), [Effect::AskCommit(TAG)]);
        assert_eq!(s.step(1203, Event::Tick), [Effect::AskCancel(7)]);
        assert_eq!(s.step(60_000, Event::Tick), [Effect::AskCancel(7)]);
        assert!(s.0.is_stopped());
        assert_eq!(s.step(60_001, Event::Gone { is_moved: false }), [Effect::Resume, Effect::Cancelled]);
    }

    #[test]
    fn s6_another_epoch_is_another_attempt() {
        let mut s = Story::committed();
        let next = Tag { epoch_to: Epoch(9), ..TAG };
        let listed = Event::Listed { epoch_from: Epoch(3), epoch_to: Epoch(9) };
        assert_eq!(s.step(10, listed), [Effect::Resume, Effect::Begin(next)]);
        assert_eq!(s.ack(11, 10, 10), [], "an answer to the former attempt");
        assert_eq!(s.0.safe(), 0);
    }

    #[test]
    fn a_cancel_is_asked_until_it_is_decided() {
        let mut s = Story::new();
        assert_eq!(s.step(1, Event::Cancel), [Effect::AskCancel(7)]);
        assert_eq!(s.step(100, Event::Tick), []);
        assert_eq!(s.step(201, Event::Tick), [Effect::AskCancel(7)]);
        assert_eq!(s.step(202, Event::Gone { is_moved: false }), [Effect::Cancelled]);
    }
}
