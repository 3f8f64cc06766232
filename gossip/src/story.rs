//! Stories of whole clusters, told to cores over a lossless network of 1 ms. Test only; the rough weather is in `sim`.

use crate::admin::{Command, FailoverMode, Outcome, Refusal, Request};
use crate::core::Start;
use crate::topology::Address;
use crate::{Config, Core, DataClass, Effect, Event, Packet, Peer, Position, Record, Topology};
use proto::{Epoch, Mono, NodeId, Now, Offset, Slot, SlotRange, WallMs};
use std::collections::BTreeMap;
use std::time::Duration;

struct Node {
    core: Option<Core>,
    config: Config,
    disk: Option<Record>,
    position: Position,
}

struct World {
    nodes: Vec<Node>,
    us: u64,
    seq: u64,
    wire: BTreeMap<(u64, u64), (usize, Box<Packet>)>,
    answers: BTreeMap<u64, Result<Outcome, Refusal>>,
    cut: Vec<usize>,
    token: u64,
    /// Sends a damaged copy of each packet after it.
    damage: Option<crate::rng::Rng>,
    damaged: u64,
}

impl World {
    fn new(count: usize) -> World {
        let mut world = World {
            nodes: Vec::new(),
            us: 1_000_000,
            seq: 0,
            wire: BTreeMap::new(),
            answers: BTreeMap::new(),
            cut: Vec::new(),
            token: 0,
            damage: None,
            damaged: 0,
        };
        for i in 0..count {
            let config = Config {
                id: Some(NodeId([i as u8 + 1; 20])),
                address: Address {
                    ip: format!("10.0.0.{}", i + 1),
                    port: 6379,
                    tls_port: 0,
                    bus_port: 16379,
                    ..Address::default()
                },
                node_timeout: Duration::from_millis(1000),
                data_class: DataClass::Fsync,
                ..Config::default()
            };
            let position = Position { epoch: Epoch(1), offset: Offset(10), ..Position::default() };
            world.nodes.push(Node { core: None, config, disk: None, position });
            world.start(i);
        }
        world
    }
    fn now(&self) -> Now {
        Now { mono: Mono(self.us), wall: WallMs(self.us as i64 / 1000) }
    }
    fn start(&mut self, i: usize) {
        let now = self.now();
        let node = &mut self.nodes[i];
        let recovered = node.disk.is_some().then_some((node.position.epoch, node.position.offset));
        let start = Start { record: node.disk.clone(), recovered, seed: self.us * 100 + i as u64 };
        let mut out = Vec::new();
        node.core = Some(Core::new(node.config.clone(), start, now, &mut out));
        self.carry_out(i, out);
        let position = self.nodes[i].position;
        self.step(i, Event::Position(position));
    }
    fn kill(&mut self, i: usize) {
        self.nodes[i].core = None;
    }
    fn step(&mut self, i: usize, event: Event) {
        let now = self.now();
        let Some(core) = self.nodes[i].core.as_mut() else { return };
        let mut out = Vec::new();
        core.step(now, event, &mut out);
        self.carry_out(i, out);
    }
    fn carry_out(&mut self, i: usize, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Persist(record) => self.nodes[i].disk = Some(*record),
                Effect::Send { to, packet } => self.send(i, to, packet),
                Effect::Answer { token, result } => {
                    assert!(self.answers.insert(token, result).is_none(), "two answers");
                }
                Effect::Drain { to } => {
                    let to = to.map_or(1, |id| id.0[0] as usize - 1);
                    let generation = self.nodes[to].core.as_ref().unwrap().generation();
                    let id = self.nodes[to].config.id.unwrap();
                    self.step(i, Event::Drained { to: id, generation });
                }
                Effect::Adopted(_) | Effect::Publish => {}
            }
        }
    }
    fn send(&mut self, from: usize, to: Peer, packet: Box<Packet>) {
        let index = match to {
            Peer::Node(id) => self.nodes.iter().position(|n| n.core.as_ref().is_some_and(|c| c.id() == id)),
            Peer::Address { ip, .. } => self.nodes.iter().position(|n| n.config.address.ip == ip),
        };
        let Some(index) = index else { return };
        let is_own = index == from;
        if !is_own && (self.cut.contains(&from) || self.cut.contains(&index)) {
            return;
        }
        // Every packet crosses the wire as bytes.
        let packet = Box::new(Packet::from_bytes(&packet.to_bytes()).unwrap());
        self.seq += 1;
        if let Some(rng) = &mut self.damage
            && !is_own
        {
            let mut bytes = packet.to_bytes().to_vec();
            for _ in 0..rng.between(1, 3) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = match rng.below(3) {
                    0 => bytes[at] ^ 1 << rng.below(8),
                    1 => 0xff,
                    _ => rng.draw() as u8,
                };
            }
            if let Some(damaged) = Packet::from_bytes(&bytes) {
                self.damaged += 1;
                self.seq += 1;
                self.wire.insert((self.us + 1500, self.seq), (index, Box::new(damaged)));
            }
        }
        self.wire.insert((self.us + if is_own { 0 } else { 1000 }, self.seq), (index, packet));
    }
    fn run(&mut self, ms: u64) {
        let end = self.us + ms * 1000;
        while self.us < end {
            while let Some(first) = self.wire.first_entry().filter(|e| e.key().0 <= self.us) {
                let (to, packet) = first.remove();
                self.step(to, Event::Packet { from_ip: None, packet });
            }
            let now = self.now().mono;
            let due: Vec<usize> = (0..self.nodes.len())
                .filter(|i| self.nodes[*i].core.as_ref().is_some_and(|c| c.next_deadline() <= now))
                .collect();
            due.into_iter().for_each(|i| self.step(i, Event::Tick));
            self.us += 500;
        }
    }
    fn ask(&mut self, i: usize, command: Command) -> Result<Outcome, Refusal> {
        self.token += 1;
        let token = self.token;
        self.step(i, Event::Command { token, command });
        for _ in 0..200 {
            if let Some(answer) = self.answers.remove(&token) {
                return answer;
            }
            self.run(50);
        }
        panic!("no answer to {token}");
    }
    fn id(&self, i: usize) -> NodeId {
        self.core(i).id()
    }
    fn core(&self, i: usize) -> &Core {
        self.nodes[i].core.as_ref().unwrap()
    }
    fn topo(&self, i: usize) -> &Topology {
        self.core(i).topology()
    }
    fn serves(&self, i: usize) -> bool {
        self.nodes[i].core.as_ref().is_some_and(|c| c.is_lease_valid(self.now().mono))
    }
    fn add_slots(&mut self, i: usize, first: u16, last: u16) {
        let range = SlotRange::new(Slot::new(first).unwrap(), Slot::new(last).unwrap()).unwrap();
        let request = Request::AddSlots { node: self.id(i), slots: vec![range] };
        assert_eq!(self.ask(i, Command::Decide(request)), Ok(Outcome::Done));
    }
    fn meet(&mut self, i: usize, to: usize) -> Result<Outcome, Refusal> {
        let ip = self.nodes[to].config.address.ip.clone();
        self.ask(i, Command::Meet { ip, bus_port: 16379 })
    }
    /// As `--cluster create` does it: slots and epochs first, then MEET, then REPLICATE.
    fn created(primaries: usize, replicas: usize) -> World {
        let mut world = World::new(primaries + replicas);
        world.run(100);
        for i in 0..primaries {
            let share = 16384 / primaries;
            let last = if i + 1 == primaries { 16383 } else { (i + 1) * share - 1 };
            world.add_slots(i, (i * share) as u16, last as u16);
        }
        for i in 0..primaries + replicas {
            let request = Request::SetConfigEpoch { node: world.id(i), epoch: Epoch(i as u64 + 1) };
            assert_eq!(world.ask(i, Command::Decide(request)), Ok(Outcome::Done));
        }
        for i in 1..primaries + replicas {
            assert_eq!(world.meet(i, 0), Ok(Outcome::Done), "meet of {i}");
        }
        for i in primaries..primaries + replicas {
            let target = world.id((i - primaries) % primaries);
            let request = Request::Replicate { node: world.id(i), target };
            assert_eq!(world.ask(i, Command::Decide(request)), Ok(Outcome::Done), "replicate {i}");
        }
        for node in &mut world.nodes {
            node.position = Position { epoch: Epoch(2), offset: Offset(10), ..Position::default() };
        }
        for i in 0..world.nodes.len() {
            let position = world.nodes[i].position;
            world.step(i, Event::Position(position));
        }
        // Upkeep chooses voters, and the wait of W3 passes.
        world.run(6000);
        world
    }
}

