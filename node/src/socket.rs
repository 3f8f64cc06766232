//! The real node's connections: TCP, TCP under TLS, or a Unix socket of this machine.

use crate::tls::{Acceptor, Connector, TlsStream};
use bytes::BufMut;
use rustix::net::{RecvFlags, SendFlags};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What a client of a Unix socket has for an address: loopback, and no port, which no connection over TCP has.
pub const UNIX_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A connection, bound to a thread.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed, so that the others do not carry its size.
    Tls(Box<TlsStream>),
}

/// A connection on its way to a thread.
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Tls(std::net::TcpStream, Acceptor),
}

pub enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Listener {
    /// The next connection: it, the peer's address and our own.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let own = stream.local_addr()?;
                stream.set_nodelay(true)?;
                Ok((Socket::Tcp(stream.into_std()?), peer, own))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream.into_std()?), UNIX_ADDRESS, UNIX_ADDRESS))
            }
        }
    }
}

impl Socket {
    pub fn adopt(self) -> io::Result<Stream> {
        match self {
            Socket::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Socket::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
            Socket::Tls(stream, acceptor) => {
                let stream = TlsStream::accepted(TcpStream::from_std(stream)?, &acceptor)?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }

    /// What the peer sends first is a TLS handshake.
    pub fn secure(self, acceptor: &Acceptor) -> io::Result<Socket> {
        match self {
            Socket::Tcp(stream) => Ok(Socket::Tls(stream, acceptor.clone())),
            Socket::Unix(_) | Socket::Tls(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Stream {
    /// Frees it from its thread. Not under TLS.
    pub fn release(self) -> io::Result<Socket> {
        match self {
            Stream::Tcp(stream) => stream.into_std().map(Socket::Tcp),
            Stream::Unix(stream) => stream.into_std().map(Socket::Unix),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Puts TLS on a connection of ours.
    pub async fn secure(self, connector: &Connector, host: &str) -> io::Result<Stream> {
        match self {
            Stream::Tcp(stream) => {
                let stream = TlsStream::connected(stream, connector, host).await?;
                Ok(Stream::Tls(Box::new(stream)))
            }
            Stream::Unix(_) | Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// See [`crate::Env::poll_read`].
    #[inline]
    pub fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => stream.read_some(cx, buf, max),
            Stream::Unix(stream) => stream.read_some(cx, buf, max),
            Stream::Tls(_) => {
                buf.reserve(max);
                tokio_util::io::poll_read_buf(Pin::new(self), cx, &mut buf.limit(max))
            }
        }
    }

    /// See [`crate::Env::is_drained`].
    #[inline]
    pub fn is_drained(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Stream::Tcp(stream) => stream.poll_readable(cx).is_pending(),
            Stream::Unix(stream) => stream.poll_readable(cx).is_pending(),
            // Plaintext may be left.
            Stream::Tls(_) => false,
        }
    }

    /// See [`crate::Env::poll_write`].
    #[inline]
    pub fn poll_write_some(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => stream.write_some(cx, bytes),
            Stream::Unix(stream) => stream.write_some(cx, bytes),
            Stream::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }
}

/// A socket whose bytes are the peer's, with what tokio knows of its readiness.
///
/// tokio's own reading and writing do the same for twice the instructions. The system is called directly: the C library's
/// functions are points where a thread may be cancelled, which takes two locked instructions each.
trait Plain: AsFd {
    fn try_io<T>(&self, interest: Interest, act: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Does `act` if the socket is ready for it. One that moved fewer bytes than `max`, but some, has shown that the socket is
    /// ready no more, until epoll says so again: the next one is spared a system call that would fail. Where the peer has
    /// sent its end this does not hold, and tokio keeps the readiness that says so.
    #[inline]
    fn attempt(
        &self,
        interest: Interest,
        max: usize,
        act: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = 0;
        let result = self.try_io(interest, || {
            moved = act()?;
            match 0 < moved && moved < max {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        });
        match result {
            Err(error) if moved == 0 => Err(error),
            _ => Ok(moved),
        }
    }

    #[inline]
    fn read_some(&self, cx: &mut Context<'_>, buf: &mut Vec<u8>, max: usize) -> Poll<io::Result<usize>> {
        buf.reserve(max);
        loop {
            let read = self.attempt(Interest::READABLE, max, || {
                let room = &mut buf.spare_capacity_mut()[..max];
                Ok(rustix::net::recv(self, room, RecvFlags::empty())?.1)
            });
            match read {
                Ok(n) => {
                    // SAFETY: the kernel has written `n` bytes there.
                    unsafe { buf.advance_mut(n) };
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_readable(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    #[inline]
    fn write_some(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let write = || Ok(rustix::net::send(self, bytes, SendFlags::NOSIGNAL)?);
            match self.attempt(Interest::WRITABLE, bytes.len(), write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_writable(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }
}

/// tokio has these by name for each kind of socket, and no trait for them.
macro_rules! plain {
    ($socket:ty) => {
        impl Plain for $socket {
            #[inline]
            fn try_io<T>(&self, interest: Interest, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
                self.try_io(interest, act)
            }
            fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }
            fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }
        }
    };
}
plain!(TcpStream);
plain!(UnixStream);

/// Listens at a path, in the place of a socket that an earlier life left there. `mode`: permissions; 0: as the process
/// makes files.
pub fn listen_at(path: &str, mode: u32) -> io::Result<Listener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = tokio::net::UnixListener::bind(path)?;
    if mode != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(Listener::Unix(listener))
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => stream.poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => stream.poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_unix_socket_takes_the_place_of_one_that_was_left() {
        let dir = std::env::temp_dir().join(format!("shoal-unix-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        drop(listen_at(path.to_str().unwrap(), 0).unwrap());
        let listener = listen_at(path.to_str().unwrap(), 0o700).unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        let (socket, peer, _) = listener.accept().await.unwrap();
        assert!(peer.ip().is_loopback() && peer.port() == 0);
        let mut served = socket.adopt().unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        served.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        std::fs::write(dir.join("file"), b"x").unwrap();
        assert!(listen_at(dir.join("file").to_str().unwrap(), 0).is_err(), "a file is not a socket");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
