//! The source's side of one move; driven by the present primary of the shard that gives the slots (S8).
//!
//! Items are numbered from 0 = BEGIN; the driver sends them in order, again when asked, or says that it cannot: then the
//! attempt is over and another one begins, with a number of its own and from BEGIN on.
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
/// Before a failed attempt is followed by another; doubled each time up to 3.2 s.
const REBEGIN: Duration = Duration::from_millis(200);
const REBEGIN_DOUBLINGS_MAX: u32 = 4;
/// Attempts between one pair of tenures before the move is given up.
pub const ATTEMPTS_MAX: u32 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Tick,
    /// The contents of the slots at BEGIN are all numbered; items up to here exist.
    Copied {
        items: u64,
    },
    /// Items there are now, of the contents or of later writes; and how many more the writes may make that have no
    /// numbers yet, about: it only decides when to try the pause.
    Written {
        items: u64,
        unnumbered: u64,
    },
    /// The link or the target failed: what this attempt has sent may be lost.
    Failed,
    /// Answer to [`Effect::Pause`]: no write is under way any more, and all have numbers; these are all the items.
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
    /// Number the items of this attempt from BEGIN on, over a new link. Nothing said over an earlier one counts.
    Begin(Tag),
    /// Stop reads and writes of the slots; answer [`Event::Paused`].
    Pause,
    /// Serve the slots again.
    Resume,
    AskCommit(Tag),
    AskCancel(u64, Why),
    /// The slots are another's: purge them through our stream (S7), and forget the move.
    Moved,
    /// The move is off; the slots are ours as before.
    Cancelled,
}

/// Why a move is to be cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The operator has said so.
    Asked,
    /// [`ATTEMPTS_MAX`] attempts have failed.
    Failing,
    /// The decision to commit did not come in time.
    Undecided,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Asked => write!(f, "cancelled by the operator"),
            Why::Failing => write!(f, "given up after {ATTEMPTS_MAX} failed attempts"),
            Why::Undecided => write!(f, "no decision in time"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The last attempt failed; the next begins at this time.
    Waiting {
        until: Mono,
    },
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
    Ended {
        is_moved: bool,
    },
}

/// See the module's head.
#[derive(Debug)]
pub struct Source {
    tag: Tag,
    phase: Phase,
    items: u64,
    applied: u64,
    safe: u64,
    unnumbered: u64,
    behind_max: u64,
    backoff: Duration,
    cancel: Option<Why>,
    next_cancel: Mono,
    mutation: Option<Mutation>,
}