#[test]
fn a_fresh_node_serves_at_once() {
    let mut world = World::new(1);
    world.run(20);
    assert!(world.serves(0));
    world.add_slots(0, 0, 16383);
    assert_eq!(world.topo(0).slots_assigned(), Slot::COUNT);
    let view = crate::view::build(world.core(0), world.now().mono);
    assert!(view.is_ok && !view.can_fail_over);
}

#[test]
fn a_restarted_single_node_serves_at_once_in_a_new_tenure() {
    let mut world = World::new(1);
    world.add_slots(0, 0, 16383);
    let before = world.core(0).tenure().unwrap().1;
    world.kill(0);
    world.run(10);
    world.start(0);
    world.run(300);
    assert!(world.serves(0));
    assert!(world.core(0).tenure().unwrap().1 > before, "D12");
}

#[test]
fn cluster_create_in_the_order_of_the_tools() {
    let world = World::created(3, 3);
    let topo = world.topo(0).clone();
    assert!((0..6).all(|i| *world.topo(i) == topo));
    assert_eq!((topo.members.len(), topo.shards.len(), topo.voters.len()), (6, 3, 5));
    assert!((0..3).all(|i| world.serves(i)) && !(3..6).any(|i| world.serves(i)));
    let view = crate::view::build(world.core(4), world.now().mono);
    assert!(view.is_ok && view.can_fail_over);
    assert_eq!(view.replicas_of(world.id(1)).count(), 1);
    let epochs: Vec<u64> = (0..3).map(|i| topo.shard_of(world.id(i)).unwrap().config_epoch.0).collect();
    assert_eq!(epochs, [1, 2, 3]);
}

