//! The log on a disk that fails and forgets.

use super::task::Persist;
use super::tests::{run, stream};
use super::{Applier, PersistRequest};
use crate::config::{Config, NodeSettings};
use crate::env::Real;
use crate::shared::{Shared, Ticket};
use proto::Slot;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use storage::MemDisk;

/// A node whose persistence runs, and what stands for its only client.
struct Life {
    shared: Arc<Shared<Real>>,
    applier: Applier<Real>,
}

impl Life {
    async fn begin(disk: &MemDisk, fsync: &str) -> Life {
        let mut config = Config::default();
        config.clear("save");
        for (name, value) in [("appendonly", "yes"), ("appendfsync", fsync)] {
            config.set(name, &[value.into()], true).unwrap();
        }
        let settings = NodeSettings::from(&config);
        let (shared, inbox, ..) = crate::node::build(Real::new(Arc::new(disk.clone())), config, settings, 1);
        shared.state.is_loading.store(true, Ordering::Relaxed);
        let persist = Persist::start(shared.clone(), inbox).await.unwrap().expect("nobody ends it");
        shared.state.is_loading.store(false, Ordering::Relaxed);
        tokio::task::spawn_local(persist.run());
        Life { applier: Applier::new(shared.clone()), shared }
    }

    /// Does a command and hands it to the feed, as a worker does. Returns where it ends.
    fn write(&mut self, number: usize) -> u64 {
        let (shared, mut end) = (self.shared.clone(), 0);
        let line = format!("SET key:{number} value");
        self.applier
            .push(&stream(&[&line]), &mut |unit| {
                end = shared.feed.append(unit.slot, &[(unit.db, unit.raw)][..]).0;
            })
            .unwrap();
        end
    }

    fn has(&self, number: usize) -> bool {
        let (key, keyspace) = (format!("key:{number}").into_bytes(), &self.shared.engine.keyspace);
        keyspace.lock_wait(Slot::of_key(&key)).db(0).get(&key, keyspace.hash(&key)).is_some()
    }

    fn rewrite(&self) {
        let ticket = Ticket::new(self.shared.mail[0].clone(), 0, false);
        self.shared.persist.request(PersistRequest::RewriteLog(ticket));
    }

    fn is_failing(&self) -> bool {
        self.shared.state.is_log_failing.load(Ordering::Relaxed)
    }
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn what_was_said_to_be_durable_survives_any_crash() {
    for seed in 0..25u64 {
        let disk = MemDisk::new();
        let mut written = 0;
        for life in 0..3 {
            let (ends, synced) = run(async {
                let mut node = Life::begin(&disk, "always").await;
                assert!((0..written).all(|i| node.has(i)), "seed {seed}, life {life}");
                let mut ends = Vec::new();
                for i in 0..20 + seed as usize % 13 {
                    ends.push(node.write(written + i));
                    if i as u64 == seed % 17 {
                        node.rewrite();
                    }
                    for _ in 0..(seed + i as u64) % 5 * 3 {
                        tokio::task::yield_now().await;
                    }
                }
                if seed % 3 > 0 {
                    tokio::time::sleep(Duration::from_micros(seed * 50)).await;
                }
                (ends, node.shared.state.log_synced.load(Ordering::Acquire))
            });
            disk.crash(seed * 31 + life);
            let durable = ends.iter().filter(|end| **end <= synced).count();
            written = run(async {
                let node = Life::begin(&disk, "always").await;
                let found = (0..written + ends.len()).take_while(|i| node.has(*i)).count();
                assert!(found >= written + durable, "seed {seed}, life {life}: {found}");
                // A later write without an earlier one would be worse than neither.
                assert!((found..written + ends.len()).all(|i| !node.has(i)), "seed {seed}, life {life}");
                found
            });
        }
    }
}

#[test]
fn after_a_failed_sync_the_log_begins_anew() {
    let disk = MemDisk::new();
    run(async {
        let mut node = Life::begin(&disk, "everysec").await;
        node.write(0);
        disk.set_faults(|f| f.failing_syncs = 1);
        wait_for("the failure", || node.is_failing()).await;
        node.write(1);
        wait_for("the next log", || !node.is_failing()).await;
        node.write(2);
        node.shared.persist.stop_log().await;
    });
    disk.crash(1);
    let node = run(Life::begin(&disk, "everysec"));
    assert!((0..3).all(|i| node.has(i)));
}

#[test]
fn a_full_disk_is_tried_again() {
    let disk = MemDisk::new();
    run(async {
        let mut node = Life::begin(&disk, "everysec").await;
        node.write(0);
        disk.set_faults(|f| f.capacity = Some(0));
        node.write(1);
        wait_for("the failure", || node.is_failing()).await;
        node.write(2);
        disk.set_faults(|f| f.capacity = None);
        wait_for("room", || !node.is_failing()).await;
        node.write(3);
        node.shared.persist.stop_log().await;
    });
    disk.crash(1);
    let node = run(Life::begin(&disk, "everysec"));
    assert!((0..4).all(|i| node.has(i)));
}
