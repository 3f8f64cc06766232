//! A connection to a node, and one to a cluster that follows redirects.

use crate::tls::{Stream, Tls};
use proto::resp::{Value, decode, encode_command};
use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Where a node is reached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Parses `host:port`. IPv6 addresses may stand in brackets.
    pub fn parse(text: &str) -> Option<Address> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty()).then_some(())?;
        Some(Address { host: host.to_string(), port: port.parse().ok()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How to introduce oneself.
#[derive(Clone, Default, Debug)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
    pub db: u32,
    pub is_resp3: bool,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
}

/// Why there is no reply.
#[derive(Debug)]
pub enum ClientError {
    Connect(Address, std::io::Error),
    /// The connection broke; whether the command was carried out is not known.
    Broken(Address, std::io::Error),
    /// The bytes are no reply.
    Protocol(Address, &'static str),
    /// The node refused the login.
    Refused(Address, String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect(to, e) => write!(f, "Could not connect to {to}: {e}"),
            ClientError::Broken(to, e) => write!(f, "The connection to {to} broke: {e}"),
            ClientError::Protocol(to, what) => write!(f, "{to} does not speak the Redis protocol: {what}"),
            ClientError::Refused(to, text) => write!(f, "{to}: {text}"),
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection.
pub struct Client {
    pub address: Address,
    stream: Stream,
    input: Vec<u8>,
}

impl Client {
    pub fn connect(address: &Address, login: &Login) -> Result<Client, ClientError> {
        let fail = |e| ClientError::Connect(address.clone(), e);
        let mut targets = (address.host.as_str(), address.port).to_socket_addrs().map_err(fail)?;
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        let stream = targets.find_map(|to| match TcpStream::connect_timeout(&to, CONNECT_TIMEOUT) {
            Ok(stream) => Some(stream),
            Err(error) => {
                last = error;
                None
            }
        });
        let Some(stream) = stream else { return Err(fail(last)) };
        let _ = stream.set_nodelay(true);
        let stream = match &login.tls {
            Some(tls) => tls.begin(stream, &address.host).map_err(fail)?,
            None => Stream::Plain(stream),
        };
        let mut client = Client { address: address.clone(), stream, input: Vec::new() };
        client.log_in(login)?;
        Ok(client)
    }

    fn log_in(&mut self, login: &Login) -> Result<(), ClientError> {
        let mut steps: Vec<Vec<String>> = Vec::new();
        if let Some(password) = &login.password {
            let user = login.user.iter().cloned();
            steps.push(std::iter::once("AUTH".to_string()).chain(user).chain([password.clone()]).collect());
        }
        if login.is_resp3 {
            steps.push(vec!["HELLO".into(), "3".into()]);
        }
        if login.db != 0 {
            steps.push(vec!["SELECT".into(), login.db.to_string()]);
        }
        for step in steps {
            if let Value::Error(text) = self.call(&step)? {
                return Err(ClientError::Refused(self.address.clone(), text));
            }
        }
        Ok(())
    }

    /// Limits the wait for each reply; `None`: as long as it takes.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        let _ = self.stream.tcp().set_read_timeout(timeout);
    }

    /// Sends a command and waits for its reply. Out-of-band messages that come before it are passed over.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Value, ClientError> {
        self.send(args)?;
        loop {
            match self.receive()? {
                Value::Push(_) => {}
                value => return Ok(value),
            }
        }
    }

    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<(), ClientError> {
        let mut request = Vec::new();
        encode_command(args, &mut request);
        self.stream.write_all(&request).map_err(|e| ClientError::Broken(self.address.clone(), e))
    }

    /// The next reply or message.
    pub fn receive(&mut self) -> Result<Value, ClientError> {
        let mut chunk = [0u8; 16 * 1024];
        loop {
            match decode(&self.input) {
                Ok(Some((value, used))) => {
                    self.input.drain(..used);
                    return Ok(value);
                }
                Ok(None) => {}
                Err(error) => return Err(ClientError::Protocol(self.address.clone(), error.0)),
            }
            let broken = |e| ClientError::Broken(self.address.clone(), e);
            match self.stream.read(&mut chunk).map_err(broken)? {
                0 => return Err(broken(std::io::ErrorKind::UnexpectedEof.into())),
                n => self.input.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

/// Where an error sends the client: the slot, the node, and whether ASKING comes first.
pub fn redirect(value: &Value, from: &Address) -> Option<(u16, Address, bool)> {
    let Value::Error(text) = value else { return None };
    let mut words = text.split(' ');
    let is_ask = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    let slot = words.next()?.parse().ok()?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    // An empty host means the node that was asked.
    let host = if host.is_empty() { &from.host } else { host };
    Some((slot, Address { host: host.to_string(), port: port.parse().ok()? }, is_ask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let a = Address::parse("127.0.0.1:7000").unwrap();
        assert_eq!((a.host.as_str(), a.port), ("127.0.0.1", 7000));
        assert_eq!(Address::parse("[::1]:7000").unwrap().to_string(), "[::1]:7000");
        assert_eq!(Address::parse("7000"), None);
        assert_eq!(Address::parse(":7000"), None);
        assert_eq!(Address::parse("h:70000"), None);
    }

    #[test]
    fn redirects() {
        let from = Address::parse("h:1").unwrap();
        let error = |t: &str| Value::Error(t.into());
        let to = Address::parse("10.0.0.1:7001").unwrap();
        assert_eq!(redirect(&error("MOVED 5 10.0.0.1:7001"), &from), Some((5, to.clone(), false)));
        assert_eq!(redirect(&error("ASK 5 10.0.0.1:7001"), &from), Some((5, to, true)));
        assert_eq!(redirect(&error("MOVED 5 :7002"), &from).unwrap().1.to_string(), "h:7002");
        assert_eq!(redirect(&error("ERR x"), &from), None);
    }
}