#[test]
fn a_dead_primary_is_replaced_after_the_wait() {
    let mut world = World::created(3, 3);
    world.kill(1);
    world.run(900);
    assert!(!world.serves(4), "W2");
    world.run(600);
    assert!(world.serves(4));
    assert!(!world.topo(0).shard_of(world.id(4)).unwrap().in_sync.is_empty(), "D8");
    world.start(1);
    world.run(1500);
    assert!(!world.serves(1) && world.topo(1) == world.topo(0));
}

#[test]
fn power_cycle_all() {
    let mut world = World::created(3, 3);
    (0..6).for_each(|i| world.kill(i));
    world.run(10);
    (0..6).for_each(|i| world.start(i));
    world.run(950);
    // All boots are new, so all promises to old ones are void (W10): nobody waits for E.
    assert!((0..3).filter(|i| world.serves(*i) || world.serves(i + 3)).count() == 3);
}

#[test]
fn a_planned_failover_takes_milliseconds() {
    let mut world = World::created(3, 3);
    let before = world.us;
    world.step(4, Event::Command { token: 900, command: Command::Failover(FailoverMode::Default) });
    while !world.serves(4) {
        world.run(1);
        assert!(world.us - before < 50_000, "too slow");
    }
    assert!(!world.serves(1));
    assert_eq!(world.answers.remove(&900), Some(Ok(Outcome::Done)));
}

#[test]
fn a_minority_stops_and_catches_up() {
    let mut world = World::created(3, 3);
    world.cut = vec![0, 1];
    world.run(1500);
    assert!(!world.serves(0) && !world.serves(1) && world.serves(2));
    assert!(world.serves(3) && world.serves(4));
    world.cut.clear();
    world.run(1500);
    assert!(!world.serves(0) && world.topo(0) == world.topo(5));
}

#[test]
fn two_large_clusters_are_not_merged() {
    let mut world = World::new(4);
    assert_eq!(world.meet(0, 1), Ok(Outcome::Done));
    assert_eq!(world.meet(2, 3), Ok(Outcome::Done));
    assert_eq!(world.meet(0, 2), Err(Refusal::BothLarge));
}

#[test]
fn overlapping_slots_are_refused_and_the_joiner_serves_again() {
    let mut world = World::new(2);
    world.add_slots(0, 0, 99);
    world.add_slots(1, 50, 60);
    assert_eq!(world.meet(1, 0), Err(Refusal::JoinVoid));
    world.run(500);
    assert!(world.serves(0) && world.serves(1));
    assert!(world.topo(1).seal.is_none() && world.topo(1).members.len() == 1);
}

#[test]
fn meet_crash_between_seal_and_join() {
    let mut world = World::new(2);
    world.add_slots(1, 50, 60);
    world.kill(0);
    // The seal needs an answer to Hello first, so let it come and kill the other side after.
    world.start(0);
    let ip = world.nodes[0].config.address.ip.clone();
    world.step(1, Event::Command { token: 1, command: Command::Meet { ip, bus_port: 16379 } });
    while world.topo(1).seal.is_none() {
        world.run(1);
    }
    world.kill(0);
    world.run(200);
    assert!(!world.serves(1), "sealed");
    world.kill(1);
    world.start(1);
    world.run(500);
    assert!(!world.serves(1), "still sealed");
    world.start(0);
    world.run(3000);
    assert_eq!(world.topo(0), world.topo(1));
    assert_eq!(world.topo(0).members.len(), 2);
    assert!(world.serves(0) && world.serves(1));
}

