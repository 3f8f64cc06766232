//! Many runs, summed up.

use super::world::{Outcome, Stats};
use gossip::marks::{Mark, Marks};

#[derive(Debug, Default)]
pub struct Batch {
    pub runs: u64,
    pub events: u64,
    pub stats: Stats,
    pub marks: Marks,
    /// The line that repeats each failed run, and what failed.
    pub failures: Vec<(String, String)>,
    /// Whether the run added last has failed.
    pub failed_now: bool,
}

impl Batch {
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.events += outcome.stats.events;
        self.stats.add(&outcome.stats);
        self.marks.add(&outcome.marks);
        self.failed_now = outcome.violation.is_some();
        if let Some(violation) = &outcome.violation {
            let line = format!("at {} us: {}\n  {}", violation.at_us, violation.what, outcome.reproduce);
            self.failures.push((line, violation.what.clone()));
        }
    }

    pub fn unmarked(&self) -> Vec<Mark> {
        Mark::ALL.iter().copied().filter(|m| self.marks.count(*m) == 0).collect()
    }

    pub fn summary(&self) -> String {
        let per_run = |n: u64| n as f64 / self.runs.max(1) as f64;
        let mut text = format!(
            "{} runs, {} failed; per run {:.1} versions, {:.1} failovers, {:.1} crashes, {:.0} events",
            self.runs,
            self.failures.len(),
            per_run(self.stats.versions),
            per_run(self.stats.failovers),
            per_run(self.stats.crashes),
            per_run(self.events),
        );
        text += &self.stats.data_summary(self.runs);
        for mark in Mark::ALL {
            text += &format!("\n  {mark:?} {}", self.marks.count(*mark));
        }
        text
    }
}
