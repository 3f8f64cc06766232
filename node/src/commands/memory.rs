//! MEMORY, as far as it is about the server and not about a key.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::memory::{self, Beside};
use engine::{Error, HostOutcome};

type Outcome = Result<HostOutcome, Error>;

/// What is known of the process's memory, in bytes.
struct Figures {
    peak: u64,
    total: u64,
    resident: u64,
    beside: Beside,
    /// Buffers of the replicas that are there.
    replicas: u64,
    keys: u64,
    dataset: u64,
    allocated: u64,
    active: u64,
    allocator_resident: u64,
}

fn figures<E: Env>(cx: &HostCx<E>) -> Figures {
    let shared = cx.shared();
    let keyspace = &shared.engine.keyspace;
    let beside = Beside::of(shared);
    let total = memory::used_bytes(shared, &beside);
    let slab = storage::slab::usage();
    let allocator = shared.env.allocator().map(|(_, memory)| memory);
    let allocated = allocator.map_or(total, |m| m.allocated + slab.object_bytes);
    let active = allocator.map_or(allocated, |m| m.active + slab.span_bytes);
    let allocator_resident = allocator.map_or(active, |m| m.resident + slab.span_bytes);
    Figures {
        peak: memory::renew_peak(shared, total),
        total,
        resident: super::info::resident_bytes().unwrap_or(allocator_resident),
        beside,
        replicas: memory::replica_buffer_bytes(shared, &beside),
        keys: (0..keyspace.databases()).map(|db| keyspace.len(db)).sum(),
        dataset: total - beside.total(),
        allocated,
        active,
        allocator_resident,
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}

fn stats<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let f = figures(cx);
    let keyspace = &cx.host.shared.engine.keyspace;
    let dbs: Vec<u16> = (0..keyspace.databases()).filter(|db| keyspace.len(*db) > 0).collect();
    let out = &mut *cx.out;
    out.map(24 + dbs.len());
    let mut int = |name: &str, value: u64| {
        out.bulk(name.as_bytes());
        out.int(value as i64);
    };
    int("peak.allocated", f.peak);
    int("total.allocated", f.total);
    int("startup.allocated", 0);
    int("replication.backlog", f.beside.backlog);
    int("clients.slaves", f.replicas);
    int("clients.normal", f.beside.clients);
    int("cluster.links", 0);
    int("aof.buffer", f.beside.log);
    int("lua.caches", f.beside.scripts);
    int("functions.caches", f.beside.functions);
    for db in dbs {
        out.bulk(format!("db.{db}").as_bytes());
        out.map(3);
        // Keys, expiry times and slots are parts of the entries and their tables: nothing stands beside them.
        for name in
            ["overhead.hashtable.main", "overhead.hashtable.expires", "overhead.hashtable.slot-to-keys"]
        {
            out.bulk(name.as_bytes());
            out.int(0);
        }
    }
    let mut int = |name: &str, value: i64| {
        out.bulk(name.as_bytes());
        out.int(value);
    };
    int("overhead.total", f.beside.total() as i64);
    int("keys.count", f.keys as i64);
    int("keys.bytes-per-key", f.dataset.checked_div(f.keys).unwrap_or(0) as i64);
    int("dataset.bytes", f.dataset as i64);
    let double = |out: &mut proto::resp::Reply, name: &str, value: f64| {
        out.bulk(name.as_bytes());
        out.double(value);
    };
    double(out, "dataset.percentage", ratio(f.dataset, f.total) * 100.0);
    double(out, "peak.percentage", ratio(f.total, f.peak) * 100.0);
    let mut int = |name: &str, value: u64| {
        out.bulk(name.as_bytes());
        out.int(value as i64);
    };
    int("allocator.allocated", f.allocated);
    int("allocator.active", f.active);
    int("allocator.resident", f.allocator_resident);
    double(out, "allocator-fragmentation.ratio", ratio(f.active, f.allocated));
    out.bulk(b"allocator-fragmentation.bytes");
    out.int(f.active as i64 - f.allocated as i64);
    double(out, "rss-overhead.ratio", ratio(f.resident, f.allocator_resident));
    double(out, "fragmentation", ratio(f.resident, f.total));
    out.bulk(b"fragmentation.bytes");
    out.int(f.resident as i64 - f.total as i64);
    Ok(HostOutcome::Done)
}

fn doctor<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    const SMALL: u64 = 5 << 20;
    const MUCH: u64 = 10 << 20;
    let f = figures(cx);
    let text = if f.total < SMALL {
        "This instance is empty or uses very little memory: there is nothing to examine.\n".to_string()
    } else {
        let mut found = String::new();
        if ratio(f.peak, f.total) > 1.5 {
            found += " * Peak memory: this instance once used more than 150 % of what it uses now.\n\n";
        }
        if ratio(f.resident, f.total) > 1.4 && f.resident.saturating_sub(f.total) > MUCH {
            found +=
                " * High total RSS: the process takes more than 1.4 times of what keys and values do.\n\n";
        }
        if ratio(f.active, f.allocated) > 1.1 && f.active.saturating_sub(f.allocated) > MUCH {
            found += " * High allocator fragmentation: pages are more than a tenth empty. Tables are compacted by and by.\n\n";
        }
        if f.beside.clients / (cx.shared().clients.all().len() as u64).max(1) > 200 << 10 {
            found += " * Big client buffers: clients do not read their replies. See CLIENT LIST.\n\n";
        }
        if cx.shared().engine.scripts.cache.len() > 1000 {
            found += " * Many scripts: more than 1000 are cached; parametrize them instead.\n\n";
        }
        match found.is_empty() {
            true => "No memory issue was found.\n".to_string(),
            false => format!("These memory issues were found:\n\n{found}"),
        }
    };
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

fn malloc_stats<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let text = match cx.shared().env.allocator() {
        None => "Stats not supported for the current allocator\n".to_string(),
        Some((name, m)) => {
            let slab = storage::slab::usage();
            format!(
                "{name}\nallocated: {}\nactive: {}\nresident: {}\nslab spans: {}\nslab objects: {}\n",
                m.allocated, m.active, m.resident, slab.span_bytes, slab.object_bytes
            )
        }
    };
    cx.out.verbatim("txt", text.as_bytes());
    Ok(HostOutcome::Done)
}

pub fn functions<E: Env>() -> Functions<E> {
    &[
        ("memory|doctor", doctor::<E>),
        ("memory|help", |cx| cx.help()),
        ("memory|malloc-stats", malloc_stats::<E>),
        ("memory|purge", |cx| {
            cx.shared().env.purge_allocator();
            cx.ok()
        }),
        ("memory|stats", stats::<E>),
    ]
}
