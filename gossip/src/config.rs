//! What the operator decides, and the times that follow from it (chapter 7 of the protocol).

use crate::topology::{Address, Topology};
use proto::{NodeId, StoreId};
use std::sync::Arc;
use std::time::Duration;

/// Where acknowledged bytes live; decides whether a restart ends the data generation (D7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataClass {
    Memory,
    Fsync,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Name of a node that has no record yet; drawn from the seed when absent.
    pub id: Option<NodeId>,
    /// Store of a node that has no record yet; drawn from the seed when absent.
    pub store: Option<StoreId>,
    pub address: Address,
    /// `cluster-node-timeout`. Default 15 s.
    pub node_timeout: Duration,
    /// Lease in percent of the wait. Default 60; above 96 a drift of 2 % makes two primaries (W13).
    pub lease_percent: u32,
    pub data_class: DataClass,
    pub no_failover: bool,
    /// A shard whose whole in-sync set is gone promotes the best of all its members once all have answered.
    pub promote_best_of_all: bool,
    /// First topology of a node that has no record; a chain of its own when absent.
    pub initial: Option<Arc<Topology>>,
    /// Puts a known bug back. For the simulator's tests of itself; never set in a node.
    pub mutation: Option<Mutation>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            id: None,
            store: None,
            address: Address::default(),
            node_timeout: Duration::from_secs(15),
            lease_percent: 60,
            data_class: DataClass::Memory,
            no_failover: false,
            promote_best_of_all: false,
            initial: None,
            mutation: None,
        }
    }
}

/// A rule taken out, named by its number. Test only: the simulator asserts that it notices each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Accepts and promises below the promised ballot.
    A1,
    /// Votes are not made durable.
    A2,
    /// A new leader forgets what its promises told it.
    A3,
    /// One vote short of a majority decides.
    A4,
    /// A lease runs from the receipt of the grant.
    W1Receipt,
    /// A primary serves without a lease.
    W1NoLease,
    /// A voter replaces a primary that it has promised a lease.
    W2,
    /// No blanket after a restart or a change of voters.
    W3,
    /// A voter goes on granting after it accepted the grantee's replacement.
    W4,
    /// A grant counts whatever configuration it was given under.
    W5,
    /// A release is honoured whatever tenure it names.
    W11,
    /// Any member may be promoted in a strict shard.
    D6,
    /// The leader shrinks the in-sync set to those that answered.
    D8,
    /// A move is committed whoever serves its two shards by now.
    S3,
}

impl Mutation {
    pub const ALL: &'static [Mutation] = &[
        Mutation::A1,
        Mutation::A2,
        Mutation::A3,
        Mutation::A4,
        Mutation::W1Receipt,
        Mutation::W1NoLease,
        Mutation::W2,
        Mutation::W3,
        Mutation::W4,
        Mutation::W5,
        Mutation::W11,
        Mutation::D6,
        Mutation::D8,
        Mutation::S3,
    ];
}

/// All derived from node-timeout T.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long a voter's promise runs, from receipt: E = T.
    pub wait: Duration,
    /// How long a grant serves a primary, from sending: L < E.
    pub lease: Duration,
    pub lease_period: Duration,
    pub leader_period: Duration,
    /// Least silence of the leader before a voter stands; at most twice this.
    pub election: Duration,
    pub probe_period: Duration,
    pub probe_timeout: Duration,
    pub suspicion: Duration,
    /// Longest wait for positions before a failover is decided on those that came.
    pub position_window: Duration,
    pub upkeep_period: Duration,
    /// Silence after which a voter is replaced.
    pub voter_dead: Duration,
    pub request_retry: Duration,
    pub request_deadline: Duration,
    /// Least time between two copies of the topology to one node.
    pub resend: Duration,
}

impl Times {
    /// Panics when the lease is not shorter than the wait at the drift the protocol allows.
    pub fn of(config: &Config) -> Times {
        let t = config.node_timeout;
        let (ms, is_short) = (Duration::from_millis, t <= Duration::from_secs(1));
        let wait = t;
        let lease = t * config.lease_percent / 100;
        // W13: L(1+rho) < E(1-rho) for the drift of 2 % that the protocol was checked with.
        assert!(lease * 102 < wait * 98, "lease {lease:?} too long for a wait of {wait:?}");
        Times {
            wait,
            lease,
            lease_period: (t / 10).clamp(ms(50), ms(1000)).min(lease / 3),
            leader_period: if is_short { t / 10 } else { ms(200) },
            election: if is_short { t * 4 / 10 } else { ms(1000) },
            probe_period: (t / 10).clamp(ms(50), ms(1000)),
            probe_timeout: (t / 20).clamp(ms(20), ms(300)),
            suspicion: t / 3,
            position_window: if is_short { t / 10 } else { ms(200) },
            upkeep_period: ms(1000).min(t),
            voter_dead: Duration::from_secs(60).max(t * 2),
            request_retry: if is_short { t / 5 } else { ms(400) },
            request_deadline: (t * 2).max(ms(5000)),
            resend: ms(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: u64) -> Times {
        Times::of(&Config { node_timeout: Duration::from_millis(ms), ..Config::default() })
    }

    #[test]
    fn times_as_the_table_has_them() {
        let (long, short) = (times(15_000), times(1_000));
        assert_eq!(long.lease, Duration::from_secs(9));
        assert_eq!(short.lease, Duration::from_millis(600));
        assert_eq!(long.lease_period, Duration::from_secs(1));
        assert_eq!(short.lease_period, Duration::from_millis(100));
        assert_eq!(long.leader_period, Duration::from_millis(200));
        assert_eq!(short.leader_period, Duration::from_millis(100));
    }

    #[test]
    #[should_panic(expected = "too long")]
    fn w13_a_lease_as_long_as_the_wait_is_refused() {
        Times::of(&Config { lease_percent: 97, ..Config::default() });
    }
}
