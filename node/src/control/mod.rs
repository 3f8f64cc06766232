//! The control loop: feeds the cluster's state machines with packets, timers and requests, and carries out their effects
//! in order.
//!
//! Invariant: an effect is carried out after everything before it in its list, the fsync of a `Persist` included.

mod bus;
mod driver;
mod insync;
mod roles;

pub use driver::run;

use crate::pubsub::Space;
use gossip::{Command, Outcome, Refusal};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Takes the answer of a request.
pub type Answer = Box<dyn FnOnce(Result<Outcome, Refusal>) + Send>;

/// What the rest of the node asks of the control loop.
pub enum ControlRequest {
    /// A message for the subscribers of other nodes.
    Publish { space: Space, channel: Vec<u8>, message: Vec<u8> },
    /// A change of the cluster, or a question to it.
    Command { command: Command, answer: Answer },
}

/// A bus link, as CLUSTER LINKS shows it.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    pub is_outgoing: bool,
    pub ip: String,
    pub bus_port: u16,
    pub created_ms: i64,
    pub queued_bytes: usize,
}

/// What the loop publishes besides the view, for CLUSTER INFO and CLUSTER LINKS.
#[derive(Clone, Debug, Default)]
pub struct ControlStatus {
    pub sent: u64,
    pub received: u64,
    pub links: Vec<LinkInfo>,
    pub my_epoch: u64,
    pub leader: Option<proto::NodeId>,
    pub failure_reports: Vec<(proto::NodeId, usize)>,
    pub moves: Vec<gossip::topology::Move>,
    /// Nodes that were forgotten, for tools that ask every node to forget them.
    pub departed: Vec<proto::NodeId>,
}

/// The way to the control loop.
pub struct ControlHandle {
    requests: mpsc::UnboundedSender<ControlRequest>,
    is_cluster: bool,
    pub link_count: Arc<AtomicUsize>,
    status: Mutex<ControlStatus>,
}

/// What the loop receives.
pub type ControlInbox = mpsc::UnboundedReceiver<ControlRequest>;

impl ControlHandle {
    pub fn new(is_cluster: bool) -> (ControlHandle, ControlInbox) {
        let (requests, inbox) = mpsc::unbounded_channel();
        let handle =
            ControlHandle { requests, is_cluster, link_count: Arc::default(), status: Mutex::default() };
        (handle, inbox)
    }
    /// Sends a message to the subscribers of the other nodes.
    pub fn publish(&self, space: Space, channel: &[u8], message: &[u8]) {
        if self.is_cluster {
            let (channel, message) = (channel.to_vec(), message.to_vec());
            let _ = self.requests.send(ControlRequest::Publish { space, channel, message });
        }
    }
    /// Asks for a change; `answer` is called once, on the control thread.
    pub fn ask(&self, command: Command, answer: Answer) {
        let _ = self.requests.send(ControlRequest::Command { command, answer });
    }
    /// Bus links that are open.
    pub fn links(&self) -> usize {
        self.link_count.load(Ordering::Relaxed)
    }
    pub fn status(&self) -> MutexGuard<'_, ControlStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
