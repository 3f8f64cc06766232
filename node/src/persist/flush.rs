//! What FLUSHALL means for the snapshot on disk: one that is being written is given up, and where save points are set, an
//! empty one takes the place of the old. Redis 7.0: who flushed everything finds it empty after a crash, too.
//!
//! The empty snapshot is made with the gate closed and written by the persistence task, so that nobody waits for the disk
//! but the client whose command it was.
//!
//! Invariant: a flush never fails for what the disk does.

use super::PersistRequest;
use super::save::save_made;
use super::snapshot::snapshot_empty;
use super::task::Persist;
use crate::env::Env;
use crate::shared::Shared;
use proto::Mono;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::GateClosed;

/// An empty snapshot that is to be written before the client is answered who emptied everything.
pub struct Emptied {
    bytes: Vec<u8>,
    /// Changes counted up to its instant.
    dirty: u64,
    at: Mono,
    /// Answers the client.
    pub then: Option<Box<dyn FnOnce() + Send>>,
}

/// A client's command has emptied all databases. Returns the snapshot that has to be written, by way of
/// [`PersistRequest::Emptied`], before the client has its reply. `None`: none has to, or the persistence task makes one
/// by itself, since a transaction has gone on to write, or a primary's stream decides what a snapshot is.
pub fn emptied<E: Env>(shared: &Shared<E>, closed: &GateClosed<'_>) -> Option<Emptied> {
    let at = shared.env.now().mono;
    if shared.state.is_loading.load(Ordering::Relaxed) {
        return None;
    }
    if shared.settings().save.is_empty() {
        if shared.persist.status().is_saving {
            shared.persist.request(PersistRequest::EmptiedUnsaved(at));
        }
        return None;
    }
    // A replica's place in its primary's stream is known between two commands alone.
    if shared.state.is_replica.load(Ordering::Relaxed) || !shared.engine.keyspace.is_empty() {
        shared.persist.request(PersistRequest::EmptiedUnsaved(at));
        return None;
    }
    let (bytes, start) = snapshot_empty(shared, closed);
    Some(Emptied { bytes, dirty: start.dirty, at, then: None })
}

impl<E: Env> Persist<E> {
    /// Gives up the save that holds what was there before, and saves anew if save points are set.
    pub(super) async fn on_emptied_unsaved(&mut self, at: Mono) {
        self.give_up_older(at).await;
        if self.saving.is_none() && !self.shared.settings().save.is_empty() {
            self.start_save(None, None);
        }
    }

    /// Writes the empty snapshot, unless one that began later is being written, and lets the client be answered.
    pub(super) async fn on_emptied(&mut self, emptied: Emptied) {
        self.give_up_older(emptied.at).await;
        let Emptied { bytes, dirty, then, .. } = emptied;
        if self.saving.is_none() {
            let shared = self.shared.clone();
            let saved = self.shared.env.blocking(move || save_made(&shared, &bytes)).await;
            note(&self.shared, saved, dirty);
        }
        then.into_iter().for_each(|then| then());
    }

    async fn give_up_older(&mut self, at: Mono) {
        if let Some(job) = self.saving.take_if(|job| job.began <= at) {
            tracing::warn!("Background saving given up: everything was flushed");
            job.abort().await;
            self.shared.persist.status().is_saving = false;
        }
    }
}

fn note<E: Env>(shared: &Arc<Shared<E>>, saved: std::io::Result<()>, dirty: u64) {
    if let Err(error) = saved {
        return tracing::warn!("Error trying to save the DB after FLUSHALL: {error}");
    }
    tracing::info!("DB saved on disk");
    let mut status = shared.persist.status();
    status.dirty_at_save = dirty;
    status.last_save_s = shared.env.now().wall.0 / 1000;
    status.is_last_save_ok = true;
    drop(status);
    shared.state.is_save_failing.store(false, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, NodeSettings};
    use crate::env::Real;
    use storage::MemDisk;
    use storage::disk::Disk;

    /// A node with one change that is not saved, and these directives.
    fn changed_node(directives: &[(&str, &str)]) -> (Arc<Shared<Real>>, Arc<MemDisk>) {
        let mut config = Config::default();
        for (name, value) in directives {
            let words: Vec<String> = value.split_whitespace().map(String::from).collect();
            config.reset_and_set(name, &words).unwrap();
        }
        let disk = Arc::new(MemDisk::new());
        let settings = NodeSettings::from(&config);
        let shared = crate::node::build(Real::new(disk.clone()), config, settings, 1).0;
        shared.stats[0].dirty.add(1);
        (shared, disk)
    }

    /// As a client's command and the persistence task do.
    fn empty(shared: &Arc<Shared<Real>>) {
        if let Some(emptied) = emptied(shared, &shared.close_gate()) {
            note(shared, save_made(shared, &emptied.bytes), emptied.dirty);
        }
    }

    fn unsaved(shared: &Shared<Real>) -> u64 {
        shared.dirty() - shared.persist.status().dirty_at_save
    }

    #[test]
    fn an_empty_snapshot_is_written_by_the_task_and_counts_as_saved() {
        let (shared, disk) = changed_node(&[("save", "3600 1")]);
        assert!(emptied(&shared, &shared.close_gate()).is_some());
        assert!(disk.read("dump.rdb").is_err(), "the client's thread does not write");
        empty(&shared);
        assert_eq!(&disk.read("dump.rdb").unwrap()[..5], b"REDIS");
        assert_eq!(unsaved(&shared), 0);
    }

    #[test]
    fn without_save_points_nothing_is_written() {
        let (shared, disk) = changed_node(&[("save", "")]);
        empty(&shared);
        assert!(disk.read("dump.rdb").is_err());
        assert_eq!(unsaved(&shared), 1);
    }

    #[test]
    fn a_disk_that_fails_does_not_fail_the_flush() {
        let (shared, disk) = changed_node(&[("save", "3600 1")]);
        disk.set_faults(|faults| faults.failing_syncs = 1);
        empty(&shared);
        assert!(disk.read("dump.rdb").is_err());
        assert_eq!(unsaved(&shared), 1);
    }

    #[test]
    fn what_a_transaction_writes_behind_it_is_left_to_the_task() {
        let (shared, disk) = changed_node(&[("save", "3600 1")]);
        let (slot, hash) = (proto::Slot::of_key(b"k"), shared.engine.keyspace.hash(b"k"));
        let mut guard = shared.engine.keyspace.lock_wait(slot);
        guard.db_mut(0).insert(b"k", hash, storage::Value::str(b"v"), None);
        drop(guard);
        empty(&shared);
        assert!(disk.read("dump.rdb").is_err());
        assert_eq!(unsaved(&shared), 1);
    }
}
