//! The source's side of one move. Follows rules S1 to S8 of the cluster's protocol.
//!
//! BEGIN makes the target purge what it holds of the slots; then come a snapshot of them at one offset of the feed and
//! the writes behind it. Once little is left, the source stops the slots (S1), lets the rest arrive, and asks for the
//! decision. After that only a decided version resumes them (S2).
//!
//! Invariant: `Commit` follows `Stop` and everything before it was acknowledged by the target's whole in-sync set (S4).

use proto::{Epoch, Mono, Now};
use std::time::Duration;

/// Longest pause before the decision is asked for; then the slots are served again and the pause is tried later.
pub const PAUSE_MAX: Duration = Duration::from_millis(600);
/// Longest wait for the decision; then the move is asked to be cancelled, and one of the two wins.
pub const DECISION_MAX: Duration = Duration::from_millis(1200);
/// Bytes of writes that may be under way when the slots are stopped. Choice: far less than a millisecond of sending.
pub const STOP_BELOW_BYTES: u64 = 256 * 1024;
/// Attempts from BEGIN before the move is given up.
pub const ATTEMPTS_MAX: u32 = 8;

/// Tenures of the two sides. An attempt belongs to one pair (S6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epochs {
    pub from: Epoch,
    pub to: Epoch,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The topology lists the move, we are the source, and these are the tenures.
    Listed(Epochs),
    /// The topology lists the move no more, or we are its source no more.
    Ended,
    /// The target acknowledged BEGIN.
    Begun,
    /// The snapshot is sent.
    Copied,
    /// Bytes of the feed that were not sent, and commands that were sent but not acknowledged.
    Progress {
        unsent_bytes: u64,
        unacked: u64,
    },
    /// The link or the target failed; the attempt is over.
    Failed(String),
    /// The decision was refused: nothing has changed.
    Refused,
    Tick,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Connect to the target and send BEGIN.
    Begin(Epochs),
    /// Send the snapshot, then the feed behind it.
    Copy,
    /// Serve the slots to nobody (S1).
    Stop,
    /// Serve the slots again.
    Serve,
    /// Ask for the decision (S3). The slots stay stopped.
    Commit(Epochs),
    /// Ask that the move be forgotten.
    Cancel(String),
    /// Close the link; nothing more is to be sent.
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is under way; an attempt begins at this time.
    Waiting(Mono),
    Beginning,
    Copying,
    Following,
    Stopped(Mono),
    Asked(Mono),
    Ended,
}

/// See the module's head.
#[derive(Debug)]
pub struct Outgoing {
    epochs: Option<Epochs>,
    phase: Phase,
    attempts: u32,
    /// Not before this time are the slots stopped again.
    stop_after: Mono,
    is_cancel_asked: bool,
}

impl Default for Outgoing {
    fn default() -> Self {
        Outgoing {
            epochs: None,
            phase: Phase::Waiting(Mono(0)),
            attempts: 0,
            stop_after: Mono(0),
            is_cancel_asked: false,
        }
    }
}

