//! INFO: sections of `key:value` lines, in the form that exporters parse.

use crate::env::Env;
use crate::memory::{self, Beside};
use crate::shared::Shared;
use engine::Spec;
use engine::acl::Reason;
use engine::spec::flag;
use engine::stats::{CommandStats, Stats};
use proto::Now;
use proto::view::Role;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// The version that clients and tools take us for; they switch features on by it.
pub const REDIS_VERSION: &str = "7.0.15";

/// Everything that a section is made from.
struct Info<'a, E: Env> {
    shared: &'a Shared<E>,
    stats: Stats,
    now: Now,
    out: String,
}

type Section<E> = fn(&mut Info<'_, E>);

fn sections<E: Env>() -> [(&'static str, bool, Section<E>); 12] {
    // Name, shown by default, function.
    [
        ("server", true, server),
        ("clients", true, clients),
        ("memory", true, memory_section),
        ("persistence", true, persistence),
        ("stats", true, stats),
        ("replication", true, replication),
        ("cpu", true, cpu),
        ("commandstats", false, command_stats),
        ("latencystats", false, latency_stats),
        ("errorstats", true, error_stats),
        ("cluster", true, cluster),
        ("keyspace", true, keyspace),
    ]
}

/// The text of the asked sections; none: the default ones.
pub fn text<E: Env>(shared: &Shared<E>, asked: &[String], now: Now) -> String {
    let mut info = Info { shared, stats: shared.total_stats(), now, out: String::new() };
    let is_default = asked.is_empty() || asked.iter().any(|a| a == "default");
    let is_all = asked.iter().any(|a| a == "all" || a == "everything");
    for (name, is_shown, section) in sections::<E>() {
        if is_all || is_default && is_shown || asked.iter().any(|a| a == name) {
            if !info.out.is_empty() {
                info.out.push_str("\r\n");
            }
            let mut title = name.to_string();
            title[..1].make_ascii_uppercase();
            let title = if name == "cpu" { "CPU".into() } else { title };
            let _ = write!(info.out, "# {title}\r\n");
            section(&mut info);
        }
    }
    if is_all || is_default || asked.iter().any(|a| a == "modules") {
        let gap = if info.out.is_empty() { "" } else { "\r\n" };
        let _ = write!(info.out, "{gap}# Modules\r\n");
    }
    info.out
}

impl<E: Env> Info<'_, E> {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.out, "{name}:{value}\r\n");
    }
    fn uptime_s(&self) -> u64 {
        self.now.mono.since(self.shared.started.mono).as_secs()
    }
}

fn server<E: Env>(i: &mut Info<'_, E>) {
    let settings = i.shared.settings();
    let uptime_s = i.uptime_s();
    i.line("redis_version", REDIS_VERSION);
    i.line("shoal_version", env!("CARGO_PKG_VERSION"));
    i.line("redis_git_sha1", "00000000");
    i.line("redis_git_dirty", 0);
    i.line("redis_build_id", "0");
    i.line("redis_mode", if settings.is_cluster { "cluster" } else { "standalone" });
    i.line("os", std::env::consts::OS);
    i.line("arch_bits", usize::BITS);
    i.line("monotonic_clock", "CLOCK_BOOTTIME");
    i.line("multiplexing_api", "epoll");
    i.line("process_id", std::process::id());
    i.line("process_supervised", "no");
    i.line("run_id", i.shared.run_id.clone());
    i.line("tcp_port", if settings.port != 0 { settings.port } else { settings.tls_port });
    i.line("server_time_usec", i.now.wall.0 * 1000);
    if let Some(ms) = i.shared.persist.shutdown.remaining_ms(i.now.mono) {
        i.line("shutdown_in_milliseconds", ms);
    }
    i.line("uptime_in_seconds", uptime_s);
    i.line("uptime_in_days", uptime_s / 86400);
    i.line("hz", settings.hz);
    i.line("configured_hz", settings.hz);
    i.line("lru_clock", (i.now.wall.0 / 1000) & 0xFF_FFFF);
    i.line("executable", "shoal-server");
    let path = i.shared.config().path.clone().unwrap_or_default();
    i.line("config_file", path);
    i.line("io_threads_active", 0);
    i.line("workers", i.shared.mail.len());
    i.line("workers_active", i.shared.crew.active());
    let bind: String = settings.bind.iter().map(|b| format!(",bind={b}")).collect();
    let ports =
        [("tcp", settings.port), ("tls", settings.tls_port)].into_iter().filter(|(_, port)| *port != 0);
    let mut listeners: Vec<String> =
        ports.map(|(name, port)| format!("name={name}{bind},port={port}")).collect();
    let unix = i.shared.clients.unix_path.get().map(|path| format!("name=unix,bind={path}"));
    listeners.extend(unix);
    for (index, listener) in listeners.iter().enumerate() {
        i.line(&format!("listener{index}"), listener);
    }
}

