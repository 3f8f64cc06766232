//! CLUSTER MEET: a chain of one node becomes part of another, in two steps that survive a crash in between.
//!
//! (1) The joiner decides in its own chain that it joins and serves no more. (2) The other chain decides to take it
//! or to refuse it, for good. Invariant: the joiner serves again only under one of these two decisions.

use super::submit::Origin;
use super::{Outcome, Refusal, Request};
use crate::core::Core;
use crate::effect::{Effect, Peer};
use crate::topology::{Address, Member, Seal, Topology};
use crate::wire::v2::Join;
use crate::wire::{Message, Packet};
use proto::{Mono, NodeId, Now};
use std::sync::Arc;

/// MEETs of one node under way.
const MEETS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Meets {
    open: Vec<Meet>,
    /// When the sealed joiner asks again.
    next_ask: Option<Mono>,
}

#[derive(Debug)]
struct Meet {
    token: u64,
    nonce: u64,
    ip: String,
    bus_port: u16,
    /// Known once it has answered.
    node: Option<NodeId>,
    /// We are the one who joins.
    is_joining: bool,
    next_try: Mono,
    deadline: Mono,
}

impl Meets {
    pub fn next_deadline(&self) -> Mono {
        let open = self.open.iter().map(|m| m.next_try.min(m.deadline));
        open.chain(self.next_ask).min().unwrap_or(Mono(u64::MAX))
    }
    pub fn clear(&mut self) -> Vec<u64> {
        self.next_ask = None;
        std::mem::take(&mut self.open).into_iter().map(|m| m.token).collect()
    }
}

impl Core {
    pub(crate) fn on_meet(&mut self, now: Now, token: u64, ip: String, bus_port: u16, out: &mut Vec<Effect>) {
        let is_text = !ip.is_empty() && ip.len() <= 255 && !ip.chars().any(|c| c.is_control() || c == ' ');
        if !is_text || bus_port == 0 {
            out.push(Effect::Answer { token, result: Err(Refusal::BadValue) });
            return;
        }
        if self.meets.open.len() >= MEETS_MAX {
            out.push(Effect::Answer { token, result: Err(Refusal::Busy) });
            return;
        }
        let meet = Meet {
            token,
            nonce: self.rng.draw(),
            ip,
            bus_port,
            node: None,
            is_joining: false,
            next_try: now.mono,
            deadline: now.mono + self.times.request_deadline,
        };
        self.meets.open.push(meet);
    }

    pub(crate) fn tick_meets(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.settle_meets(out);
        let retry = self.times.request_retry;
        let mut hellos = Vec::new();
        for meet in self.meets.open.iter_mut().filter(|m| now.mono >= m.next_try) {
            meet.next_try = now.mono + retry;
            if !meet.is_joining {
                hellos.push((meet.ip.clone(), meet.bus_port, meet.nonce));
            }
        }
        for (ip, bus_port, nonce) in hellos {
            let message = Message::Hello { nonce, address: self.address.clone() };
            self.send_to(Peer::Address { ip, bus_port }, message, out);
        }
        while let Some(at) = self.meets.open.iter().position(|m| now.mono >= m.deadline) {
            let meet = self.meets.open.remove(at);
            out.push(Effect::Answer { token: meet.token, result: Err(Refusal::MeetTimeout) });
        }
        self.ask_to_join(now, out);
    }

    /// Answers those whose other side is a member of our cluster by now.
    fn settle_meets(&mut self, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        let is_met = |m: &Meet| m.node.is_some_and(|n| topo.member(n).is_some());
        while let Some(at) = self.meets.open.iter().position(is_met) {
            let meet = self.meets.open.remove(at);
            out.push(Effect::Answer { token: meet.token, result: Ok(Outcome::Done) });
        }
    }

    fn fail_meet(&mut self, at: usize, refusal: Refusal, out: &mut Vec<Effect>) {
        let meet = self.meets.open.remove(at);
        out.push(Effect::Answer { token: meet.token, result: Err(refusal) });
    }