impl Outgoing {
    /// A word for CLUSTER GETSLOTMIGRATIONS.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Waiting(_) => "connecting",
            Phase::Beginning => "connecting",
            Phase::Copying => "snapshotting",
            Phase::Following => "replicating",
            Phase::Stopped(_) => "paused",
            Phase::Asked(_) => "failover-granted",
            Phase::Ended => "success",
        }
    }
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    pub fn step(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Listed(epochs) => self.on_listed(now, epochs, out),
            Event::Ended => self.on_ended(out),
            Event::Begun if self.phase == Phase::Beginning => {
                self.phase = Phase::Copying;
                out.push(Effect::Copy);
            }
            Event::Copied if self.phase == Phase::Copying => self.phase = Phase::Following,
            Event::Progress { unsent_bytes, unacked } => self.on_progress(now, unsent_bytes, unacked, out),
            Event::Failed(reason) => self.on_failed(now, reason, out),
            Event::Refused => self.on_refused(now, out),
            Event::Begun | Event::Copied | Event::Tick => {}
        }
        self.on_time(now, out);
        self.assert_invariants();
    }

    fn on_listed(&mut self, now: Now, epochs: Epochs, out: &mut Vec<Effect>) {
        if self.phase == Phase::Ended || self.epochs == Some(epochs) {
            return;
        }
        // S6: another tenure on either side knows nothing of what this pair has agreed.
        let was_running = !matches!(self.phase, Phase::Waiting(_));
        if was_running {
            self.abandon(out);
        }
        self.epochs = Some(epochs);
        self.phase = Phase::Waiting(now.mono);
    }

    fn on_ended(&mut self, out: &mut Vec<Effect>) {
        if self.phase != Phase::Ended {
            // S2: a decided version says whose the slots are now; what was stopped follows it.
            self.abandon(out);
            self.phase = Phase::Ended;
        }
    }

    /// Ends an attempt. The slots are served again unless the decision was asked for (S2).
    fn abandon(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Stopped(_) | Phase::Asked(_)) {
            out.push(Effect::Serve);
        }
        out.push(Effect::Close);
    }

    fn on_progress(&mut self, now: Now, unsent_bytes: u64, unacked: u64, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Following if unsent_bytes <= STOP_BELOW_BYTES && now.mono >= self.stop_after => {
                self.phase = Phase::Stopped(now.mono);
                out.push(Effect::Stop);
            }
            Phase::Stopped(_) if unsent_bytes == 0 && unacked == 0 => {
                let epochs = self.epochs.expect("an attempt has tenures");
                self.phase = Phase::Asked(now.mono);
                out.push(Effect::Commit(epochs));
            }
            _ => {}
        }
    }

    fn on_failed(&mut self, now: Now, reason: String, out: &mut Vec<Effect>) {
        match self.phase {
            // S2: the decision may have been made; it alone ends this.
            Phase::Asked(_) | Phase::Ended => return,
            Phase::Stopped(_) => out.push(Effect::Serve),
            _ => {}
        }
        out.push(Effect::Close);
        self.attempts += 1;
        if self.attempts >= ATTEMPTS_MAX && !self.is_cancel_asked {
            self.is_cancel_asked = true;
            out.push(Effect::Cancel(reason));
        }
        let wait = Duration::from_millis(100 << self.attempts.min(5));
        self.phase = Phase::Waiting(now.mono + wait);
    }

    fn on_refused(&mut self, now: Now, out: &mut Vec<Effect>) {
        if let Phase::Asked(_) = self.phase {
            out.push(Effect::Serve);
            out.push(Effect::Close);
            self.attempts += 1;
            self.phase = Phase::Waiting(now.mono + Duration::from_millis(200));
        }
    }

    fn on_time(&mut self, now: Now, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Waiting(at) if now.mono >= at && !self.is_cancel_asked => {
                if let Some(epochs) = self.epochs {
                    self.phase = Phase::Beginning;
                    out.push(Effect::Begin(epochs));
                }
            }
            Phase::Stopped(since) if now.mono.since(since) > PAUSE_MAX => {
                // Not asked yet, so that nobody else can have been given the slots.
                self.phase = Phase::Following;
                self.stop_after = now.mono + PAUSE_MAX;
                out.push(Effect::Serve);
            }
            Phase::Asked(since) if now.mono.since(since) > DECISION_MAX && !self.is_cancel_asked => {
                self.is_cancel_asked = true;
                out.push(Effect::Cancel("no decision in time".into()));
            }
            _ => {}
        }
    }

    fn assert_invariants(&self) {
        let is_begun = !matches!(self.phase, Phase::Waiting(_) | Phase::Ended);
        assert!(!is_begun || self.epochs.is_some(), "S6: an attempt belongs to a pair of tenures");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::WallMs;

    const EPOCHS: Epochs = Epochs { from: Epoch(3), to: Epoch(5) };

    struct Story {
        core: Outgoing,
        now_ms: u64,
    }

    impl Story {
        fn new() -> Story {
            Story { core: Outgoing::default(), now_ms: 1000 }
        }
        fn on(&mut self, event: Event) -> Vec<Effect> {
            let mut out = Vec::new();
            let now = Now { mono: Mono::from_ms(self.now_ms), wall: WallMs(0) };
            self.core.step(now, event, &mut out);
            out
        }
        fn after(&mut self, ms: u64, event: Event) -> Vec<Effect> {
            self.now_ms += ms;
            self.on(event)
        }
        /// Up to the point where the slots are stopped.
        fn stopped() -> Story {
            let mut s = Story::new();
            assert_eq!(s.on(Event::Listed(EPOCHS)), [Effect::Begin(EPOCHS)]);
            assert_eq!(s.on(Event::Begun), [Effect::Copy]);
            assert_eq!(s.on(Event::Copied), []);
            assert_eq!(s.on(Event::Progress { unsent_bytes: 0, unacked: 9 }), [Effect::Stop]);
            s
        }
        fn asked() -> Story {
            let mut s = Story::stopped();
            assert_eq!(s.on(Event::Progress { unsent_bytes: 0, unacked: 0 }), [Effect::Commit(EPOCHS)]);
            s
        }
    }

    #[test]
    fn s1_s4_the_decision_is_asked_only_when_stopped_and_acknowledged() {
        let mut s = Story::stopped();
        assert_eq!(s.on(Event::Progress { unsent_bytes: 10, unacked: 0 }), []);
        assert_eq!(s.on(Event::Progress { unsent_bytes: 0, unacked: 1 }), []);
        assert_eq!(s.on(Event::Progress { unsent_bytes: 0, unacked: 0 }), [Effect::Commit(EPOCHS)]);
    }

    #[test]
    fn s2_once_asked_only_the_topology_serves_again() {
        let mut s = Story::asked();
        assert_eq!(s.on(Event::Failed("link".into())), []);
        assert_eq!(s.after(1300, Event::Tick), [Effect::Cancel("no decision in time".into())]);
        assert_eq!(s.after(60_000, Event::Tick), []);
        assert_eq!(s.on(Event::Ended), [Effect::Serve, Effect::Close]);
        assert!(s.core.is_ended());
    }

    #[test]
    fn before_it_was_asked_a_long_pause_ends_by_itself() {
        let mut s = Story::stopped();
        assert_eq!(s.after(700, Event::Tick), [Effect::Serve]);
        assert_eq!(s.on(Event::Progress { unsent_bytes: 0, unacked: 0 }), []);
        assert_eq!(s.after(700, Event::Progress { unsent_bytes: 0, unacked: 0 }), [Effect::Stop]);
    }

    #[test]
    fn s6_a_new_tenure_on_either_side_starts_from_begin() {
        for mut s in [Story::stopped(), Story::asked()] {
            let next = Epochs { to: Epoch(8), ..EPOCHS };
            let effects = s.on(Event::Listed(next));
            assert_eq!(effects, [Effect::Serve, Effect::Close, Effect::Begin(next)]);
        }
    }

    #[test]
    fn a_refused_decision_serves_again_and_starts_over() {
        let mut s = Story::asked();
        assert_eq!(s.on(Event::Refused), [Effect::Serve, Effect::Close]);
        assert_eq!(s.after(300, Event::Tick), [Effect::Begin(EPOCHS)]);
    }

    #[test]
    fn a_target_that_fails_again_and_again_is_given_up() {
        let mut s = Story::new();
        s.on(Event::Listed(EPOCHS));
        for attempt in 1..=ATTEMPTS_MAX {
            let effects = s.on(Event::Failed("refused".into()));
            assert_eq!(effects.contains(&Effect::Cancel("refused".into())), attempt == ATTEMPTS_MAX);
            s.after(10_000, Event::Tick);
        }
        assert_eq!(s.after(60_000, Event::Tick), []);
    }

    #[test]
    fn late_news_of_an_attempt_that_ended_changes_nothing() {
        let mut s = Story::new();
        s.on(Event::Listed(EPOCHS));
        s.on(Event::Failed("x".into()));
        assert_eq!(s.on(Event::Begun), []);
        assert_eq!(s.on(Event::Progress { unsent_bytes: 0, unacked: 0 }), []);
    }
}