fn clients<E: Env>(i: &mut Info<'_, E>) {
    use crate::clients::state;
    let all = i.shared.clients.all();
    let count = |states: u32| all.iter().filter(|c| c.has(states)).count();
    let pubsub = count(state::SUBSCRIBED);
    i.line("connected_clients", all.iter().filter(|c| !c.has(state::REPLICA)).count());
    i.line("cluster_connections", i.shared.control.links());
    i.line("maxclients", i.shared.settings().maxclients);
    i.line(
        "client_recent_max_input_buffer",
        all.iter().map(|c| c.query_bytes.load(Ordering::Relaxed)).max().unwrap_or(0),
    );
    i.line(
        "client_recent_max_output_buffer",
        all.iter().map(|c| c.output_bytes.load(Ordering::Relaxed)).max().unwrap_or(0),
    );
    i.line("blocked_clients", i.shared.counters.blocked.load(Ordering::Relaxed));
    i.line("tracking_clients", i.shared.tracking.figures()[0]);
    i.line("pubsub_clients", pubsub);
    i.line("clients_in_timeout_table", 0);
}

fn memory_section<E: Env>(i: &mut Info<'_, E>) {
    let beside = Beside::of(i.shared);
    let used = memory::used_bytes(i.shared, &beside);
    let peak = memory::renew_peak(i.shared, used);
    let rss = resident_bytes().unwrap_or(used);
    let limit = i.shared.settings().engine.maxmemory;
    let config = i.shared.config();
    let policy = config.get("maxmemory-policy").to_string();
    drop(config);
    i.line("used_memory", used);
    i.line("used_memory_human", human(used));
    i.line("used_memory_rss", rss);
    i.line("used_memory_rss_human", human(rss));
    i.line("used_memory_peak", peak);
    i.line("used_memory_peak_human", human(peak));
    i.line("used_memory_peak_perc", format!("{:.2}%", used as f64 * 100.0 / peak.max(1) as f64));
    i.line("used_memory_overhead", beside.total());
    i.line("used_memory_dataset", used - beside.total());
    let dataset = (used - beside.total()) as f64 * 100.0 / used.max(1) as f64;
    i.line("used_memory_dataset_perc", format!("{dataset:.2}%"));
    i.line("used_memory_startup", 0);
    scripts(i);
    i.line("maxmemory", limit);
    i.line("maxmemory_human", human(limit));
    i.line("maxmemory_policy", policy);
    i.line("mem_fragmentation_ratio", format!("{:.2}", rss as f64 / used.max(1) as f64));
    i.line("mem_fragmentation_bytes", rss as i64 - used as i64);
    i.line("mem_not_counted_for_evict", beside.not_counted());
    i.line("mem_replication_backlog", beside.backlog);
    i.line("mem_total_replication_buffers", beside.backlog + beside.replicas);
    i.line("mem_clients_slaves", memory::replica_buffer_bytes(i.shared, &beside));
    i.line("mem_clients_normal", beside.clients);
    i.line("mem_aof_buffer", beside.log);
    let allocator = i.shared.env.allocator();
    i.line("mem_allocator", allocator.map_or("system", |(name, _)| name));
    let slab = storage::slab::usage();
    if let Some((_, m)) = allocator {
        // Spans of the slab are the kernel's pages and not the allocator's.
        let free = slab.span_bytes.saturating_sub(slab.object_bytes);
        i.line("allocator_allocated", m.allocated + slab.object_bytes);
        i.line("allocator_active", m.active + slab.span_bytes);
        i.line("allocator_resident", m.resident + slab.span_bytes);
        i.line("allocator_frag_bytes", m.active - m.allocated + free);
        i.line("allocator_rss_bytes", m.resident.saturating_sub(m.active));
    }
    i.line("active_defrag_running", 0);
    i.line("lazyfree_pending_objects", i.shared.disposal.waiting.load(Ordering::Relaxed));
    i.line("lazyfreed_objects", i.shared.disposal.total.load(Ordering::Relaxed));
}

