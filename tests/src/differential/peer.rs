//! A connection that sends many commands at once and keeps the bytes of each reply.

use super::draw::Args;
use crate::Value;
use proto::resp::{decode, encode_command};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long a server may take over one pipeline.
const PATIENCE: Duration = Duration::from_secs(10);

/// A reply and the bytes it came in.
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    pub value: Value,
    pub raw: Vec<u8>,
}

pub struct Peer {
    stream: TcpStream,
}

impl Peer {
    pub fn connect(port: u16) -> io::Result<Peer> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Peer { stream })
    }

    /// Sends all commands and reads as many replies.
    pub fn run(&mut self, commands: &[Args]) -> io::Result<Vec<Reply>> {
        let mut out = Vec::new();
        commands.iter().for_each(|args| encode_command(args, &mut out));
        self.stream.write_all(&out)?;
        let (mut input, mut at, mut replies) = (Vec::new(), 0, Vec::new());
        let mut chunk = vec![0; 256 * 1024];
        while replies.len() < commands.len() {
            match decode(&input[at..]).map_err(|e| io::Error::other(e.0))? {
                Some((Value::Push(_), used)) => at += used,
                Some((value, used)) => {
                    replies.push(Reply { value, raw: input[at..at + used].to_vec() });
                    at += used;
                }
                None => match self.stream.read(&mut chunk)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => input.extend_from_slice(&chunk[..n]),
                },
            }
        }
        Ok(replies)
    }
}
