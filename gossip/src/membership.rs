//! Failure detection. Follows SWIM (Das et al. 2002) with suspicion, section 4.2, and incarnations.
//!
//! One probe per period, whatever the size of the cluster; three helpers when it is not answered; then suspicion;
//! failed only after a full suspicion period without a sign of life.
//! Invariant: what is found here feeds routing hints and the choice of candidates, never a vote (W2).

use crate::config::Times;
use crate::rng::Rng;
use crate::topology::{Ballot, Topology};
use crate::wire::Message;
use crate::wire::v2::{News, Rumour, RumourState};
use proto::view::Health;
use proto::{Mono, NodeId, Now, WallMs};
use std::collections::{BTreeMap, BTreeSet};

/// Rumours on one packet. Choice: below 300 bytes, so that a probe stays one small packet.
pub const RUMOURS_MAX: usize = 8;
const HELPERS: usize = 3;
const RELAYS_MAX: usize = 256;
const REPORTERS_MAX: usize = 16;

#[derive(Clone, Debug)]
pub struct PeerHealth {
    pub state: RumourState,
    pub incarnation: u64,
    /// When `state` began.
    pub since: Mono,
    pub heard: Mono,
    /// Wall clock of the oldest unanswered probe, 0 for none.
    pub ping_sent: WallMs,
    pub pong_received: WallMs,
    pub offset: u64,
    /// Who has suspected it since it was last known alive.
    pub reporters: BTreeSet<NodeId>,
}

#[derive(Debug)]
pub struct Membership {
    me: NodeId,
    incarnation: u64,
    peers: BTreeMap<NodeId, PeerHealth>,
    order: Vec<NodeId>,
    probe: Option<Probe>,
    next_probe: Mono,
    seq: u64,
    rumours: Vec<(Rumour, u32)>,
    relays: BTreeMap<u64, Relay>,
    /// Offset and leader that ride on our packets.
    pub offset: u64,
    pub leader: Option<(Ballot, NodeId)>,
    has_changed: bool,
}

#[derive(Debug)]
struct Probe {
    seq: u64,
    target: NodeId,
    sent: Mono,
    is_indirect: bool,
}

#[derive(Debug)]
struct Relay {
    asker: NodeId,
    seq: u64,
    at: Mono,
}

/// Messages to send, in order.
pub type Mail = Vec<(NodeId, Message)>;

impl Membership {
    pub fn new(me: NodeId, now: Mono, incarnation: u64) -> Membership {
        Membership {
            me,
            incarnation,
            peers: BTreeMap::new(),
            order: Vec::new(),
            probe: None,
            next_probe: now,
            seq: 0,
            rumours: Vec::new(),
            relays: BTreeMap::new(),
            offset: 0,
            leader: None,
            has_changed: false,
        }
    }

    /// Follows a new version: newcomers count as alive, the departed are forgotten.
    pub fn follow(&mut self, topology: &Topology, now: Mono) {
        self.peers.retain(|id, _| topology.member(*id).is_some());
        for member in topology.members.iter().filter(|m| m.id != self.me) {
            self.peers.entry(member.id).or_insert_with(|| PeerHealth {
                state: RumourState::Alive,
                incarnation: 0,
                since: now,
                heard: now,
                ping_sent: WallMs(0),
                pong_received: WallMs(0),
                offset: 0,
                reporters: BTreeSet::new(),
            });
        }
        self.order.retain(|id| topology.member(*id).is_some());
    }

