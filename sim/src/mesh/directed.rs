//! Directed schedules: the stories that random faults find seldom or never. Each safety story is told twice, once
//! with the rule taken out, which must end in a violation.

use super::invariants::healed;
use super::plan::{Mutant, Plan};
use super::world::World;
use gossip::marks::Mark;
use gossip::{Command, Event, FailoverMode, Message, Mutation, Packet, Request};
use proto::Epoch;

const MS: u64 = 1000;

/// A cluster at rest, whose voters stay as the story needs them.
fn world(plan: &Plan, mutation: Option<Mutation>) -> World {
    let mutant = mutation.map_or(Mutant::None, Mutant::Quorum);
    let plan = Plan { has_fixed_voters: true, mutant, ..plan.clone() };
    let mut world = World::new(&plan, false);
    world.run_until(900 * MS);
    world
}

impl World {
    pub(super) fn core(&self, i: usize) -> &gossip::Core {
        self.nodes[i].core.as_ref().unwrap()
    }
    pub(super) fn ver(&self, i: usize) -> Epoch {
        self.core(i).topology().ver
    }
    pub(super) fn pass(&mut self, ms: u64) {
        self.run_until(self.now + ms * MS);
    }
    pub(super) fn pass_until(&mut self, what: &str, holds: impl Fn(&World) -> bool) {
        for _ in 0..40_000 {
            if holds(self) || self.violation.is_some() {
                return;
            }
            self.run_until(self.now + 100);
        }
        panic!("never: {what}");
    }
    pub(super) fn leased(&self, i: usize) -> bool {
        self.nodes[i].is_lease_valid(self.now)
    }
    pub(super) fn cut_off(&mut self, side: &[usize], ms: u64) {
        let until = self.now + ms * MS;
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if side.contains(&a) != side.contains(&b) {
                    self.net.cut(a, b, until);
                }
            }
        }
    }
    pub(super) fn lead(&mut self, i: usize) {
        for _ in 0..50 {
            if self.core(i).is_leader()
                && self.nodes.iter().filter(|n| n.core.as_ref().unwrap().is_leader()).count() == 1
            {
                return;
            }
            self.feed(i, Event::Stand);
            self.pass(60);
        }
        panic!("{i} does not lead");
    }
    pub(super) fn swap(&mut self, at: usize, voters: &[usize]) {
        let nodes = voters.iter().map(|i| self.nodes[*i].id).collect();
        self.command(at, Command::Decide(Request::Voters { nodes }));
    }
    pub(super) fn replace(&mut self, at: usize, to: usize) {
        let shard = self.core(to).topology().shard_of(self.nodes[to].id).unwrap().clone();
        let generation = self.core(to).generation();
        let to = self.nodes[to].id;
        let request = Request::HandOver { shard: shard.id, epoch: shard.epoch, to, generation };
        self.command(at, Command::Decide(request));
    }
    /// A packet as node `i` would send it, delivered to another at once.
    fn forge(&mut self, from: usize, to: usize, packet: &Packet) {
        assert_eq!(packet.from, self.nodes[from].id);
        self.feed(to, Event::Packet { from_ip: None, packet: Box::new(packet.clone()) });
    }
    fn is_violated(&self) -> bool {
        self.violation.as_ref().is_some_and(|v| v.what.contains("two lease-valid"))
    }
    fn marked(self, mark: Mark) -> u32 {
        self.finish().marks.count(mark)
    }
}

/// W3: the new voters know nothing of the lease that the old ones gave.
#[test]
fn lease_outlived_by_voter_swap() {
    let tell = |mutation| {
        let mut w = world(&Plan::quiet(&[&[0, 1]], 7, &[0, 2, 3]), mutation);
        w.lead(2);
        w.pass_until("0 serves", |w| w.leased(0));
        w.cut_off(&[0], 3000);
        w.swap(2, &[4, 5, 6]);
        w.pass_until("the swap is known", |w| (4..7).all(|i| w.core(i).is_voter()));
        w.feed(4, Event::Stand);
        w.pass(60);
        w.replace(1, 1);
        w.pass(200);
        let early = w.is_violated();
        w.pass(1500);
        assert!(w.violation.is_some() || w.leased(1), "the failover comes in the end");
        early
    };
    assert!(tell(Some(Mutation::W3)) && !tell(None));
}

