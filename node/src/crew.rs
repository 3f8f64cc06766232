//! How many of the workers serve clients.
//!
//! Where each has a core to itself, all do. Where others want the cores as well, such as the clients on the same machine, workers
//! queue for a processor although fewer of them could do the work; and whoever waits for one that stands in the queue waits
//! longer than if another had served him. So they gather: as many go on serving as the work needs, and the others hand them
//! their connections. After some time all try again.

use crossbeam::utils::CachePadded;
use proto::Mono;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Length of a period that is judged, in us: ten a second begin. A shorter one goes on, of a longer one nothing is known: the
/// process may have been stopped.
const PERIOD_US: RangeInclusive<u64> = 50_000..=300_000;
/// Workers queue that have waited for so many percent of the time that they ran.
const WAITED_MIN: u64 = 20;
/// Percentage of a core that they must have had: of less nothing is worth a change.
const RAN_MIN: u64 = 20;
/// Percentage of a core that a worker is given to do.
const FULL: u64 = 95;
/// Percentage of the time for which workers that have too much to do ran or waited.
const SATURATED: u64 = 99;
/// Periods in a row in which workers queue after which something is done.
const SURE: u32 = 2;
/// The same for those that have too much to do. A short while is no proof: who is given a core to himself may well use it.
const TOO_LONG: u32 = 10;
/// Periods for which workers are gathered before all try again.
const GATHERED: u32 = 50;
/// Periods for which they are not gathered after it did not help.
const NOT_AGAIN: u32 = 100;

/// Time that a worker's thread has had a processor, and for which it has queued for one, in us.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    pub ran_us: u64,
    pub waited_us: u64,
}

/// See the module's head.
pub struct Crew {
    spent: Vec<CachePadded<[AtomicU64; 2]>>,
    active: AtomicUsize,
    judge: Mutex<Judge>,
}

impl Crew {
    /// All of `workers` serve.
    pub fn new(workers: usize) -> Crew {
        Crew {
            spent: (0..workers).map(|_| CachePadded::default()).collect(),
            active: AtomicUsize::new(workers),
            judge: Mutex::default(),
        }
    }

    /// The first so many workers serve clients: 1 to all.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// What a worker has spent since it began.
    pub fn tell(&self, worker: usize, spent: Spent) {
        self.spent[worker][0].store(spent.ran_us, Ordering::Relaxed);
        self.spent[worker][1].store(spent.waited_us, Ordering::Relaxed);
    }