    /// A packet of another cluster: only MEET may cross the border.
    pub(crate) fn on_stranger(
        &mut self,
        now: Now,
        from_ip: Option<String>,
        packet: Packet,
        out: &mut Vec<Effect>,
    ) {
        match packet.message {
            Message::JoinDone { join, topology } => self.on_join_done(now, join, *topology, out),
            Message::JoinRefused { join, reason } => self.on_join_refused(now, join, reason, out),
            message => self.on_meet_message(now, from_ip, packet.from, message, out),
        }
    }

    pub(crate) fn on_meet_message(
        &mut self,
        now: Now,
        from_ip: Option<String>,
        from: NodeId,
        message: Message,
        out: &mut Vec<Effect>,
    ) {
        match message {
            Message::Hello { nonce, address } => {
                let address = seen_at(address, from_ip);
                let members = self.record.topology.members.len() as u32;
                let reply = Message::HelloAck {
                    nonce,
                    address: self.address.clone(),
                    seen_ip: address.ip.clone(),
                    members,
                };
                self.send_to(peer(&address), reply, out);
            }
            Message::HelloAck { nonce, address, seen_ip, members } => {
                self.learn_own_ip(seen_ip);
                self.on_hello_ack(now, from, nonce, seen_at(address, from_ip), members, out);
            }
            Message::Invite { address, seen_ip, .. } => {
                self.learn_own_ip(seen_ip);
                let address = seen_at(address, from_ip);
                self.seal_for(now, address.ip, address.bus_port, out);
            }
            Message::JoinAsk { join } => self.on_join_ask(now, from_ip, *join, out),
            _ => {}
        }
    }

    fn on_hello_ack(
        &mut self,
        now: Now,
        from: NodeId,
        nonce: u64,
        address: Address,
        members: u32,
        out: &mut Vec<Effect>,
    ) {
        let Some(at) = self.meets.open.iter().position(|m| m.nonce == nonce && !m.is_joining) else { return };
        self.meets.open[at].node = Some(from);
        if from == self.record.node || self.record.topology.member(from).is_some() {
            self.settle_meets(out);
            if from == self.record.node {
                self.meets.open.retain(|m| m.nonce != nonce);
            }
        } else if self.record.topology.members.len() == 1 {
            let meet = &mut self.meets.open[at];
            meet.is_joining = true;
            let (ip, bus_port) = (meet.ip.clone(), meet.bus_port);
            self.seal_for(now, ip, bus_port, out);
        } else if members == 1 {
            let seen_ip = address.ip.clone();
            let invite = Message::Invite { nonce, address: self.address.clone(), seen_ip };
            self.send_to(peer(&address), invite, out);
        } else {
            self.fail_meet(at, Refusal::BothLarge, out);
        }
    }

    /// Step 1: decided in our own chain, durable, and only then asked.
    fn seal_for(&mut self, now: Now, ip: String, bus_port: u16, out: &mut Vec<Effect>) {
        let topo = &self.record.topology;
        if topo.members.len() != 1 || topo.seal.is_some() || ip.is_empty() {
            return;
        }
        let seal = Request::Seal(Seal { join: self.record.joins + 1, ip, bus_port });
        self.submit_own(now, seal, out);
    }

    fn ask_to_join(&mut self, now: Now, out: &mut Vec<Effect>) {
        let topo = self.record.topology.clone();
        let Some(seal) = &topo.seal else {
            self.meets.next_ask = None;
            return;
        };
        if self.meets.next_ask.is_some_and(|at| now.mono < at) {
            return;
        }
        self.meets.next_ask = Some(now.mono + self.times.request_retry);
        if self.record.joins < seal.join {
            self.record.joins = seal.join;
            self.persist(out);
        }
        let Some(shard) = topo.shard_of(self.record.node) else { return };
        let entry = topo.member(self.record.node).expect("a member of its own chain");
        let join = Join {
            member: Member {
                join: seal.join,
                store: self.record.store,
                address: self.address.clone(),
                ..entry.clone()
            },
            boot: self.record.boot,
            generation: self.record.generation,
            shard: crate::topology::Shard { primary: self.me(), ..shard.clone() },
            slots: topo.slots_of(shard.id),
            ver: topo.ver,
            seen_ip: seal.ip.clone(),
        };
        let to = Peer::Address { ip: seal.ip.clone(), bus_port: seal.bus_port };
        self.send_to(to, Message::JoinAsk { join: Box::new(join) }, out);
    }

