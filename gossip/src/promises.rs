//! What a voter owes to primaries: a lease once promised is honoured until it has run out. Chapter 4.2.
//!
//! Invariant: volatile, and safe because of W3: after a restart everybody counts as promised for E.
//! Invariant: promises survive the adoption of a version (W6): they belong to a process, not to a topology.

use crate::topology::{Primary, Shard};
use proto::{Boot, Epoch, Mono, NodeId, StoreId};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub struct Promises {
    until: BTreeMap<Primary, Mono>,
    /// Highest tenure that each process has given back.
    released: BTreeMap<Primary, Epoch>,
    blanket_until: Mono,
    seen: BTreeMap<NodeId, (StoreId, Boot)>,
    condemned: Option<Condemned>,
}

#[derive(Clone, Debug)]
struct Condemned {
    ver: Epoch,
    primaries: Vec<Primary>,
    until: Mono,
}

impl Promises {
    /// Notes which life of a node is speaking. True when it is a later one of the same store, or another store.
    pub fn hear(&mut self, node: NodeId, store: StoreId, boot: Boot) -> bool {
        match self.seen.get(&node) {
            Some((s, b)) if *s == store && *b >= boot => false,
            _ => self.seen.insert(node, (store, boot)).is_some(),
        }
    }
    pub fn seen(&self, node: NodeId) -> Option<(StoreId, Boot)> {
        self.seen.get(&node).copied()
    }

    pub fn promise(&mut self, to: Primary, until: Mono) {
        let entry = self.until.entry(to).or_default();
        *entry = (*entry).max(until);
    }
    /// W3: everybody is promised until then.
    pub fn blanket(&mut self, until: Mono) {
        self.blanket_until = self.blanket_until.max(until);
    }
    /// W9: no renewal for those whose replacement was proposed.
    pub fn condemn(&mut self, ver: Epoch, primaries: Vec<Primary>, until: Mono) {
        self.condemned = Some(Condemned { ver, primaries, until });
    }
    pub fn is_condemned(&self, primary: Primary, ver: Epoch, now: Mono) -> bool {
        self.condemned
            .as_ref()
            .is_some_and(|c| c.ver == ver && now < c.until && c.primaries.contains(&primary))
    }
    /// A12: a decided version ends what was condemned before it.
    pub fn adopted(&mut self, ver: Epoch, now: Mono) {
        if self.condemned.as_ref().is_some_and(|c| c.ver < ver) {
            self.condemned = None;
        }
        self.until.retain(|_, until| *until > now);
        if self.released.len() > 2 * crate::topology::MEMBERS_MAX {
            self.released.clear();
        }
    }

    /// The process serves no more in this tenure (W11: and in no other one is it freed).
    pub fn release(&mut self, primary: Primary, tenure: Epoch) {
        let entry = self.released.entry(primary).or_default();
        *entry = (*entry).max(tenure);
    }
    pub fn is_released(&self, primary: Primary, tenure: Epoch) -> bool {
        self.released.get(&primary) == Some(&tenure)
    }
    /// W10: a later life of the same store has spoken, so the process is dead.
    pub fn is_dead(&self, primary: Primary) -> bool {
        self.seen.get(&primary.node).is_some_and(|(s, b)| *s == primary.store && *b > primary.boot)
    }

    /// When this shard's primary may be replaced as far as this voter is concerned; `now` or earlier: at once.
    pub fn free_at(&self, shard: &Shard) -> Mono {
        if self.is_dead(shard.primary) || self.is_released(shard.primary, shard.epoch) {
            return Mono(0);
        }
        self.until.get(&shard.primary).copied().unwrap_or_default().max(self.blanket_until)
    }
    pub fn is_free(&self, shard: &Shard, now: Mono) -> bool {
        self.free_at(shard) <= now
    }
    pub fn remaining(&self, shard: &Shard, now: Mono) -> Duration {
        self.free_at(shard).since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::{cluster, primary};

    fn shard() -> Shard {
        cluster(&[&[1, 2]], &[1]).shards[0].clone()
    }

    #[test]
    fn w2_a_promise_runs_from_receipt_and_duplicates_do_not_shorten_it() {
        let mut p = Promises::default();
        assert!(p.is_free(&shard(), Mono(0)));
        p.promise(primary(1, 1), Mono(100));
        p.promise(primary(1, 1), Mono(50));
        assert!(!p.is_free(&shard(), Mono(99)));
        assert!(p.is_free(&shard(), Mono(100)));
    }

    #[test]
    fn w3_the_blanket_covers_everybody_but_the_dead() {
        let mut p = Promises::default();
        p.blanket(Mono(100));
        assert!(!p.is_free(&shard(), Mono(99)));
        p.hear(primary(1, 1).node, primary(1, 1).store, Boot(2));
        assert!(p.is_free(&shard(), Mono(1)));
    }

    #[test]
    fn w10_a_boot_of_another_store_frees_nobody() {
        let mut p = Promises::default();
        p.promise(primary(1, 1), Mono(100));
        p.hear(primary(1, 1).node, StoreId(77), Boot(9));
        assert!(!p.is_free(&shard(), Mono(50)));
    }

    #[test]
    fn late_release_of_old_tenure() {
        let mut p = Promises::default();
        p.promise(primary(1, 1), Mono(100));
        p.release(primary(1, 1), Epoch(0));
        assert!(!p.is_free(&shard(), Mono(50)));
        p.release(primary(1, 1), Epoch(1));
        assert!(p.is_free(&shard(), Mono(50)));
        let next = Shard { epoch: Epoch(2), ..shard() };
        assert!(!p.is_free(&next, Mono(50)));
    }
}
