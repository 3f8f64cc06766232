//! Spikes of latency: for each kind of event the worst of every second in which one was above the limit, the last 160 of
//! them, as in Redis; with the report and the graph made from them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SAMPLES_MAX: usize = 160;

/// The worst of a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Wall clock.
    pub at_s: i64,
    pub ms: u64,
}

/// One kind of event.
#[derive(Clone, Default, Debug)]
pub struct Series {
    /// The oldest first.
    pub samples: VecDeque<Sample>,
    /// The worst ever.
    pub max_ms: u64,
}

/// All kinds of events that occurred.
#[derive(Default)]
pub struct Events(Mutex<BTreeMap<&'static str, Series>>);

impl Events {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Series>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, event: &'static str, at_s: i64, ms: u64) {
        let mut events = self.lock();
        let series = events.entry(event).or_default();
        series.max_ms = series.max_ms.max(ms);
        match series.samples.back_mut() {
            Some(last) if last.at_s == at_s => last.ms = last.ms.max(ms),
            _ => {
                if series.samples.len() == SAMPLES_MAX {
                    series.samples.pop_front();
                }
                series.samples.push_back(Sample { at_s, ms });
            }
        }
    }

    /// Forgets one kind, or all. Returns how many there were.
    pub fn reset(&self, event: Option<&[u8]>) -> usize {
        let mut events = self.lock();
        let before = events.len();
        events.retain(|name, _| event.is_some_and(|e| !name.as_bytes().eq_ignore_ascii_case(e)));
        before - events.len()
    }
    pub fn get(&self, event: &[u8]) -> Option<(&'static str, Series)> {
        let events = self.lock();
        events.iter().find(|(name, _)| name.as_bytes() == event).map(|(name, s)| (*name, s.clone()))
    }
    pub fn all(&self) -> Vec<(&'static str, Series)> {
        self.lock().iter().map(|(name, series)| (*name, series.clone())).collect()
    }
}

impl Series {
    fn mean_ms(&self) -> u64 {
        self.samples.iter().map(|s| s.ms).sum::<u64>() / self.samples.len().max(1) as u64
    }
    fn mean_deviation_ms(&self) -> u64 {
        let mean = self.mean_ms();
        self.samples.iter().map(|s| s.ms.abs_diff(mean)).sum::<u64>() / self.samples.len().max(1) as u64
    }

    /// A picture of the samples, with the age of each below it.
    pub fn graph(&self, event: &str, now_s: i64) -> String {
        const COLUMNS: usize = 80;
        let (low, high) = (
            self.samples.iter().map(|s| s.ms).min().unwrap_or(0),
            self.samples.iter().map(|s| s.ms).max().unwrap_or(0),
        );
        let mut text = format!("{event} - high {high} ms, low {low} ms (all time high {} ms)\n", self.max_ms);
        text.push_str(&"-".repeat(COLUMNS));
        text.push('\n');
        let samples: Vec<Sample> = self.samples.iter().copied().collect();
        for (i, part) in samples.chunks(COLUMNS).enumerate() {
            if i > 0 {
                text.push('\n');
            }
            draw(part, low, high, now_s, &mut text);
        }
        text
    }
}

/// Columns of four rows, each of which has three heights, and labels below.
fn draw(samples: &[Sample], low: u64, high: u64, now_s: i64, text: &mut String) {
    const ROWS: u64 = 4;
    const HEIGHTS: [char; 3] = ['_', 'o', '#'];
    let steps = ROWS * HEIGHTS.len() as u64;
    let height = |s: &Sample| ((s.ms - low) * steps / (high - low).max(1)).min(steps - 1);
    for row in (0..ROWS).rev() {
        let floor = row * HEIGHTS.len() as u64;
        text.extend(samples.iter().map(|s| match height(s).checked_sub(floor) {
            None => ' ',
            Some(above) => HEIGHTS.get(above as usize).copied().unwrap_or('|'),
        }));
        text.push('\n');
    }
    let labels: Vec<String> = samples.iter().map(|s| age(now_s - s.at_s)).collect();
    let longest = labels.iter().map(String::len).max().unwrap_or(0);
    text.push_str(&" ".repeat(samples.len()));
    text.push('\n');
    for i in 0..longest {
        text.extend(labels.iter().map(|label| label.as_bytes().get(i).map_or(' ', |c| *c as char)));
        text.push('\n');
    }
}

