//! Load for the measure in `tests/versus`: fills servers, rewrites keys, and sends commands at a fixed rate.
//!
//! At a fixed rate the loop is open: a command has a time at which it is meant to be sent, and its latency counts from
//! there, so that a server that stalls is charged for everything that should have been sent meanwhile (no coordinated
//! omission). One thread serves all connections and spins; it is meant to have a CPU of its own.
//!
//! Commands are templates, words between spaces: `{i}` the running number (12 digits, `{i:10}` for 10), `{p:N}` the
//! number permuted below N, `{m:K}` the number modulo K, `{r:N}` a random number below N (12 digits), `{x:L}` L bytes,
//! `{v:MIN:MAX}` between MIN and MAX bytes. Random numbers are seeded. Prints one line of JSON.

use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const USAGE: &str = "usage:
  load fill PORT COUNT TEMPLATE [--seed S]
  load churn PORT KEYS ROUNDS MIN MAX [--seed S]
  load rate PORT PER_SECOND SECONDS CONNECTIONS TEMPLATE... [--seed S] [--disturb PAUSE_MS COMMAND [| COMMAND]...]";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = run(&args) {
        eprintln!("load: {error}");
        std::process::exit(1);
    }
}

fn run(args: &[String]) -> io::Result<()> {
    let mut plain = Vec::new();
    let (mut seed, mut disturbers) = (1, Vec::new());
    let mut at = 0;
    while at < args.len() {
        match args[at].as_str() {
            "--seed" => {
                seed = number(args.get(at + 1))?;
                at += 2;
            }
            "--disturb" => {
                let pause = Duration::from_millis(number(args.get(at + 1))?);
                let text = args.get(at + 2).ok_or_else(usage)?;
                let commands = text.split(" | ").map(Template::new).collect::<io::Result<Vec<_>>>()?;
                disturbers.push((pause, commands));
                at += 3;
            }
            _ => {
                plain.push(&args[at]);
                at += 1;
            }
        }
    }
    let rng = Rng(seed | 1);
    let arg = |i: usize| plain.get(i).copied();
    match arg(0).map(String::as_str) {
        Some("fill") => {
            let template = Template::new(arg(3).ok_or_else(usage)?)?;
            fill(number(arg(1))? as u16, number(arg(2))?, &template, rng)
        }
        Some("churn") => {
            let (min, max) = (number(arg(4))?, number(arg(5))?);
            churn(number(arg(1))? as u16, number(arg(2))?, number(arg(3))?, min, max, rng)
        }
        Some("rate") if plain.len() > 5 => {
            let templates = plain[5..].iter().map(|t| Template::new(t)).collect::<io::Result<Vec<_>>>()?;
            let plan = Plan {
                port: number(arg(1))? as u16,
                per_second: number(arg(2))?,
                seconds: number(arg(3))?,
                connections: number(arg(4))? as usize,
            };
            rate(&plan, &templates, disturbers, rng)
        }
        _ => Err(usage()),
    }
}

fn usage() -> io::Error {
    io::Error::other(USAGE)
}

fn number(text: Option<&String>) -> io::Result<u64> {
    text.and_then(|t| t.parse().ok()).ok_or_else(usage)
}

/// xorshift64*: the state is odd at the start and never zero.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

enum Piece {
    Text(Vec<u8>),
    Index(usize),
    Permuted(u64),
    Modulo(u64),
    Random(u64),
    Varying(u64, u64),
}

/// A command with places to be filled in.
struct Template(Vec<Vec<Piece>>);

impl Template {
    fn new(text: &str) -> io::Result<Template> {
        text.split(' ').filter(|w| !w.is_empty()).map(word).collect::<io::Result<_>>().map(Template)
    }

