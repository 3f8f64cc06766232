//! Directed schedules of data and moves: what a copy is worth after a restart, a failover, a race.

use super::data::{ClientReply, DataMsg, Item, Key, Value, slot_of};
use super::plan::{Mutant, Plan};
use super::world::{Happening, World};
use gossip::{Command, DataClass, FailoverMode, Mutation, Request};
use migration::Mutation as Moves;
use proto::{Slot, SlotRange};
use replication::insync::Mutation as Sets;

const MS: u64 = 1000;

fn world(plan: Plan, mutant: Mutant) -> World {
    let mut w = World::new(&plan.with_mutant(mutant), false);
    w.run_until(900 * MS);
    w
}
fn three(class: DataClass) -> Plan {
    Plan::quiet_data(&[&[0, 1, 2]], 5, &[1, 3, 4], class)
}
fn two_shards(class: DataClass) -> Plan {
    Plan::quiet_data(&[&[0, 1], &[2, 3]], 5, &[1, 3, 4], class)
}

impl World {
    /// Asks a node as a client would; what it has answered within the time.
    fn ask(&mut self, i: usize, key: Key, write: Option<Value>, ms: u64) -> Option<ClientReply> {
        self.next_token += 1;
        let attempt = self.next_token;
        self.schedule(
            self.now,
            Happening::Data { to: i, message: DataMsg::Client { client: 0, attempt, key, write } },
        );
        for _ in 0..ms {
            self.pass(1);
            if let Some(reply) = self.replies.remove(&attempt) {
                return Some(reply);
            }
        }
        None
    }
    fn set(&mut self, i: usize, key: Key, value: Value) -> Option<ClientReply> {
        self.ask(i, key, Some(value), 100)
    }
    fn get(&mut self, i: usize, key: Key) -> Option<Value> {
        match self.ask(i, key, None, 300) {
            Some(ClientReply::Value(value)) => value,
            other => panic!("{i} answered {other:?} for {key}"),
        }
    }
    fn crash_now(&mut self, i: usize) {
        self.crash(i);
    }
    fn hand_over_to(&mut self, i: usize) {
        self.command(i, Command::Failover(FailoverMode::Default));
        self.pass_until("the hand-over", |w| w.leased(i));
    }
    fn move_slot(&mut self, key: Key, from: usize, to: usize) -> u64 {
        let topo = self.core(from).topology().clone();
        let slot = slot_of(key);
        let shard = |i: usize| topo.shard_of(self.nodes[i].id).unwrap().id;
        self.next_token += 1;
        let (id, from_shard, to_shard) = (self.next_token, shard(from), shard(to));
        let slots = vec![SlotRange { first: slot, last: slot }];
        let request = Request::MoveStart { id, slots, from: from_shard, to: to_shard };
        self.command(from, Command::Decide(request));
        id
    }
    fn owner(&self, i: usize, slot: Slot) -> Option<proto::NodeId> {
        let topo = self.core(i).topology();
        topo.owner(slot).and_then(|s| topo.shard(s)).map(|s| s.primary.node)
    }
    fn is_in_set(&self, i: usize) -> bool {
        let id = self.nodes[i].id;
        let newest =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].core.is_some()).max_by_key(|n| self.ver(*n));
        let topo = self.core(newest.unwrap()).topology();
        topo.shard_of(id).unwrap().contains_in_sync(id, self.nodes[i].generation_on_record())
    }
}

#[test]
fn an_acknowledged_write_survives_its_primary() {
    let mut w = world(three(DataClass::Memory), Mutant::None);
    assert_eq!(w.set(0, 5, 7), Some(ClientReply::Written));
    w.crash_now(0);
    w.pass(700);
    let heir = (1..3).find(|i| w.leased(*i)).expect("an heir");
    assert_eq!(w.get(heir, 5), Some(7));
}

