//! Who acknowledged what: what WAIT and WAITAOF count, and how many replicas are good enough to write.
//!
//! Invariant: an acknowledged offset never goes back while its replica stays.

use proto::{Mono, Offset};
use std::collections::BTreeMap;
use std::time::Duration;

/// Replicas and the clients that wait for them. Bounded by the number of connections: each is a replica once and
/// waits once.
#[derive(Clone, Debug, Default)]
pub struct Acks {
    replicas: BTreeMap<u64, Acked>,
    waits: BTreeMap<u64, Wait>,
    /// Our own log is durable up to here; `None`: there is no log.
    log_synced: Option<Offset>,
}

/// What a replica said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acked {
    /// It has the data and reads the stream; others count for nothing.
    pub is_online: bool,
    pub offset: Offset,
    /// What of it is on its disk, if it says.
    pub synced: Offset,
    pub at: Mono,
}

/// Where a client's writes are, or have to be before it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tally {
    /// With so many replicas.
    Copies(usize),
    /// On our own disk, and on the disks of so many replicas.
    Synced { is_local: bool, copies: usize },
}

impl Tally {
    /// Whether this is as much as `needed`, of the same kind.
    pub fn satisfies(self, needed: Tally) -> bool {
        match (self, needed) {
            (Tally::Copies(have), Tally::Copies(needed)) => have >= needed,
            (
                Tally::Synced { is_local, copies },
                Tally::Synced { is_local: needs_local, copies: needs_copies },
            ) => is_local >= needs_local && copies >= needs_copies,
            _ => false,
        }
    }
    fn copies(self) -> usize {
        match self {
            Tally::Copies(copies) | Tally::Synced { copies, .. } => copies,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    offset: Offset,
    needed: Tally,
    /// `None`: for ever.
    deadline: Option<Mono>,
}

/// A client whose wait is over, and who has what it waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    pub client: u64,
    pub tally: Tally,
}

impl Acks {
    /// A replica that is being synced.
    pub fn add(&mut self, replica: u64, now: Mono) {
        self.replicas
            .insert(replica, Acked { is_online: false, offset: Offset(0), synced: Offset(0), at: now });
    }
    pub fn remove(&mut self, replica: u64) {
        self.replicas.remove(&replica);
    }
    /// A replica has the data and reads the stream. Returns the clients that need not wait any more.
    pub fn set_online(&mut self, replica: u64, now: Mono) -> Vec<Finished> {
        let Some(acked) = self.replicas.get_mut(&replica) else { return Vec::new() };
        acked.is_online = true;
        acked.at = now;
        self.finish(|_| false)
    }
    pub fn get(&self, replica: u64) -> Option<Acked> {
        self.replicas.get(&replica).copied()
    }
    pub fn len(&self) -> usize {
        self.replicas.len()
    }
    pub fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// A replica has everything before `offset`. Returns the clients that need not wait any more.
    pub fn acknowledge(&mut self, replica: u64, offset: Offset, now: Mono) -> Vec<Finished> {
        let Some(acked) = self.replicas.get_mut(&replica) else { return Vec::new() };
        acked.offset = acked.offset.max(offset);
        acked.at = now;
        self.finish(|_| false)
    }

    /// A replica has everything before `offset` on its disk.
    pub fn set_synced(&mut self, replica: u64, offset: Offset) {
        if let Some(acked) = self.replicas.get_mut(&replica) {
            acked.synced = acked.synced.max(offset);
        }
    }

    /// Online replicas that have everything before `offset`.
    pub fn count(&self, offset: Offset) -> usize {
        self.replicas.values().filter(|a| a.is_online && a.offset >= offset).count()
    }
    /// Online replicas that lack something before `offset`.
    pub fn lagging(&self, offset: Offset) -> usize {
        self.replicas.values().filter(|a| a.is_online && a.offset < offset).count()
    }
    /// Online replicas that were heard of within `lag_max`.
    pub fn good(&self, now: Mono, lag_max: Duration) -> usize {
        self.replicas.values().filter(|a| a.is_online && now.since(a.at) <= lag_max).count()
    }