/// W3: a voter that restarts has forgotten what it promised.
#[test]
fn voter_restarts_within_lease() {
    let tell = |mutation| {
        let mut w = world(&Plan::quiet(&[&[0, 1]], 3, &[0, 1, 2]), mutation);
        w.pass_until("0 serves", |w| w.leased(0));
        w.cut_off(&[0], 3000);
        w.crash_for(1, 2 * MS);
        w.crash_for(2, 2 * MS);
        w.pass(6);
        w.feed(2, Event::Stand);
        w.pass(40);
        w.replace(1, 1);
        w.pass(150);
        w.is_violated()
    };
    assert!(tell(Some(Mutation::W3)) && !tell(None));
}

/// W4: who has voted for other voters grants nothing until that is settled.
#[test]
fn pending_swap_grants_nothing() {
    let tell = |mutation| {
        let mut w = world(&Plan::quiet(&[&[0, 3]], 6, &[0, 1, 2]), mutation);
        w.lead(1);
        w.pass_until("0 serves", |w| w.leased(0));
        // 0 and 2 vote for the swap and never hear that it was decided.
        w.filter = Some(|_, to, message| {
            // Nor may they find out by an election of their own.
            let tells = matches!(
                message,
                Message::Decided { .. } | Message::DecidedFull { .. } | Message::Promise { .. }
            );
            tells && (to == 0 || to == 2)
        });
        w.swap(1, &[3, 4, 5]);
        w.pass_until("the swap is known", |w| (3..6).all(|i| w.core(i).is_voter()));
        w.feed(4, Event::Stand);
        w.pass(2000);
        w.is_violated()
    };
    assert!(!tell(None));
    assert!(tell(Some(Mutation::W4)));
}

/// W5: a grant of the new configuration and one of a voter that it has left out are no majority.
#[test]
fn grant_of_other_cfg_not_counted() {
    let tell = |mutation| {
        let mut w = world(&Plan::quiet(&[&[0, 1]], 7, &[2, 3, 4]), mutation);
        w.lead(3);
        w.pass_until("0 serves", |w| w.leased(0));
        // 0 and 2 hear of no new version; of 4, node 0 hears grants alone.
        w.filter = Some(|from, to, message| {
            let is_lease = matches!(message, Message::LeaseReq { .. } | Message::LeaseAck { .. });
            let is_apart = |i: usize| i == 0 || i == 2;
            is_apart(from) != is_apart(to) && !(is_lease && (from == 4 || to == 4))
        });
        w.swap(3, &[4, 5, 6]);
        w.pass_until("the swap is known", |w| (4..7).all(|i| w.core(i).is_voter()));
        w.feed(5, Event::Stand);
        w.pass(500);
        // 4's own promise runs on, so it is 5 and 6 who replace.
        w.replace(5, 1);
        w.pass(2000);
        w.is_violated()
    };
    assert!(tell(Some(Mutation::W5)) && !tell(None));
}

/// W11: a copy of an old release must not free the present tenure of the same process.
#[test]
fn late_release_of_old_tenure() {
    let tell = |mutation| {
        let mut w = world(&Plan::quiet(&[&[0, 1]], 3, &[0, 1, 2]), mutation);
        w.lead(2);
        let old = w.core(0).tenure().unwrap().1;
        let release = Packet {
            cluster: w.core(0).cluster(),
            lineage: 0,
            from: w.nodes[0].id,
            boot: w.core(0).boot(),
            store: w.core(0).store(),
            ver: w.ver(0),
            message: Message::Release { boot: w.core(0).boot(), tenure: old },
        };
        w.command(1, Command::Failover(FailoverMode::Default));
        w.pass_until("1 serves", |w| w.leased(1));
        w.pass(50);
        w.command(0, Command::Failover(FailoverMode::Default));
        w.pass_until("0 serves again", |w| w.leased(0));
        assert!(w.core(0).tenure().unwrap().1 > old);
        w.pass(50);
        w.cut_off(&[0], 3000);
        w.forge(0, 1, &release);
        w.forge(0, 2, &release);
        w.replace(1, 1);
        w.pass(100);
        w.is_violated()
    };
    assert!(tell(Some(Mutation::W11)) && !tell(None));
}

