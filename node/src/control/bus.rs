//! The bus: TCP links between nodes that carry frames. A link is opened when there is something to send and carries one
//! way; the receiver answers on it only with how many frames it has got, so that a link which swallows bytes is noticed
//! and replaced. Frames may be lost with a link; the protocols above expect that. With `tls-cluster` links are under TLS,
//! and both sides show certificates.

use crate::env::Env;
use crate::shared::Shared;
use gossip::Packet;
use gossip::topology::ClusterId;
use gossip::wire::{self, FrameError, KIND_CONTROL, KIND_DATA};
use proto::Mono;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// Frames that wait for one link; more are dropped.
const QUEUE_FRAMES_MAX: usize = 4096;
/// Frames that wait for the control loop; then links are not read.
const INBOUND_MAX: usize = 8192;
/// A link that carried nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Links on which nothing valid has come yet; more are not accepted. Choice: far above what a cluster that starts needs
/// at one instant, far below what processes may open.
const STRANGERS_MAX: usize = 512;
/// Lines a second that the log has for links that were refused.
const REFUSED_LINE: Duration = Duration::from_secs(1);

/// What came in.
pub enum Inbound {
    Packet { from_ip: String, packet: Box<Packet> },
    Data { cluster: ClusterId, body: Vec<u8> },
}

/// See the module's head.
pub struct Bus<E: Env> {
    shared: Arc<Shared<E>>,
    secret: Option<Vec<u8>>,
    /// Longest time that a frame may go without being acknowledged.
    silence: Duration,
    links: RefCell<BTreeMap<(String, u16), mpsc::Sender<Rc<Vec<u8>>>>>,
    inbound: mpsc::Sender<Inbound>,
    pub sent: Cell<u64>,
    pub received: Cell<u64>,
    strangers: Cell<usize>,
    refused: Cell<u64>,
    /// When the log was last told of a refused link.
    refused_line: Cell<Option<Mono>>,
}

/// Counts a link until something valid has come on it.
struct Stranger<'a>(&'a Cell<usize>);

