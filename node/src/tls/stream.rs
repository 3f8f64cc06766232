//! A TCP connection under TLS, with rustls between the socket and whoever reads and writes.
//!
//! A write is accepted when the kernel has all of its ciphertext: nobody need flush, and what a connection counts as unsent
//! is unsent. As with OpenSSL, who was told to wait comes again with the same bytes.
//!
//! Invariant: reading goes on until the socket has no more *and* no plaintext is left; only then is it pending.
//! Invariant: the reading side never waits for the socket to take bytes while a write is under way: a task of its own may
//! wait for that.

use super::{Acceptor, Complaints, Connector};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};
use std::future::poll_fn;
use std::io::{self, BufRead, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Plaintext that is encrypted at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Time for a handshake. Choice: a round trip around the world ten times over; Redis waits for ever.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// See the module's head.
pub struct TlsStream {
    tcp: TcpStream,
    tls: Connection,
    /// Plaintext of the present write that is encrypted, but not sent yet.
    accepted: usize,
    /// The end of the handshake's time; gone with the handshake.
    deadline: Option<Pin<Box<Sleep>>>,
    /// For the log; `None` on connections of our own, whose errors are told by who opened them.
    complaints: Option<(Arc<Complaints>, String)>,
    has_failed: bool,
}

impl TlsStream {
    /// A connection that a peer opened. The handshake comes with the first read.
    pub fn accepted(tcp: TcpStream, acceptor: &Acceptor) -> io::Result<TlsStream> {
        let from = tcp.peer_addr().map_or_else(|_| "?".into(), |a| a.to_string());
        let tls = ServerConnection::new(acceptor.config.clone()).map_err(io::Error::other)?;
        Ok(TlsStream::new(tcp, tls.into(), Some((acceptor.complaints.clone(), from))))
    }

    /// Puts TLS on a connection of ours; on return the handshake is over.
    pub async fn connected(tcp: TcpStream, connector: &Connector, host: &str) -> io::Result<TlsStream> {
        // Only certificates' names would be compared with it, and they are not.
        let name = ServerName::try_from(host.to_string())
            .unwrap_or_else(|_| ServerName::try_from("node.invalid").expect("it is a name"));
        let tls = ClientConnection::new(connector.0.clone(), name).map_err(io::Error::other)?;
        let mut stream = TlsStream::new(tcp, tls.into(), None);
        poll_fn(|cx| stream.shake_hands(cx)).await?;
        Ok(stream)
    }

    fn new(tcp: TcpStream, mut tls: Connection, complaints: Option<(Arc<Complaints>, String)>) -> TlsStream {
        // What is taken at a time is bounded here, not there.
        tls.set_buffer_limit(None);
        let deadline = Some(Box::pin(tokio::time::sleep(HANDSHAKE)));
        TlsStream { tcp, tls, accepted: 0, deadline, complaints, has_failed: false }
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn shake_hands(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.send(cx))?;
            if !self.tls.is_handshaking() {
                self.deadline = None;
                return Poll::Ready(Ok(()));
            }
            match self.receive(cx) {
                Poll::Pending => {
                    ready!(self.look_at_clock(cx))?;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => {
                    self.has_failed = true;
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// `Ready`: the handshake's time is up.
    fn look_at_clock(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        self.has_failed = true;
        self.complain(&"the TLS handshake takes too long");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes ciphertext from the socket once. 0: there will be no more.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = match self.tls.read_tls(&mut Io { tcp: &mut self.tcp, cx }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => {
                self.has_failed = true;
                return Poll::Ready(Err(error));
            }
            Ok(n) => n,
        };
        if let Err(error) = self.tls.process_new_packets() {
            // The peer is told why, if the socket takes it at once; not who does not speak TLS at all.
            if !matches!(error, rustls::Error::InvalidMessage(_)) || !self.tls.is_handshaking() {
                let _ = self.tls.write_tls(&mut Io { tcp: &mut self.tcp, cx });
            }
            self.has_failed = true;
            self.complain(&error);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(n))
    }

    /// Gives the socket all ciphertext that there is.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Io { tcp: &mut self.tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => {
                    self.has_failed = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Plaintext that is here already. `Some(0)`: the peer has said that there will be no more.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<Option<usize>> {
        let mut reader = self.tls.reader();
        match reader.fill_buf() {
            Ok(bytes) => {
                let n = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..n]);
                reader.consume(n);
                Ok(Some(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // Who closes the socket without a word in TLS is gone all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    fn complain(&self, error: &dyn std::fmt::Display) {
        if let Some((complaints, from)) = &self.complaints {
            complaints.tell(from, error);
        }
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.deadline.is_some() {
            ready!(self.shake_hands(cx))?;
        }
        let before = buf.filled().len();
        loop {
            while buf.remaining() > 0 {
                match self.take(buf)? {
                    Some(n) if n > 0 => {}
                    Some(_) => return Poll::Ready(Ok(())),
                    None => break,
                }
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            // Tickets, and answers to changes of keys.
            if self.accepted == 0
                && let Poll::Ready(Err(error)) = self.send(cx)
            {
                return Poll::Ready(Err(error));
            }
            ready!(self.receive(cx))?;
        }
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.deadline.is_some() {
            ready!(self.shake_hands(cx))?;
        }
        if self.accepted == 0 {
            let chunk = &bytes[..bytes.len().min(CHUNK_BYTES)];
            self.accepted = self.tls.writer().write(chunk)?;
        }
        ready!(self.send(cx))?;
        assert!(self.accepted <= bytes.len(), "a write goes on with the bytes that it began with");
        Poll::Ready(Ok(std::mem::take(&mut self.accepted)))
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.send_close_notify();
        ready!(self.send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Drop for TlsStream {
    /// Says that this is the end, if the socket takes it at once.
    fn drop(&mut self) {
        if self.has_failed || self.deadline.is_some() {
            return;
        }
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut AtOnce(&self.tcp));
    }
}

/// The socket as rustls wants it.
struct Io<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Io<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        or_would_block(Pin::new(&mut *self.tcp).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl Write for Io<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.tcp).poll_write(self.cx, bytes))
    }
    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, parts))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct AtOnce<'a>(&'a TcpStream);

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
