//! One node of the mesh: a core, its clock, its disk, and the effects it has not carried out yet.

use super::data::DataNode;
use super::plan::Plan;
use super::world::Input;
use gossip::topology::{Address, InSync, Member, Primary, Shard, Voter};
use gossip::{Config, Core, Effect, Position, Record, Topology, first_generation};
use proto::{Boot, Epoch, Generation, Mono, NodeId, Now, ShardId, Slot, SlotRange, StoreId, WallMs};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub struct SimNode {
    pub index: usize,
    pub id: NodeId,
    pub config: Config,
    pub core: Option<Core>,
    pub disk: Option<Record>,
    /// Counts restarts; what was meant for an earlier life is dropped.
    pub life: u32,
    pub frozen_until: u64,
    pub inbox: VecDeque<Input>,
    pub pending: VecDeque<Effect>,
    /// A record on its way to the disk.
    pub syncing: Option<Box<Record>>,
    pub timer_at: Option<u64>,
    /// Die after so many more effects.
    pub crash_after: Option<u32>,
    pub position: Position,
    pub stores_lost: u32,
    pub data: DataNode,
    /// The disk has lost bytes that were said to be durable; the record does not know it yet.
    pub is_copy_lost: bool,
    /// The copy goes as soon as this generation has durably ended (D10).
    pub discard_pending: Option<Generation>,
    drift_ppm: i64,
    offset_us: u64,
    /// Newest (lineage, version) and boot on disk: they never go back.
    pub disk_order: (u64, Epoch, Boot),
}

impl SimNode {
    pub fn new(index: usize, plan: &Plan, initial: &Arc<Topology>) -> SimNode {
        let id = node_id(index);
        let config = Config {
            id: Some(id),
            store: Some(StoreId(index as u64 + 1)),
            address: address(index),
            node_timeout: Duration::from_millis(plan.wait_ms),
            lease_percent: plan.lease_percent,
            data_class: plan.data_class,
            initial: Some(initial.clone()),
            mutation: plan.mutant.quorum(),
            ..Config::default()
        };
        SimNode {
            index,
            id,
            config,
            core: None,
            disk: None,
            life: 0,
            frozen_until: 0,
            inbox: VecDeque::new(),
            pending: VecDeque::new(),
            syncing: None,
            timer_at: None,
            crash_after: None,
            position: Position { epoch: Epoch(1), ..Position::default() },
            stores_lost: 0,
            data: DataNode::new(id),
            discard_pending: None,
            is_copy_lost: false,
            drift_ppm: plan.drift_ppm[index],
            offset_us: 1_000_000 * (index as u64 + 1),
            disk_order: Default::default(),
        }
    }

    /// This node's clocks at a true time.
    pub fn clock(&self, true_us: u64) -> Now {
        let drift = true_us as i64 * self.drift_ppm / 1_000_000;
        let mono = Mono(self.offset_us.wrapping_add_signed(true_us as i64 + drift));
        Now { mono, wall: WallMs(1_700_000_000_000 + true_us as i64 / 1000) }
    }
    /// The first true time at which this node's clock shows `mono` or later.
    pub fn true_time(&self, mono: Mono) -> u64 {
        if mono.0 > u64::MAX / 4 {
            return u64::MAX;
        }
        let local = mono.0.saturating_sub(self.offset_us);
        let guess = (local as i128 * 1_000_000 / (1_000_000 + self.drift_ppm as i128)) as u64;
        (guess.saturating_sub(2)..).find(|t| self.clock(*t).mono >= mono).expect("a clock goes on")
    }
    pub fn is_lease_valid(&self, true_us: u64) -> bool {
        self.core.as_ref().is_some_and(|c| c.is_lease_valid(self.clock(true_us).mono))
    }
    /// Generation that a restart would find or that is in force.
    pub fn generation_on_record(&self) -> Generation {
        let running = self.core.as_ref().map(|c| c.generation());
        running.or(self.disk.as_ref().map(|r| r.generation)).unwrap_or_default()
    }
    pub fn is_frozen(&self, true_us: u64) -> bool {
        true_us < self.frozen_until
    }
    /// Carries out nothing for now: frozen, or waiting for its disk, or in the middle of a list.
    pub fn is_busy(&self, true_us: u64) -> bool {
        self.is_frozen(true_us) || self.syncing.is_some() || !self.pending.is_empty()
    }
}

pub fn node_id(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 20])
}
pub fn shard_id(index: usize) -> ShardId {
    ShardId([index as u8 + 100; 20])
}
fn address(index: usize) -> Address {
    Address { ip: format!("10.0.0.{}", index + 1), port: 6379, bus_port: 16379, ..Address::default() }
}

/// Version 1 as the plan wants it.
pub fn initial_topology(plan: &Plan) -> Topology {
    let store = |i: usize| StoreId(i as u64 + 1);
    let member = |i: usize| Member {
        id: node_id(i),
        store: store(i),
        address: address(i),
        join: 0,
        no_failover: false,
    };
    let first = plan.shards[0][0];
    let mut topo = Topology::alone(
        gossip::topology::ClusterId([7; 20]),
        member(first),
        shard_id(0),
        Boot(1),
        first_generation(store(first)),
    );
    (0..plan.nodes).for_each(|i| topo.insert_member(member(i)));
    topo.shards.clear();
    for (s, members) in plan.shards.iter().enumerate() {
        let copy = |i: &usize| InSync { node: node_id(*i), generation: first_generation(store(*i)) };
        topo.insert_shard(Shard {
            id: shard_id(s),
            epoch: Epoch(1),
            config_epoch: Epoch(1),
            rev: Epoch(1),
            primary: Primary { node: node_id(members[0]), boot: Boot(1), store: store(members[0]) },
            in_sync: members.iter().map(copy).collect(),
            members: members.iter().map(|i| node_id(*i)).collect(),
            strict: plan.has_data,
            lossy: false,
        });
        let slots = plan.shards.len();
        let share = Slot::COUNT / slots;
        let last = if s + 1 == slots { Slot::COUNT - 1 } else { (s + 1) * share - 1 };
        let range = SlotRange::new(
            Slot::new((s * share) as u16).expect("a slot"),
            Slot::new(last as u16).expect("a slot"),
        );
        topo.assign(&[range.expect("a range")], Some(shard_id(s)));
    }
    topo.voters = plan.voters.iter().map(|i| Voter { node: node_id(*i), store: store(*i) }).collect();
    topo.voters.sort();
    if plan.has_fixed_voters {
        topo.settings.push(("cluster-voters-fixed".into(), "yes".into()));
    }
    topo.check().expect("a plan makes a sound topology");
    topo
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Profile;

    #[test]
    fn a_deadline_is_met_by_the_drifting_clock() {
        let mut plan = Plan::from_seed(Profile::R, 1);
        for drift in [-20_000, -1, 0, 7, 20_000] {
            plan.drift_ppm[0] = drift;
            let node = SimNode::new(0, &plan, &Arc::new(initial_topology(&plan)));
            for t in [0, 1, 999, 1_000_000, 12_345_678] {
                let mono = node.clock(t).mono;
                let back = node.true_time(mono);
                assert!(back <= t && node.clock(back).mono >= mono, "{drift} {t} {back}");
            }
        }
    }
}