/// Interpreters, texts of scripts and libraries. Interpreters are counted after each run of a script.
fn scripts<E: Env>(i: &mut Info<'_, E>) {
    let scripts = &i.shared.engine.scripts;
    let (eval_vm, function_vm) = (scripts.eval_vm_bytes(), scripts.function_vm_bytes());
    let (eval, set) = (scripts.cache.bytes(), scripts.libraries.set());
    let cached = scripts.cache.len();
    i.line("used_memory_vm_eval", eval_vm);
    i.line("used_memory_lua", eval_vm);
    i.line("used_memory_lua_human", human(eval_vm));
    i.line("used_memory_scripts_eval", eval);
    i.line("number_of_cached_scripts", cached);
    i.line("number_of_functions", set.functions_len());
    i.line("number_of_libraries", set.libraries.len());
    i.line("used_memory_vm_functions", function_vm);
    i.line("used_memory_vm_total", eval_vm + function_vm);
    i.line("used_memory_vm_total_human", human(eval_vm + function_vm));
    i.line("used_memory_functions", set.bytes());
    i.line("used_memory_scripts", eval + set.bytes());
    i.line("used_memory_scripts_human", human((eval + set.bytes()) as u64));
}

pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// `1.50M`, as Redis writes sizes for people.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// How far loading is, in the fields of Redis.
fn loading<E: Env>(i: &mut Info<'_, E>) {
    let progress = &i.shared.persist.progress;
    let (total, loaded) = (progress.total.load(Ordering::Relaxed), progress.loaded.load(Ordering::Relaxed));
    let began_s = progress.began_s.load(Ordering::Relaxed);
    let elapsed_s = (i.now.wall.0 / 1000 - began_s).max(0) as u64;
    let share = if total == 0 { 0.0 } else { loaded as f64 * 100.0 / total as f64 };
    let eta_s = match loaded {
        0 => 1,
        _ => (elapsed_s * total.saturating_sub(loaded)).checked_div(loaded).unwrap_or(0),
    };
    i.line("loading_start_time", began_s);
    i.line("loading_total_bytes", total);
    i.line("loading_rdb_used_mem", 0);
    i.line("loading_loaded_bytes", loaded);
    i.line("loading_loaded_perc", format!("{share:.2}"));
    i.line("loading_eta_seconds", eta_s);
}

fn persistence<E: Env>(i: &mut Info<'_, E>) {
    let status = i.shared.persist.status();
    let is_loading = i.shared.state.is_loading.load(Ordering::Relaxed);
    let is_beside = i.shared.state.is_loading_beside.load(Ordering::Relaxed);
    let settings = i.shared.settings();
    let dirty = i.shared.dirty().saturating_sub(status.dirty_at_save);
    let now_s = i.now.mono.as_ms() / 1000;
    let since = |is_on: bool, began_s: u64| if is_on { now_s.saturating_sub(began_s) as i64 } else { -1 };
    i.line("loading", is_loading as u8);
    i.line("async_loading", is_beside as u8);
    if is_loading || is_beside {
        loading(i);
    }
    i.line("current_cow_peak", 0);
    i.line("current_cow_size", 0);
    i.line("current_fork_perc", "0.00");
    i.line("current_save_keys_processed", 0);
    i.line("current_save_keys_total", 0);
    i.line("rdb_changes_since_last_save", dirty);
    i.line("rdb_bgsave_in_progress", status.is_saving as u8);
    i.line("rdb_last_save_time", status.last_save_s);
    i.line("rdb_last_bgsave_status", if status.is_last_save_ok { "ok" } else { "err" });
    i.line("rdb_last_bgsave_time_sec", status.last_save_duration_s);
    i.line("rdb_current_bgsave_time_sec", since(status.is_saving, status.save_began_s));
    i.line("rdb_saves", status.saves);
    i.line("rdb_last_cow_size", 0);
    i.line("rdb_last_load_keys_expired", status.loaded_expired);
    i.line("rdb_last_load_keys_loaded", status.loaded_keys);
    i.line("aof_enabled", settings.appendonly as u8);
    // A log that was switched on is being written until it has its first base, as in Redis.
    let is_rewriting = status.is_rewriting || settings.appendonly && !status.is_log_complete;
    i.line("aof_rewrite_in_progress", is_rewriting as u8);
    i.line("aof_rewrite_scheduled", status.is_rewrite_scheduled as u8);
    i.line("aof_last_rewrite_time_sec", status.last_rewrite_duration_s);
    i.line("aof_current_rewrite_time_sec", since(status.is_rewriting, status.rewrite_began_s));
    i.line("aof_last_bgrewrite_status", if status.is_last_rewrite_ok { "ok" } else { "err" });
    i.line("aof_rewrites", status.rewrites);
    i.line("aof_last_write_status", if status.is_log_ok { "ok" } else { "err" });
    i.line("aof_last_cow_size", 0);
    i.line("module_fork_in_progress", 0);
    i.line("module_fork_last_cow_size", 0);
    if settings.appendonly {
        i.line("aof_current_size", status.log_bytes);
        i.line("aof_base_size", status.log_base_bytes);
        i.line("aof_pending_rewrite", 0);
        i.line("aof_buffer_length", Beside::of(i.shared).log);
        i.line("aof_pending_bio_fsync", 0);
        i.line("aof_delayed_fsync", 0);
    }
}

