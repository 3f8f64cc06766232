//! The primary's side: one value per tenure.
//!
//! Invariant: the acknowledged offset never goes back, and never passes a member that may already be in the set.

use super::{Class, Mutation, ShardState};
use proto::{Epoch, Generation, Mono, NodeId, Now, Offset};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub class: Class,
    /// How long a member of the set may hold up acknowledgements: LAG = max(10 RTT, min(T/4, 1 s)).
    pub lag: Duration,
    /// Least time between two asks of the same thing.
    pub retry: Duration,
    pub mutation: Option<Mutation>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Tick,
    /// A version was adopted, in which this tenure goes on.
    Topology(ShardState),
    /// Our log ends here now.
    Appended(Offset),
    /// Our own disk holds it up to here.
    Synced(Offset),
    /// A replica that has adopted this tenure, and whose log was judged to be a prefix of ours, reaches so far.
    Ack {
        node: NodeId,
        generation: Generation,
        tenure: Epoch,
        matched: Offset,
        synced: Offset,
    },
    /// A replica's log was judged to hold bytes that are not ours.
    Diverged {
        node: NodeId,
        generation: Generation,
    },
}

/// A decision wanted of the quorum: compare-and-set on (rev, primary) (D5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    Drop { rev: Epoch, node: NodeId, generation: Generation },
    Add { rev: Epoch, node: NodeId, generation: Generation },
    Strict { rev: Epoch, generation: Generation },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// To be sent to the leader. May be sent again: it is asked until `rev` has moved.
    Ask(Ask),
    /// Replies and reads up to here may leave (D1, D14).
    Acknowledged(Offset),
}

/// See the module's head.
#[derive(Debug)]
pub struct Primary {
    me: NodeId,
    generation: Generation,
    shard: ShardState,
    settings: Settings,
    end: Offset,
    synced: Offset,
    acknowledged: Offset,
    /// Where this tenure's header ends: nothing is acknowledged before the set holds it (D13).
    header_end: Offset,
    began: Mono,
    replicas: BTreeMap<NodeId, Replica>,
    /// Adds that may be decided already (D1, D4).
    pending_add: BTreeMap<NodeId, Generation>,
    /// Drops asked at the present rev.
    pending_drop: BTreeMap<NodeId, Generation>,
    /// The primary of the tenure before: dropped at once, it is the likeliest to be dead (D8).
    former: Option<NodeId>,
    next_ask: Mono,
}

#[derive(Debug)]
struct Replica {
    generation: Generation,
    matched: Offset,
    synced: Offset,
    heard: Mono,
    is_diverged: bool,
    /// What it has to reach, and since when.
    goal: Option<(Offset, Mono)>,
}

impl Primary {
    /// `end` is the log's end behind this tenure's header; `acknowledged` what the stream told about earlier tenures;
    /// `former` who served before.
    pub fn new(
        (me, generation): (NodeId, Generation),
        shard: ShardState,
        (acknowledged, end): (Offset, Offset),
        former: Option<NodeId>,
        settings: Settings,
        now: Now,
    ) -> Primary {
        assert!(shard.primary == me && acknowledged <= end);
        let acknowledged = if settings.mutation == Some(Mutation::D13) { end } else { acknowledged };
        Primary {
            me,
            generation,
            shard,
            settings,
            end,
            synced: Offset(0),
            acknowledged,
            header_end: end,
            began: now.mono,
            replicas: BTreeMap::new(),
            pending_add: BTreeMap::new(),
            pending_drop: BTreeMap::new(),
            former: former.filter(|f| *f != me),
            next_ask: now.mono,
        }
    }

    /// Up to here every possible member of the set holds our log.
    pub fn acknowledged(&self) -> Offset {
        self.acknowledged
    }
    /// D14: what was written at this offset may still vanish, so a read of it waits.
    pub fn is_dirty(&self, written: Offset) -> bool {
        self.settings.class != Class::Async && written > self.acknowledged
    }
    pub fn shard(&self) -> &ShardState {
        &self.shard
    }
    pub fn next_deadline(&self) -> Mono {
        let goals = self.replicas.values().filter_map(|r| r.goal).map(|(_, since)| since + self.settings.lag);
        goals.chain([self.next_ask]).min().expect("next_ask is there")
    }

