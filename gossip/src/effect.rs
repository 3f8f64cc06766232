//! What the driver tells a core, and what it must carry out for it, in order.

use crate::admin::{Command, Outcome, Refusal};
use crate::record::Record;
use crate::topology::Topology;
use crate::wire::{Packet, v2::Position};
use proto::{Epoch, Generation, NodeId, Offset};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum Event {
    /// Nothing but time has passed. Due at [`crate::Core::next_deadline`]; harmless at any time.
    Tick,
    /// A packet, with the address it came from if the driver knows it.
    Packet { from_ip: Option<String>, packet: Box<Packet> },
    /// Somebody at this node asks for something; answered by [`Effect::Answer`] with the same token, once.
    Command { token: u64, command: Command },
    /// How far our copy reaches. To be kept fresh: it is what a failover compares.
    Position(Position),
    /// Acknowledged bytes of ours were lost or are about to be discarded (D7, D10).
    GenerationEnded,
    /// Our log is durable up to here and others were told so (D7).
    HighWater { epoch: Epoch, offset: Offset },
    /// Answer to [`Effect::Drain`]: writes are paused and this member has matched our log's end.
    Drained { to: NodeId, generation: Generation },
    /// Answer to [`Effect::Drain`]: nobody caught up in time; writes go on.
    DrainFailed,
    /// Stand for leadership at once. Harmless at any time, and how the simulator makes duels.
    Stand,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    Node(NodeId),
    /// A node whose name is not known yet.
    Address {
        ip: String,
        bus_port: u16,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Make this durable before carrying out what follows; a failure to do so ends the process.
    Persist(Box<Record>),
    /// May be lost, late or doubled. A packet to ourselves is handed back as an event, after what stands before it.
    Send {
        to: Peer,
        packet: Box<Packet>,
    },
    /// A new version is in force here: publish a view, compare slots and roles.
    Adopted(Arc<Topology>),
    /// Something else that a view shows has changed: health, tenure, stopped slots.
    Publish,
    /// Pause writes and wait until `to` (or, if `None`, the best member) has matched; then say `Drained` or `DrainFailed`.
    Drain {
        to: Option<NodeId>,
    },
    Answer {
        token: u64,
        result: Result<Outcome, Refusal>,
    },
}
