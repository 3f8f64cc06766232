//! When a CPU was taken away from this machine.
//!
//! A virtual machine's CPU stands still for milliseconds whenever the host gives it to somebody else, which no server can
//! help and which would be all that the 99.9th percentile shows. A thread of realtime priority, woken every half a
//! millisecond on the server's CPU, sees this from outside of the server: nothing but an interrupt comes before it.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two wakings of the watcher. Each costs the server's CPU 11 to 20 us: 3 %.
const PERIOD: Duration = Duration::from_micros(500);
/// Between two wakings at most, on a CPU that was there.
const GAP_MAX_NS: u64 = 1_000_000;
/// What stood in queues before a gap, and what piled up in it, suffers with it.
const BEFORE_NS: u64 = 1_000_000;
const AFTER_NS: u64 = 5_000_000;

pub struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Range<u64>>>,
}

impl Watch {
    /// Times are ns since `start`. Errors: this process may not have realtime priority, or there is no such CPU.
    pub fn start(cpu: usize, start: Instant) -> io::Result<Watch> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let over = is_over.clone();
        let thread = std::thread::spawn(move || {
            let prepared = come_first_on(cpu);
            let is_prepared = prepared.is_ok();
            ready.send(prepared).expect("who started it waits");
            if is_prepared { gaps(start, &over) } else { Vec::new() }
        });
        let prepared = is_ready.recv().expect("the thread says it first");
        prepared.map_err(|e| {
            io::Error::new(e.kind(), format!("CPU {cpu} cannot be watched with realtime priority: {e}"))
        })?;
        Ok(Watch { is_over, thread })
    }

    pub fn end(self) -> Vec<Range<u64>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

fn gaps(start: Instant, is_over: &AtomicBool) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut last = start.elapsed().as_nanos() as u64;
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(PERIOD);
        let now = start.elapsed().as_nanos() as u64;
        if now - last > GAP_MAX_NS {
            gaps.push(last..now);
        }
        last = now;
    }
    gaps
}

fn come_first_on(cpu: usize) -> io::Result<()> {
    // SAFETY: both calls read plain structures that live through them; zeros are valid in both.
    let results = unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        libc::CPU_SET(cpu, &mut cpus);
        let mut param: libc::sched_param = std::mem::zeroed();
        param.sched_priority = 1;
        [
            libc::sched_setaffinity(0, size_of_val(&cpus), &cpus),
            libc::sched_setscheduler(0, libc::SCHED_FIFO, &param),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The gaps with what suffers from them, in order and without overlaps.
pub fn joined(mut gaps: Vec<Range<u64>>) -> Vec<Range<u64>> {
    gaps.sort_by_key(|g| g.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for gap in gaps {
        let gap = gap.start.saturating_sub(BEFORE_NS)..gap.end + AFTER_NS;
        match joined.last_mut() {
            Some(last) if gap.start <= last.end => last.end = last.end.max(gap.end),
            _ => joined.push(gap),
        }
    }
    joined
}

/// Whether `at` is in one of the ranges, which are in order.
pub fn holds(ranges: &[Range<u64>], at: u64) -> bool {
    let next = ranges.partition_point(|r| r.end <= at);
    ranges.get(next).is_some_and(|r| r.contains(&at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn gaps_that_touch_are_one() {
        let gaps = vec![40 * MS..43 * MS, 10 * MS..12 * MS, 17 * MS..19 * MS];
        let ranges = joined(gaps);
        assert_eq!(ranges, [9 * MS..24 * MS, 39 * MS..48 * MS]);
        let inside = [8, 9, 23, 24, 38, 47, 48].map(|ms| holds(&ranges, ms * MS));
        assert_eq!(inside, [false, true, true, false, false, true, false]);
        assert!(!holds(&[], 0));
    }
}
