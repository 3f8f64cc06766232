//! The file system.

use super::{Disk, DiskFile, check_path, poisoned};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Files below one folder.
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// A disk below `root`, which exists.
    pub fn new(root: impl Into<PathBuf>) -> RealDisk {
        RealDisk { root: root.into() }
    }
    fn path(&self, path: &str) -> io::Result<PathBuf> {
        check_path(path)?;
        Ok(self.root.join(path))
    }
}

impl Disk for RealDisk {
    fn open_append(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().create(true).append(true).open(self.path(path)?)?;
        let len = file.metadata()?.len();
        Ok(Box::new(RealFile { file, len, poisoned: false }))
    }
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path(path)?;
        // Append mode, so that writes go to the end after a truncate too.
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(0)?;
        Ok(Box::new(RealFile { file, len: 0, poisoned: false }))
    }
    fn open_read(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.path(path)?)?))
    }
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(path)?)
    }
    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = File::open(self.path(path)?)?;
        let mut done = 0;
        while done < into.len() {
            match file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
    fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(path)?)?;
        file.set_len(len)?;
        file.sync_all()
    }
    fn len(&self, path: &str) -> io::Result<u64> {
        Ok(std::fs::metadata(self.path(path)?)?.len())
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.path(path)?.try_exists()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from)?, self.path(to)?)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(path)?)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::open(self.path(path)?)?.sync_all()
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(path)?)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.path(path)?)
    }
    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.path(path)?)?;
        file.try_lock().map_err(io::Error::from)?;
        Ok(Box::new(file))
    }
}

struct RealFile {
    file: File,
    len: u64,
    poisoned: bool,
}

impl DiskFile for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.poisoned {
            return Err(poisoned());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.len += n as u64;
                    rest = &rest[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        if self.poisoned {
            return Err(poisoned());
        }
        self.file.sync_data().inspect_err(|_| self.poisoned = true)
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if self.poisoned {
            return Err(poisoned());
        }
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }
    fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::write_atomic;

    #[test]
    fn files_on_the_real_disk() {
        let root = std::env::temp_dir().join(format!("shoal-disk-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let disk = RealDisk::new(&root);
        disk.create_dir("a/b").unwrap();
        let mut file = disk.create("a/b/f").unwrap();
        file.write(b"hello world").unwrap();
        file.truncate(5).unwrap();
        file.write(b"!").unwrap();
        file.sync().unwrap();
        assert_eq!((file.len(), disk.read("a/b/f").unwrap()), (6, b"hello!".to_vec()));
        assert_eq!(disk.open_append("a/b/f").unwrap().len(), 6);
        let mut part = [0; 10];
        assert_eq!((disk.read_at("a/b/f", 3, &mut part).unwrap(), &part[..3]), (3, &b"lo!"[..]));
        write_atomic(&disk, "a/b/g", b"1").unwrap();
        write_atomic(&disk, "a/b/g", b"2").unwrap();
        assert_eq!(
            (disk.list("a/b").unwrap(), disk.read("a/b/g").unwrap()),
            (vec!["f".into(), "g".into()], b"2".into())
        );
        assert_eq!(disk.list("a").unwrap(), Vec::<String>::new());
        disk.truncate("a/b/f", 2).unwrap();
        assert_eq!(disk.len("a/b/f").unwrap(), 2);
        disk.remove("a/b/f").unwrap();
        assert!(!disk.exists("a/b/f").unwrap());
        let lock = disk.lock("lock").unwrap();
        assert!(disk.lock("lock").is_err());
        drop(lock);
        assert!(disk.lock("lock").is_ok());
        assert!(disk.read("../x").is_err() && disk.read("/etc/passwd").is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