fn stats<E: Env>(i: &mut Info<'_, E>) {
    let s = i.shared;
    let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let repl = s.replication.info();
    let total = std::mem::take(&mut i.stats);
    let calls: u64 = total.commands.iter().map(|c| c.calls.get()).sum();
    i.line("total_connections_received", load(&s.clients.accepted));
    i.line("total_commands_processed", calls);
    i.line("instantaneous_ops_per_sec", load(&s.counters.ops_per_s));
    i.line("total_net_input_bytes", load(&s.counters.net_in) + total.net_in.get());
    i.line("total_net_output_bytes", load(&s.counters.net_out) + total.net_out.get());
    let kib = |n| format!("{:.2}", load(n) as f64 / 1024.0);
    i.line("instantaneous_input_kbps", kib(&s.counters.bytes_in_per_s));
    i.line("instantaneous_output_kbps", kib(&s.counters.bytes_out_per_s));
    i.line("worker_rests", total.rests.get());
    i.line("worker_moves", total.moves.get());
    i.line("rejected_connections", load(&s.clients.rejected));
    i.line("sync_full", repl.full_syncs);
    i.line("sync_partial_ok", repl.partial_ok);
    i.line("sync_partial_err", repl.partial_err);
    i.line("expired_keys", total.expired.get());
    i.line("expired_subkeys", total.expired_fields.get());
    i.line("expired_stale_perc", "0.00");
    i.line("expired_time_cap_reached_count", 0);
    i.line("evicted_keys", total.evicted.get());
    i.line("evicted_clients", load(&s.clients.evicted));
    i.line("keyspace_hits", total.hits.get());
    i.line("keyspace_misses", total.misses.get());
    i.line("pubsub_channels", s.pubsub.len(crate::pubsub::Space::Channel));
    i.line("pubsub_patterns", s.pubsub.len(crate::pubsub::Space::Pattern));
    i.line("pubsubshard_channels", s.pubsub.len(crate::pubsub::Space::Sharded));
    i.line("latest_fork_usec", 0);
    i.line("total_forks", 0);
    i.line("migrate_cached_sockets", s.migrate_links.len());
    i.line("slave_expires_tracked_keys", 0);
    for (name, reason) in
        [("auth", Reason::Auth), ("cmd", Reason::Command), ("key", Reason::Key), ("channel", Reason::Channel)]
    {
        i.line(&format!("acl_access_denied_{name}"), s.users.log.count(reason));
    }
    let [_, keys, items, prefixes] = s.tracking.figures();
    i.line("tracking_total_keys", keys);
    i.line("tracking_total_items", items);
    i.line("tracking_total_prefixes", prefixes);
    i.line("total_error_replies", total.errors.get());
    i.line("unexpected_error_replies", 0);
    i.stats = total;
}

fn replication<E: Env>(i: &mut Info<'_, E>) {
    let lines = i.shared.replication.describe(i.shared, i.now);
    for (name, value) in lines {
        i.line(&name, value);
    }
}

fn cpu<E: Env>(i: &mut Info<'_, E>) {
    let usage = |who| {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is to a zeroed rusage, which the call fills; on failure it stays zero, which is valid.
        unsafe {
            libc::getrusage(who, usage.as_mut_ptr());
            usage.assume_init()
        }
    };
    let text = |t: libc::timeval| format!("{}.{:06}", t.tv_sec, t.tv_usec);
    let own = usage(libc::RUSAGE_SELF);
    i.line("used_cpu_sys", text(own.ru_stime));
    i.line("used_cpu_user", text(own.ru_utime));
    let children = usage(libc::RUSAGE_CHILDREN);
    i.line("used_cpu_sys_children", text(children.ru_stime));
    i.line("used_cpu_user_children", text(children.ru_utime));
}