    pub fn health(&self, node: NodeId) -> Health {
        match self.peers.get(&node).map(|p| p.state) {
            Some(RumourState::Suspected) => Health::Suspected,
            Some(RumourState::Failed) => Health::Failed,
            Some(RumourState::Alive) => Health::Online,
            None if node == self.me => Health::Online,
            None => Health::Failed,
        }
    }
    pub fn is_online(&self, node: NodeId) -> bool {
        self.health(node) == Health::Online
    }
    pub fn peer(&self, node: NodeId) -> Option<&PeerHealth> {
        self.peers.get(&node)
    }
    /// How long a node has been failed.
    pub fn failed_since(&self, node: NodeId) -> Option<Mono> {
        self.peers.get(&node).filter(|p| p.state == RumourState::Failed).map(|p| p.since)
    }
    /// COUNT-FAILURE-REPORTS: members that suspect it. At most 16 are remembered.
    pub fn failure_reports(&self, node: NodeId) -> usize {
        self.peers.get(&node).map_or(0, |p| p.reporters.len())
    }
    /// True once after any state has changed.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }
    pub fn next_deadline(&self, times: &Times) -> Mono {
        let probe = self.probe.as_ref().filter(|p| !p.is_indirect).map(|p| p.sent + times.probe_timeout);
        let suspects = self.peers.values().filter(|p| p.state == RumourState::Suspected);
        let failing = suspects.map(|p| p.since + times.suspicion).min();
        [Some(self.next_probe), probe, failing].into_iter().flatten().min().expect("next_probe is there")
    }