/// A1..A4: each of two leaders has one acceptance; the value that a third repeats is the one that may be decided.
#[test]
fn two_leaders_one_accepted_each() {
    let mut w = world(&Plan::quiet(&[&[0, 1]], 3, &[0, 1, 2]), None);
    w.lead(0);
    w.filter = Some(|_, _, message| matches!(message, Message::Accept { .. }));
    let set = |v: &str| Command::Decide(Request::Setting { name: "x".into(), value: Some(v.into()) });
    w.command(0, set("zero"));
    w.pass(5);
    assert!(w.core(0).record().accepted.is_some());
    w.filter = Some(|from, to, message| matches!(message, Message::Accept { .. }) || from == 0 || to == 0);
    w.feed(1, Event::Stand);
    w.pass(100);
    w.lead(1);
    w.command(1, set("one"));
    w.pass(5);
    assert!(w.core(1).record().accepted.is_some());
    w.filter = None;
    w.feed(2, Event::Stand);
    w.pass(3000);
    assert!(w.violation.is_none() && healed(&w.nodes, w.now).is_ok());
    assert_eq!(w.core(0).topology().setting("x"), Some("one"), "the later request was decided");
    assert!(w.marked(Mark::A3Repeat) > 0);
}

/// A1: the acceptance of an overtaken ballot, heard by a voter that has promised a higher one.
#[test]
fn overtaken_ballot_is_not_accepted() {
    let tell = |mutation| {
        let mut w = world(&Plan::quiet(&[&[0, 1]], 3, &[0, 1, 2]), mutation);
        w.lead(0);
        let set = |v: &str| Command::Decide(Request::Setting { name: "x".into(), value: Some(v.into()) });
        // 0 proposes and is heard by nobody; 1 has another value decided with the vote of 2, who is not told.
        w.filter = Some(|from, to, message| {
            from == 0 || to == 0 || (to == 2 && matches!(message, Message::Decided { .. }))
        });
        w.command(0, set("zero"));
        w.pass(50);
        w.feed(1, Event::Stand);
        w.pass(5);
        w.command(1, set("one"));
        w.pass(5);
        assert!(w.core(2).record().accepted.is_some() && w.ver(1) > w.ver(2));
        w.filter = Some(|from, to, message| {
            let is_vote = matches!(message, Message::Accept { .. } | Message::Accepted { .. });
            !is_vote || (from, to) == (1, 2)
        });
        w.pass(50);
        w.violation.as_ref().is_some_and(|v| v.what.contains("two values"))
    };
    assert!(tell(Some(Mutation::A1)) && !tell(None));
}

#[test]
fn leader_and_primary_die_together() {
    let mut w = world(&Plan::quiet(&[&[0, 1]], 5, &[0, 1, 2, 3, 4]), None);
    w.lead(2);
    w.crash(0);
    w.crash(2);
    w.pass(230);
    assert!(!w.leased(1), "not before the promises have run out");
    w.pass(500);
    assert!(w.leased(1) && w.violation.is_none());
}

/// One way: its heartbeats arrive, so nobody stands, but it hears no acknowledgement and steps down by itself (A9).
#[test]
fn leader_hears_nobody_but_is_heard() {
    let mut w = world(&Plan::quiet(&[&[0, 1]], 4, &[1, 2, 3]), None);
    w.lead(3);
    let until = w.now + 5_000 * MS;
    (0..3).for_each(|i| w.net.cut(i, 3, until));
    w.pass(1000);
    assert!(!w.core(3).is_leader() && (1..3).any(|i| w.core(i).is_leader()));
    assert!(w.leased(0) && w.marked(Mark::A9StepDown) > 0);
}

