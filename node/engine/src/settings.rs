//! The part of the configuration that the engine reads: one immutable value, replaced whole.

use storage::Thresholds;

#[derive(Clone, Debug)]
pub struct Settings {
    pub databases: u16,
    pub thresholds: Thresholds,
    /// Bytes of keys and values; 0: no limit.
    pub maxmemory: u64,
    pub maxmemory_policy: EvictionPolicy,
    pub maxmemory_samples: u32,
    /// Longest string value, in bytes.
    pub proto_max_bulk_len: usize,
    /// Longest sparse HyperLogLog, in bytes.
    pub hll_sparse_max_bytes: usize,
    /// Set of [`notify`] classes; 0: no keyspace notifications.
    pub notify_keyspace_events: u32,
    /// Whether replicas delete with UNLINK instead of DEL.
    pub lazyfree_lazy_expire: bool,
    pub lazyfree_lazy_user_del: bool,
    pub replica_read_only: bool,
    pub replica_serve_stale_data: bool,
    pub cluster_require_full_coverage: bool,
    pub cluster_allow_reads_when_down: bool,
    /// Fewest replicas that must be in touch for a write to be taken; 0: any number.
    pub min_replicas_to_write: u32,
    pub active_expire_effort: u8,
    /// Time after which a script that runs is told to clients that wait for it, in ms; 0: never.
    pub busy_reply_threshold_ms: u64,
    /// All clients are told of a slow script, not only those that would have to wait for it.
    pub is_busy_for_all: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            databases: 16,
            thresholds: Thresholds::default(),
            maxmemory: 0,
            maxmemory_policy: EvictionPolicy::NoEviction,
            maxmemory_samples: 5,
            proto_max_bulk_len: proto::limits::BULK_BYTES_MAX,
            hll_sparse_max_bytes: 3000,
            notify_keyspace_events: 0,
            lazyfree_lazy_expire: false,
            lazyfree_lazy_user_del: false,
            replica_read_only: true,
            replica_serve_stale_data: true,
            cluster_require_full_coverage: true,
            cluster_allow_reads_when_down: false,
            min_replicas_to_write: 0,
            active_expire_effort: 1,
            busy_reply_threshold_ms: 5000,
            is_busy_for_all: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvictionPolicy {
    NoEviction,
    AllKeysLru,
    AllKeysLfu,
    AllKeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

impl EvictionPolicy {
    pub const NAMES: &[(&str, EvictionPolicy)] = &[
        ("volatile-lru", EvictionPolicy::VolatileLru),
        ("volatile-lfu", EvictionPolicy::VolatileLfu),
        ("volatile-random", EvictionPolicy::VolatileRandom),
        ("volatile-ttl", EvictionPolicy::VolatileTtl),
        ("allkeys-lru", EvictionPolicy::AllKeysLru),
        ("allkeys-lfu", EvictionPolicy::AllKeysLfu),
        ("allkeys-random", EvictionPolicy::AllKeysRandom),
        ("noeviction", EvictionPolicy::NoEviction),
    ];
    pub fn is_lfu(self) -> bool {
        matches!(self, EvictionPolicy::AllKeysLfu | EvictionPolicy::VolatileLfu)
    }
    /// Chooses keys by when or how often they were used.
    pub fn looks_at_use(self) -> bool {
        use EvictionPolicy::*;
        matches!(self, AllKeysLru | AllKeysLfu | VolatileLru | VolatileLfu)
    }
    pub fn is_volatile(self) -> bool {
        use EvictionPolicy::*;
        matches!(self, VolatileLru | VolatileLfu | VolatileRandom | VolatileTtl)
    }
}

/// Classes of keyspace notifications, by the letters of `notify-keyspace-events`.
pub mod notify {
    pub const KEYSPACE: u32 = 1 << 0;
    pub const KEYEVENT: u32 = 1 << 1;
    pub const GENERIC: u32 = 1 << 2;
    pub const STRING: u32 = 1 << 3;
    pub const LIST: u32 = 1 << 4;
    pub const SET: u32 = 1 << 5;
    pub const HASH: u32 = 1 << 6;
    pub const ZSET: u32 = 1 << 7;
    pub const EXPIRED: u32 = 1 << 8;
    pub const EVICTED: u32 = 1 << 9;
    pub const STREAM: u32 = 1 << 10;
    pub const KEY_MISS: u32 = 1 << 11;
    pub const MODULE: u32 = 1 << 12;
    pub const NEW: u32 = 1 << 13;
    /// `A`: everything but misses and new keys.
    pub const ALL: u32 = GENERIC | STRING | LIST | SET | HASH | ZSET | EXPIRED | EVICTED | STREAM | MODULE;

    pub const LETTERS: &[(char, u32)] = &[
        ('A', ALL),
        ('g', GENERIC),
        ('$', STRING),
        ('l', LIST),
        ('s', SET),
        ('h', HASH),
        ('z', ZSET),
        ('x', EXPIRED),
        ('e', EVICTED),
        ('t', STREAM),
        ('d', MODULE),
        ('K', KEYSPACE),
        ('E', KEYEVENT),
        ('m', KEY_MISS),
        ('n', NEW),
    ];

    /// `None` for a letter that is no class.
    pub fn parse(text: &str) -> Option<u32> {
        text.chars().try_fold(0, |set, c| LETTERS.iter().find(|(l, _)| *l == c).map(|(_, f)| set | f))
    }

    pub fn format(set: u32) -> String {
        let has_all = set & ALL == ALL;
        let is_shown = |f: u32| if f == ALL { has_all } else { set & f == f && !(has_all && ALL & f != 0) };
        LETTERS.iter().filter(|(_, f)| is_shown(*f)).map(|(l, _)| *l).collect()
    }
}