    /// Appends the command for number `i` as an array of bulk strings.
    fn encode(&self, i: u64, rng: &mut Rng, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        write!(out, "*{}\r\n", self.0.len()).expect("a Vec takes everything");
        for word in &self.0 {
            scratch.clear();
            for piece in word {
                let written = match piece {
                    Piece::Text(bytes) => scratch.write_all(bytes),
                    Piece::Index(width) => write!(scratch, "{i:0width$}"),
                    // A prime multiplier that no usual N is a multiple of: each number once.
                    Piece::Permuted(n) => write!(scratch, "{}", i.wrapping_mul(2_654_435_761) % n),
                    Piece::Modulo(n) => write!(scratch, "{}", i % n),
                    Piece::Random(n) => write!(scratch, "{:012}", rng.below(*n)),
                    Piece::Varying(min, max) => {
                        let len = min + rng.below(max - min + 1);
                        scratch.resize(scratch.len() + len as usize, b'v');
                        Ok(())
                    }
                };
                written.expect("a Vec takes everything");
            }
            write!(out, "${}\r\n", scratch.len()).expect("a Vec takes everything");
            out.extend_from_slice(scratch);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn word(text: &str) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').ok_or_else(usage)? + open;
        pieces.push(Piece::Text(rest[..open].into()));
        let parts: Vec<&str> = rest[open + 1..close].split(':').collect();
        let arg = |i: usize| parts.get(i).and_then(|p| p.parse::<u64>().ok()).filter(|n| *n < 1 << 40);
        let bounded = |i: usize| arg(i).filter(|n| *n > 0).ok_or_else(usage);
        pieces.push(match parts[0] {
            "i" => Piece::Index(arg(1).unwrap_or(12).min(40) as usize),
            "p" => Piece::Permuted(bounded(1)?),
            "m" => Piece::Modulo(bounded(1)?),
            "r" => Piece::Random(bounded(1)?),
            "x" => Piece::Text(vec![b'x'; bounded(1)?.min(1 << 24) as usize]),
            "v" if arg(1) <= arg(2) => Piece::Varying(bounded(1)?, bounded(2)?.min(1 << 24)),
            _ => return Err(usage()),
        });
        rest = &rest[close + 1..];
    }
    pieces.push(Piece::Text(rest.into()));
    Ok(pieces)
}

/// Length of the reply at the start of `buf`; `None` while it is incomplete. The peer is a server under test, not an
/// attacker: nesting follows the call stack.
fn reply_len(buf: &[u8]) -> Option<usize> {
    let line = buf.windows(2).position(|w| w == b"\r\n")?;
    let mut end = line + 2;
    let count = || std::str::from_utf8(&buf[1..line]).ok()?.parse::<i64>().ok();
    match buf[0] {
        b'$' | b'=' => end += count().filter(|n| *n >= 0).map_or(0, |n| n as usize + 2),
        b'*' | b'~' | b'>' => {
            for _ in 0..count().unwrap_or(0).max(0) {
                end += reply_len(buf.get(end..)?)?;
            }
        }
        _ => {}
    }
    (end <= buf.len()).then_some(end)
}

/// Sends in windows and counts replies: commands in flight are bounded, and both sides stay busy.
struct Filler {
    stream: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
    scratch: Vec<u8>,
    waiting: u64,
    errors: u64,
    first_error: String,
}

/// Commands in a window, or bytes, whichever is reached first.
const WINDOW: u64 = 2000;
const WINDOW_BYTES: usize = 256 * 1024;

impl Filler {
    fn connect(port: u16) -> io::Result<Filler> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Filler {
            stream,
            input: Vec::new(),
            out: Vec::new(),
            scratch: Vec::new(),
            waiting: 0,
            errors: 0,
            first_error: String::new(),
        })
    }

    fn send(&mut self, template: &Template, i: u64, rng: &mut Rng) -> io::Result<()> {
        template.encode(i, rng, &mut self.scratch, &mut self.out);
        self.waiting += 1;
        if self.waiting >= WINDOW || self.out.len() >= WINDOW_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        let mut chunk = [0; 64 * 1024];
        while self.waiting > 0 {
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&chunk[..n]);
            let mut at = 0;
            while let Some(len) = reply_len(&self.input[at..]) {
                if self.input[at] == b'-' {
                    self.errors += 1;
                    if self.first_error.is_empty() {
                        self.first_error =
                            String::from_utf8_lossy(&self.input[at..at + len]).trim().replace('"', "'");
                    }
                }
                self.waiting -= 1;
                at += len;
            }
            self.input.drain(..at);
        }
        Ok(())
    }

    fn report(&self) {
        println!("{{\"errors\": {}, \"first_error\": \"{}\"}}", self.errors, self.first_error);
    }
}