impl Source {
    /// Begins the first attempt. `behind_max`: items the target may be behind when the pause begins; what it applies
    /// and acknowledges in some ms.
    pub fn new(
        tag: Tag,
        behind_max: u64,
        mutation: Option<Mutation>,
        now: Now,
        out: &mut Vec<Effect>,
    ) -> Source {
        out.push(Effect::Begin(tag));
        Source {
            tag,
            phase: Phase::Copying,
            items: 0,
            applied: 0,
            safe: 0,
            unnumbered: 0,
            behind_max,
            backoff: BACKOFF,
            cancel: None,
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
        matches!(self.phase, Phase::Ended { .. })
    }
    /// A word for CLUSTER GETSLOTMIGRATIONS, of those that Valkey uses.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Waiting { .. } => "connecting",
            Phase::Copying if self.safe == 0 => "connecting",
            Phase::Copying => "snapshotting",
            Phase::Following { .. } => "replicating",
            Phase::Pausing { .. } | Phase::Paused { .. } => "paused",
            Phase::Committing { .. } => "failover-granted",
            Phase::Ended { is_moved: true } => "success",
            Phase::Ended { is_moved: false } => "canceled",
        }
    }
    pub fn next_deadline(&self) -> Mono {
        let phase = match self.phase {
            Phase::Waiting { until } => until,
            Phase::Copying | Phase::Ended { .. } => Mono(u64::MAX),
            Phase::Following { not_before } => not_before,
            Phase::Pausing { since } | Phase::Paused { since, .. } => since + PAUSE_MAX,
            Phase::Committing { since, next_ask } => next_ask.min(since + COMMIT_MAX),
        };
        if self.cancel.is_some() && !self.has_ended() { phase.min(self.next_cancel) } else { phase }
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
            Event::Written { items, unnumbered } => {
                self.items = self.items.max(items);
                self.unnumbered = unnumbered;
            }
            Event::Failed => self.on_failed(now, out),
            Event::Paused { items } => {
                if let Phase::Pausing { since } = self.phase {
                    self.items = self.items.max(items);
                    self.phase = Phase::Paused { since, items: self.items };
                }
            }
            Event::Ack { tag, applied, safe } if tag == self.tag && self.is_linked() => {
                self.applied = self.applied.max(applied.min(self.items));
                self.safe = self.safe.max(safe.min(self.applied));
            }
            Event::Ack { .. } => {}
            Event::Listed { epoch_from, epoch_to } => self.on_listed(now, epoch_from, epoch_to, out),
            Event::Gone { is_moved } => self.on_gone(is_moved, out),
            Event::Cancel => self.cancel = Some(Why::Asked),
        }
        self.go_on(now, out);
    }

    /// S6: another primary on either side knows nothing of this attempt. S3 kills a commit of it that is under way,
    /// so the slots may be served again.
    fn on_listed(&mut self, now: Now, epoch_from: Epoch, epoch_to: Epoch, out: &mut Vec<Effect>) {
        if (epoch_from, epoch_to) == (self.tag.epoch_from, self.tag.epoch_to) {
            return;
        }
        self.resume(out);
        let tag = Tag { id: self.tag.id, epoch_from, epoch_to, attempt: 0 };
        let fresh = Source::new(tag, self.behind_max, self.mutation, now, out);
        // What the former pair could not do, this one may; the operator's wish stands.
        let cancel = self.cancel.filter(|why| *why == Why::Asked);
        *self = Source { cancel, next_cancel: self.next_cancel, ..fresh };
    }

    /// A commit that was sent may be decided whatever became of the link, so that only a decision ends it (S2).
    fn on_failed(&mut self, now: Now, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Waiting { .. } | Phase::Committing { .. }) {
            return;
        }
        self.resume(out);
        let doublings = self.tag.attempt.min(REBEGIN_DOUBLINGS_MAX);
        self.phase = Phase::Waiting { until: now.mono + REBEGIN * (1 << doublings) };
        if self.tag.attempt + 1 >= ATTEMPTS_MAX && self.cancel.is_none() {
            self.cancel = Some(Why::Failing);
            self.next_cancel = now.mono;
        }
    }

    /// Everything again, under the next number: what the target got before is purged, and what is still under way of
    /// it is late (S6).
    fn begin_again(&mut self, out: &mut Vec<Effect>) {
        self.tag.attempt += 1;
        self.phase = Phase::Copying;
        (self.items, self.applied, self.safe, self.unnumbered) = (0, 0, 0, 0);
        out.push(Effect::Begin(self.tag));
    }

    fn is_linked(&self) -> bool {
        !matches!(self.phase, Phase::Waiting { .. })
    }

    fn on_gone(&mut self, is_moved: bool, out: &mut Vec<Effect>) {
        if is_moved {
            out.push(Effect::Moved);
        } else {
            self.resume(out);
            out.push(Effect::Cancelled);
        }
        self.phase = Phase::Ended { is_moved };
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
            Phase::Waiting { until } if now.mono >= until && self.cancel.is_none() => self.begin_again(out),
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
        if let Some(why) = self.cancel
            && !is_committing
            && !self.has_ended()
            && now.mono >= self.next_cancel
        {
            self.next_cancel = now.mono + RETRY;
            out.push(Effect::AskCancel(self.tag.id, why));
        }
    }

    fn is_close(&self) -> bool {
        self.safe + self.behind_max >= self.items.saturating_add(self.unnumbered) && self.safe > 0
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
        if now.mono >= since + COMMIT_MAX || self.cancel.is_some() {
            if self.mutation == Some(Mutation::S2) {
                out.push(Effect::Resume);
                self.phase = Phase::Following { not_before: now.mono + self.backoff };
                return;
            }
            out.push(Effect::AskCancel(self.tag.id, self.cancel.unwrap_or(Why::Undecided)));
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

    const TAG: Tag = Tag { id: 7, epoch_from: Epoch(3), epoch_to: Epoch(4), attempt: 0 };

    fn at(ms: u64) -> Now {
        Now { mono: Mono::from_ms(ms), wall: WallMs(0) }
    }
    struct Story(Source);
    impl Story {
        fn new() -> Story {
            let mut out = Vec::new();
            let source = Source::new(TAG, 64, None, at(0), &mut out);
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
        assert_eq!(s.step(300, Event::Failed), [], "the commit may be decided all the same");
        assert_eq!(s.step(1203, Event::Tick), [Effect::AskCancel(7, Why::Undecided)]);
        assert_eq!(s.step(60_000, Event::Tick), [Effect::AskCancel(7, Why::Undecided)]);
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
        assert_eq!(s.step(1, Event::Cancel), [Effect::AskCancel(7, Why::Asked)]);
        assert_eq!(s.step(100, Event::Tick), []);
        assert_eq!(s.step(201, Event::Tick), [Effect::AskCancel(7, Why::Asked)]);
        assert_eq!(s.step(202, Event::Gone { is_moved: false }), [Effect::Cancelled]);
    }

    #[test]
    fn a_failed_attempt_is_followed_by_another_from_begin_on() {
        let mut s = Story::new();
        s.step(1, Event::Copied { items: 10 });
        assert_eq!(s.ack(2, 10, 10), [Effect::Pause]);
        assert_eq!(s.step(3, Event::Failed), [Effect::Resume]);
        assert_eq!((s.0.is_stopped(), s.0.state()), (false, "connecting"));
        assert_eq!(s.step(4, Event::Failed), [], "once");
        assert_eq!(s.step(202, Event::Tick), []);
        let next = Tag { attempt: 1, ..TAG };
        assert_eq!(s.step(203, Event::Tick), [Effect::Begin(next)]);
        s.step(204, Event::Copied { items: 10 });
        assert_eq!(s.ack(205, 10, 10), [], "an answer to the former attempt");
        assert_eq!(s.step(206, Event::Ack { tag: next, applied: 10, safe: 10 }), [Effect::Pause]);
    }

    #[test]
    fn a_target_that_fails_again_and_again_is_given_up() {
        let mut s = Story::new();
        let mut now = 0;
        for attempt in 1..ATTEMPTS_MAX {
            assert_eq!(s.step(now, Event::Failed), []);
            now += 10_000;
            assert_eq!(s.step(now, Event::Tick), [Effect::Begin(Tag { attempt, ..TAG })]);
        }
        assert_eq!(s.step(now, Event::Failed), [Effect::AskCancel(7, Why::Failing)]);
        assert_eq!(s.step(now + 9_000, Event::Tick), [Effect::AskCancel(7, Why::Failing)]);
        // Another primary of the target is another matter.
        let listed = Event::Listed { epoch_from: Epoch(3), epoch_to: Epoch(9) };
        let next = Tag { epoch_to: Epoch(9), ..TAG };
        assert_eq!(s.step(now + 9_001, listed), [Effect::Begin(next)]);
    }

    #[test]
    fn the_pause_waits_until_the_target_is_close() {
        let mut s = Story::new();
        s.step(1, Event::Copied { items: 100 });
        assert_eq!(s.ack(2, 35, 35), [], "65 behind");
        s.step(3, Event::Written { items: 100, unnumbered: 2 });
        assert_eq!(s.ack(4, 37, 37), [], "63 and 2 more");
        assert_eq!(s.step(5, Event::Written { items: 100, unnumbered: 1 }), [Effect::Pause]);
    }

    #[test]
    fn its_state_is_told_in_the_words_of_the_command() {
        let mut s = Story::new();
        assert_eq!(s.0.state(), "connecting");
        s.step(1, Event::Written { items: 1, unnumbered: 0 });
        s.ack(1, 1, 1);
        assert_eq!(s.0.state(), "snapshotting");
        s.step(2, Event::Copied { items: 100 });
        assert_eq!(s.0.state(), "replicating");
        s.ack(3, 100, 100);
        assert_eq!(s.0.state(), "paused");
        s.step(4, Event::Paused { items: 100 });
        assert_eq!(s.0.state(), "failover-granted");
        s.step(5, Event::Gone { is_moved: true });
        assert_eq!(s.0.state(), "success");
    }
}
