//! What FLUSHALL means for the snapshot on disk: one that is being written is given up, and where save points are set, an
//! empty one takes the place of the old. Redis 7.0: who flushed everything finds it empty after a crash, too.
//!
//! Invariant: a flush never fails for what the disk does.

use super::PersistRequest;
use super::save::save_rdb_exclusive;
use super::task::Persist;
use crate::env::Env;
use crate::shared::Shared;
use proto::Mono;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::GateClosed;

/// A client's command has emptied all databases. Writes the empty snapshot here, before the client has its reply, unless
/// another snapshot is under way: then the persistence task does so soon.
pub fn emptied<E: Env>(shared: &Arc<Shared<E>>, closed: &GateClosed<'_>) {
    if shared.state.is_loading.load(Ordering::Relaxed) {
        return;
    }
    let is_saving = shared.persist.status().is_saving;
    // A replica's place in its primary's stream is known between two commands alone.
    let is_replica = shared.state.is_replica.load(Ordering::Relaxed);
    let is_wanted = !shared.settings().save.is_empty();
    match shared.persist.snapshots.try_lock() {
        Ok(_) if !is_wanted && !is_saving => {}
        Ok(turn) if !is_saving && !is_replica => match save_rdb_exclusive(shared, closed, &turn) {
            Ok(done) => {
                tracing::info!("DB saved on disk");
                let mut status = shared.persist.status();
                status.dirty_at_save = done.start.dirty;
                status.last_save_s = shared.env.now().wall.0 / 1000;
                status.is_last_save_ok = true;
                drop(status);
                shared.state.is_save_failing.store(false, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!("Error trying to save the DB after FLUSHALL: {error}"),
        },
        _ => shared.persist.request(PersistRequest::Emptied(shared.env.now().mono)),
    }
}

impl<E: Env> Persist<E> {
    /// Gives up the save that holds what was there before, and saves anew if save points are set.
    pub(super) async fn on_emptied(&mut self, at: Mono) {
        if let Some(job) = self.saving.take_if(|job| job.began <= at) {
            tracing::warn!("Background saving given up: everything was flushed");
            job.abort().await;
            self.shared.persist.status().is_saving = false;
        }
        if self.saving.is_none() && !self.shared.settings().save.is_empty() {
            self.start_save(None, |_| {});
        }
    }
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

    fn unsaved(shared: &Shared<Real>) -> u64 {
        shared.dirty() - shared.persist.status().dirty_at_save
    }

    #[test]
    fn an_empty_snapshot_is_there_at_once_and_counts_as_saved() {
        let (shared, disk) = changed_node(&[("save", "3600 1")]);
        emptied(&shared, &shared.close_gate());
        assert_eq!(&disk.read("dump.rdb").unwrap()[..5], b"REDIS");
        assert_eq!(unsaved(&shared), 0);
    }

    #[test]
    fn without_save_points_nothing_is_written() {
        let (shared, disk) = changed_node(&[("save", "")]);
        emptied(&shared, &shared.close_gate());
        assert!(disk.read("dump.rdb").is_err());
        assert_eq!(unsaved(&shared), 1);
    }

    #[test]
    fn a_disk_that_fails_does_not_fail_the_flush() {
        let (shared, disk) = changed_node(&[("save", "3600 1")]);
        disk.set_faults(|faults| faults.failing_syncs = 1);
        emptied(&shared, &shared.close_gate());
        assert!(disk.read("dump.rdb").is_err());
        assert_eq!(unsaved(&shared), 1);
    }

    #[test]
    fn a_snapshot_under_way_is_not_overtaken() {
        let (shared, disk) = changed_node(&[("save", "3600 1")]);
        shared.persist.status().is_saving = true;
        emptied(&shared, &shared.close_gate());
        assert!(disk.read("dump.rdb").is_err());
        assert_eq!(unsaved(&shared), 1);
    }
}