fn fill(port: u16, count: u64, template: &Template, mut rng: Rng) -> io::Result<()> {
    let mut filler = Filler::connect(port)?;
    for i in 0..count {
        filler.send(template, i, &mut rng)?;
    }
    filler.flush()?;
    filler.report();
    Ok(())
}

/// Writes `keys` keys, then in each round deletes a random half and writes it again with other sizes.
fn churn(port: u16, keys: u64, rounds: u64, min: u64, max: u64, mut rng: Rng) -> io::Result<()> {
    let mut filler = Filler::connect(port)?;
    let set = Template::new(&format!("SET key:{{i}} {{v:{min}:{max}}}"))?;
    let del = Template::new("DEL key:{i}")?;
    for i in 0..keys {
        filler.send(&set, i, &mut rng)?;
    }
    for _ in 0..rounds {
        let chosen: Vec<u64> = (0..keys).filter(|_| rng.below(2) == 0).collect();
        for &i in &chosen {
            filler.send(&del, i, &mut rng)?;
        }
        for &i in &chosen {
            filler.send(&set, i, &mut rng)?;
        }
    }
    filler.flush()?;
    filler.report();
    Ok(())
}

struct Plan {
    port: u16,
    per_second: u64,
    seconds: u64,
    connections: usize,
}

/// A connection of the open loop.
struct Link {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// When each unanswered command was meant to be sent, in ns since the start.
    intended: VecDeque<u64>,
}

/// Commands under way at most; a server that falls so far behind does not carry the rate.
const UNDER_WAY_MAX: usize = 2_000_000;
/// Not counted at the start.
const WARM_UP_NS: u64 = 500_000_000;
const GRACE: Duration = Duration::from_secs(30);

impl Link {
    fn connect(port: u16) -> io::Result<Link> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Link { stream, out: Vec::new(), input: Vec::new(), intended: VecDeque::new() })
    }

    fn write(&mut self) -> io::Result<()> {
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
    fn read<'a>(&mut self, chunk: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.stream.read(chunk) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => Ok(Some(&chunk[..n])),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Another client, which runs its commands in turn with a pause after each. The end of a reply is found by an ECHO
/// behind the command, since replies may be long and nested.
struct Disturber {
    link: Link,
    commands: Vec<Template>,
    pause: Duration,
    next: usize,
    begin_at: Instant,
    is_running: bool,
    tail: Vec<u8>,
    head: Vec<u8>,
    done: u64,
    errors: u64,
    longest: Duration,
}

const MARK: &[u8] = b"$18\r\nend-of-disturbance\r\n";

impl Disturber {
    fn step(&mut self, now: Instant, rng: &mut Rng, chunk: &mut [u8]) -> io::Result<()> {
        if !self.is_running {
            if now < self.begin_at {
                return Ok(());
            }
            let (mut out, mut scratch) = (Vec::new(), Vec::new());
            self.commands[self.next % self.commands.len()].encode(
                self.next as u64,
                rng,
                &mut scratch,
                &mut out,
            );
            out.extend_from_slice(b"*2\r\n$4\r\nECHO\r\n$18\r\nend-of-disturbance\r\n");
            self.link.out = out;
            (self.is_running, self.begin_at) = (true, now);
            self.next += 1;
            self.tail.clear();
            self.head.clear();
        }
        self.link.write()?;
        let Some(bytes) = self.link.read(chunk)? else { return Ok(()) };
        if self.head.is_empty() {
            self.head.push(bytes[0]);
        }
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(MARK.len())..]);
        let surplus = self.tail.len().saturating_sub(MARK.len());
        self.tail.drain(..surplus);
        if self.tail == MARK {
            self.done += 1;
            self.errors += (self.head[0] == b'-') as u64;
            self.longest = self.longest.max(now - self.begin_at);
            self.is_running = false;
            self.begin_at = now + self.pause;
        }
        Ok(())
    }
}

