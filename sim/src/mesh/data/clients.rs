//! Clients: unique values, a memory of what they were told, and one that hunts for stale reads.

use super::super::world::{Happening, World};
use super::*;
use crate::linearize::{Action, Operation, Verdict, check};
use std::collections::BTreeSet;

/// A client gives up on an answer after this; a write is then unknown.
const TIMEOUT_US: u64 = 500_000;

#[derive(Default)]
pub struct Client {
    attempt: u64,
    open: Option<(Key, Operation)>,
    node: usize,
    is_hunter: bool,
}

/// What all clients were told, by key.
#[derive(Default)]
pub struct History {
    operations: BTreeMap<Key, Vec<Operation>>,
    refused: BTreeSet<Value>,
    next_value: Value,
    /// Keys still to be read at the end; empty when all were.
    unread: BTreeSet<Key>,
}

impl World {
    pub(in super::super) fn start_clients(&mut self) {
        for c in 0..self.plan.clients {
            // The last one only reads, and prefers those who were primaries once.
            let is_hunter = c + 1 == self.plan.clients;
            self.clients.push(Client { is_hunter, ..Client::default() });
            self.schedule(300_000 + c as u64 * 1000, Happening::ClientGo { client: c });
        }
    }

    pub(in super::super) fn on_client_go(&mut self, c: usize) {
        if self.is_over || self.clients[c].open.is_some() {
            return;
        }
        let is_final = self.is_calm && self.now >= self.plan.end_us;
        let key = match self.history.unread.first() {
            Some(key) if is_final => *key,
            _ => self.data_rng.below(KEYS as u64) as Key,
        };
        let reads = is_final || self.clients[c].is_hunter || self.data_rng.chance(500);
        let action = if reads {
            Action::Read(None)
        } else {
            self.history.next_value += 1;
            Action::Write(self.history.next_value)
        };
        self.clients[c].attempt += 1;
        self.clients[c].open = Some((key, Operation { call: self.now, ret: None, action }));
        let node = self.pick_node(c, key);
        self.clients[c].node = node;
        let write = match action {
            Action::Write(value) => Some(value),
            Action::Read(_) => None,
        };
        let attempt = self.clients[c].attempt;
        let message = DataMsg::Client { client: c, attempt, key, write };
        let at = self.now + self.data_rng.between(100, 1500);
        self.schedule(at, Happening::Data { to: node, message });
        self.schedule(self.now + TIMEOUT_US, Happening::ClientTimeout { client: c, attempt });
    }

    /// Mostly the owner as some node sees it; often whom we asked last; the hunter anybody who believes to serve.
    fn pick_node(&mut self, c: usize, key: Key) -> usize {
        let count = self.nodes.len() as u64;
        let any = self.data_rng.below(count) as usize;
        let stays = self.data_rng.below(100);
        if self.clients[c].is_hunter && stays < 70 {
            let start = self.data_rng.below(count) as usize;
            let believers = (0..self.nodes.len()).map(|i| (i + start) % self.nodes.len());
            let believes = |i: &usize| self.nodes[*i].core.as_ref().is_some_and(|c| c.tenure().is_some());
            return believers.clone().find(believes).unwrap_or(any);
        }
        if stays < 20 {
            return self.clients[c].node;
        }
        let Some(core) = self.nodes[any].core.as_ref() else { return any };
        let topo = core.topology();
        let owner = topo.owner(slot_of(key)).and_then(|s| topo.shard(s)).map(|s| s.primary.node);
        self.nodes.iter().position(|n| Some(n.id) == owner).unwrap_or(any)
    }

    pub(in super::super) fn on_reply(&mut self, c: usize, attempt: u64, reply: ClientReply) {
        if self.clients.is_empty() {
            self.replies.insert(attempt, reply);
            return;
        }
        if self.clients[c].attempt != attempt {
            return;
        }
        let Some((key, mut operation)) = self.clients[c].open.take() else { return };
        operation.ret = Some(self.now);
        match (reply, operation.action) {
            (ClientReply::Refused, Action::Write(value)) => {
                self.history.refused.insert(value);
            }
            (ClientReply::Refused, Action::Read(_)) => {}
            (ClientReply::Written, _) => self.record(key, operation),
            (ClientReply::Value(value), _) => {
                operation.action = Action::Read(value);
                self.record(key, operation);
                if self.now >= self.plan.end_us && operation.call >= self.plan.end_us {
                    self.history.unread.remove(&key);
                }
                if value.is_some_and(|v| self.history.refused.contains(&v)) {
                    self.fail(format!("key {key}: a refused write is visible: {value:?}"));
                }
            }
        }
        let pause = if reply == ClientReply::Refused { (2_000, 30_000) } else { (0, 20_000) };
        let at = self.now + self.data_rng.between(pause.0, pause.1);
        self.schedule(at, Happening::ClientGo { client: c });
    }

    fn record(&mut self, key: Key, operation: Operation) {
        let told = match operation.action {
            Action::Write(value) => u64::from(value),
            Action::Read(value) => u64::from(value.unwrap_or(0)) << 32,
        };
        self.trace(self.clients[0].node, "told", told);
        self.stats.operations += 1;
        self.history.operations.entry(key).or_default().push(operation);
    }

    pub(in super::super) fn on_client_timeout(&mut self, c: usize, attempt: u64) {
        if self.clients[c].attempt != attempt {
            return;
        }
        if let Some((key, operation)) = self.clients[c].open.take() {
            self.stats.unknown += 1;
            self.history.operations.entry(key).or_default().push(operation);
        }
        self.schedule(self.now, Happening::ClientGo { client: c });
    }

    /// The last phase: every key is to be read once more at its owner.
    pub(in super::super) fn begin_last_reads(&mut self) {
        self.history.unread = (0..KEYS).collect();
    }
    pub(in super::super) fn unread(&self) -> usize {
        self.history.unread.len()
    }

    pub(in super::super) fn check_history(&mut self) {
        for c in 0..self.clients.len() {
            if let Some((key, operation)) = self.clients[c].open.take() {
                self.history.operations.entry(key).or_default().push(operation);
            }
        }
        let operations = std::mem::take(&mut self.history.operations);
        for (key, mut history) in operations {
            history.sort_by_key(|op| op.call);
            match check(&history) {
                Verdict::Linearizable => {}
                Verdict::Violated(at) => self.fail(format!("key {key} is not linearizable at {at:?}")),
                Verdict::GaveUp => self.stats.gave_up += 1,
            }
        }
    }
}
