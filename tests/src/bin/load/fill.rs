//! Fills servers and rewrites keys, as fast as both sides can.

use crate::template::{Rng, Template};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub fn fill(port: u16, count: u64, template: &Template, mut rng: Rng) -> io::Result<()> {
    let mut filler = Filler::connect(port)?;
    for i in 0..count {
        filler.send(template, i, &mut rng)?;
    }
    filler.flush()?;
    filler.report();
    Ok(())
}

/// Writes `keys` keys, then in each round deletes a random half and writes it again with other sizes.
pub fn churn(port: u16, keys: u64, rounds: u64, min: u64, max: u64, mut rng: Rng) -> io::Result<()> {
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

/// Length of the reply at the start of `buf`; `None` while it is incomplete. The peer is a server under test, not an
/// attacker: nesting follows the call stack.
pub fn reply_len(buf: &[u8]) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_measured_whole() {
        for reply in ["+OK\r\n", "$-1\r\n", "$3\r\nabc\r\n", "*2\r\n$1\r\na\r\n*1\r\n:5\r\n", "*-1\r\n"] {
            assert_eq!(reply_len(format!("{reply}+more\r\n").as_bytes()), Some(reply.len()));
            assert_eq!(reply_len(&reply.as_bytes()[..reply.len() - 1]), None);
        }
    }
}