    pub fn step(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Topology(shard) => self.on_topology(now, shard),
            Event::Appended(end) => {
                assert!(end >= self.end, "a log grows");
                self.end = end;
            }
            Event::Synced(synced) => self.synced = self.synced.max(synced.min(self.end)),
            Event::Ack { node, generation, tenure, matched, synced } => {
                if tenure == self.shard.epoch && self.shard.members.contains(&node) {
                    self.on_ack(now, node, generation, (matched.min(self.end), synced.min(self.end)));
                }
            }
            Event::Diverged { node, generation } => {
                let replica = self.replica(now, node, generation);
                replica.is_diverged = true;
                replica.heard = now.mono;
            }
        }
        self.set_goals(now);
        self.ask(now, out);
        self.acknowledge(out);
    }

    fn on_topology(&mut self, now: Now, shard: ShardState) {
        assert!(
            shard.epoch == self.shard.epoch && shard.primary == self.me,
            "another tenure is another value"
        );
        // D4: only a version whose rev has moved settles what was asked at the old one.
        if shard.rev > self.shard.rev {
            self.pending_add.clear();
            self.pending_drop.clear();
            self.next_ask = now.mono;
        }
        self.replicas.retain(|node, _| shard.members.contains(node));
        self.shard = shard;
    }

    fn replica(&mut self, now: Now, node: NodeId, generation: Generation) -> &mut Replica {
        let fresh = Replica {
            generation,
            matched: Offset(0),
            synced: Offset(0),
            heard: now.mono,
            is_diverged: false,
            goal: None,
        };
        let replica = self.replicas.entry(node).or_insert_with(|| Replica { ..fresh });
        if replica.generation < generation {
            // Another life of its data: what the former one held is gone.
            *replica = Replica {
                generation,
                matched: Offset(0),
                synced: Offset(0),
                heard: now.mono,
                is_diverged: false,
                goal: None,
            };
        }
        replica
    }

    fn on_ack(
        &mut self,
        now: Now,
        node: NodeId,
        generation: Generation,
        (matched, synced): (Offset, Offset),
    ) {
        let replica = self.replica(now, node, generation);
        if replica.generation != generation {
            return;
        }
        replica.heard = now.mono;
        replica.is_diverged = false;
        replica.matched = replica.matched.max(matched);
        replica.synced = replica.synced.max(synced);
    }

    fn reached(&self, replica: &Replica) -> Offset {
        // D17: in the fsync class only what its disk holds.
        match self.settings.class {
            Class::InSyncFsync => replica.synced.min(replica.matched),
            _ => replica.matched,
        }
    }

    /// A member is behind from when it has not reached what was the end then.
    fn set_goals(&mut self, now: Now) {
        let (end, class) = (self.end, self.settings.class);
        for replica in self.replicas.values_mut() {
            let reached = if class == Class::InSyncFsync { replica.synced } else { replica.matched };
            match replica.goal {
                Some((goal, _)) if reached < goal => {}
                _ => replica.goal = (reached < end).then_some((end, now.mono)),
            }
        }
    }

    fn ask(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.settings.class == Class::Async {
            return;
        }
        let is_due = now.mono >= self.next_ask;
        let mut asks = Vec::new();
        if !self.shard.strict {
            // D9: decided before the first acknowledgement.
            if is_due {
                asks.push(Ask::Strict { rev: self.shard.rev, generation: self.generation });
            }
        } else {
            self.ask_drops(now, is_due, &mut asks);
            self.ask_adds(now, is_due, &mut asks);
        }
        if is_due {
            self.next_ask = now.mono + self.settings.retry;
        }
        out.extend(asks.into_iter().map(Effect::Ask));
    }

    fn ask_drops(&mut self, now: Now, is_due: bool, asks: &mut Vec<Ask>) {
        let rev = self.shard.rev;
        let listed = self.shard.in_sync.iter().copied().filter(|(node, _)| *node != self.me);
        let pending = self.pending_add.iter().map(|(node, generation)| (*node, *generation));
        let members: Vec<(NodeId, Generation)> = listed.chain(pending).collect();
        for (node, generation) in members {
            let is_asked = self.pending_drop.contains_key(&node);
            if is_asked && !is_due {
                continue;
            }
            // D4: what has been asked is asked again until rev moves, whatever the member does meanwhile.
            if is_asked || self.is_too_late(now, node, generation) {
                self.pending_drop.insert(node, generation);
                asks.push(Ask::Drop { rev, node, generation });
            }
        }
    }

    fn is_too_late(&self, now: Now, node: NodeId, generation: Generation) -> bool {
        let lag = self.settings.lag;
        let Some(replica) = self.replicas.get(&node) else {
            // D8: the former primary at once, the others when they had their chance.
            return self.former == Some(node) || now.mono >= self.began + lag;
        };
        let is_silent = now.mono >= replica.heard + lag;
        let is_behind = replica.goal.is_some_and(|(_, since)| now.mono >= since + lag);
        replica.generation != generation || replica.is_diverged || is_silent || is_behind
    }

    fn ask_adds(&mut self, now: Now, is_due: bool, asks: &mut Vec<Ask>) {
        let rev = self.shard.rev;
        let skips = self.settings.mutation == Some(Mutation::D3);
        let ready: Vec<(NodeId, Generation)> = self
            .replicas
            .iter()
            .filter(|(node, r)| {
                let listed = self.shard.in_sync.iter().any(|(n, _)| n == *node);
                let is_known = self.pending_add.contains_key(node) || self.pending_drop.contains_key(node);
                // D3: it holds all that was acknowledged, in this tenure, in this life of its data.
                let is_whole = self.reached(r) >= self.acknowledged.max(self.header_end) || skips;
                let is_alive = now.mono < r.heard + self.settings.lag;
                !listed && !is_known && !r.is_diverged && is_whole && is_alive
            })
            .map(|(node, r)| (*node, r.generation))
            .collect();
        for (node, generation) in ready {
            // From the sending on it counts (D1): it may be in the set before we hear of it.
            self.pending_add.insert(node, generation);
            asks.push(Ask::Add { rev, node, generation });
        }
        if is_due {
            let again = self.pending_add.iter().filter(|(node, _)| !self.pending_drop.contains_key(node));
            for (node, generation) in again {
                let ask = Ask::Add { rev, node: *node, generation: *generation };
                if !asks.contains(&ask) {
                    asks.push(ask);
                }
            }
        }
    }

    fn acknowledge(&mut self, out: &mut Vec<Effect>) {
        let offset = self.held_by_all();
        if offset > self.acknowledged && offset >= self.header_end {
            self.acknowledged = offset;
            out.push(Effect::Acknowledged(offset));
        }
    }

    /// D1: what every (node, generation) of the set, and of the adds under way, holds.
    fn held_by_all(&self) -> Offset {
        let mutation = self.settings.mutation;
        if self.settings.class == Class::Async || mutation == Some(Mutation::D1NoWait) {
            return self.end;
        }
        if !self.shard.strict {
            return self.acknowledged;
        }
        let own = if self.settings.class == Class::InSyncFsync { self.synced } else { self.end };
        let listed = self.shard.in_sync.iter().copied();
        let pending = self.pending_add.iter().map(|(n, g)| (*n, *g));
        let pending = pending.filter(|_| mutation != Some(Mutation::D1NoPending));
        // D2: who was asked to be dropped counts until the version without it is adopted.
        let counts = |node: &NodeId| {
            *node != self.me && (mutation != Some(Mutation::D2) || !self.pending_drop.contains_key(node))
        };
        listed
            .chain(pending)
            .filter(|(node, _)| counts(node))
            .map(|(node, generation)| match self.replicas.get(&node) {
                Some(r) if r.generation == generation && !r.is_diverged => self.reached(r),
                _ => Offset(0),
            })
            .fold(own, Offset::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ShardId, WallMs};

    const G: Generation = Generation(1);

    fn node(n: u8) -> NodeId {
        NodeId([n; 20])
    }
    fn at(ms: u64) -> Now {
        Now { mono: Mono::from_ms(ms), wall: WallMs(0) }
    }
    fn shard(rev: u64, in_sync: &[u8]) -> ShardState {
        ShardState {
            id: ShardId([1; 20]),
            epoch: Epoch(5),
            rev: Epoch(rev),
            primary: node(1),
            in_sync: in_sync.iter().map(|n| (node(*n), G)).collect(),
            members: vec![node(1), node(2), node(3)],
            strict: true,
        }
    }
    struct Story(Primary, u64);

    impl Story {
        fn new(in_sync: &[u8]) -> Story {
            let settings = Settings {
                class: Class::InSync,
                lag: Duration::from_millis(250),
                retry: Duration::from_millis(100),
                mutation: None,
            };
            let offsets = (Offset(10), Offset(20));
            Story(Primary::new((node(1), G), shard(5, in_sync), offsets, None, settings, at(0)), 0)
        }
        fn step(&mut self, ms: u64, event: Event) -> Vec<Effect> {
            self.1 = ms;
            let mut out = Vec::new();
            self.0.step(at(ms), event, &mut out);
            out
        }
        fn ack(&mut self, ms: u64, n: u8, generation: u64, matched: u64) -> Vec<Effect> {
            let (generation, matched) = (Generation(generation), Offset(matched));
            let (tenure, synced) = (Epoch(5), Offset(0));
            self.step(ms, Event::Ack { node: node(n), generation, tenure, matched, synced })
        }
    }
    fn acknowledged(offset: u64) -> Effect {
        Effect::Acknowledged(Offset(offset))
    }
    fn drop_of(rev: u64, n: u8) -> Effect {
        Effect::Ask(Ask::Drop { rev: Epoch(rev), node: node(n), generation: G })
    }
    fn add_of(rev: u64, n: u8, g: u64) -> Effect {
        Effect::Ask(Ask::Add { rev: Epoch(rev), node: node(n), generation: Generation(g) })
    }

    #[test]
    fn d1_waits_for_every_member_of_the_set() {
        let mut s = Story::new(&[1, 2, 3]);
        assert_eq!(s.ack(1, 2, 1, 20), []);
        assert_eq!(s.ack(2, 3, 1, 20), [acknowledged(20)]);
        s.step(3, Event::Appended(Offset(30)));
        assert_eq!(s.ack(4, 2, 1, 30), []);
        assert_eq!(s.ack(5, 3, 1, 25), [acknowledged(25)]);
    }

    #[test]
    fn d13_nothing_is_acknowledged_before_the_header_is_held() {
        let mut s = Story::new(&[1, 2]);
        assert_eq!(s.ack(1, 2, 1, 19), []);
        assert!(s.0.is_dirty(Offset(11)) && !s.0.is_dirty(Offset(10)));
        assert_eq!(s.ack(2, 2, 1, 20), [acknowledged(20)]);
    }

    #[test]
    fn d2_drop_asked_is_not_drop_adopted() {
        let mut s = Story::new(&[1, 2]);
        s.ack(1, 2, 1, 20);
        s.step(2, Event::Appended(Offset(30)));
        assert_eq!(s.step(260, Event::Tick), [drop_of(5, 2)]);
        assert_eq!(s.0.acknowledged(), Offset(20));
        assert_eq!(s.step(261, Event::Topology(shard(6, &[1]))), [acknowledged(30)]);
    }

    #[test]
    fn d4_a_pending_add_counts_until_rev_moves() {
        let mut s = Story::new(&[1]);
        assert_eq!(s.step(0, Event::Tick), [acknowledged(20)]);
        assert_eq!(s.ack(1, 2, 1, 20), [add_of(5, 2, 1)]);
        assert_eq!(s.step(2, Event::Appended(Offset(30))), []);
        // It falls silent: Drop at the same rev, and it still counts.
        assert_eq!(s.step(300, Event::Tick), [drop_of(5, 2)]);
        assert_eq!(s.0.acknowledged(), Offset(20));
        assert_eq!(s.step(301, Event::Topology(shard(6, &[1]))), [acknowledged(30)]);
    }

    #[test]
    fn d3_only_a_whole_copy_is_added() {
        let mut s = Story::new(&[1]);
        s.step(0, Event::Tick);
        assert_eq!(s.ack(1, 2, 1, 19), []);
        assert_eq!(s.ack(2, 2, 1, 20), [add_of(5, 2, 1)]);
    }

    #[test]
    fn d6_another_generation_of_a_member_is_not_that_member() {
        let mut s = Story::new(&[1, 2]);
        assert_eq!(s.ack(1, 2, 2, 20), [drop_of(5, 2)]);
        assert_eq!(s.0.acknowledged(), Offset(10));
        assert_eq!(s.step(2, Event::Topology(shard(6, &[1]))), [add_of(6, 2, 2), acknowledged(20)]);
    }

    #[test]
    fn d8_the_former_primary_is_dropped_in_the_first_step_and_others_after_lag() {
        let mut s = Story::new(&[1, 2, 3]);
        s.0.former = Some(node(2));
        assert_eq!(s.step(0, Event::Tick), [drop_of(5, 2)]);
        assert_eq!(s.step(249, Event::Tick), [drop_of(5, 2)]);
        assert_eq!(s.step(350, Event::Tick), [drop_of(5, 2), drop_of(5, 3)]);
    }

    #[test]
    fn d9_strict_comes_before_the_first_acknowledgement() {
        let mut s = Story::new(&[1]);
        s.0.shard.strict = false;
        let strict = Effect::Ask(Ask::Strict { rev: Epoch(5), generation: G });
        assert_eq!(s.step(0, Event::Tick), [strict]);
        assert_eq!(s.0.acknowledged(), Offset(10));
        assert_eq!(s.step(1, Event::Topology(shard(6, &[1]))), [acknowledged(20)]);
    }

    #[test]
    fn d17_in_the_fsync_class_only_disks_count() {
        let mut s = Story::new(&[1, 2]);
        s.0.settings.class = Class::InSyncFsync;
        s.ack(1, 2, 1, 20);
        assert_eq!(s.0.acknowledged(), Offset(10));
        let (tenure, matched) = (Epoch(5), Offset(20));
        let ack = Event::Ack { node: node(2), generation: G, tenure, matched, synced: Offset(20) };
        assert_eq!(s.step(2, ack), []);
        assert_eq!(s.step(3, Event::Synced(Offset(20))), [acknowledged(20)]);
    }

    #[test]
    fn d10_a_diverged_member_is_dropped_at_once_and_does_not_count() {
        let mut s = Story::new(&[1, 2]);
        let diverged = Event::Diverged { node: node(2), generation: G };
        assert_eq!(s.step(1, diverged), [drop_of(5, 2)]);
        assert_eq!(s.0.acknowledged(), Offset(10));
    }
}
