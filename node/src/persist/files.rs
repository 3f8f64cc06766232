//! The files of the append-only log: where they are, and the steps by which the set changes. All of it blocks.
//!
//! Invariant: a file is in the manifest, durably, before anything that somebody relies on is written to it, and until
//! the manifest without it is durable. So a crash between any two calls leaves a set that loads.

use crate::config::NodeSettings;
use std::io;
use storage::aof::{AofError, Manifest};
use storage::disk::{Disk, DiskFile, write_atomic};

/// The set of files of one log.
#[derive(Clone, Debug)]
pub struct LogFiles {
    dir: String,
    /// `appendfilename`.
    prefix: String,
    pub manifest: Manifest,
}

/// What there was at start.
#[derive(Debug)]
pub enum Found {
    Set(LogFiles),
    /// There is no log yet; the set is empty.
    Nothing(LogFiles),
}

impl LogFiles {
    /// Reads the manifest, or takes over the single file of versions before 7.0.
    pub fn find(disk: &dyn Disk, settings: &NodeSettings) -> Result<Found, AofError> {
        let mut files = LogFiles {
            dir: settings.appenddirname.clone(),
            prefix: settings.appendfilename.clone(),
            manifest: Manifest::default(),
        };
        let path = files.manifest_path();
        let fail = |error| AofError::Io { file: path.clone(), error };
        if disk.exists(&path).map_err(fail)? {
            files.manifest = Manifest::parse(&disk.read(&path).map_err(fail)?)?;
            files.finish_adoption(disk).map_err(fail)?;
            return Ok(Found::Set(files));
        }
        if disk.exists(&files.prefix).map_err(fail)? {
            tracing::info!("Successfully migrated an old-style AOF configuration ({}).", files.prefix);
            files.adopt(disk).map_err(fail)?;
            return Ok(Found::Set(files));
        }
        Ok(Found::Nothing(files))
    }

    pub fn dir(&self) -> &str {
        &self.dir
    }
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
    fn manifest_path(&self) -> String {
        self.path(&format!("{}.manifest", self.prefix))
    }
    /// Where a base is written before it is one.
    pub fn temporary_base(&self) -> String {
        self.path("temp-rewriteaof.aof")
    }

    /// As Redis: the manifest that names the old file comes first, then the file moves.
    fn adopt(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.manifest = Manifest::adopt(&self.prefix);
        self.create_dir(disk)?;
        self.save(disk)?;
        self.finish_adoption(disk)
    }
    fn finish_adoption(&self, disk: &dyn Disk) -> io::Result<()> {
        let is_adopted = self.manifest.increments.is_empty()
            && self.manifest.base.as_ref().is_some_and(|b| b.name == self.prefix);
        if is_adopted && !disk.exists(&self.path(&self.prefix))? && disk.exists(&self.prefix)? {
            disk.rename(&self.prefix, &self.path(&self.prefix))?;
            disk.sync_dir(&self.dir)?;
            disk.sync_dir("")?;
        }
        Ok(())
    }

    pub fn create_dir(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.create_dir(&self.dir)?;
        disk.sync_dir("")
    }
    /// Makes the manifest durable.
    pub fn save(&self, disk: &dyn Disk) -> io::Result<()> {
        write_atomic(disk, &self.manifest_path(), self.manifest.format().as_bytes())
    }

    /// Makes the next increment: an empty file, its name durable. It counts once [`LogFiles::save`] has been.
    pub fn create_increment(&mut self, disk: &dyn Disk) -> io::Result<Box<dyn DiskFile>> {
        self.create_dir(disk)?;
        let mut manifest = self.manifest.clone();
        let name = manifest.add_increment(&self.prefix);
        let file = disk.create(&self.path(&name))?;
        disk.sync_dir(&self.dir)?;
        self.manifest = manifest;
        Ok(file)
    }

    /// Opens the last increment to go on with it, or makes one.
    pub fn open_increment(&mut self, disk: &dyn Disk) -> io::Result<Box<dyn DiskFile>> {
        match self.manifest.increments.last() {
            Some(last) => disk.open_append(&self.path(&last.name)),
            None => {
                let file = self.create_increment(disk)?;
                self.save(disk)?;
                Ok(file)
            }
        }
    }

    /// Puts the base that stands, synced, at [`LogFiles::temporary_base`] in the place of the old one and of the
    /// increments before `first_kept`, and deletes those.
    pub fn install_base(&mut self, disk: &dyn Disk, first_kept: u64) -> io::Result<()> {
        let name = self.manifest.next_base_name(&self.prefix, true);
        disk.rename(&self.temporary_base(), &self.path(&name))?;
        disk.sync_dir(&self.dir)?;
        let mut next = self.clone();
        next.manifest.set_base(name, first_kept);
        next.save(disk)?;
        *self = next;
        if let Err(error) = self.drop_history(disk) {
            // The manifest that names them as history stands: the next start deletes them.
            tracing::warn!("Error deleting replaced append only files: {error}");
        }
        Ok(())
    }

    /// Deletes the files that are of no use any more.
    pub fn drop_history(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let history = self.manifest.take_history();
        if history.is_empty() {
            return Ok(());
        }
        for name in history {
            let path = self.path(&name);
            if disk.exists(&path)? {
                disk.remove(&path)?;
            }
        }
        self.save(disk)
    }

    /// Bytes of all files of the set.
    pub fn total_bytes(&self, disk: &dyn Disk) -> u64 {
        let files = self.manifest.base.iter().chain(&self.manifest.increments);
        files.map(|f| disk.len(&self.path(&f.name)).unwrap_or(0)).sum()
    }
}
