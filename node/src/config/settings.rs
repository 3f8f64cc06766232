//! The values in force, typed: made from the table whenever it changes.

use super::Config;
use engine::Settings;
use engine::settings::{EvictionPolicy, notify};
use storage::Thresholds;

/// What the node reads of its configuration.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub engine: Settings,
    pub port: u16,
    pub tls_port: u16,
    pub is_replication_tls: bool,
    pub is_cluster_tls: bool,
    pub bind: Vec<String>,
    pub workers: usize,
    /// 0: as many as is best.
    pub workers_active: usize,
    /// `worker-rest-us`.
    pub rest: std::time::Duration,
    pub maxclients: usize,
    /// `acl-pubsub-default allchannels`.
    pub has_all_channels_by_default: bool,
    pub acl_log_max: usize,
    /// Limits of what is slow (in us), a large request and a large reply (in bytes); negative: none.
    pub log_limits: [i64; 3],
    pub log_lens: [usize; 3],
    /// 0: spikes are not kept.
    pub latency_threshold_ms: u64,
    pub is_latency_tracked: bool,
    /// Bytes of all clients' buffers; 0: any number.
    pub clients_bytes_max: usize,
    /// 0: any number.
    pub tracking_keys_max: usize,
    pub latency_percentiles: Vec<f64>,
    pub masterauth: String,
    pub masteruser: String,
    pub is_protected: bool,
    pub timeout_s: u64,
    pub query_bytes_max: usize,
    pub output_limits: [OutputLimit; 3],
    pub dbfilename: String,
    pub save: Vec<(u64, u64)>,
    pub stop_writes_on_save_error: bool,
    pub is_rdb_compressed: bool,
    pub is_rdb_checked: bool,
    pub rdb_version: u32,
    pub appendonly: bool,
    pub appendfsync: Fsync,
    pub appenddirname: String,
    pub appendfilename: String,
    pub aof_load_truncated: bool,
    pub aof_corrupt_tail_bytes_max: u64,
    pub aof_rewrite_percentage: u64,
    pub aof_rewrite_min_bytes: u64,
    pub backlog_bytes: usize,
    pub backlog_ttl_s: u64,
    pub repl_ping_s: u64,
    pub repl_timeout_s: u64,
    pub replica_priority: u64,
    pub diskless_load: DisklessLoad,
    /// `rdb-del-sync-files`.
    pub is_sync_file_removed: bool,
    pub replica_announce_ip: String,
    pub replica_announce_port: u16,
    pub min_replicas_max_lag_s: u64,
    pub is_cluster: bool,
    pub node_timeout_ms: u64,
    pub cluster_port: u16,
    pub cluster_config_file: String,
    pub cluster_secret: String,
    pub announce_ip: String,
    pub announce_port: u16,
    pub announce_tls_port: u16,
    pub announce_bus_port: u16,
    pub announce_hostname: String,
    pub may_fail_over: bool,
    pub durability: Durability,
    pub min_in_sync: usize,
    pub shutdown_timeout_s: u64,
    pub hz: u64,
    pub save_delay_us: u64,
    pub load_delay_us: u64,
    /// Bytes of a file that are loaded before others may close the gate.
    pub load_events_bytes: usize,
    pub may_debug: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fsync {
    EverySecond,
    Always,
    No,
}

/// `repl-diskless-load`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DisklessLoad {
    Disabled,
    OnEmptyDb,
    SwapDb,
}

/// What must hold before a reply leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    Async,
    InSync,
    InSyncFsync,
}

/// Limits of unsent replies; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OutputLimit {
    pub hard_bytes: u64,
    pub soft_bytes: u64,
    pub soft_s: u64,
}

impl NodeSettings {
    /// How long a member of the in-sync set may hold up acknowledgements before it is dropped.
    // Choice: a quarter of the time after which nodes are replaced, never more than a second.
    pub fn in_sync_lag(&self) -> std::time::Duration {
        std::time::Duration::from_millis((self.node_timeout_ms / 4).clamp(250, 1000))
    }
}