/// D7, D12: a primary that restarts empty within the lease is nobody; its replicas keep their data.
#[test]
fn empty_primary_never_serves() {
    let mut w = world(three(DataClass::Memory), Mutant::None);
    w.set(0, 5, 7);
    w.crash_for(0, 10 * MS);
    w.pass(600);
    assert!(!w.leased(0));
    let heir = (1..3).find(|i| w.leased(*i)).expect("an heir");
    assert_eq!(w.get(heir, 5), Some(7));
    w.pass(1500);
    assert!(w.is_in_set(0), "it has come back as a full copy");
}

/// D7: a log shorter than its mark is a new generation, and no candidate.
#[test]
fn shortened_log_is_learner() {
    let mut w = world(three(DataClass::Fsync), Mutant::None);
    (0..6).for_each(|n| assert_eq!(w.set(0, 5, 10 + n), Some(ClientReply::Written)));
    w.pass(100);
    let before = w.core(1).generation();
    w.crash_now(1);
    let end = w.nodes[1].data.end();
    let id = w.nodes[1].id;
    w.nodes[1].data.restart(id, end - 4);
    w.start(1);
    w.crash_now(0);
    w.pass(1);
    assert!(w.core(1).generation() > before);
    w.pass(900);
    assert!(!w.leased(1) && w.leased(2), "only the whole copy is promoted");
    assert_eq!(w.get(2, 5), Some(15));
}

/// Crash and restart of a primary whose disk is whole: the same generation, promoted again without waiting for E.
#[test]
fn fsync_primary_restarts_at_once() {
    let mut w = world(Plan::quiet_data(&[&[0]], 4, &[1, 2, 3], DataClass::Fsync), Mutant::None);
    w.set(0, 5, 7);
    w.pass(50);
    w.crash_for(0, 20 * MS);
    w.pass(200);
    assert!(w.leased(0));
    assert_eq!(w.get(0, 5), Some(7));
}

/// D1, D6: what one member of the set does not hold is not acknowledged, until the set is smaller by decision.
#[test]
fn a_cut_off_member_holds_up_writes_until_it_is_dropped() {
    let mut w = world(three(DataClass::Memory), Mutant::None);
    w.cut_off(&[2], 3000);
    assert_eq!(w.ask(0, 5, Some(7), 40), None);
    assert_eq!(w.set(0, 5, 8).or_else(|| w.set(0, 5, 8)), Some(ClientReply::Written));
    assert!(!w.is_in_set(2) && w.is_in_set(1));
    w.net.heal();
    w.pass(800);
    assert!(w.is_in_set(2));
}

/// D1: an add that is decided counts though its primary has not heard so: the newcomer may be its heir.
#[test]
fn add_decided_unknown_to_primary() {
    let tell = |mutant| {
        let mut w = world(three(DataClass::Memory), mutant);
        w.cut_off(&[2], 3000);
        w.pass_until("2 is dropped", |w| !w.is_in_set(2));
        w.pass(50);
        w.filter = Some(to_zero_nothing_is_decided);
        SOURCE_IS_DEAF.with(|d| d.set(true));
        w.net.heal();
        w.pass_until("2 is added", |w| w.is_in_set(2));
        let id = w.nodes[2].id;
        assert!(!w.core(0).topology().shard_of(id).unwrap().in_sync.iter().any(|m| m.node == id));
        let until = w.now + 1000 * MS;
        w.net.cut(0, 2, until);
        w.net.cut(2, 0, until);
        let told = w.ask(0, 5, Some(9), 40) == Some(ClientReply::Written);
        SOURCE_IS_DEAF.with(|d| d.set(false));
        told
    };
    assert!(!tell(Mutant::None) && tell(Mutant::InSync(Sets::D1NoPending)));
}

