//! CLIENT PAUSE: until a time, clients' writes wait, or all their commands. Whoever waits is counted as blocked, runs its
//! command again by and by, and then in its turn.

use proto::Mono;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Until when what waits.
#[derive(Default)]
pub struct Pause {
    /// Monotonic clock, in microseconds; 0: nothing waits.
    until: AtomicU64,
    is_for_all: AtomicBool,
}

impl Pause {
    /// Pauses at least until `until`, and at least what is paused already.
    pub fn begin(&self, now: Mono, until: Mono, is_for_all: bool) {
        let is_for_all = is_for_all || self.holds_all(now);
        self.is_for_all.store(is_for_all, Ordering::Relaxed);
        self.until.fetch_max(until.0, Ordering::SeqCst);
    }
    pub fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
        self.is_for_all.store(false, Ordering::Relaxed);
    }
    #[inline]
    pub fn holds_writes(&self, now: Mono) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != 0 && now.0 < until
    }
    #[inline]
    pub fn holds_all(&self, now: Mono) -> bool {
        self.holds_writes(now) && self.is_for_all.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_widest_pause_holds() {
        let pause = Pause::default();
        assert!(!pause.holds_writes(Mono(5)));
        pause.begin(Mono(0), Mono(100), true);
        pause.begin(Mono(1), Mono(50), false);
        assert!(pause.holds_all(Mono(99)) && !pause.holds_writes(Mono(100)));
        pause.end();
        assert!(!pause.holds_writes(Mono(1)));
        pause.begin(Mono(1), Mono(50), false);
        assert!(pause.holds_writes(Mono(2)) && !pause.holds_all(Mono(2)));
    }
}
