//! Counters of one worker. Their owner alone adds to them; everybody may read them at any time, without making the owner
//! wait: an addition is a load and a store, as if nobody looked.

use crate::histogram::{self, BUCKETS};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A number that one thread adds to and others read.
#[derive(Default, Debug)]
pub struct Count(AtomicU64);

impl Count {
    /// For the owner alone: of two that add at one time, one is lost.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

type Times = [AtomicU32; BUCKETS];

fn no_times() -> Box<Times> {
    Box::new([const { AtomicU32::new(0) }; BUCKETS])
}

/// Counters of one command.
#[derive(Default, Debug)]
pub struct CommandStats {
    pub calls: Count,
    /// Time from the end of the command before to the end of this one, in units of [`crate::Turn::ticks`].
    pub ticks: Count,
    /// Refused before it ran.
    pub rejected: Count,
    /// Answered with an error by its function.
    pub failed: Count,
    /// How often it took how long. Most commands are never used.
    times: OnceLock<Box<Times>>,
}

/// Counters of one worker.
#[derive(Default, Debug)]
pub struct Stats {
    /// By [`crate::Spec::id`].
    pub commands: Vec<CommandStats>,
    pub hits: Count,
    pub misses: Count,
    pub expired: Count,
    /// Fields of hashes that expired by themselves.
    pub expired_fields: Count,
    pub evicted: Count,
    pub errors: Count,
    /// Changes. Never goes back.
    pub dirty: Count,
    /// Bytes read from clients and written to them.
    pub net_in: Count,
    pub net_out: Count,
    /// Times that the worker rested, so as to find the commands of more clients together.
    pub rests: Count,
    /// Connections that it handed to another worker.
    pub moves: Count,
    /// Replies with an error, by its code.
    error_codes: Mutex<BTreeMap<String, u64>>,
}

/// Codes of errors that are counted. Redis stops at the same number, so that scripts cannot fill the memory.
const CODES_MAX: usize = 128;

impl Stats {
    /// `commands`: number of specs in the table.
    pub fn new(commands: usize) -> Stats {
        Stats { commands: (0..commands).map(|_| CommandStats::default()).collect(), ..Stats::default() }
    }

    /// Counts a command that ran for so many ticks. For the owner alone.
    #[inline]
    pub fn ran(&self, id: usize, ticks: u64) -> &CommandStats {
        let stats = &self.commands[id];
        let time = &stats.times.get_or_init(no_times)[histogram::bucket(ticks)];
        time.store(time.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        stats.calls.add(1);
        stats.ticks.add(ticks);
        stats
    }
    /// How often a command took how long.
    pub fn times(&self, id: usize) -> Vec<u32> {
        let times = self.commands[id].times.get();
        times.map_or_else(|| vec![0; BUCKETS], |t| t.iter().map(|n| n.load(Ordering::Relaxed)).collect())
    }

    pub fn count_error(&self, code: String) {
        self.errors.add(1);
        let mut codes = self.error_codes();
        if codes.len() < CODES_MAX || codes.contains_key(&code) {
            *codes.entry(code).or_default() += 1;
        }
    }

    /// Replies with an error, by its code.
    pub fn error_codes(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.error_codes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew, but for [`Stats::dirty`]. An addition of the owner at the same time may survive.
    pub fn reset(&self) {
        for c in &self.commands {
            [&c.calls, &c.ticks, &c.rejected, &c.failed].into_iter().for_each(Count::reset);
            c.times.get().into_iter().flat_map(|t| t.iter()).for_each(|n| n.store(0, Ordering::Relaxed));
        }
        [
            &self.hits,
            &self.misses,
            &self.expired,
            &self.expired_fields,
            &self.evicted,
            &self.errors,
            &self.net_in,
            &self.net_out,
            &self.rests,
            &self.moves,
        ]
        .into_iter()
        .for_each(Count::reset);
        self.error_codes().clear();
    }

    /// Adds the counters of another, who goes on counting; the caller owns this one.
    pub fn add(&self, other: &Stats) {
        for (mine, theirs) in self.commands.iter().zip(&other.commands) {
            mine.calls.add(theirs.calls.get());
            mine.ticks.add(theirs.ticks.get());
            mine.rejected.add(theirs.rejected.get());
            mine.failed.add(theirs.failed.get());
            let Some(theirs) = theirs.times.get() else { continue };
            for (mine, theirs) in mine.times.get_or_init(no_times).iter().zip(theirs.iter()) {
                let sum = mine.load(Ordering::Relaxed).wrapping_add(theirs.load(Ordering::Relaxed));
                mine.store(sum, Ordering::Relaxed);
            }
        }
        for (mine, theirs) in [
            (&self.hits, &other.hits),
            (&self.misses, &other.misses),
            (&self.expired, &other.expired),
            (&self.expired_fields, &other.expired_fields),
            (&self.evicted, &other.evicted),
            (&self.errors, &other.errors),
            (&self.dirty, &other.dirty),
            (&self.net_in, &other.net_in),
            (&self.net_out, &other.net_out),
            (&self.rests, &other.rests),
            (&self.moves, &other.moves),
        ] {
            mine.add(theirs.get());
        }
        let mut codes = self.error_codes();
        for (code, count) in &*other.error_codes() {
            *codes.entry(code.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_resets() {
        let (total, worker) = (Stats::new(2), Stats::new(2));
        worker.commands[1].calls.add(3);
        worker.dirty.add(2);
        worker.count_error("ERR".into());
        total.add(&worker);
        total.add(&worker);
        assert_eq!((total.commands[1].calls.get(), total.errors.get(), total.dirty.get()), (6, 2, 4));
        assert_eq!(total.error_codes()["ERR"], 2);
        worker.reset();
        assert_eq!((worker.commands[1].calls.get(), worker.dirty.get()), (0, 2));
        assert!(worker.error_codes().is_empty());
    }
}
