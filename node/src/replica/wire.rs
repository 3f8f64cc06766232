//! Lines and bytes from a primary, each with a deadline.

use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a link to a primary ended.
#[derive(Debug)]
pub enum LinkEnd {
    Closed,
    TimedOut,
    Io(io::Error),
    /// The primary said no, in these words.
    Refused(String),
    /// What came makes no sense.
    Protocol(String),
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkEnd::Closed => f.write_str("the primary closed the connection"),
            LinkEnd::TimedOut => f.write_str("no data nor PING received within repl-timeout"),
            LinkEnd::Io(error) => error.fmt(f),
            LinkEnd::Refused(text) => write!(f, "the primary replied: {text}"),
            LinkEnd::Protocol(text) => write!(f, "protocol error: {text}"),
        }
    }
}

/// A stream with what was read of it and not yet used.
pub struct Wire<S> {
    stream: S,
    buf: Vec<u8>,
    /// Longest silence.
    timeout: Duration,
}

/// Longest line of a handshake.
const LINE_BYTES_MAX: usize = 16 * 1024;
const READ_BYTES: usize = 64 * 1024;

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S, timeout: Duration) -> Wire<S> {
        Wire { stream, buf: Vec::new(), timeout }
    }

    /// Sends all of `bytes`.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkEnd> {
        match tokio::time::timeout(self.timeout, self.stream.write_all(bytes)).await {
            Err(_) => Err(LinkEnd::TimedOut),
            Ok(result) => result.map_err(LinkEnd::Io),
        }
    }
    /// Sends a command.
    pub async fn command(&mut self, args: &[&[u8]]) -> Result<(), LinkEnd> {
        let mut bytes = Vec::new();
        proto::resp::encode_command(args, &mut bytes);
        self.send(&bytes).await
    }

    /// Reads more; returns how much. Nothing is lost when this is dropped before its end.
    pub async fn fill(&mut self) -> Result<usize, LinkEnd> {
        self.buf.reserve(READ_BYTES);
        match tokio::time::timeout(self.timeout, self.stream.read_buf(&mut self.buf)).await {
            Err(_) => Err(LinkEnd::TimedOut),
            Ok(Err(error)) => Err(LinkEnd::Io(error)),
            Ok(Ok(0)) => Err(LinkEnd::Closed),
            Ok(Ok(n)) => Ok(n),
        }
    }
    /// Bytes that were read and not used.
    pub fn unused_bytes(&self) -> usize {
        self.buf.len()
    }
    /// What was read and not used.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buf)
    }
    /// Gives back what was taken too much, before anything else is read.
    pub fn give_back(&mut self, bytes: &[u8]) {
        assert!(self.buf.is_empty(), "bytes are given back in order");
        self.buf.extend_from_slice(bytes);
    }

    /// The next line that is not empty: a primary sends empty ones while it prepares.
    pub async fn line(&mut self) -> Result<String, LinkEnd> {
        loop {
            let skip = self.buf.iter().take_while(|b| **b == b'\n' || **b == b'\r').count();
            self.buf.drain(..skip);
            if let Some(end) = self.buf.iter().position(|b| *b == b'\n') {
                let line = String::from_utf8_lossy(&self.buf[..end]).trim_end().to_string();
                self.buf.drain(..=end);
                return Ok(line);
            }
            if self.buf.len() > LINE_BYTES_MAX {
                return Err(LinkEnd::Protocol("a line without end".into()));
            }
            self.fill().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn wire(bytes: &[u8]) -> Wire<tokio::io::DuplexStream> {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        ours.write_all(bytes).await.unwrap();
        drop(ours);
        Wire::new(theirs, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn empty_lines_are_skipped_and_the_rest_is_kept() {
        let mut wire = wire(b"\n\n+PONG\r\n$EOF").await;
        assert_eq!(wire.line().await.unwrap(), "+PONG");
        assert_eq!(wire.take(), b"$EOF");
        assert!(matches!(wire.fill().await, Err(LinkEnd::Closed)));
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let mut wire = wire(&[b'x'; 100_000]).await;
        assert!(matches!(wire.line().await, Err(LinkEnd::Protocol(_))));
    }
}