impl<'a> Stranger<'a> {
    fn new(count: &'a Cell<usize>) -> Stranger<'a> {
        count.set(count.get() + 1);
        Stranger(count)
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<E: Env> Bus<E> {
    pub fn new(
        shared: Arc<Shared<E>>,
        secret: &str,
        silence: Duration,
    ) -> (Rc<Bus<E>>, mpsc::Receiver<Inbound>) {
        let (inbound, receiver) = mpsc::channel(INBOUND_MAX);
        let bus = Bus {
            shared,
            secret: (!secret.is_empty()).then(|| secret.as_bytes().to_vec()),
            silence,
            links: RefCell::default(),
            inbound,
            sent: Cell::new(0),
            received: Cell::new(0),
            strangers: Cell::new(0),
            refused: Cell::new(0),
            refused_line: Cell::new(None),
        };
        (Rc::new(bus), receiver)
    }

    pub fn encode(&self, packet: &Packet) -> Rc<Vec<u8>> {
        Rc::new(wire::encode(packet, self.secret.as_deref()))
    }
    /// A frame of the node's own kind.
    pub fn encode_data(&self, cluster: ClusterId, body: &[u8]) -> Rc<Vec<u8>> {
        Rc::new(wire::encode_body(KIND_DATA, cluster, body, self.secret.as_deref()))
    }

    /// Queues a frame for an address; dropped when too many wait already.
    pub fn send(self: &Rc<Self>, ip: &str, port: u16, frame: Rc<Vec<u8>>) {
        if ip.is_empty() || port == 0 {
            return;
        }
        self.sent.set(self.sent.get() + 1);
        let key = (ip.to_string(), port);
        let mut links = self.links.borrow_mut();
        let is_open = links.get(&key).is_some_and(|l| !l.is_closed());
        if !is_open {
            let (queue, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
            links.insert(key.clone(), queue);
            tokio::task::spawn_local(self.clone().run_link(key.clone(), frames));
        }
        let _ = links[&key].try_send(frame);
    }

    /// Addresses with an open link.
    pub fn addresses(&self) -> Vec<(String, u16)> {
        self.links.borrow().iter().filter(|(_, l)| !l.is_closed()).map(|(a, _)| a.clone()).collect()
    }

    async fn run_link(self: Rc<Self>, key: (String, u16), mut frames: mpsc::Receiver<Rc<Vec<u8>>>) {
        let is_tls = self.shared.settings().is_cluster_tls;
        let connect = crate::tls::connect(&self.shared, "", &key.0, key.1, is_tls);
        let stream = match tokio::time::timeout(self.silence, connect).await {
            Ok(Ok(stream)) => stream,
            // What waits is stale by the time the peer is back. Closing the queue makes the next send try again.
            Ok(Err(error)) => {
                tracing::debug!(to = %key.0, port = key.1, %error, "cluster bus: no link");
                return frames.close();
            }
            Err(_) => return frames.close(),
        };
        let (reader, writer) = tokio::io::split(stream);
        let progress = Rc::new(Progress::default());
        let acks = tokio::task::spawn_local(read_acks(reader, progress.clone()));
        self.write_frames(&mut frames, writer, &progress).await;
        frames.close();
        acks.abort();
    }

    async fn write_frames(
        &self,
        frames: &mut mpsc::Receiver<Rc<Vec<u8>>>,
        mut writer: WriteHalf<E::Stream>,
        progress: &Progress,
    ) {
        let mut sent = 0u64;
        let (mut seen, mut silent_since) = (0u64, self.shared.env.now().mono);
        let mut idle_since = self.shared.env.now().mono;
        loop {
            let next = tokio::time::timeout(self.silence / 4, frames.recv()).await;
            let now = self.shared.env.now().mono;
            if progress.acked.get() != seen || sent == seen {
                (seen, silent_since) = (progress.acked.get(), now);
            }
            if progress.is_closed.get() || sent > seen && now.since(silent_since) > self.silence {
                return;
            }
            match next {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    idle_since = now;
                    let write = tokio::time::timeout(self.silence, writer.write_all(&frame)).await;
                    if !matches!(write, Ok(Ok(()))) {
                        return;
                    }
                    sent += 1;
                }
                Err(_) if now.since(idle_since) > IDLE => return,
                Err(_) => {}
            }
        }
    }

    /// Accepts links for as long as the node lives.
    pub async fn accept(self: Rc<Self>, listener: E::Listener) {
        loop {
            match self.shared.env.accept(&listener).await {
                Ok((socket, peer, _)) => {
                    let Some(stream) = self.adopt(socket) else { continue };
                    let ip = peer.ip().to_canonical().to_string();
                    if self.strangers.get() >= STRANGERS_MAX {
                        self.refuse(&ip, "too many links that say nothing");
                        continue;
                    }
                    tokio::task::spawn_local(self.clone().read_link(stream, ip));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// The link as it is spoken now.
    fn adopt(&self, socket: E::Socket) -> Option<E::Stream> {
        let env = &self.shared.env;
        let socket = match self.shared.settings().is_cluster_tls {
            true => env.secure_accepted(socket, &self.shared.tls.load().as_ref()?.bus).ok()?,
            false => socket,
        };
        env.adopt(socket).ok()
    }

    /// Tells the log of a link that was closed for what came on it, at most once a second.
    fn refuse(&self, from_ip: &str, reason: &str) {
        self.refused.set(self.refused.get() + 1);
        let now = self.shared.env.now().mono;
        if self.refused_line.get().is_none_or(|last| now.since(last) >= REFUSED_LINE) {
            self.refused_line.set(Some(now));
            let links = self.refused.take();
            tracing::warn!(from = %from_ip, reason, links, "cluster bus: link closed");
        }
    }

    async fn read_link(self: Rc<Self>, stream: E::Stream, from_ip: String) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (mut buf, mut count) = (Vec::new(), 0u64);
        let mut stranger = Some(Stranger::new(&self.strangers));
        loop {
            let before = count;
            loop {
                match wire::decode_body(&buf, self.secret.as_deref()) {
                    Err(FrameError::Incomplete) => break,
                    Err(error) => {
                        return self.refuse(&from_ip, &format!("bytes that are no frame of ours: {error:?}"));
                    }
                    Ok((header, body, used)) => {
                        count += 1;
                        self.received.set(self.received.get() + 1);
                        let inbound = match header.kind {
                            KIND_CONTROL => match wire::decode(&header, body) {
                                Ok(packet) => {
                                    Inbound::Packet { from_ip: from_ip.clone(), packet: Box::new(packet) }
                                }
                                Err(error) => {
                                    return self.refuse(&from_ip, &format!("a bad packet: {error:?}"));
                                }
                            },
                            _ => Inbound::Data { cluster: header.cluster, body: body.to_vec() },
                        };
                        buf.drain(..used);
                        stranger = None;
                        if self.inbound.send(inbound).await.is_err() {
                            return;
                        }
                    }
                }
            }
            if count != before {
                let ack = tokio::time::timeout(self.silence, writer.write_all(&count.to_le_bytes())).await;
                if !matches!(ack, Ok(Ok(()))) {
                    return;
                }
            }
            let mut chunk = [0u8; 16 * 1024];
            // A peer opens a link to send at once; later its end comes first: it closes idle links by itself.
            let patience = if stranger.is_some() { self.silence } else { IDLE * 2 };
            match tokio::time::timeout(patience, reader.read(&mut chunk)).await {
                Ok(Ok(n)) if n > 0 => buf.extend_from_slice(&chunk[..n]),
                _ => return,
            }
        }
    }
}

#[derive(Default)]
struct Progress {
    acked: Cell<u64>,
    is_closed: Cell<bool>,
}

async fn read_acks<S: tokio::io::AsyncRead>(mut reader: ReadHalf<S>, progress: Rc<Progress>) {
    let mut ack = [0u8; 8];
    while reader.read_exact(&mut ack).await.is_ok() {
        progress.acked.set(u64::from_le_bytes(ack));
    }
    progress.is_closed.set(true);
}
