//! A disk in memory that forgets what a real one may forget.
//!
//! What is written reads back at once, but [`MemDisk::crash`] keeps of each file what was synced, a prefix of what
//! was done since, and torn 512-byte sectors at its end; and of each folder the names at its last `sync_dir` and a
//! prefix of the changes since. Everything random comes from the seed handed to `crash`.

use super::{Disk, DiskFile, check_path, parent, poisoned};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Faults to be met by the next calls.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Bytes all files may have together; a write beyond is cut short with `StorageFull`.
    pub capacity: Option<u64>,
    /// How many of the next file syncs fail. The file is poisoned, its unsynced data will not survive a crash.
    pub failing_syncs: u32,
    /// How many of the next folder syncs fail.
    pub failing_dir_syncs: u32,
    /// How many of the next writes fail without writing anything.
    pub failing_writes: u32,
    /// How many of the next reads fail.
    pub failing_reads: u32,
}

/// A simulated disk; clones share it.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    dir_changes: Vec<DirChange>,
    dirs: BTreeSet<String>,
    locks: BTreeSet<String>,
    faults: Faults,
    /// Raised by each crash; handles of an earlier life fail.
    life: u64,
    syncs: u64,
}

#[derive(Default)]
struct Inode {
    data: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    poisoned: bool,
}

enum Change {
    Append(Vec<u8>),
    Truncate(u64),
}

struct DirChange {
    dir: String,
    what: NameChange,
}

#[derive(Clone)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Unlink(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Change::Append(bytes) => data.extend_from_slice(bytes),
            Change::Truncate(len) => data.truncate(*len as usize),
        }
    }
}