/// D4, D5: an add that was cancelled by a drop at the same revision admits nobody when it arrives after all.
#[test]
fn late_add_after_drop() {
    let is_admitted = |is_cancelled: bool| {
        let mut w = world(three(DataClass::Memory), Mutant::None);
        w.cut_off(&[2], 3000);
        w.pass_until("2 is dropped", |w| !w.is_in_set(2));
        let (by, node, generation) = (w.nodes[0].id, w.nodes[2].id, w.nodes[2].generation_on_record());
        w.pass(50);
        let (shard, rev) = w.core(0).topology().shard_of(by).map(|s| (s.id, s.rev)).unwrap();
        if is_cancelled {
            w.command(0, Command::Decide(Request::Drop { shard, rev, by, node, generation }));
            w.pass_until("cancelled", |w| w.core(0).topology().shard_of(by).unwrap().rev > rev);
        }
        w.command(0, Command::Decide(Request::Add { shard, rev, by, node, generation }));
        // Its primary drops it again at once, since it is silent.
        (0..100).any(|_| {
            w.pass(1);
            w.is_in_set(2)
        })
    };
    assert!(!is_admitted(true) && is_admitted(false));
}

/// D2: the primary dies with its wish to drop a member unheard; the member may be its heir, and lacks nothing.
#[test]
fn drop_in_flight_primary_dies() {
    let tell = |mutant| {
        let mut w = world(three(DataClass::Memory), mutant);
        w.set(0, 5, 7);
        w.filter = Some(|from, _, message| from == 0 && matches!(message, gossip::Message::Ask { .. }));
        let until = w.now + 900 * MS;
        for i in [1, 2] {
            w.net.cut(0, i, until);
            w.net.cut(i, 0, until);
        }
        let told = w.ask(0, 5, Some(8), 250) == Some(ClientReply::Written);
        w.crash_now(0);
        w.pass_until("an heir", |w| (1..3).any(|i| w.leased(i)));
        let heir = (1..3).find(|i| w.leased(*i)).unwrap();
        let lost = w.get(heir, 5) == Some(7);
        assert!(lost, "nobody but the dead primary had it");
        told && lost
    };
    assert!(!tell(Mutant::None) && tell(Mutant::InSync(Sets::D2)));
}

/// D8: the candidate dies right after its report; the copies that a failover left in the set save the shard.
#[test]
fn candidate_dies_after_report() {
    let tell = |mutant| {
        let mut w = world(three(DataClass::Memory), mutant);
        w.set(0, 5, 7);
        w.crash_now(0);
        w.pass_until("an heir", |w| (1..3).any(|i| w.core(i).tenure().is_some()));
        let heir = (1..3).find(|i| w.core(*i).tenure().is_some()).unwrap();
        w.crash_now(heir);
        w.start(0);
        w.start(heir);
        w.pass(2500);
        (0..3).any(|i| w.leased(i))
    };
    assert!(tell(Mutant::None) && !tell(Mutant::Quorum(Mutation::D8)));
}

/// D13: a value of an unacknowledged tail is not shown before the set of the new tenure holds it.
#[test]
fn double_failover_dirty_tail() {
    let tell = |mutant| {
        let mut w = world(three(DataClass::Memory), mutant);
        w.set(0, 5, 7);
        // 2 hears nothing of the next write, 1 does; then the primary dies.
        w.cut_off(&[2], 60);
        assert_eq!(w.ask(0, 5, Some(8), 15), None);
        let tail = w.nodes[1].data.end();
        assert!(tail > w.nodes[2].data.end());
        w.crash_now(0);
        // 1 is promoted, but what it writes reaches nobody.
        let topo = w.core(1).topology().clone();
        let shard = topo.shard_of(w.nodes[1].id).unwrap();
        let request = Request::Prefer { shard: shard.id, to: w.nodes[1].id };
        w.pass(100);
        w.command(1, Command::Decide(request));
        w.pass_until("1 serves", |w| w.leased(1) || w.leased(2));
        if w.leased(2) {
            return false;
        }
        let until = w.now + 500 * MS;
        w.net.cut(1, 2, until);
        w.net.cut(2, 1, until);
        matches!(w.ask(1, 5, None, 30), Some(ClientReply::Value(Some(8))))
    };
    assert!(!tell(Mutant::None) && tell(Mutant::InSync(Sets::D13)));
}

