//! The sizes at which a collection leaves its small form, named as the directives of redis.conf.

/// When collections change their encoding. Entries are counts, values are bytes of the longest element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `hash-max-listpack-entries`: fields a packed hash may hold. Default 512.
    pub hash_max_listpack_entries: usize,
    /// `hash-max-listpack-value`: longest field or value of a packed hash, in bytes. Default 64.
    pub hash_max_listpack_value: usize,
    /// `list-max-listpack-size`: entries per list node if positive, else -1 to -5 for 4 to 64 KiB. Default -2.
    pub list_max_listpack_size: i32,
    /// `set-max-intset-entries`: members a set of integers may hold. Default 512.
    pub set_max_intset_entries: usize,
    /// `zset-max-listpack-entries`: members a packed sorted set may hold. Default 128.
    pub zset_max_listpack_entries: usize,
    /// `zset-max-listpack-value`: longest member of a packed sorted set, in bytes. Default 64.
    pub zset_max_listpack_value: usize,
    /// `stream-node-max-bytes`: bytes of a block of stream entries, 0 for no limit of its own. Default 4096.
    pub stream_node_max_bytes: usize,
    /// `stream-node-max-entries`: entries of a block, 0 for no limit of its own. Default 100.
    pub stream_node_max_entries: usize,
    /// Key of the element hash: drawn at start by whoever owns randomness, so that clients cannot aim collisions.
    pub hash_seed: u64,
}

impl Default for Thresholds {
    /// The values of redis.conf 7.0 and seed 0.
    fn default() -> Thresholds {
        Thresholds {
            hash_max_listpack_entries: 512,
            hash_max_listpack_value: 64,
            list_max_listpack_size: -2,
            set_max_intset_entries: 512,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value: 64,
            stream_node_max_bytes: 4096,
            stream_node_max_entries: 100,
            hash_seed: 0,
        }
    }
}
