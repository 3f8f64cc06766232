//! Clients that ask for something big while others are measured.

use crate::rate::Link;
use crate::template::{Rng, Template};
use std::io;
use std::time::{Duration, Instant};

/// Another client, which runs its commands in turn with a pause after each. The end of a reply is found by an ECHO
/// behind the command, since replies may be long and nested.
pub struct Disturber {
    link: Link,
    commands: Vec<Template>,
    pause: Duration,
    next: usize,
    begin_at: Instant,
    pub is_running: bool,
    tail: Vec<u8>,
    head: Vec<u8>,
    pub done: u64,
    pub errors: u64,
    pub longest: Duration,
}

const MARK: &[u8] = b"$18\r\nend-of-disturbance\r\n";

impl Disturber {
    /// Begins at `begin_at`.
    pub fn new(
        port: u16,
        commands: Vec<Template>,
        pause: Duration,
        begin_at: Instant,
    ) -> io::Result<Disturber> {
        Ok(Disturber {
            link: Link::connect(port)?,
            commands,
            pause,
            next: 0,
            begin_at,
            is_running: false,
            tail: Vec::new(),
            head: Vec::new(),
            done: 0,
            errors: 0,
            longest: Duration::ZERO,
        })
    }

    pub fn step(&mut self, now: Instant, rng: &mut Rng, chunk: &mut [u8]) -> io::Result<()> {
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