    /// Our own log is durable up to `offset`; `None`: there is none. Returns the clients that need not wait any more.
    pub fn set_log_synced(&mut self, offset: Option<Offset>) -> Vec<Finished> {
        self.log_synced = offset;
        self.finish(|_| false)
    }

    /// Who has everything before `offset`, counted as `needed` counts.
    pub fn tally(&self, needed: Tally, offset: Offset) -> Tally {
        match needed {
            Tally::Copies(_) => Tally::Copies(self.count(offset)),
            Tally::Synced { .. } => Tally::Synced {
                is_local: self.log_synced.is_some_and(|synced| synced >= offset),
                copies: self.replicas.values().filter(|a| a.is_online && a.synced >= offset).count(),
            },
        }
    }
    /// Whether somebody must tell more before a wait for `needed` is over.
    pub fn lacks_copies(&self, needed: Tally, offset: Offset) -> bool {
        self.tally(needed, offset).copies() < needed.copies()
    }

    /// A client waits for everything before `offset` to be where `needed` says.
    pub fn wait(&mut self, client: u64, offset: Offset, needed: Tally, deadline: Option<Mono>) {
        self.waits.insert(client, Wait { offset, needed, deadline });
    }
    pub fn forget_wait(&mut self, client: u64) {
        self.waits.remove(&client);
    }
    /// Ends a client's wait before its time; `None` if it does not wait.
    pub fn end_wait(&mut self, client: u64) -> Option<Finished> {
        let wait = self.waits.remove(&client)?;
        Some(Finished { client, tally: self.tally(wait.needed, wait.offset) })
    }
    /// Clients that wait for our own log, who wait no more: there is none.
    pub fn take_waits_for_log(&mut self) -> Vec<u64> {
        let is_for_log = |wait: &Wait| matches!(wait.needed, Tally::Synced { is_local: true, .. });
        let clients: Vec<u64> = self.waits.iter().filter(|(_, w)| is_for_log(w)).map(|(c, _)| *c).collect();
        for client in &clients {
            self.waits.remove(client);
        }
        clients
    }
    /// When the next wait ends by itself.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.waits.values().filter_map(|w| w.deadline).min()
    }
    /// The clients whose time is up.
    pub fn expire(&mut self, now: Mono) -> Vec<Finished> {
        self.finish(|wait| wait.deadline.is_some_and(|d| d <= now))
    }
    /// All waiting clients, who wait no more.
    pub fn take_waits(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waits).into_keys().collect()
    }

    fn finish(&mut self, is_over: impl Fn(&Wait) -> bool) -> Vec<Finished> {
        let mut finished = Vec::new();
        for (client, wait) in &self.waits {
            let tally = self.tally(wait.needed, wait.offset);
            if tally.satisfies(wait.needed) || is_over(wait) {
                finished.push(Finished { client: *client, tally });
            }
        }
        for f in &finished {
            self.waits.remove(&f.client);
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_online() -> Acks {
        let mut acks = Acks::default();
        for replica in [1, 2] {
            acks.add(replica, Mono(0));
            acks.set_online(replica, Mono(0));
        }
        acks
    }

    fn copies(copies: usize) -> Finished {
        Finished { client: 77, tally: Tally::Copies(copies) }
    }
    fn synced(is_local: bool, copies: usize) -> Tally {
        Tally::Synced { is_local, copies }
    }

    #[test]
    fn a_wait_for_disks_ends_with_the_last_of_them() {
        let mut acks = two_online();
        acks.set_log_synced(Some(Offset(99)));
        acks.wait(77, Offset(100), synced(true, 1), None);
        acks.acknowledge(1, Offset(100), Mono(1));
        acks.set_synced(1, Offset(100));
        assert_eq!(acks.acknowledge(1, Offset(100), Mono(1)), [], "our own log is behind");
        let finished = acks.set_log_synced(Some(Offset(100)));
        assert_eq!(finished, [Finished { client: 77, tally: synced(true, 1) }]);
    }

    #[test]
    fn a_copy_that_is_on_no_disk_is_not_synced() {
        let mut acks = two_online();
        acks.acknowledge(1, Offset(100), Mono(1));
        assert_eq!(acks.tally(synced(false, 1), Offset(100)), synced(false, 0));
        assert!(acks.lacks_copies(synced(false, 1), Offset(100)));
        assert!(!acks.lacks_copies(Tally::Copies(1), Offset(100)));
    }

    #[test]
    fn waits_for_a_log_end_when_there_is_none_any_more() {
        let mut acks = two_online();
        acks.wait(77, Offset(100), synced(true, 0), None);
        acks.wait(78, Offset(100), synced(false, 1), None);
        assert_eq!(acks.take_waits_for_log(), [77]);
        let tally = synced(false, 0);
        assert_eq!(acks.end_wait(78), Some(Finished { client: 78, tally }));
        assert_eq!(acks.end_wait(78), None);
    }

    #[test]
    fn a_wait_ends_with_the_last_acknowledgement_it_needs() {
        let mut acks = two_online();
        acks.wait(77, Offset(100), Tally::Copies(2), None);
        assert_eq!(acks.acknowledge(1, Offset(100), Mono(1)), []);
        assert_eq!(acks.acknowledge(2, Offset(99), Mono(2)), []);
        assert_eq!(acks.acknowledge(2, Offset(150), Mono(3)), [copies(2)]);
        assert_eq!(acks.acknowledge(2, Offset(160), Mono(4)), [], "told once");
    }

    #[test]
    fn a_wait_whose_time_is_up_says_how_many_there_were() {
        let mut acks = two_online();
        acks.wait(77, Offset(100), Tally::Copies(2), Some(Mono(50)));
        acks.acknowledge(1, Offset(100), Mono(1));
        assert_eq!(acks.next_deadline(), Some(Mono(50)));
        assert_eq!(acks.expire(Mono(49)), []);
        assert_eq!(acks.expire(Mono(50)), [copies(1)]);
        assert_eq!(acks.next_deadline(), None);
    }

    #[test]
    fn a_replica_that_comes_online_with_enough_ends_a_wait() {
        let mut acks = two_online();
        acks.add(3, Mono(0));
        acks.acknowledge(3, Offset(100), Mono(1));
        acks.wait(77, Offset(100), Tally::Copies(1), None);
        assert_eq!(acks.set_online(3, Mono(2)), [copies(1)]);
    }

    #[test]
    fn replicas_that_are_being_synced_do_not_count() {
        let mut acks = two_online();
        acks.add(3, Mono(0));
        acks.acknowledge(3, Offset(500), Mono(1));
        assert_eq!(acks.count(Offset(0)), 2);
        assert_eq!(acks.good(Mono(1), Duration::from_secs(1)), 2);
    }

    #[test]
    fn silent_replicas_are_not_good() {
        let mut acks = two_online();
        acks.acknowledge(1, Offset(1), Mono::from_ms(5000));
        assert_eq!(acks.good(Mono::from_ms(10_000), Duration::from_secs(5)), 1);
        assert_eq!(acks.good(Mono::from_ms(10_001), Duration::from_secs(5)), 0);
    }

    #[test]
    fn an_acknowledgement_never_goes_back() {
        let mut acks = two_online();
        acks.acknowledge(1, Offset(100), Mono(1));
        acks.acknowledge(1, Offset(40), Mono(2));
        assert_eq!(acks.get(1).unwrap().offset, Offset(100));
        acks.remove(1);
        assert_eq!(acks.count(Offset(100)), 0);
    }
}
