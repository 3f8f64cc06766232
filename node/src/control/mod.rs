//! The control loop: feeds the cluster's state machines and carries out their effects in order.

use crate::pubsub::Space;
use tokio::sync::mpsc;

/// What the rest of the node asks of the control loop.
pub enum ControlRequest {
    Publish { space: Space, channel: Vec<u8>, message: Vec<u8> },
}

/// The way to the control loop.
pub struct ControlHandle {
    requests: mpsc::UnboundedSender<ControlRequest>,
    is_cluster: bool,
}

impl ControlHandle {
    pub fn new(is_cluster: bool) -> (ControlHandle, mpsc::UnboundedReceiver<ControlRequest>) {
        let (requests, inbox) = mpsc::unbounded_channel();
        (ControlHandle { requests, is_cluster }, inbox)
    }
    /// Sends a message to the subscribers of the other nodes.
    pub fn publish(&self, space: Space, channel: &[u8], message: &[u8]) {
        if self.is_cluster {
            let _ = self.requests.send(ControlRequest::Publish {
                space,
                channel: channel.to_vec(),
                message: message.to_vec(),
            });
        }
    }
    /// Bus links that are open.
    pub fn links(&self) -> usize {
        0
    }
}
