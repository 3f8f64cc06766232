//! What happens in a run: drawn from its seed, printed at its start.

use gossip::rng::Rng;

/// A fault, and how long it lasts in ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A primary's process dies and is started again; the machine keeps what was written.
    CrashPrimary { shard: usize, down_ms: u64 },
    /// A replica's process dies and is started again.
    CrashReplica { shard: usize, down_ms: u64 },
    /// A primary is cut off from all others, and from nobody's clients.
    CutPrimary { shard: usize, for_ms: u64 },
    /// Power fails everywhere: unsynced bytes are lost, all start again.
    PowerFailure { down_ms: u64 },
    /// A third of a shard's slots go to the next shard while everybody writes.
    MoveSlots { from: usize },
    /// A planned hand-over to the shard's replica.
    HandOver { shard: usize },
}

/// What a reply to a write promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Nothing: a write counts as promised once WAIT says so.
    Async,
    InSync,
    InSyncFsync,
}

impl Durability {
    /// As the configuration says it.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Async => "async",
            Durability::InSync => "in-sync",
            Durability::InSyncFsync => "in-sync-fsync",
        }
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shards: usize,
    pub clients: usize,
    pub workers: usize,
    pub latency_ms_max: u64,
    pub drift_ppm: Vec<i64>,
    /// Says what happens as it happens.
    pub is_told: bool,
    pub durability: Durability,
    /// Faults in order; each begins so many ms after the one before has healed.
    pub faults: Vec<(u64, Fault)>,
}

impl Plan {
    /// One shard's faults do not meet: a shard of two copies stands one fault at a time.
    pub fn from_seed(seed: u64) -> Plan {
        let durability = match Rng::new(seed ^ 0xD07A).draw() % 4 {
            0 => Durability::InSync,
            1 => Durability::InSyncFsync,
            _ => Durability::Async,
        };
        let mut rng = Rng::new(seed ^ 0xC17F);
        let mut below = |n: u64| rng.draw() % n;
        let shards = 2 + below(2) as usize;
        let nodes = shards * 2;
        let count = 2 + below(4);
        let faults = (0..count)
            .map(|_| {
                let shard = below(shards as u64) as usize;
                let fault = match below(8) {
                    0 | 1 => Fault::CrashPrimary { shard, down_ms: 50 + below(4000) },
                    2 => Fault::CrashReplica { shard, down_ms: 50 + below(3000) },
                    3 | 4 => Fault::CutPrimary { shard, for_ms: 500 + below(4000) },
                    5 => match (durability, 100 + below(2000)) {
                        (Durability::Async, down_ms) => Fault::PowerFailure { down_ms },
                        // A set that dies as a whole keeps no promise: its members lose their generations.
                        (_, down_ms) => Fault::CrashReplica { shard, down_ms },
                    },
                    6 => Fault::MoveSlots { from: shard },
                    _ => Fault::HandOver { shard },
                };
                (200 + below(1500), fault)
            })
            .collect();
        Plan {
            seed,
            shards,
            clients: 2 + below(3) as usize,
            workers: 1 + below(2) as usize,
            latency_ms_max: 1 + below(20),
            is_told: false,
            drift_ppm: (0..nodes).map(|_| below(20_000) as i64 - 10_000).collect(),
            durability,
            faults,
        }
    }

    pub fn nodes(&self) -> usize {
        self.shards * 2
    }
}