    /// Any packet from a node proves it alive to us; only its own incarnation proves it to others.
    pub fn on_heard(&mut self, node: NodeId, now: Mono) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.heard = now;
        if peer.state != RumourState::Alive {
            (peer.state, peer.since) = (RumourState::Alive, now);
            peer.reporters.clear();
            self.has_changed = true;
        }
    }

    pub fn tick(&mut self, now: Now, times: &Times, rng: &mut Rng, mail: &mut Mail) {
        self.check_probe(now.mono, times, rng, mail);
        self.check_suspects(now.mono, times);
        self.relays.retain(|_, r| now.mono < r.at + times.probe_period);
        if now.mono >= self.next_probe {
            self.next_probe = now.mono + times.probe_period;
            self.start_probe(now, rng, mail);
        }
    }

    fn check_probe(&mut self, now: Mono, times: &Times, rng: &mut Rng, mail: &mut Mail) {
        let Some(probe) = &mut self.probe else { return };
        if !probe.is_indirect && now >= probe.sent + times.probe_timeout {
            probe.is_indirect = true;
            let (seq, target) = (probe.seq, probe.target);
            for helper in self.helpers(target, rng) {
                let news = self.news();
                mail.push((helper, Message::PingReq { seq, target, news }));
            }
        }
        let Some(probe) = &self.probe else { return };
        if now >= self.next_probe {
            let target = probe.target;
            self.probe = None;
            self.suspect(target, self.me, now);
        }
    }

    fn check_suspects(&mut self, now: Mono, times: &Times) {
        let due: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, p)| p.state == RumourState::Suspected && now >= p.since + times.suspicion)
            .map(|(id, _)| *id)
            .collect();
        for node in due {
            let peer = self.peers.get_mut(&node).expect("just found");
            (peer.state, peer.since) = (RumourState::Failed, now);
            let rumour = Rumour { node, incarnation: peer.incarnation, state: RumourState::Failed };
            self.spread(rumour);
            self.has_changed = true;
        }
    }

    fn start_probe(&mut self, now: Now, rng: &mut Rng, mail: &mut Mail) {
        if self.order.is_empty() {
            self.order = self.peers.keys().copied().collect();
            rng.shuffle(&mut self.order);
        }
        let Some(target) = self.order.pop() else { return };
        self.seq += 1;
        let news = self.news();
        mail.push((target, Message::Ping { seq: self.seq, news }));
        self.probe = Some(Probe { seq: self.seq, target, sent: now.mono, is_indirect: false });
        if let Some(peer) = self.peers.get_mut(&target).filter(|p| p.ping_sent == WallMs(0)) {
            peer.ping_sent = now.wall;
        }
    }

    fn helpers(&self, target: NodeId, rng: &mut Rng) -> Vec<NodeId> {
        let mut alive: Vec<NodeId> =
            self.peers.keys().copied().filter(|id| *id != target && self.is_online(*id)).collect();
        rng.shuffle(&mut alive);
        alive.truncate(HELPERS);
        alive
    }

    pub fn on_ping(&mut self, from: NodeId, seq: u64, news: &News, now: Now, mail: &mut Mail) {
        self.on_news(from, news, now.mono);
        let news = self.news();
        mail.push((from, Message::Pong { seq, news }));
    }

    pub fn on_pong(&mut self, from: NodeId, seq: u64, news: &News, now: Now, mail: &mut Mail) {
        self.on_news(from, news, now.mono);
        if let Some(relay) = self.relays.remove(&seq) {
            // The helper's word is the target's: it repeats the target's own incarnation.
            let news = News { rumours: vec![self.alive_rumour(from)], ..self.news() };
            mail.push((relay.asker, Message::Pong { seq: relay.seq, news }));
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            (peer.ping_sent, peer.pong_received) = (WallMs(0), now.wall);
        }
        if self.probe.as_ref().is_some_and(|p| p.seq == seq) {
            let target = self.probe.take().expect("just seen").target;
            // Through a helper: somebody has heard it, which is what was asked.
            self.on_heard(target, now.mono);
        }
    }

    pub fn on_ping_req(
        &mut self,
        from: NodeId,
        seq: u64,
        target: NodeId,
        news: &News,
        now: Mono,
        mail: &mut Mail,
    ) {
        self.on_news(from, news, now);
        if self.relays.len() >= RELAYS_MAX || !self.peers.contains_key(&target) {
            return;
        }
        self.seq += 1;
        self.relays.insert(self.seq, Relay { asker: from, seq, at: now });
        let news = self.news();
        mail.push((target, Message::Ping { seq: self.seq, news }));
    }

    fn on_news(&mut self, from: NodeId, news: &News, now: Mono) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.incarnation = peer.incarnation.max(news.incarnation);
            peer.offset = news.offset;
        }
        if news.leader > self.leader {
            self.leader = news.leader;
        }
        for rumour in news.rumours.iter().take(RUMOURS_MAX) {
            self.on_rumour(from, *rumour, now);
        }
    }

    fn on_rumour(&mut self, from: NodeId, rumour: Rumour, now: Mono) {
        if rumour.node == self.me {
            self.refute(rumour);
            return;
        }
        let Some(peer) = self.peers.get_mut(&rumour.node) else { return };
        if rumour.state == RumourState::Suspected && peer.reporters.len() < REPORTERS_MAX {
            peer.reporters.insert(from);
        }
        // A later incarnation wins; of the same one, the worse news.
        let is_news = (rumour.incarnation, rumour.state) > (peer.incarnation, peer.state);
        if is_news && (rumour.state != peer.state || rumour.incarnation > peer.incarnation) {
            if rumour.state == RumourState::Alive {
                peer.reporters.clear();
            }
            self.has_changed |= peer.state != rumour.state;
            if peer.state != rumour.state {
                peer.since = now;
            }
            (peer.state, peer.incarnation) = (rumour.state, rumour.incarnation);
            self.spread(rumour);
        }
    }

    fn refute(&mut self, rumour: Rumour) {
        if rumour.state != RumourState::Alive && rumour.incarnation >= self.incarnation {
            self.incarnation = rumour.incarnation.saturating_add(1);
            self.spread(Rumour { node: self.me, incarnation: self.incarnation, state: RumourState::Alive });
        }
    }

    fn suspect(&mut self, node: NodeId, by: NodeId, now: Mono) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.reporters.len() < REPORTERS_MAX {
            peer.reporters.insert(by);
        }
        if peer.state == RumourState::Alive {
            (peer.state, peer.since) = (RumourState::Suspected, now);
            let rumour = Rumour { node, incarnation: peer.incarnation, state: RumourState::Suspected };
            self.spread(rumour);
            self.has_changed = true;
        }
    }

    fn alive_rumour(&self, node: NodeId) -> Rumour {
        let incarnation = self.peers.get(&node).map_or(0, |p| p.incarnation);
        Rumour { node, incarnation, state: RumourState::Alive }
    }

    /// Each rumour is told 3 log2(n) times; one about the same node replaces it.
    fn spread(&mut self, rumour: Rumour) {
        self.rumours.retain(|(r, _)| r.node != rumour.node);
        let times = 3 * (usize::BITS - self.peers.len().leading_zeros());
        self.rumours.push((rumour, times.max(3)));
    }

    /// The rumours told least go first.
    fn news(&mut self) -> News {
        self.rumours.sort_by_key(|(r, left)| (std::cmp::Reverse(*left), r.node));
        let rumours = self.rumours.iter().take(RUMOURS_MAX).map(|(r, _)| *r).collect();
        self.rumours.iter_mut().take(RUMOURS_MAX).for_each(|(_, left)| *left -= 1);
        self.rumours.retain(|(_, left)| *left > 0);
        News { incarnation: self.incarnation, offset: self.offset, leader: self.leader, rumours }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::topology::tests::{cluster, node};

    fn at(ms: u64) -> Now {
        Now { mono: Mono::from_ms(ms), wall: WallMs(ms as i64) }
    }
    fn times() -> Times {
        Times::of(&Config { node_timeout: std::time::Duration::from_millis(1000), ..Config::default() })
    }
    fn five() -> Topology {
        cluster(&[&[1], &[2], &[3], &[4], &[5]], &[1, 2, 3])
    }

    /// Nodes talk in lock step of 10 ms; packets for which `lost` holds vanish.
    fn run(until_ms: u64, lost: impl Fn(u64, NodeId, NodeId) -> bool) -> Vec<Membership> {
        let (topo, times, mut rng) = (five(), times(), Rng::new(1));
        let mut nodes: Vec<Membership> = (1..=5).map(|n| Membership::new(node(n), Mono(0), 0)).collect();
        nodes.iter_mut().for_each(|m| m.follow(&topo, Mono(0)));
        let mut wire: Vec<(NodeId, NodeId, Message)> = Vec::new();
        for ms in (0..until_ms).step_by(10) {
            for (from, to, message) in std::mem::take(&mut wire) {
                if lost(ms, from, to) {
                    continue;
                }
                let m = &mut nodes[to.0[0] as usize - 1];
                m.on_heard(from, at(ms).mono);
                let mut mail = Mail::new();
                match message {
                    Message::Ping { seq, news } => m.on_ping(from, seq, &news, at(ms), &mut mail),
                    Message::Pong { seq, news } => m.on_pong(from, seq, &news, at(ms), &mut mail),
                    Message::PingReq { seq, target, news } => {
                        m.on_ping_req(from, seq, target, &news, at(ms).mono, &mut mail)
                    }
                    other => panic!("{other:?}"),
                }
                wire.extend(mail.into_iter().map(|(peer, msg)| (to, peer, msg)));
            }
            for m in &mut nodes {
                let mut mail = Mail::new();
                m.tick(at(ms), &times, &mut rng, &mut mail);
                wire.extend(mail.into_iter().map(|(peer, msg)| (m.me, peer, msg)));
            }
        }
        nodes
    }

    #[test]
    fn quiet_network_suspects_nobody() {
        let nodes = run(5000, |_, _, _| false);
        assert!(nodes.iter().all(|m| (1..=5).all(|n| m.health(node(n)) == Health::Online)));
    }

    #[test]
    fn a_silent_node_is_failed_everywhere() {
        let nodes = run(3000, |_, from, to| from == node(3) || to == node(3));
        for m in nodes.iter().filter(|m| m.me != node(3)) {
            assert_eq!(m.health(node(3)), Health::Failed, "{:?}", m.me);
            assert!(m.failure_reports(node(3)) > 0);
        }
    }

    #[test]
    fn a_cut_between_two_is_bridged_by_helpers() {
        let cut = |a, b| (a == node(1) && b == node(2)) || (a == node(2) && b == node(1));
        let nodes = run(6000, |_, a, b| cut(a, b));
        assert_eq!(nodes[0].health(node(2)), Health::Online);
        assert_eq!(nodes[2].health(node(2)), Health::Online);
    }

    #[test]
    fn a_node_that_returns_refutes_its_death() {
        let nodes = run(6000, |ms, from, to| ms < 3000 && (from == node(3) || to == node(3)));
        assert!(nodes.iter().all(|m| m.health(node(3)) == Health::Online));
    }

    #[test]
    fn rumours_on_a_packet_are_bounded() {
        let mut m = Membership::new(node(1), Mono(0), 0);
        m.follow(&five(), Mono(0));
        for n in 0..40 {
            m.spread(Rumour { node: node(n), incarnation: 0, state: RumourState::Failed });
        }
        assert_eq!(m.news().rumours.len(), RUMOURS_MAX);
    }
}