/// D10: a copy with other bytes stays until the set has let it go.
#[test]
fn replica_discards_then_is_last() {
    let mut w = world(three(DataClass::Fsync), Mutant::None);
    w.set(0, 5, 7);
    w.pass(50);
    // 0 writes what nobody hears, and loses its tenure.
    w.cut_off(&[0], 700);
    w.ask(0, 5, Some(8), 20);
    let generation = w.core(0).generation();
    w.pass(1500);
    assert!(w.core(0).generation() > generation, "its tail was given up with its generation");
    w.pass(1500);
    assert!(w.is_in_set(0) && w.nodes[0].data.map[&5].0 == Some(7));
}

#[test]
fn move_there_and_back() {
    let mut w = world(two_shards(DataClass::Memory), Mutant::None);
    let slot = slot_of(0);
    assert_eq!(w.set(0, 0, 7), Some(ClientReply::Written));
    w.move_slot(0, 0, 2);
    w.pass_until("moved", |w| w.owner(2, slot) == Some(w.nodes[2].id));
    assert_eq!(w.set(2, 0, 8), Some(ClientReply::Written));
    assert_eq!(w.set(0, 0, 9), Some(ClientReply::Refused));
    w.move_slot(0, 2, 0);
    w.pass_until("moved back", |w| w.owner(0, slot) == Some(w.nodes[0].id));
    assert_eq!(w.get(0, 0), Some(8));
    w.pass(200);
    assert_eq!(w.nodes[2].data.map[&0].0, None, "S7");
}

/// S5: an empty slot comes with a purge of what an earlier ownership has left.
#[test]
fn move_of_empty_slot_purges_leftovers() {
    let mut w = world(two_shards(DataClass::Memory), Mutant::None);
    let slot = slot_of(0);
    // A leftover, as two failovers in a row may leave it.
    for i in [2, 3] {
        w.nodes[i].data.map.insert(0, (Some(99), 1));
    }
    w.move_slot(0, 0, 2);
    w.pass_until("moved", |w| w.owner(2, slot) == Some(w.nodes[2].id));
    assert_eq!(w.get(2, 0), None);
}

/// S3, S6: the target changes hands before the commit is decided; what the old one had agreed is void.
#[test]
fn move_commit_races_target_failover() {
    let tell = |mutant| {
        let mut w = world(two_shards(DataClass::Memory), mutant);
        w.set(0, 0, 7);
        w.filter_data = Some(|message| matches!(message, DataMsg::Feed { items, .. } if !is_begin(items)));
        let id = w.move_slot(0, 0, 2);
        w.pass(40);
        let topo = w.core(0).topology().clone();
        let epoch = |i: usize| topo.shard_of(w.nodes[i].id).unwrap().epoch;
        let (epoch_from, epoch_to) = (epoch(0), epoch(2));
        w.hand_over_to(3);
        // The commit that was under way all the time arrives now.
        w.command(4, Command::Decide(Request::MoveCommit { id, epoch_from, epoch_to }));
        w.pass(300);
        w.owner(4, slot_of(0)) == Some(w.nodes[3].id)
    };
    assert!(!tell(Mutant::None) && tell(Mutant::Quorum(Mutation::S3)));
}

/// S3: the source changes hands before the commit is decided; writes to its heir are in no copy that was agreed on.
#[test]
fn move_commit_races_source_failover() {
    let tell = |mutant| {
        let mut w = world(two_shards(DataClass::Memory), mutant);
        w.set(0, 0, 7);
        w.filter_data = Some(|message| matches!(message, DataMsg::Feed { items, .. } if !is_begin(items)));
        let id = w.move_slot(0, 0, 2);
        w.pass(40);
        let topo = w.core(0).topology().clone();
        let epoch = |i: usize| topo.shard_of(w.nodes[i].id).unwrap().epoch;
        let (epoch_from, epoch_to) = (epoch(0), epoch(2));
        w.crash_now(0);
        w.pass_until("an heir", |w| w.leased(1));
        assert_eq!(w.set(1, 0, 8), Some(ClientReply::Written));
        w.command(4, Command::Decide(Request::MoveCommit { id, epoch_from, epoch_to }));
        w.pass(100);
        w.owner(4, slot_of(0)) == Some(w.nodes[2].id)
    };
    assert!(!tell(Mutant::None) && tell(Mutant::Quorum(Mutation::S3)));
}