    /// Judges how many serve from now on. `wanted`: that many; 0: as many as is best.
    pub fn judge(&self, now: Mono, wanted: usize) {
        let all = self.spent.len();
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let spent = self.spent.iter().fold(Spent::default(), |sum, of| Spent {
            ran_us: sum.ran_us + load(&of[0]),
            waited_us: sum.waited_us + load(&of[1]),
        });
        let active = judge.period(now, spent, self.active(), all);
        self.active.store(if wanted > 0 { wanted.min(all) } else { active }, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Judge {
    /// When the period began, and what all workers together had spent by then.
    begun: Mono,
    before: Spent,
    /// Periods in a row in which they queued, and in which those that serve had too much to do.
    queued: u32,
    saturated: u32,
    /// Periods until they may be gathered, or for which they are.
    left: u32,
}

impl Judge {
    /// A period may have ended. `spent`: by all workers together; `active` of `all` serve. Returns how many do from now on.
    fn period(&mut self, now: Mono, spent: Spent, active: usize, all: usize) -> usize {
        let took_us = now.since(self.begun).as_micros() as u64;
        if took_us < *PERIOD_US.start() {
            return active;
        }
        let ran = spent.ran_us.saturating_sub(self.before.ran_us);
        let waited = spent.waited_us.saturating_sub(self.before.waited_us);
        (self.begun, self.before) = (now, spent);
        if took_us > *PERIOD_US.end() {
            (self.queued, self.saturated) = (0, 0);
            return active;
        }
        let count = |n: u32, is: bool| if is { n + 1 } else { 0 };
        self.queued = count(self.queued, ran * 100 >= took_us * RAN_MIN && waited * 100 >= ran * WAITED_MIN);
        self.saturated = count(self.saturated, (ran + waited) * 100 >= took_us * active as u64 * SATURATED);
        self.left = self.left.saturating_sub(1);
        if active == all {
            let needed = (ran * 100).div_ceil(took_us * FULL).max(1) as usize;
            if self.queued < SURE || needed >= all || self.left > 0 {
                return all;
            }
            (self.queued, self.saturated, self.left) = (0, 0, GATHERED);
            return needed;
        }
        // In the first period some connections were not here yet.
        let is_of_no_use = self.queued > SURE;
        if !is_of_no_use && self.saturated < TOO_LONG && self.left > 0 {
            return active;
        }
        (self.queued, self.saturated) = (0, 0);
        self.left = if is_of_no_use { NOT_AGAIN } else { 0 };
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Workers on a machine, and how many of them serve after each period.
    struct Machine {
        crew: Crew,
        now: Mono,
        spent: Spent,
    }

    impl Machine {
        fn new(workers: usize) -> Machine {
            let mut machine = Machine { crew: Crew::new(workers), now: Mono(1), spent: Spent::default() };
            machine.takes(1_000_000, 0, 0);
            machine
        }
        /// A period passes in which workers have run and waited for so many percent of a core.
        fn takes(&mut self, us: u64, ran: u64, waited: u64) -> usize {
            self.now.0 += us;
            self.spent.ran_us += us * ran / 100;
            self.spent.waited_us += us * waited / 100;
            self.crew.tell(0, self.spent);
            self.crew.judge(self.now, 0);
            self.crew.active()
        }
        fn period(&mut self, ran: u64, waited: u64) -> usize {
            self.takes(100_000, ran, waited)
        }
        /// The numbers of workers that serve, without repetitions.
        fn periods(&mut self, count: usize, ran: u64, waited: u64) -> Vec<usize> {
            let mut all: Vec<_> = (0..count).map(|_| self.period(ran, waited)).collect();
            all.dedup();
            all
        }
    }

    #[test]
    fn workers_that_queue_gather_and_try_again_after_a_time() {
        let mut machine = Machine::new(2);
        assert_eq!(machine.periods(20, 170, 5), [2], "they have a core each");
        assert_eq!((machine.period(88, 30), machine.period(88, 30)), (2, 1));
        assert_eq!(machine.periods(GATHERED as usize - 1, 92, 3), [1]);
        assert_eq!(machine.periods(20, 70, 5), [2], "the others have gone");
        assert_eq!(machine.periods(2, 88, 30), [2, 1], "they came back");
    }

    #[test]
    fn as_many_go_on_as_the_work_needs() {
        let mut machine = Machine::new(8);
        assert_eq!(machine.periods(3, 290, 100), [8, 4]);
        let mut machine = Machine::new(8);
        assert_eq!(machine.periods(20, 710, 200), [8], "it needs all of them");
        let mut machine = Machine::new(1);
        assert_eq!(machine.periods(20, 50, 50), [1]);
    }

    #[test]
    fn who_gathered_for_nothing_lets_it_be_for_a_while() {
        // Others take the cores from however few there are.
        let mut machine = Machine::new(4);
        assert_eq!(machine.periods(2, 60, 30), [4, 1]);
        assert_eq!(machine.periods(NOT_AGAIN as usize, 40, 40), [1, 4]);
        assert_eq!(machine.periods(4, 60, 30), [4, 1]);
    }

    #[test]
    fn who_has_too_much_to_do_is_helped() {
        let mut machine = Machine::new(4);
        assert_eq!(machine.periods(2, 60, 30), [4, 1]);
        assert_eq!(machine.periods(TOO_LONG as usize - 1, 98, 2), [1]);
        assert_eq!(machine.period(98, 0), 1);
        assert_eq!(machine.periods(TOO_LONG as usize, 98, 2), [1, 4]);
        assert_eq!(machine.periods(50, 300, 10), [4]);
        assert_eq!(machine.periods(2, 60, 30), [4, 1]);
    }

    #[test]
    fn nothing_is_made_of_little_or_of_what_is_not_known() {
        let mut machine = Machine::new(2);
        assert_eq!(machine.periods(20, RAN_MIN - 1, 50), [2], "hardly anything is done");
        for us in [40_000, 1_000_000] {
            let mut machine = Machine::new(2);
            machine.period(88, 30);
            assert_eq!(machine.takes(us, 88, 30), 2, "{us} us");
        }
        assert_eq!((machine.takes(60_000, 88, 30), machine.takes(60_000, 88, 30)), (2, 1));
    }

    #[test]
    fn a_number_that_is_wanted_holds() {
        let mut machine = Machine::new(4);
        for (wanted, active) in [(3, 3), (1, 1), (9, 4)] {
            machine.crew.judge(machine.now, wanted);
            assert_eq!(machine.crew.active(), active);
        }
        machine.crew.judge(machine.now, 1);
        assert_eq!(machine.periods(1, 10, 0), [4], "and no longer than it is");
    }
}
