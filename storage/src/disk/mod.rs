//! The disk as the rest of Shoal sees it: a folder of files, synchronous calls, and no promise beyond the syncs.
//!
//! The node runs these calls on a disk thread, the simulation inline against [`MemDisk`]. Paths are relative to the
//! disk's root, with `/` between parts; a path that leaves the root is refused with `InvalidInput`.
//! Invariant: a file whose sync failed is poisoned. Its pages may be gone although they read back, so nothing is
//! written to it again and no sync of it succeeds again.

mod mem;
mod real;

pub use mem::{Faults, MemDisk};
pub use real::RealDisk;

use std::io::{self, Read};

/// A folder of files. Object-safe; all errors are `io::Error`, and an `Err` leaves the file system as a crash at
/// that point might.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for appending, making it if need be.
    fn open_append(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a file or empties it.
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading from its begin to its end; stays readable when the file is renamed or removed.
    fn open_read(&self, path: &str) -> io::Result<Box<dyn Read + Send>>;
    /// Reads a file whole; for small ones (manifests, state).
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
    /// Reads at an offset; returns how many bytes there were, less than asked for at the end.
    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Cuts a file to `len` bytes and syncs it.
    fn truncate(&self, path: &str, len: u64) -> io::Result<()>;
    fn len(&self, path: &str) -> io::Result<u64>;
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// Renames a file, replacing any other. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a folder durable; `""` is the root.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Names of the files in a folder, in byte order; folders are left out.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Makes a folder, and those above it, if need be.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Takes an exclusive lock on a file, kept until the result is dropped. `WouldBlock`: another process has it.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>>;
}

/// A file that grows at its end.
pub trait DiskFile: Send {
    /// Appends all of `bytes`. After an `Err` any prefix of them may have been appended.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable (fdatasync). An `Err` poisons the file.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes, to take a torn write back. Not synced.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> u64;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Writes a small file so that after a crash either the old or the new content is there: a temporary file beside it,
/// synced, renamed over it, and the folder synced.
pub fn write_atomic(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let mut file = disk.create(&temporary)?;
    file.write(bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent(path))
}

/// The folder part of a path; `""` for the root.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn check_path(path: &str) -> io::Result<()> {
    let bad = path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..");
    if bad {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path outside the data folder: {path:?}"),
        ));
    }
    Ok(())
}

fn poisoned() -> io::Error {
    io::Error::other("an earlier sync of this file failed; it is not written any more")
}