fn age(s: i64) -> String {
    match s.max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

/// What LATENCY DOCTOR says. `slow_us`: limit of the slow log, negative: off.
pub fn report(events: &[(&'static str, Series)], now_s: i64, threshold_ms: u64, slow_us: i64) -> String {
    if events.is_empty() {
        return match threshold_ms {
            0 => "Latency monitoring is disabled. Use \"CONFIG SET latency-monitor-threshold <milliseconds>\" to enable it.\n".into(),
            _ => "No latency spike was observed so far.\n".into(),
        };
    }
    let mut text = String::from("These latency spikes were observed:\n\n");
    for (i, (event, series)) in events.iter().enumerate() {
        let first_s = series.samples.front().map_or(now_s, |s| s.at_s);
        let period_s = (now_s - first_s).max(1) as f64 / series.samples.len().max(1) as f64;
        let _ = writeln!(
            text,
            "{}. {event}: {} latency spikes (average {}ms, mean deviation {}ms, period {period_s:.2} sec). Worst all time event {}ms.",
            i + 1,
            series.samples.len(),
            series.mean_ms(),
            series.mean_deviation_ms(),
            series.max_ms
        );
    }
    let has = |name: &str| events.iter().any(|(event, _)| *event == name);
    let mut advice = Vec::new();
    if has("command") {
        let limit_us = threshold_ms.max(1) * 1000;
        if slow_us < 0 {
            advice.push(format!("The slow log is disabled: 'CONFIG SET slowlog-log-slower-than {limit_us}' shows which commands are slow."));
        } else if slow_us as u64 / 1000 > threshold_ms {
            advice.push(format!("The slow log keeps only commands that are slower than these events: consider 'CONFIG SET slowlog-log-slower-than {limit_us}'."));
        } else {
            advice.push("Look at SLOWLOG GET for the commands that are slow.".into());
        }
        advice.push("Commands on many elements take as long as they have elements: split large values, or read them in parts with SCAN and its kin.".into());
    }
    if has("fast-command") {
        advice.push("Commands that cannot be slow were: the system did not give this process the processor. Lower its load, or look for noisy neighbours.".into());
    }
    if has("expire-cycle") {
        advice.push("Many keys expire at the same time: spread their times.".into());
    }
    if !advice.is_empty() {
        text.push_str("\nAdvice:\n\n");
        advice.iter().for_each(|a| text.push_str(&format!("- {a}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_each_second_is_kept() {
        let events = Events::default();
        [(1, 5), (1, 9), (1, 7), (2, 3)].iter().for_each(|(at, ms)| events.add("command", *at, *ms));
        let (_, series) = events.get(b"command").unwrap();
        assert_eq!(series.samples, [Sample { at_s: 1, ms: 9 }, Sample { at_s: 2, ms: 3 }]);
        assert_eq!(series.max_ms, 9);
        (0..500).for_each(|at| events.add("command", 10 + at, 1));
        assert_eq!(events.get(b"command").unwrap().1.samples.len(), SAMPLES_MAX);
    }

    #[test]
    fn events_are_forgotten_by_name_or_all() {
        let events = Events::default();
        ["a", "b", "c"].iter().for_each(|e| events.add(e, 1, 1));
        assert_eq!((events.reset(Some(b"B")), events.reset(Some(b"x")), events.reset(None)), (1, 0, 2));
    }

    #[test]
    fn a_graph_shows_heights_and_ages() {
        let events = Events::default();
        [(0, 10), (90, 20), (100, 130)].iter().for_each(|(at, ms)| events.add("command", *at, *ms));
        let (name, series) = events.get(b"command").unwrap();
        let expected = format!(
            "command - high 130 ms, low 10 ms (all time high 130 ms)\n{}\n  #\n  |\n  |\n_o|\n   \n110\nm0s\n s \n",
            "-".repeat(80)
        );
        // The first is 100 s old, which is one minute.
        assert_eq!(series.graph(name, 100), expected);
    }

    #[test]
    fn the_report_names_events_and_what_helps() {
        let events = Events::default();
        assert!(report(&[], 0, 0, 0).contains("disabled"));
        events.add("command", 5, 300);
        let text = report(&events.all(), 15, 100, -1);
        assert!(
            text.contains("command: 1 latency spikes (average 300ms, mean deviation 0ms, period 10.00 sec)")
        );
        assert!(text.contains("slowlog-log-slower-than 100000"));
    }
}