fn is_begin(items: &[Item]) -> bool {
    matches!(items.first(), Some(Item::Begin(_)))
}

/// S1: with the commit decided and the source's version still old, nobody serves the slot twice.
#[test]
fn move_paused_source_frozen_past_lease() {
    let tell = |mutant| {
        let mut w = world(two_shards(DataClass::Memory), mutant);
        w.set(0, 0, 7);
        // The source never hears that the slot has gone.
        w.filter = Some(to_zero_nothing_is_decided);
        w.move_slot(0, 0, 2);
        w.pass_until("begun", |w| !w.nodes[0].data.sources.is_empty());
        SOURCE_IS_DEAF.with(|d| d.set(true));
        w.pass_until("moved", |w| w.owner(2, slot_of(0)) == Some(w.nodes[2].id));
        SOURCE_IS_DEAF.with(|d| d.set(false));
        w.set(2, 0, 8);
        matches!(w.ask(0, 0, None, 20), Some(ClientReply::Value(_))) || w.violation.is_some()
    };
    assert!(!tell(Mutant::None) && tell(Mutant::Move(Moves::S1)));
}

/// S2: the commit is decided, and the source waits for news of it for longer than it likes. It goes on waiting.
#[test]
fn move_decided_while_the_source_hears_nothing() {
    let tell = |mutant| {
        let mut w = world(two_shards(DataClass::Memory), mutant);
        w.set(0, 0, 7);
        w.filter = Some(to_zero_nothing_is_decided);
        w.move_slot(0, 0, 2);
        w.pass_until("begun", |w| !w.nodes[0].data.sources.is_empty());
        SOURCE_IS_DEAF.with(|d| d.set(true));
        w.pass_until("moved", |w| w.owner(2, slot_of(0)) == Some(w.nodes[2].id));
        for _ in 0..80 {
            assert!(w.leased(0), "nothing but its pause keeps the source from serving");
            w.pass(20);
            let reply = w.ask(0, 0, None, 20);
            if w.violation.is_some() {
                break;
            }
            assert_eq!(reply, Some(ClientReply::Refused));
        }
        SOURCE_IS_DEAF.with(|d| d.set(false));
        w.violation.is_some()
    };
    assert!(!tell(Mutant::None) && tell(Mutant::Move(Moves::S2)));
}

fn to_zero_nothing_is_decided(_: usize, to: usize, message: &gossip::Message) -> bool {
    use gossip::Message::*;
    to == 0 && matches!(message, Decided { .. } | DecidedFull { .. }) && SOURCE_IS_DEAF.with(|d| d.get())
}

thread_local! {
    static SOURCE_IS_DEAF: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[test]
fn moves_with_one_voter_left() {
    let mut w = world(two_shards(DataClass::Memory), Mutant::None);
    w.swap(4, &[4]);
    w.pass(900);
    w.set(0, 0, 7);
    w.move_slot(0, 0, 2);
    w.pass_until("moved", |w| w.owner(2, slot_of(0)) == Some(w.nodes[2].id));
    assert_eq!(w.get(2, 0), Some(7));
}

/// W12: read under a lease, frozen before the reply: when it wakes, the lease has run out and nothing is said.
#[test]
fn frozen_between_read_and_reply() {
    let mut w = world(three(DataClass::Memory), Mutant::None);
    w.set(0, 5, 7);
    w.cut_off(&[0], 3000);
    // The reply has to wait for the set, since the value is new.
    assert_eq!(w.ask(0, 5, Some(8), 5), None);
    w.freeze(0, w.now + 900 * MS);
    w.pass(890);
    let heir = (1..3).find(|i| w.leased(*i)).expect("an heir");
    assert_eq!(w.get(heir, 5), Some(7));
    w.pass(100);
    assert!(w.replies.is_empty(), "{:?}", w.replies);
}