/// Commands as INFO shows them, with the ids of what counts as each: what Redis takes for plain arguments are not commands
/// of their own there.
fn shown<'a>(specs: &'a [&'static Spec]) -> impl Iterator<Item = (&'a str, Vec<usize>)> {
    let is_open = |spec: &&&Spec| spec.has(flag::OPEN_SUBCOMMANDS);
    let of = |spec: &Spec| spec.subcommands.iter().map(|s| s.id).collect::<Vec<_>>();
    let hidden: BTreeSet<usize> = specs.iter().filter(is_open).flat_map(|s| of(s)).collect();
    specs.iter().filter(move |s| !hidden.contains(&s.id)).map(move |s| {
        let ids = if is_open(&s) { of(s) } else { vec![s.id] };
        (s.full_name.as_str(), ids)
    })
}

fn command_stats<E: Env>(i: &mut Info<'_, E>) {
    let per_us = i.shared.counters.ticks_per_us.load(Ordering::Relaxed).max(1);
    let total = std::mem::take(&mut i.stats);
    for (name, ids) in shown(i.shared.engine.table.specs()) {
        let sum = |count: fn(&CommandStats) -> u64| -> u64 {
            ids.iter().filter_map(|id| total.commands.get(*id)).map(count).sum()
        };
        let (calls, rejected) = (sum(|s| s.calls.get()), sum(|s| s.rejected.get()));
        if calls + rejected == 0 {
            continue;
        }
        let ticks = sum(|s| s.ticks.get());
        let usec = ticks / per_us;
        let each = ticks as f64 / per_us as f64 / calls.max(1) as f64;
        i.line(
            &format!("cmdstat_{name}"),
            format!(
                "calls={calls},usec={usec},usec_per_call={each:.2},rejected_calls={rejected},failed_calls={}",
                sum(|s| s.failed.get())
            ),
        );
    }
    i.stats = total;
}

fn latency_stats<E: Env>(i: &mut Info<'_, E>) {
    let settings = i.shared.settings();
    if !settings.is_latency_tracked {
        return;
    }
    let per_us = i.shared.counters.ticks_per_us.load(Ordering::Relaxed).max(1);
    let total = std::mem::take(&mut i.stats);
    for (name, ids) in shown(i.shared.engine.table.specs()) {
        let mut times = total.times(ids[0]);
        for id in &ids[1..] {
            times.iter_mut().zip(total.times(*id)).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
        let part = |percent: &f64| {
            let ticks = engine::histogram::percentile(&times, *percent)?;
            Some(format!("p{percent}={:.3}", ticks as f64 / per_us as f64))
        };
        let parts: Vec<String> = settings.latency_percentiles.iter().filter_map(part).collect();
        if !parts.is_empty() {
            i.line(&format!("latency_percentiles_usec_{name}"), parts.join(","));
        }
    }
    i.stats = total;
}

fn error_stats<E: Env>(i: &mut Info<'_, E>) {
    let codes = i.stats.error_codes().clone();
    for (code, count) in codes {
        i.line(&format!("errorstat_{code}"), format!("count={count}"));
    }
}

fn cluster<E: Env>(i: &mut Info<'_, E>) {
    i.line("cluster_enabled", i.shared.settings().is_cluster as u8);
}

fn keyspace<E: Env>(i: &mut Info<'_, E>) {
    let keyspace = &i.shared.engine.keyspace;
    for db in 0..keyspace.databases() {
        let keys = keyspace.len(db);
        if keys > 0 {
            let expires = keyspace.expires_len(db);
            let fields = keyspace.field_expires_len(db);
            // Redis 7.0 does not have the last: it is there when it says something.
            let fields = if fields > 0 { format!(",subexpiry={fields}") } else { String::new() };
            i.line(&format!("db{db}"), format!("keys={keys},expires={expires},avg_ttl=0{fields}"));
        }
    }
}

/// Whether a view shows this node as a primary.
pub fn is_primary<E: Env>(shared: &Shared<E>) -> bool {
    match &*shared.view.load() {
        Some(view) => view.me().role == Role::Primary,
        None => !shared.state.is_replica.load(Ordering::Relaxed),
    }
}