/// W9: an acceptance is withheld while the promise runs; the primary is not renewed and gives way after E.
#[test]
fn accept_waits_then_primary_returns() {
    let mut w = world(&Plan::quiet(&[&[0, 1]], 3, &[0, 1, 2]), None);
    w.lead(2);
    w.pass_until("0 serves", |w| w.leased(0));
    w.replace(1, 1);
    w.pass(100);
    assert!(w.leased(0) && !w.leased(1));
    w.pass(600);
    assert!(!w.leased(0) && w.leased(1) && w.violation.is_none());
    assert!(w.marked(Mark::W9Condemned) > 0);
}

/// A10: one voter has accepted a replacement that nobody else knows of, and would refuse the lease for ever.
#[test]
fn dangling_accept_cleared_by_noop() {
    let mut w = world(&Plan::quiet(&[&[0, 1]], 6, &[0, 1, 2, 3, 4]), None);
    w.lead(4);
    w.filter = Some(|_, to, message| matches!(message, Message::Accept { .. }) && to != 3);
    let ver = w.ver(0);
    w.swap(5, &[0, 1, 2]);
    w.pass_until("3 has accepted", |w| w.core(3).record().accepted.is_some());
    // Who asked and who proposed die; the one voter sleeps until there is another leader.
    w.crash(5);
    w.crash(4);
    w.freeze(3, w.now + 200 * MS);
    w.filter = None;
    w.pass(60);
    w.feed(1, Event::Stand);
    w.pass(100);
    assert!(w.core(1).is_leader() && w.ver(1) == ver);
    w.pass(400);
    assert!(w.core(3).record().accepted.is_none() && w.ver(3) > ver);
    assert_eq!(w.core(3).topology().voters.len(), 5);
    assert!(w.leased(0) && w.marked(Mark::A10Noop) > 0);
}

/// W7: a new primary is born with a promise.
#[test]
fn fresh_primary_is_not_replaced() {
    let mut plan = Plan::quiet(&[&[0, 1, 2]], 5, &[0, 1, 2, 3, 4]);
    plan.delay_us = (18 * MS, 20 * MS);
    let mut w = world(&plan, None);
    w.crash(0);
    w.pass(1500);
    let failovers = w.finish().marks.count(Mark::Failover);
    assert_eq!(failovers, 1);
}

#[test]
fn store_lost_voter_readmitted() {
    let mut w = World::new(&Plan::quiet(&[&[0, 1]], 3, &[0, 1, 2]), false);
    w.run_until(900 * MS);
    w.crash(2);
    w.nodes[2].disk = None;
    w.nodes[2].disk_order = Default::default();
    w.nodes[2].config.store = Some(proto::StoreId(77));
    w.start(2);
    w.pass(20);
    assert!(!w.core(2).is_voter(), "A8");
    w.pass(4000);
    assert!(w.core(2).is_voter() && w.core(0).topology().voters.len() == 3);
}

#[test]
fn far_behind_node_gets_full_value() {
    let mut w = world(&Plan::quiet(&[&[0, 1]], 4, &[0, 1, 2]), None);
    w.cut_off(&[3], 60_000);
    for n in 0..300 {
        let value = Some(n.to_string());
        w.command(0, Command::Decide(Request::Setting { name: "x".into(), value }));
        w.pass(8);
    }
    assert!(w.ver(0).0 > w.ver(3).0 + 256);
    w.net.heal();
    w.pass(1000);
    assert_eq!(w.ver(0), w.ver(3));
    assert!(w.marked(Mark::FullTopology) > 0);
}

/// A frozen primary wakes with a lease that has run out while it slept (W12, W13): its own clock tells it so.
#[test]
fn frozen_primary_wakes_without_a_lease() {
    let mut w = world(&Plan::quiet(&[&[0, 1]], 3, &[0, 1, 2]), None);
    w.pass_until("0 serves", |w| w.leased(0));
    w.nodes[0].frozen_until = w.now + 900 * MS;
    w.pass(890);
    assert!(!w.leased(0) && w.leased(1) && w.violation.is_none());
}
