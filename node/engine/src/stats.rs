//! Counters of one worker. Written without synchronisation by their owner, added up by INFO.

use crate::histogram::{self, BUCKETS};

/// Counters of one command.
#[derive(Clone, Copy, Default, Debug)]
pub struct CommandStats {
    pub calls: u64,
    /// Time from the end of the command before to the end of this one, in units of [`crate::Turn::ticks`].
    pub ticks: u64,
    /// Refused before it ran.
    pub rejected: u64,
    /// Answered with an error by its function.
    pub failed: u64,
}

/// Counters of one worker.
#[derive(Clone, Default, Debug)]
pub struct Stats {
    /// By [`crate::Spec::id`].
    pub commands: Vec<CommandStats>,
    /// By the same id, [`histogram::BUCKETS`] counts each.
    times: Vec<u32>,
    pub calls: u64,
    pub hits: u64,
    pub misses: u64,
    pub expired: u64,
    pub evicted: u64,
    pub errors: u64,
    /// Replies with an error, by its code.
    pub error_codes: std::collections::BTreeMap<String, u64>,
    pub dirty: u64,
    /// Bytes read from clients and written to them.
    pub net_in: u64,
    pub net_out: u64,
}

impl Stats {
    pub fn new(commands: usize) -> Stats {
        Stats {
            commands: vec![CommandStats::default(); commands],
            times: vec![0; commands * BUCKETS],
            ..Stats::default()
        }
    }

    /// Forgets all but the count of changes.
    pub fn reset(&mut self) {
        *self = Stats { dirty: self.dirty, ..Stats::new(self.commands.len()) };
    }

    /// Counts a command that ran for so many ticks.
    #[inline]
    pub fn ran(&mut self, id: usize, ticks: u64) -> &mut CommandStats {
        let time = &mut self.times[id * BUCKETS + histogram::bucket(ticks)];
        *time = time.wrapping_add(1);
        let stats = &mut self.commands[id];
        stats.calls += 1;
        stats.ticks += ticks;
        stats
    }
    /// How often a command took how long.
    pub fn times(&self, id: usize) -> &[u32] {
        &self.times[id * BUCKETS..(id + 1) * BUCKETS]
    }

    pub fn count_error(&mut self, code: String) {
        const CODES_MAX: usize = 128; // Redis stops at the same number, so that scripts cannot fill the memory.
        self.errors += 1;
        if self.error_codes.len() < CODES_MAX || self.error_codes.contains_key(&code) {
            *self.error_codes.entry(code).or_default() += 1;
        }
    }

    pub fn add(&mut self, other: &Stats) {
        self.commands.resize(self.commands.len().max(other.commands.len()), CommandStats::default());
        for (mine, theirs) in self.commands.iter_mut().zip(&other.commands) {
            mine.calls += theirs.calls;
            mine.ticks += theirs.ticks;
            mine.rejected += theirs.rejected;
            mine.failed += theirs.failed;
        }
        self.times.resize(self.times.len().max(other.times.len()), 0);
        for (mine, theirs) in self.times.iter_mut().zip(&other.times) {
            *mine = mine.wrapping_add(*theirs);
        }
        self.calls += other.calls;
        self.hits += other.hits;
        self.misses += other.misses;
        self.expired += other.expired;
        self.evicted += other.evicted;
        self.errors += other.errors;
        self.dirty += other.dirty;
        self.net_in += other.net_in;
        self.net_out += other.net_out;
        for (code, count) in &other.error_codes {
            *self.error_codes.entry(code.clone()).or_default() += count;
        }
    }
}