#[test]
fn two_that_meet_each_other_become_one_cluster() {
    let mut world = World::new(2);
    for (i, to) in [(0, "10.0.0.2"), (1, "10.0.0.1")] {
        let command = Command::Meet { ip: to.into(), bus_port: 16379 };
        world.step(i, Event::Command { token: 50 + i as u64, command });
    }
    world.run(5000);
    assert_eq!(world.topo(0), world.topo(1));
    assert_eq!(world.topo(0).members.len(), 2);
    assert!(world.serves(0) && world.serves(1));
}

#[test]
fn forget_of_a_living_slotless_primary_does_not_wait_for_its_lease() {
    let mut world = World::created(3, 1);
    let request = Request::Replicate { node: world.id(3), target: world.id(1) };
    assert_eq!(world.ask(3, Command::Decide(request)), Ok(Outcome::Done));
    let before = world.us;
    let forget = Request::Forget { node: world.id(3) };
    assert_eq!(world.ask(0, Command::Decide(forget.clone())), Ok(Outcome::Done));
    assert_eq!(world.ask(1, Command::Decide(forget)), Ok(Outcome::Done), "the tools repeat it");
    assert!(world.us - before < 400_000);
    world.run(1500);
    assert_eq!(world.topo(3).members.len(), 1);
    assert!(world.serves(3), "alone again");
}

#[test]
fn takeover_then_old_side_returns() {
    let mut world = World::created(3, 3);
    world.cut = vec![0, 1, 2];
    world.run(3000);
    // 3, 4 and 5 hold at most two of five voters.
    assert!(!world.core(4).has_quorum());
    assert_eq!(world.ask(4, Command::Failover(FailoverMode::Takeover)), Ok(Outcome::Done));
    world.run(3000);
    assert!(world.serves(4));
    world.cut.clear();
    world.run(3000);
    assert_eq!(world.topo(1), world.topo(4));
    assert_eq!(world.topo(1).lineage, 1);
    assert!(world.serves(4) && !world.serves(1));
}

#[test]
fn reset_of_a_replica_makes_a_chain_of_its_own() {
    let mut world = World::created(3, 3);
    let old = world.id(5);
    assert_eq!(world.ask(5, Command::Reset { is_hard: true, has_keys: true }), Ok(Outcome::Done));
    world.run(2000);
    assert!(world.topo(0).member(old).is_none(), "it asked to be forgotten");
    assert_eq!(world.topo(5).members.len(), 1);
    assert_ne!(world.id(5), old);
    let refused = world.ask(1, Command::Reset { is_hard: false, has_keys: true });
    assert_eq!(refused, Err(Refusal::HoldsKeys));
}

#[test]
fn delslots_stops_before_it_is_decided() {
    let mut world = World::created(3, 3);
    let range = SlotRange::new(Slot::new(0).unwrap(), Slot::new(9).unwrap()).unwrap();
    let command = Command::Decide(Request::DelSlots { node: world.id(0), slots: vec![range] });
    world.step(0, Event::Command { token: 77, command });
    assert_eq!(world.core(0).stopped_slots(), [range], "S1");
    assert!(world.topo(0).owner(range.first).is_some());
    world.run(100);
    assert_eq!(world.answers.remove(&77), Some(Ok(Outcome::Done)));
    assert!(world.core(0).stopped_slots().is_empty() && world.topo(3).owner(range.first).is_none());
}

#[test]
fn a_lost_quorum_is_said_so() {
    let mut world = World::created(3, 3);
    world.cut = vec![5];
    let request = Request::Setting { name: "x".into(), value: Some("1".into()) };
    assert_eq!(world.ask(5, Command::Decide(request)), Err(Refusal::NoQuorum));
}

#[test]
fn packets_of_a_peer_that_is_out_of_its_mind_do_not_stop_a_node() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut world = World::created(2, 2);
        world.damage = Some(crate::rng::Rng::new(seed));
        world.run(3000);
        world.kill(0);
        world.run(4000);
        world.start(0);
        world.run(2000);
        assert!(world.damaged > 100, "{} packets were damaged", world.damaged);
    }
}