impl State {
    fn new_name(&mut self, path: &str) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change_names(path, NameChange::Link(path.into(), inode));
        inode
    }
    fn change_names(&mut self, path: &str, what: NameChange) {
        what.apply(&mut self.names);
        self.dir_changes.push(DirChange { dir: parent(path).into(), what });
    }
    fn find(&self, path: &str) -> io::Result<u64> {
        check_path(path)?;
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an inode lives while a name or a handle of this life knows it")
    }
    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].data.len() as u64).sum()
    }
    fn check_dir(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let dir = parent(path);
        if dir.is_empty() || self.dirs.contains(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
    fn write(&mut self, inode: u64, bytes: &[u8]) -> io::Result<()> {
        if self.inode(inode).poisoned {
            return Err(poisoned());
        }
        if take(&mut self.faults.failing_writes) {
            return Err(io::Error::other("injected write error"));
        }
        let room = self.faults.capacity.map_or(u64::MAX, |cap| cap.saturating_sub(self.used()));
        let fits = bytes.len().min(room.min(usize::MAX as u64) as usize);
        let file = self.inode(inode);
        file.data.extend_from_slice(&bytes[..fits]);
        file.changes.push(Change::Append(bytes[..fits].to_vec()));
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn sync(&mut self, inode: u64) -> io::Result<()> {
        let fails = take(&mut self.faults.failing_syncs);
        self.syncs += 1;
        let file = self.inode(inode);
        if fails {
            file.poisoned = true;
        }
        if file.poisoned {
            return Err(if fails { io::Error::other("injected sync error") } else { poisoned() });
        }
        file.changes.clear();
        file.durable.clone_from(&file.data);
        Ok(())
    }
    fn check_read(&mut self) -> io::Result<()> {
        if take(&mut self.faults.failing_reads) {
            Err(io::Error::other("injected read error"))
        } else {
            Ok(())
        }
    }
}

fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count -= some as u32;
    some
}

impl MemDisk {
    pub fn new() -> MemDisk {
        MemDisk::default()
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Changes the faults that the next calls meet.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }
    /// File syncs asked for so far, failed ones included.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Power is lost and comes back: see the module's head. Faults and handles of before are gone.
    pub fn crash(&self, seed: u64) {
        let mut random = Random(seed);
        let mut state = self.state();
        let state = &mut *state;
        state.life += 1;
        state.locks.clear();
        state.faults = Faults::default();
        // Each folder keeps its own prefix of its changes.
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        for change in &state.dir_changes {
            *kept.entry(change.dir.clone()).or_default() += 1;
        }
        kept.values_mut().for_each(|n| *n = random.below(*n as u64 + 1) as usize);
        for change in std::mem::take(&mut state.dir_changes) {
            let left = kept.get_mut(&change.dir).expect("counted above");
            if *left > 0 {
                *left -= 1;
                change.what.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        let live: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| live.contains(inode));
        for file in state.inodes.values_mut() {
            file.crash(&mut random);
        }
    }
}

impl Inode {
    fn crash(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.changes);
        let whole = if self.poisoned { 0 } else { random.below(changes.len() as u64 + 1) as usize };
        let mut data = std::mem::take(&mut self.durable);
        let synced = data.len();
        changes[..whole].iter().for_each(|c| c.apply(&mut data));
        if !self.poisoned
            && let Some(Change::Append(bytes)) = changes.get(whole)
        {
            data.extend_from_slice(&bytes[..random.below(bytes.len() as u64 + 1) as usize]);
        }
        // The length may have reached the disk before the bytes: some unsynced sectors read as zeros.
        if random.below(4) == 0 && data.len() > synced {
            let first = synced + random.below((data.len() - synced) as u64) as usize;
            let end = ((first / 512 + 1) * 512).min(data.len());
            data[first..end].fill(0);
        }
        self.durable = data.clone();
        self.data = data;
        self.poisoned = false;
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

impl Disk for MemDisk {
    fn open_append(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.check_dir(path)?;
        let inode = match state.names.get(path) {
            Some(&inode) => inode,
            None => state.new_name(path),
        };
        Ok(Box::new(MemFile { disk: self.clone(), inode, life: state.life }))
    }
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.open_append(path)?;
        let mut state = self.state();
        let inode = state.find(path)?;
        let node = state.inode(inode);
        node.data.clear();
        node.changes.push(Change::Truncate(0));
        drop(state);
        Ok(file)
    }
    fn open_read(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.read(path)?)))
    }
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let inode = state.find(path)?;
        state.check_read()?;
        Ok(state.inode(inode).data.clone())
    }
    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let inode = state.find(path)?;
        state.check_read()?;
        let data = &state.inode(inode).data;
        let from = offset.min(data.len() as u64) as usize;
        let n = into.len().min(data.len() - from);
        into[..n].copy_from_slice(&data[from..from + n]);
        Ok(n)
    }
    fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(path)?;
        let file = state.inode(inode);
        file.data.truncate(len as usize);
        file.changes.push(Change::Truncate(len));
        state.sync(inode)
    }
    fn len(&self, path: &str) -> io::Result<u64> {
        let mut state = self.state();
        let inode = state.find(path)?;
        Ok(state.inode(inode).data.len() as u64)
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        check_path(path)?;
        Ok(self.state().names.contains_key(path))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.find(from)?;
        state.check_dir(to)?;
        state.change_names(to, NameChange::Rename(from.into(), to.into()));
        Ok(())
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.find(path)?;
        state.change_names(path, NameChange::Unlink(path.into()));
        Ok(())
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.state();
        let state = &mut *state;
        if take(&mut state.faults.failing_dir_syncs) {
            return Err(io::Error::other("injected folder sync error"));
        }
        for change in state.dir_changes.extract_if(.., |change| change.dir == path) {
            change.what.apply(&mut state.durable_names);
        }
        Ok(())
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        check_path(path)?;
        let state = self.state();
        if !path.is_empty() && !state.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |name: &&String| parent(name) == path;
        Ok(state.names.keys().filter(inside).map(|n| n.rsplit('/').next().unwrap_or(n).into()).collect())
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut state = self.state();
        // Folders are durable at once: they are made at start, before anything that matters is in them.
        for (i, _) in path.match_indices('/') {
            state.dirs.insert(path[..i].into());
        }
        state.dirs.insert(path.into());
        Ok(())
    }
    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        check_path(path)?;
        let mut state = self.state();
        if !state.locks.insert(path.into()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { disk: self.clone(), path: path.into(), life: state.life }))
    }
}

