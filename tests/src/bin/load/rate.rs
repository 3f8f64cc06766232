//! The open loop: commands at times that do not wait for replies.

use crate::disturber::Disturber;
use crate::fill::reply_len;
use crate::robbed::{self, Watch};
use crate::template::{Rng, Template};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

pub struct Plan {
    pub port: u16,
    pub per_second: u64,
    pub seconds: u64,
    pub connections: usize,
    /// The CPU of the server, where it is to be watched.
    pub watched: Option<usize>,
}

/// Commands under way at most; a server that falls so far behind does not carry the rate.
const UNDER_WAY_MAX: usize = 2_000_000;
/// Not counted at the start.
const WARM_UP_NS: u64 = 500_000_000;
const GRACE: Duration = Duration::from_secs(30);

pub fn rate(
    plan: &Plan,
    templates: &[Template],
    disturbers: Vec<(Duration, Vec<Template>)>,
    mut rng: Rng,
) -> io::Result<()> {
    let mut links =
        (0..plan.connections.max(1)).map(|_| Link::connect(plan.port)).collect::<io::Result<Vec<_>>>()?;
    let poll = Poll::new(&links)?;
    let mut run = Run::new((plan.per_second * (plan.seconds + 2)) as usize);
    let start = Instant::now();
    let watch = plan.watched.map(|cpu| Watch::start(cpu, start)).transpose()?;
    let mut others = Vec::new();
    for (pause, commands) in disturbers {
        // Spread, so that they do not all begin together.
        let begin_at = start + Duration::from_nanos(WARM_UP_NS) + pause * (others.len() as u32 + 1) / 2;
        others.push(Disturber::new(plan.port, commands, pause, begin_at)?);
    }
    let end = plan.seconds * 1_000_000_000 + WARM_UP_NS;
    let mean_gap = 1e9 / plan.per_second.max(1) as f64;
    let (mut due, mut sent, mut scratch) = (0f64, 0u64, Vec::new());
    let (mut chunk, mut big) = (vec![0; 16 * 1024], vec![0; 64 * 1024]);
    loop {
        let now = Instant::now();
        let ns = (now - start).as_nanos() as u64;
        run.turned(ns);
        while due as u64 <= ns && (due as u64) < end {
            let link = &mut links[(sent % plan.connections as u64) as usize];
            templates[(sent % templates.len() as u64) as usize].encode(
                sent,
                &mut rng,
                &mut scratch,
                &mut link.out,
            );
            link.intended.push_back(due as u64);
            link.write()?;
            sent += 1;
            // Exponential gaps: arrivals of clients that know nothing of each other.
            let uniform = (rng.below(1 << 40) as f64 + 0.5) / (1u64 << 40) as f64;
            due += -uniform.ln() * mean_gap;
        }
        for &at in poll.ready()?.iter() {
            run.receive(&mut links[at], &mut chunk, start)?;
        }
        let is_over = ns >= end;
        if is_over {
            links.iter_mut().try_for_each(Link::write)?;
        }
        for other in others.iter_mut().filter(|o| !is_over || o.is_running) {
            other.step(now, &mut rng, &mut big)?;
        }
        let under_way = sent - run.answered;
        if under_way as usize > UNDER_WAY_MAX {
            return Err(io::Error::other("the server does not carry this rate"));
        }
        if is_over && under_way == 0 && others.iter().all(|o| !o.is_running) {
            break;
        }
        if is_over && now - start > Duration::from_nanos(end) + GRACE {
            return Err(io::Error::other("replies are missing"));
        }
    }
    run.report(watch.map_or_else(Vec::new, Watch::end), &others);
    Ok(())
}

/// What the open loop has seen.
struct Run {
    /// When each command was meant to be sent, and the reply came that much later, in ns.
    answers: Vec<(u64, u64)>,
    answered: u64,
    errors: u64,
    /// When the loop last came round, and when its own CPU was taken away.
    turned_at: u64,
    robbed: Vec<Range<u64>>,
}

/// A turn of the loop takes at most 0.2 ms: 64 replies are read and what was due meanwhile is sent.
const TURN_MAX_NS: u64 = 300_000;