    /// Step 2, at the cluster that is joined.
    fn on_join_ask(&mut self, now: Now, from_ip: Option<String>, mut join: Join, out: &mut Vec<Effect>) {
        join.member.address = seen_at(join.member.address, from_ip);
        self.learn_own_ip(std::mem::take(&mut join.seen_ip));
        let is_unreachable =
            self.record.topology.member(self.record.node).is_some_and(|m| m.address.ip.is_empty());
        if is_unreachable {
            // The newcomer must find an address of ours in the version that it adopts; it asks again.
            self.next_self_check = now.mono;
            return;
        }
        let (node, number) = (join.member.id, join.member.join);
        let reply_to = peer(&join.member.address);
        let topo = self.record.topology.clone();
        if topo.member(node).is_some_and(|m| m.join == number) {
            self.send_to(
                reply_to,
                Message::JoinDone { join: number, topology: Box::new((*topo).clone()) },
                out,
            );
        } else if topo.departed_join(node) >= Some(number) {
            self.send_to(reply_to, Message::JoinRefused { join: number, reason: Refusal::JoinVoid }, out);
        } else if topo.seal.is_some() {
            // Two that join each other: the smaller name refuses, so that the other is free to take it.
            if self.record.node < node && !self.submissions.has_join(node, number) {
                let origin = Origin::Join { node, join: number, reply_to };
                self.submit(now, origin, Request::RefuseJoin { node, join: number }, out);
            }
        } else if !self.submissions.has_join(node, number) {
            let origin = Origin::Join { node, join: number, reply_to };
            self.submit(now, origin, Request::Join(Box::new(join)), out);
        }
    }

    pub(crate) fn on_join_outcome(
        &mut self,
        join: u64,
        reply_to: Peer,
        result: Result<Outcome, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        let message = match result {
            Ok(Outcome::JoinRefused) => Message::JoinRefused { join, reason: Refusal::JoinVoid },
            Ok(_) => Message::JoinDone { join, topology: Box::new((*self.record.topology).clone()) },
            // Not decided: the joiner asks again.
            Err(_) => return,
        };
        self.send_to(reply_to, message, out);
    }

    fn on_join_done(&mut self, now: Now, join: u64, topology: Topology, out: &mut Vec<Effect>) {
        let is_for_us = self.record.topology.seal.as_ref().is_some_and(|s| s.join == join)
            && topology.check().is_ok()
            && topology
                .member(self.record.node)
                .is_some_and(|m| m.join == join && m.store == self.record.store);
        if !is_for_us {
            return;
        }
        self.hash = topology.hash();
        self.record.topology = Arc::new(topology);
        // `promised` stays: it can only be too high, which costs a ballot.
        self.record.accepted = None;
        self.meets.next_ask = None;
        for token in self.submissions.clear() {
            out.push(Effect::Answer { token, result: Err(Refusal::Changed) });
        }
        self.start_over(now, out);
        // W3: nothing is known here of the leases that run in that chain.
        self.promises.blanket(now.mono + self.times.wait);
        self.settle_meets(out);
    }

    fn on_join_refused(&mut self, now: Now, join: u64, reason: Refusal, out: &mut Vec<Effect>) {
        if self.record.topology.seal.as_ref().is_some_and(|s| s.join == join) {
            self.submit_own(now, Request::Unseal { join }, out);
            if let Some(at) = self.meets.open.iter().position(|m| m.is_joining) {
                self.fail_meet(at, reason, out);
            }
        }
    }

    fn learn_own_ip(&mut self, seen_ip: String) {
        if self.address.ip.is_empty() && seen_ip.len() <= 255 && !seen_ip.chars().any(char::is_control) {
            self.address.ip = seen_ip;
        }
    }

    fn send_to(&self, to: Peer, message: Message, out: &mut Vec<Effect>) {
        out.push(Effect::Send { to, packet: self.packet(message) });
    }
}

fn seen_at(mut address: Address, from_ip: Option<String>) -> Address {
    if address.ip.is_empty() {
        address.ip = from_ip.unwrap_or_default();
    }
    address
}

fn peer(address: &Address) -> Peer {
    Peer::Address { ip: address.ip.clone(), bus_port: address.bus_port }
}