struct MemLock {
    disk: MemDisk,
    path: String,
    life: u64,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct MemFile {
    disk: MemDisk,
    inode: u64,
    life: u64,
}

impl MemFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life != self.life {
            return Err(io::Error::other("the machine of this file handle crashed"));
        }
        Ok(state)
    }
}

impl DiskFile for MemFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.state()?.write(self.inode, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.state()?.sync(self.inode)
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let file = state.inode(self.inode);
        if file.poisoned {
            return Err(poisoned());
        }
        file.data.truncate(len as usize);
        file.changes.push(Change::Truncate(len));
        Ok(())
    }
    fn len(&self) -> u64 {
        self.state().map_or(0, |mut state| state.inode(self.inode).data.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::write_atomic;

    #[test]
    fn synced_bytes_survive_and_unsynced_ones_at_most_as_a_torn_tail() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let disk = MemDisk::new();
            let mut file = disk.create("f").unwrap();
            disk.sync_dir("").unwrap();
            file.write(b"durable").unwrap();
            file.sync().unwrap();
            file.write(b"-maybe").unwrap();
            disk.crash(seed);
            let data = disk.read("f").unwrap();
            assert!(data.starts_with(b"durable") && data.len() <= 13);
            match &data[7..] {
                b"" => lost += 1,
                b"-maybe" => kept += 1,
                _ => torn += 1,
            }
            assert!(file.write(b"x").is_err(), "a handle of the life before");
        }
        assert!(lost > 0 && kept > 0 && torn > 0, "{lost} {kept} {torn}");
    }

    #[test]
    fn names_are_volatile_until_the_folder_is_synced() {
        let outcomes: BTreeSet<Vec<String>> = (0..100)
            .map(|seed| {
                let disk = MemDisk::new();
                disk.create("a").unwrap();
                disk.sync_dir("").unwrap();
                disk.create("b").unwrap();
                disk.rename("b", "c").unwrap();
                disk.remove("a").unwrap();
                disk.crash(seed);
                disk.list("").unwrap()
            })
            .collect();
        let expect = [vec!["a"], vec!["a", "b"], vec!["a", "c"], vec!["c"]];
        assert_eq!(outcomes, expect.map(|names| names.into_iter().map(String::from).collect()).into());
    }

    #[test]
    fn an_atomic_write_is_old_or_new_whenever_power_fails() {
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let disk = MemDisk::new();
            write_atomic(&disk, "f", b"old").unwrap();
            // Fail the new write at one of its steps, then crash.
            match seed % 4 {
                0 => disk.set_faults(|f| f.failing_syncs = 1),
                1 => disk.set_faults(|f| f.failing_dir_syncs = 1),
                2 => disk.set_faults(|f| f.capacity = Some(5)),
                _ => {}
            }
            let done = write_atomic(&disk, "f", b"new").is_ok();
            disk.crash(seed);
            let data = disk.read("f").unwrap();
            assert!(data == b"new" || (data == b"old" && !done), "{data:?} {done}");
            seen.insert(data);
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_failed_sync_poisons_the_file_and_loses_its_data() {
        let disk = MemDisk::new();
        let mut file = disk.create("f").unwrap();
        disk.sync_dir("").unwrap();
        disk.set_faults(|f| f.failing_syncs = 1);
        file.write(b"gone").unwrap();
        assert!(file.sync().is_err() && file.sync().is_err() && file.write(b"x").is_err());
        assert_eq!(disk.read("f").unwrap(), b"gone", "it still reads back");
        disk.crash(1);
        assert_eq!(disk.read("f").unwrap(), b"");
    }

    #[test]
    fn a_full_disk_cuts_the_write_short() {
        let disk = MemDisk::new();
        disk.set_faults(|f| f.capacity = Some(4));
        let mut file = disk.create("f").unwrap();
        assert_eq!(file.write(b"abcdef").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len(), 4);
        file.truncate(0).unwrap();
        file.write(b"ok").unwrap();
        assert_eq!(disk.read("f").unwrap(), b"ok");
    }
}
