//! A client that does one thing after the other.

use crate::DEADLINE;
use proto::resp::{decode, encode_command};
use std::io::{self, Read, Write};
use std::net::TcpStream;

pub use proto::resp::Value;

/// A connection to a server.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    pub fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Client { stream, input: Vec::new() })
    }

    /// Sends a command without waiting for its reply.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        let mut out = Vec::new();
        encode_command(args, &mut out);
        self.stream.write_all(&out)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next reply.
    pub fn receive(&mut self) -> io::Result<Value> {
        loop {
            match decode(&self.input).map_err(|e| io::Error::other(e.0))? {
                Some((value, used)) => {
                    self.input.drain(..used);
                    return Ok(value);
                }
                None => {
                    let mut chunk = [0; 16 * 1024];
                    let n = self.stream.read(&mut chunk)?;
                    if n == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.input.extend_from_slice(&chunk[..n]);
                }
            }
        }
    }

    pub fn try_call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.send(args)?;
        self.receive()
    }

    /// A command as one line of words. Panics when the connection ends.
    pub fn call(&mut self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        self.try_call(&words).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// As [`Client::call`]; panics when the answer is an error.
    pub fn ok(&mut self, line: &str) -> Value {
        let value = self.call(line);
        assert!(!value.is_error(), "{line}: {value:?}");
        value
    }

    pub fn text(&mut self, line: &str) -> String {
        let value = self.ok(line);
        value.as_text().unwrap_or_else(|| panic!("{line}: {value:?}")).to_string()
    }

    /// A line of INFO.
    pub fn info(&mut self, name: &str) -> String {
        let all = self.text("INFO everything");
        let line = all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("INFO has no {name}")).to_string()
    }
}
