//! Clients of the simulated cluster: they find their node by redirects, and give up on a node that does not answer.

use proto::resp::{Value, decode, encode_command};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use turmoil::net::TcpStream;

pub const PORT: u16 = 6379;
/// Longest wait for one answer. turmoil's streams may swallow bytes for ever.
const PATIENCE: Duration = Duration::from_millis(1500);
const REDIRECTS_MAX: usize = 5;

/// What is known of a command's outcome.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Reply(Value),
    /// It may have been carried out or not.
    Unknown,
}

/// A client with one connection per node.
pub struct Client {
    nodes: Vec<IpAddr>,
    links: BTreeMap<IpAddr, TcpStream>,
    /// Where the last command of a key's slot was answered.
    owners: BTreeMap<u16, IpAddr>,
}

impl Client {
    pub fn new(nodes: Vec<IpAddr>) -> Client {
        Client { nodes, links: BTreeMap::new(), owners: BTreeMap::new() }
    }

    /// Sends a command to one node.
    pub async fn ask(&mut self, node: IpAddr, words: &[&str]) -> Answer {
        let asked = tokio::time::timeout(PATIENCE, self.exchange(node, words)).await;
        match asked {
            Ok(Ok(value)) => Answer::Reply(value),
            _ => {
                self.links.remove(&node);
                Answer::Unknown
            }
        }
    }

    async fn exchange(&mut self, node: IpAddr, words: &[&str]) -> std::io::Result<Value> {
        if let Entry::Vacant(link) = self.links.entry(node) {
            link.insert(TcpStream::connect((node, PORT)).await?);
        }
        let stream = self.links.get_mut(&node).expect("just put there");
        let mut request = Vec::new();
        encode_command(words, &mut request);
        stream.write_all(&request).await?;
        let (mut reply, mut chunk) = (Vec::new(), [0u8; 4096]);
        loop {
            if let Ok(Some((value, _))) = decode(&reply) {
                return Ok(value);
            }
            match stream.read(&mut chunk).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => reply.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// Sends a command about `key` to whoever owns it; gives the answer and who gave it.
    pub async fn keyed(&mut self, key: &str, words: &[&str], pick: u64) -> (Answer, IpAddr) {
        let slot = proto::Slot::of_key(key.as_bytes()).number();
        let fallback = self.nodes[(pick % self.nodes.len() as u64) as usize];
        let mut node = self.owners.get(&slot).copied().unwrap_or(fallback);
        for _ in 0..REDIRECTS_MAX {
            let answer = self.ask(node, words).await;
            match &answer {
                Answer::Reply(Value::Error(error)) if error.starts_with("MOVED ") => {
                    let to =
                        error.rsplit(' ').next().and_then(|a| a.rsplit_once(':')).map(|(ip, _)| ip.parse());
                    match to {
                        Some(Ok(ip)) => node = ip,
                        _ => return (answer, node),
                    }
                    self.owners.insert(slot, node);
                }
                Answer::Reply(value) if !value.is_error() => {
                    self.owners.insert(slot, node);
                    return (answer, node);
                }
                _ => {
                    self.owners.remove(&slot);
                    return (answer, node);
                }
            }
        }
        (Answer::Unknown, node)
    }
}