fn rate(
    plan: &Plan,
    templates: &[Template],
    disturbers: Vec<(Duration, Vec<Template>)>,
    mut rng: Rng,
) -> io::Result<()> {
    let mut links =
        (0..plan.connections.max(1)).map(|_| Link::connect(plan.port)).collect::<io::Result<Vec<_>>>()?;
    let poll = Poll::new(&links)?;
    let mut run = Run::new();
    let start = Instant::now();
    let mut others = Vec::new();
    for (pause, commands) in disturbers {
        others.push(Disturber {
            link: Link::connect(plan.port)?,
            commands,
            pause,
            next: 0,
            // Spread, so that they do not all begin together.
            begin_at: start + Duration::from_nanos(WARM_UP_NS) + pause * (others.len() as u32 + 1) / 2,
            is_running: false,
            tail: Vec::new(),
            head: Vec::new(),
            done: 0,
            errors: 0,
            longest: Duration::ZERO,
        });
    }
    let end = plan.seconds * 1_000_000_000 + WARM_UP_NS;
    let mean_gap = 1e9 / plan.per_second.max(1) as f64;
    let (mut due, mut sent, mut scratch) = (0f64, 0u64, Vec::new());
    let (mut chunk, mut big) = (vec![0; 16 * 1024], vec![0; 64 * 1024]);
    loop {
        let now = Instant::now();
        let ns = (now - start).as_nanos() as u64;
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
            run.late(due as u64, ns);
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
    run.report(sent, &others);
    Ok(())
}

/// What the open loop has seen.
struct Run {
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    answered: u64,
    errors: u64,
}

impl Run {
    fn new() -> Run {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds in order");
        Run { latency: histogram(), lateness: histogram(), answered: 0, errors: 0 }
    }

    /// How far the generator itself is behind its schedule.
    fn late(&mut self, due: u64, now: u64) {
        if due >= WARM_UP_NS {
            self.lateness.saturating_record((now - due).max(1));
        }
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
                self.latency.saturating_record((now - due).max(1));
            }
        }
        link.input.drain(..at);
        Ok(())
    }

    fn report(&self, sent: u64, others: &[Disturber]) {
        let us = |h: &Histogram<u64>, q: f64| h.value_at_quantile(q) as f64 / 1e3;
        let h = &self.latency;
        print!(
            "{{\"sent\": {sent}, \"errors\": {}, \"p50_us\": {:.1}, \"p99_us\": {:.1}, \"p999_us\": {:.1}, \
             \"max_us\": {:.1}, \"late_p999_us\": {:.1}, \"disturbers\": [",
            self.errors,
            us(h, 0.5),
            us(h, 0.99),
            us(h, 0.999),
            h.max() as f64 / 1e3,
            us(&self.lateness, 0.999),
        );
        for (i, o) in others.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let ms = o.longest.as_secs_f64() * 1e3;
            print!("{comma}{{\"done\": {}, \"errors\": {}, \"longest_ms\": {ms:.1}}}", o.done, o.errors);
        }
        println!("]}}");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(template: &str, i: u64) -> String {
        let mut out = Vec::new();
        Template::new(template).unwrap().encode(i, &mut Rng(1), &mut Vec::new(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn templates_are_filled_in() {
        assert_eq!(encoded("GET key:{i:3}", 7), "*2\r\n$3\r\nGET\r\n$7\r\nkey:007\r\n");
        assert_eq!(encoded("A {m:5}{x:2}", 7), "*2\r\n$1\r\nA\r\n$3\r\n2xx\r\n");
        assert!(Template::new("{q:1}").is_err() && Template::new("{v:5:2}").is_err());
    }

    #[test]
    fn a_permutation_gives_each_number_once() {
        let mut seen: Vec<u64> = (0..1000).map(|i: u64| i.wrapping_mul(2_654_435_761) % 1000).collect();
        seen.sort();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn replies_are_measured_whole() {
        for reply in ["+OK\r\n", "$-1\r\n", "$3\r\nabc\r\n", "*2\r\n$1\r\na\r\n*1\r\n:5\r\n", "*-1\r\n"] {
            assert_eq!(reply_len(format!("{reply}+more\r\n").as_bytes()), Some(reply.len()));
            assert_eq!(reply_len(&reply.as_bytes()[..reply.len() - 1]), None);
        }
    }
}