impl Run {
    /// Room for `expected` answers is touched ahead: a first touch of a page may take a millisecond.
    fn new(expected: usize) -> Run {
        let mut answers = vec![(1, 1); expected];
        answers.clear();
        Run { answers, answered: 0, errors: 0, turned_at: 0, robbed: Vec::new() }
    }

    fn turned(&mut self, now: u64) {
        if now - self.turned_at > TURN_MAX_NS {
            self.robbed.push(self.turned_at..now);
        }
        self.turned_at = now;
    }

    fn receive(&mut self, link: &mut Link, chunk: &mut [u8], start: Instant) -> io::Result<()> {
        link.write()?;
        let Some(bytes) = link.read(chunk)? else { return Ok(()) };
        let now = start.elapsed().as_nanos() as u64;
        link.input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(len) = reply_len(&link.input[at..]) {
            self.errors += (link.input[at] == b'-') as u64;
            at += len;
            let due = link.intended.pop_front().ok_or_else(|| io::Error::other("a reply to nothing"))?;
            self.answered += 1;
            if due >= WARM_UP_NS {
                self.answers.push((due, (now - due).max(1)));
            }
        }
        link.input.drain(..at);
        Ok(())
    }

    /// `robbed`: when the server's CPU was taken away.
    fn report(mut self, robbed: Vec<Range<u64>>, others: &[Disturber]) {
        self.robbed.extend(robbed);
        let left_out = robbed::joined(self.robbed);
        let (mut all, mut counted) = (histogram(), histogram());
        for &(due, latency) in &self.answers {
            all.saturating_record(latency);
            if !robbed::holds(&left_out, due) {
                counted.saturating_record(latency);
            }
        }
        let us = |h: &Histogram<u64>, q: f64| h.value_at_quantile(q) as f64 / 1e3;
        print!(
            "{{\"sent\": {}, \"errors\": {}, \"p50_us\": {:.1}, \"p99_us\": {:.1}, \"p999_us\": {:.1}, \
             \"max_us\": {:.1}, \"all_p999_us\": {:.1}, \"robbed\": {:.4}, \"disturbers\": [",
            self.answered,
            self.errors,
            us(&counted, 0.5),
            us(&counted, 0.99),
            us(&counted, 0.999),
            counted.max() as f64 / 1e3,
            us(&all, 0.999),
            1.0 - counted.len() as f64 / all.len().max(1) as f64,
        );
        for (i, o) in others.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let ms = o.longest.as_secs_f64() * 1e3;
            print!("{comma}{{\"done\": {}, \"errors\": {}, \"longest_ms\": {ms:.1}}}", o.done, o.errors);
        }
        println!("]}}");
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds in order")
}

/// A connection of the open loop.
pub struct Link {
    stream: TcpStream,
    pub out: Vec<u8>,
    input: Vec<u8>,
    /// When each unanswered command was meant to be sent, in ns since the start.
    intended: VecDeque<u64>,
}

impl Link {
    pub fn connect(port: u16) -> io::Result<Link> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Link { stream, out: Vec::new(), input: Vec::new(), intended: VecDeque::new() })
    }

    pub fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads once; `None`: nothing there.
    pub fn read<'a>(&mut self, chunk: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.stream.read(chunk) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => Ok(Some(&chunk[..n])),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Readiness of the connections, by epoll.
struct Poll(i32);

impl Poll {
    fn new(links: &[Link]) -> io::Result<Poll> {
        // SAFETY: a plain system call without pointers.
        let poll = Poll(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
        if poll.0 < 0 {
            return Err(io::Error::last_os_error());
        }
        for (i, link) in links.iter().enumerate() {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: i as u64 };
            // SAFETY: both descriptors are open and the event lives through the call.
            let result =
                unsafe { libc::epoll_ctl(poll.0, libc::EPOLL_CTL_ADD, link.stream.as_raw_fd(), &mut event) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(poll)
    }

    /// Connections with something to read; does not wait.
    fn ready(&self) -> io::Result<Vec<usize>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the array has as many places as the call is told.
        let n = unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), events.len() as i32, 0) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == ErrorKind::Interrupted { Ok(Vec::new()) } else { Err(error) };
        }
        Ok(events[..n as usize].iter().map(|e| e.u64 as usize).collect())
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and is not used again.
        unsafe { libc::close(self.0) };
    }
}
