//! When a worker rests for a moment, so that it finds commands of many clients together.
//!
//! A worker that is a little quicker than the clients that keep it busy finds one or two of them ready whenever it looks. Each
//! look costs a good part of a small command, going to sleep between costs more, and the memory of one command alone is not
//! prefetched. Rested, it finds several. A node that has time to spare does not, nor a worker whose clients may all be waiting
//! for it.

use proto::Mono;
use std::cell::Cell;
use std::time::Duration;

/// Turns of clients after which it is judged anew.
const WINDOW: u32 = 128;
/// Of fewer clients all may wait for this worker, and nobody sends while it rests.
const CLIENTS_MIN: u32 = 16;
/// A turn with more clients is worth its look.
const FEW: usize = 4;
/// Clients that must be expected in the time of a rest, so that it pays.
const EXPECTED_MIN: u64 = 3;
/// Percentage of one core that the process must have kept busy, without rests and with them. Of the worker's own share this
/// cannot be asked: of several that serve what one could, each has time to spare, and all of them cost more than one.
const BUSY_MIN: [u64; 2] = [66, 50];

/// The window in which a client was last served.
#[derive(Default)]
pub struct LastSeen(Cell<u32>);

/// See the module's head.
#[derive(Default)]
pub(super) struct Linger {
    /// Number of the window that is counted; 0: none was begun.
    window: u32,
    begun: Mono,
    /// Time that the process had had processors by then, in us.
    busy_us: u64,
    /// Clients that had a turn in it, and how many they are.
    turns: u32,
    clients: u32,
    /// What the window before says: clients are many, and keep the node busy.
    is_busy: bool,
    /// What is due after the turn that just ended.
    rest: Option<Duration>,
}

impl Linger {
    /// Counts a client that has commands in this turn.
    #[inline]
    pub fn count(&mut self, client: &LastSeen) {
        self.turns += 1;
        self.clients += (client.0.replace(self.window) != self.window) as u32;
    }

    /// A turn of so many clients ends. `rest`: how long one takes; `busy_us`: time that the process has had processors.
    #[inline]
    pub fn turn_ends(&mut self, clients: usize, now: Mono, rest: Duration, busy_us: impl FnOnce() -> u64) {
        if self.turns >= WINDOW || self.window == 0 {
            self.judge(now, rest, busy_us());
        }
        self.rest = (self.is_busy && clients <= FEW).then_some(rest);
    }

    fn judge(&mut self, now: Mono, rest: Duration, busy_us: u64) {
        let took_us = (now.since(self.begun).as_micros() as u64).max(1);
        let expected = self.turns as u64 * rest.as_micros() as u64 / took_us;
        let busy = busy_us.saturating_sub(self.busy_us) * 100 / took_us;
        self.is_busy = self.window > 0
            && self.clients >= CLIENTS_MIN
            && expected >= EXPECTED_MIN
            && busy >= BUSY_MIN[self.is_busy as usize];
        self.window = self.window.wrapping_add(1).max(1);
        (self.begun, self.busy_us, self.turns, self.clients) = (now, busy_us, 0, 0);
    }

    /// How long the worker should rest now, if it should.
    #[inline]
    pub fn take_rest(&mut self) -> Option<Duration> {
        self.rest.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_micros(100);

    /// Turns of `together` of `clients` clients at a time, of which one comes each `us` microseconds, while the worker is busy
    /// for a percentage of the time: how many of a hundred turns end with a rest.
    struct Load {
        clients: usize,
        together: usize,
        us: u64,
        busy: u64,
        rest: Duration,
        linger: Linger,
        seen: Vec<LastSeen>,
        next: usize,
        now: Mono,
        /// In hundredths of a microsecond.
        spent: u64,
    }

    impl Load {
        fn new(clients: usize, us: u64) -> Load {
            let seen = (0..100).map(|_| LastSeen::default()).collect();
            let (rest, linger, now) = (REST, Linger::default(), Mono(1));
            Load { clients, together: 1, us, busy: 80, rest, linger, seen, next: 0, now, spent: 0 }
        }
        fn turn(&mut self) -> bool {
            for _ in 0..self.together {
                self.linger.count(&self.seen[self.next % self.clients]);
                self.next += 1;
            }
            self.now.0 += self.together as u64 * self.us;
            self.spent += self.together as u64 * self.us * self.busy;
            self.linger.turn_ends(self.together, self.now, self.rest, || self.spent / 100);
            let rest = self.linger.take_rest();
            assert!(self.linger.take_rest().is_none());
            rest.is_some_and(|rest| rest == self.rest)
        }
        fn rests(mut self) -> usize {
            for _ in 0..WINDOW as usize / self.together {
                assert!(!self.turn(), "nothing is known yet");
            }
            (0..1000).for_each(|_| _ = self.turn());
            (0..100).filter(|_| self.turn()).count()
        }
    }

    #[test]
    fn many_clients_that_keep_the_worker_busy_one_by_one_are_waited_for() {
        assert_eq!(Load::new(50, 10).rests(), 100);
        assert_eq!(Load { together: FEW, ..Load::new(50, 10) }.rests(), 100);
        assert_eq!(Load::new(CLIENTS_MIN as usize, 30).rests(), 100);
    }

    #[test]
    fn nobody_waits_who_need_not() {
        assert_eq!(Load { together: FEW + 1, ..Load::new(50, 10) }.rests(), 0, "they come together already");
        assert_eq!(Load::new(CLIENTS_MIN as usize - 1, 10).rests(), 0, "all of them may wait for the worker");
        assert_eq!(Load::new(50, 34).rests(), 0, "too few come meanwhile");
        assert_eq!(Load { busy: 65, ..Load::new(50, 10) }.rests(), 0, "there is time to spare");
        assert_eq!(Load { rest: Duration::ZERO, ..Load::new(50, 10) }.rests(), 0, "it is switched off");
    }

    #[test]
    fn it_goes_on_until_there_is_time_to_spare_although_it_rests() {
        let mut load = Load::new(50, 10);
        let mut after = |busy, us| {
            (load.busy, load.us) = (busy, us);
            // What was counted before ends with the next window but one at the latest.
            (0..2 * WINDOW).for_each(|_| _ = load.turn());
            load.turn()
        };
        assert!(after(70, 10) && after(51, 10));
        assert!(!after(49, 10) && !after(65, 10));
        assert!(after(67, 10) && !after(67, 1000));
    }
}