impl NodeSettings {
    /// Reads the typed values. The table has checked them already.
    pub fn from(config: &Config) -> NodeSettings {
        let int = |name: &str| config.get(name).parse::<i64>().expect("checked when it was set");
        let num = |name: &str| config.get(name).parse::<u64>().expect("checked when it was set");
        let flag = |name: &str| config.get(name) == "yes";
        let text = |name: &str| config.get(name).to_string();
        let numbers = |name: &str| -> Vec<u64> {
            config.get(name).split_whitespace().filter_map(|w| w.parse().ok()).collect()
        };
        let is_cluster = flag("cluster-enabled");
        let policy = config.get("maxmemory-policy");
        let engine = Settings {
            // Redis Cluster has one database.
            databases: if is_cluster { 1 } else { int("databases") as u16 },
            thresholds: Thresholds {
                hash_max_listpack_entries: num("hash-max-listpack-entries") as usize,
                hash_max_listpack_value: num("hash-max-listpack-value") as usize,
                list_max_listpack_size: int("list-max-listpack-size") as i32,
                set_max_intset_entries: num("set-max-intset-entries") as usize,
                zset_max_listpack_entries: num("zset-max-listpack-entries") as usize,
                zset_max_listpack_value: num("zset-max-listpack-value") as usize,
                stream_node_max_bytes: num("stream-node-max-bytes") as usize,
                stream_node_max_entries: num("stream-node-max-entries") as usize,
                ..Thresholds::default()
            },
            maxmemory: num("maxmemory"),
            maxmemory_policy: EvictionPolicy::NAMES.iter().find(|(n, _)| *n == policy).expect("checked").1,
            maxmemory_samples: int("maxmemory-samples") as u32,
            proto_max_bulk_len: num("proto-max-bulk-len") as usize,
            hll_sparse_max_bytes: num("hll-sparse-max-bytes") as usize,
            notify_keyspace_events: notify::parse(config.get("notify-keyspace-events")).expect("checked"),
            lazyfree_lazy_expire: flag("lazyfree-lazy-expire"),
            lazyfree_lazy_user_del: flag("lazyfree-lazy-user-del"),
            replica_read_only: flag("replica-read-only"),
            replica_serve_stale_data: flag("replica-serve-stale-data"),
            cluster_require_full_coverage: flag("cluster-require-full-coverage"),
            cluster_allow_reads_when_down: flag("cluster-allow-reads-when-down"),
            min_replicas_to_write: int("min-replicas-to-write") as u32,
            active_expire_effort: int("active-expire-effort") as u8,
            busy_reply_threshold_ms: num("busy-reply-threshold"),
            is_busy_for_all: config.get("busy-reply-scope") == "node",
        };
        NodeSettings {
            engine,
            port: int("port") as u16,
            tls_port: int("tls-port") as u16,
            is_replication_tls: flag("tls-replication"),
            is_cluster_tls: flag("tls-cluster"),
            bind: config.get("bind").split_whitespace().map(String::from).collect(),
            workers: int("workers") as usize,
            workers_active: int("workers-active") as usize,
            rest: std::time::Duration::from_micros(num("worker-rest-us")),
            maxclients: num("maxclients") as usize,
            has_all_channels_by_default: config.get("acl-pubsub-default") == "allchannels",
            acl_log_max: num("acllog-max-len") as usize,
            log_limits: [
                int("slowlog-log-slower-than"),
                int("commandlog-request-larger-than"),
                int("commandlog-reply-larger-than"),
            ],
            log_lens: [
                num("slowlog-max-len") as usize,
                num("commandlog-large-request-max-len") as usize,
                num("commandlog-large-reply-max-len") as usize,
            ],
            latency_threshold_ms: num("latency-monitor-threshold"),
            is_latency_tracked: flag("latency-tracking"),
            clients_bytes_max: match config.get("maxmemory-clients").strip_suffix('%') {
                Some(percent) => {
                    let percent: u128 = percent.parse().expect("checked when it was set");
                    (num("maxmemory") as u128 * percent / 100) as usize
                }
                None => num("maxmemory-clients") as usize,
            },
            tracking_keys_max: num("tracking-table-max-keys") as usize,
            latency_percentiles: config
                .get("latency-tracking-info-percentiles")
                .split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect(),
            masterauth: text("masterauth"),
            masteruser: text("masteruser"),
            is_protected: flag("protected-mode"),
            timeout_s: num("timeout"),
            query_bytes_max: num("client-query-buffer-limit") as usize,
            output_limits: output_limits(config.get("client-output-buffer-limit")),
            dbfilename: text("dbfilename"),
            save: numbers("save").chunks_exact(2).map(|c| (c[0], c[1])).collect(),
            stop_writes_on_save_error: flag("stop-writes-on-bgsave-error"),
            is_rdb_compressed: flag("rdbcompression"),
            is_rdb_checked: flag("rdbchecksum"),
            rdb_version: int("rdb-version") as u32,
            appendonly: flag("appendonly"),
            appendfsync: match config.get("appendfsync") {
                "always" => Fsync::Always,
                // Whoever promises that copies are on disk does not put syncing off.
                _ if config.get("durability") == "in-sync-fsync" => Fsync::Always,
                "no" => Fsync::No,
                _ => Fsync::EverySecond,
            },
            appenddirname: text("appenddirname"),
            appendfilename: text("appendfilename"),
            aof_load_truncated: flag("aof-load-truncated"),
            aof_corrupt_tail_bytes_max: num("aof-load-corrupt-tail-max-size"),
            aof_rewrite_percentage: num("auto-aof-rewrite-percentage"),
            aof_rewrite_min_bytes: num("auto-aof-rewrite-min-size"),
            backlog_bytes: num("repl-backlog-size") as usize,
            backlog_ttl_s: num("repl-backlog-ttl"),
            repl_ping_s: num("repl-ping-replica-period"),
            repl_timeout_s: num("repl-timeout"),
            replica_priority: num("replica-priority"),
            diskless_load: match config.get("repl-diskless-load") {
                "on-empty-db" => DisklessLoad::OnEmptyDb,
                "swapdb" => DisklessLoad::SwapDb,
                _ => DisklessLoad::Disabled,
            },
            is_sync_file_removed: flag("rdb-del-sync-files"),
            replica_announce_ip: text("replica-announce-ip"),
            replica_announce_port: int("replica-announce-port") as u16,
            min_replicas_max_lag_s: num("min-replicas-max-lag"),
            is_cluster,
            node_timeout_ms: num("cluster-node-timeout").max(100),
            cluster_port: match int("cluster-port") as u16 {
                // Beside the port that nodes know each other by.
                0 => {
                    let base = if flag("tls-cluster") { "tls-port" } else { "port" };
                    (int(base) as u16).saturating_add(10000)
                }
                port => port,
            },
            cluster_config_file: text("cluster-config-file"),
            cluster_secret: text("cluster-secret"),
            announce_ip: text("cluster-announce-ip"),
            announce_port: int("cluster-announce-port") as u16,
            announce_tls_port: int("cluster-announce-tls-port") as u16,
            announce_bus_port: int("cluster-announce-bus-port") as u16,
            announce_hostname: text("cluster-announce-hostname"),
            may_fail_over: !flag("cluster-replica-no-failover"),
            durability: match config.get("durability") {
                "in-sync" => Durability::InSync,
                "in-sync-fsync" => Durability::InSyncFsync,
                _ => Durability::Async,
            },
            min_in_sync: num("min-in-sync") as usize,
            shutdown_timeout_s: num("shutdown-timeout"),
            hz: num("hz"),
            save_delay_us: int("rdb-key-save-delay").max(0) as u64,
            load_events_bytes: int("loading-process-events-interval-bytes").max(1) as usize,
            load_delay_us: int("key-load-delay").max(0) as u64,
            may_debug: config.get("enable-debug-command") != "no",
        }
    }
}

/// Limits of normal clients, replicas and subscribers.
fn output_limits(text: &str) -> [OutputLimit; 3] {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut limits = [OutputLimit::default(); 3];
    for class in words.chunks_exact(4) {
        let place = match class[0] {
            "normal" => 0,
            "slave" => 1,
            _ => 2,
        };
        let number = |i: usize| class[i].parse().unwrap_or(0);
        limits[place] = OutputLimit { hard_bytes: number(1), soft_bytes: number(2), soft_s: number(3) };
    }
    limits
}
