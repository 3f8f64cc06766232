//! Loading: the base, then the increments in order, each handed out as RDB events and units of commands.

use super::AofError;
use super::manifest::Manifest;
use super::parse::{Command, Piece, piece};
use crate::Disk;
use crate::rdb::{Decoder, Event, LoadOptions};
use std::io::{ErrorKind, Read};

/// How to load.
#[derive(Clone, Debug)]
pub struct AofOptions {
    pub rdb: LoadOptions,
    /// `aof-load-truncated`: whether the last file may end inside a unit, which is then cut off.
    pub load_truncated: bool,
    /// How many bytes at the end of the last file may be no commands at all and still be cut off, as a power failure
    /// leaves them (Redis 8's `aof-load-corrupt-tail-max-size`). 0 refuses, as Redis 7.0 does.
    pub corrupt_tail_max: u64,
}

impl Default for AofOptions {
    fn default() -> AofOptions {
        AofOptions { rdb: LoadOptions::default(), load_truncated: true, corrupt_tail_max: 0 }
    }
}

/// What a file holds, in order.
pub enum Item {
    /// From an RDB base or preamble.
    Rdb(Event),
    /// Commands to be executed all or none: one, or those between MULTI and EXEC (without these two).
    Unit(Vec<Command>),
    /// So many bytes more of the files were read.
    Read(u64),
}

/// The end of a file that is no whole unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// Where the last whole unit ends: what is behind may be cut off.
    pub valid: u64,
    /// The file's length.
    pub len: u64,
    /// `None`: the file ends inside a unit. Else what is wrong with its bytes.
    pub corrupt: Option<&'static str>,
}

/// What loading did besides handing out items.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadReport {
    /// The last file and its tail, which was cut off (and the cut synced).
    pub cut: Option<(String, TornTail)>,
    pub units: u64,
}

const CHUNK: usize = 1 << 20;

/// Loads the set of files of `manifest` in the folder `dir`. Files that are named but missing are an error, except
/// for increments that never came to be written: those that are missing at the end. Whatever `each` returns as an
/// error stops loading.
pub fn load_manifest<E: From<AofError>>(
    disk: &dyn Disk,
    dir: &str,
    manifest: &Manifest,
    options: &AofOptions,
    each: &mut dyn FnMut(Item) -> Result<(), E>,
) -> Result<LoadReport, E> {
    let io = |file: &str, error| AofError::Io { file: file.into(), error };
    let mut report = LoadReport::default();
    let mut files: Vec<String> =
        manifest.base.iter().chain(&manifest.increments).map(|f| format!("{dir}/{}", f.name)).collect();
    while let Some(last) = files.last()
        && files.len() > manifest.base.iter().len()
        && !disk.exists(last).map_err(|e| io(last, e))?
    {
        files.pop();
    }
    let count = files.len();
    for (i, path) in files.into_iter().enumerate() {
        let tail = load_file(disk, &path, options, &mut report.units, each)?;
        let Some(tail) = tail else { continue };
        let may_cut = match tail.corrupt {
            None => options.load_truncated,
            Some(_) => options.load_truncated && tail.len - tail.valid <= options.corrupt_tail_max,
        };
        if i + 1 < count || !may_cut {
            return Err(match tail.corrupt {
                None => AofError::Truncated { file: path, offset: tail.valid },
                Some(what) => AofError::Corrupt { file: path, offset: tail.valid, what },
            }
            .into());
        }
        disk.truncate(&path, tail.valid).map_err(|e| io(&path, e))?;
        report.cut = Some((path, tail));
    }
    Ok(report)
}

/// Loads one file: RDB, commands, or RDB followed by commands. Counts units into `units`. `Some`: the file's end is
/// torn; nothing behind `valid` was handed out.
pub fn load_file<E: From<AofError>>(
    disk: &dyn Disk,
    path: &str,
    options: &AofOptions,
    units: &mut u64,
    each: &mut dyn FnMut(Item) -> Result<(), E>,
) -> Result<Option<TornTail>, E> {
    let io = |error| AofError::Io { file: path.into(), error };
    let mut source = Source { read: disk.open_read(path).map_err(io)?, path, done: false };
    let mut buffer = Vec::new();
    while buffer.len() < 6 && source.fill(&mut buffer, each)? {}
    let mut before = 0;
    if buffer.starts_with(b"REDIS") || buffer.starts_with(b"VALKEY") {
        let rdb = |error| AofError::Rdb { file: path.into(), error };
        let mut decoder = Decoder::new(options.rdb.clone());
        while !decoder.is_ended() {
            decoder.push(&buffer);
            while let Some(event) =
                if source.done { decoder.next_at_end() } else { decoder.next() }.map_err(rdb)?
            {
                each(Item::Rdb(event))?;
            }
            buffer.clear();
            if !decoder.is_ended() {
                source.fill(&mut buffer, each)?;
            }
        }
        before = decoder.offset();
        buffer = decoder.rest().to_vec();
    }
    Units { source, buffer, at: 0, before, valid: before, open: None }.run(units, each)
}

struct Source<'a> {
    read: Box<dyn Read + Send>,
    path: &'a str,
    done: bool,
}

impl Source<'_> {
    /// Appends the next chunk; `false` at the end of the file.
    fn fill<E: From<AofError>>(
        &mut self,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(Item) -> Result<(), E>,
    ) -> Result<bool, E> {
        let from = buffer.len();
        buffer.resize(from + CHUNK, 0);
        let n = loop {
            match self.read.read(&mut buffer[from..]) {
                Ok(n) => break n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(AofError::Io { file: self.path.into(), error }.into()),
            }
        };
        buffer.truncate(from + n);
        each(Item::Read(n as u64))?;
        self.done = n == 0;
        Ok(n > 0)
    }
}

/// The part of a file that holds commands.
struct Units<'a> {
    source: Source<'a>,
    buffer: Vec<u8>,
    at: usize,
    /// Offset of the buffer's begin in the file.
    before: u64,
    valid: u64,
    /// Commands since an open MULTI.
    open: Option<Vec<Command>>,
}

impl Units<'_> {
    fn run<E: From<AofError>>(
        mut self,
        units: &mut u64,
        each: &mut dyn FnMut(Item) -> Result<(), E>,
    ) -> Result<Option<TornTail>, E> {
        let mut need = 1;
        loop {
            while self.buffer.len() - self.at < need {
                self.buffer.drain(..self.at);
                self.before += self.at as u64;
                self.at = 0;
                if !self.source.fill(&mut self.buffer, each)? {
                    return Ok(self.end());
                }
            }
            match piece(&self.buffer[self.at..]) {
                Ok(Piece::More(n)) => need = n,
                Ok(Piece::Note(n)) => {
                    self.pass(n);
                    need = 1;
                }
                Ok(Piece::Command(args, n)) => {
                    let unit = match self.take(args) {
                        Ok(unit) => unit,
                        Err(what) => return Ok(Some(self.corrupt(what, each)?)),
                    };
                    self.pass(n);
                    if let Some(unit) = unit {
                        *units += 1;
                        each(Item::Unit(unit))?;
                    }
                    need = 1;
                }
                Err(what) => return Ok(Some(self.corrupt(what, each)?)),
            }
        }
    }

    fn pass(&mut self, n: usize) {
        self.at += n;
        if self.open.is_none() {
            self.valid = self.before + self.at as u64;
        }
    }

    /// Sorts a command into units; gives the unit it completes.
    fn take(&mut self, args: Command) -> Result<Option<Vec<Command>>, &'static str> {
        let name = &args[0];
        if name.eq_ignore_ascii_case(b"MULTI") {
            if self.open.replace(Vec::new()).is_some() {
                return Err("MULTI inside a transaction");
            }
            return Ok(None);
        }
        if name.eq_ignore_ascii_case(b"EXEC") {
            return self.open.take().map(Some).ok_or("EXEC without MULTI");
        }
        match &mut self.open {
            Some(open) => {
                open.push(args);
                Ok(None)
            }
            None => Ok(Some(vec![args])),
        }
    }

    fn end(&self) -> Option<TornTail> {
        let len = self.before + self.buffer.len() as u64;
        (len > self.valid).then_some(TornTail { valid: self.valid, len, corrupt: None })
    }

    fn corrupt<E: From<AofError>>(
        mut self,
        what: &'static str,
        each: &mut dyn FnMut(Item) -> Result<(), E>,
    ) -> Result<TornTail, E> {
        // The length is needed to tell a torn tail from damage in the middle.
        loop {
            self.before += self.buffer.len() as u64;
            self.buffer.clear();
            if !self.source.fill(&mut self.buffer, each)? {
                return Ok(TornTail { valid: self.valid, len: self.before, corrupt: Some(what) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aof::encode_command;
    use crate::rdb::{Access, Format, RdbWriter, write_record};
    use crate::{MemDisk, ValueRef};

    fn commands(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            encode_command(&mut out, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        out
    }
    fn rdb() -> Vec<u8> {
        let (mut writer, mut out, mut record) = (RdbWriter::new(Format::default()), Vec::new(), Vec::new());
        writer.header(&[(b"aof-base", b"1")], &mut out);
        write_record(&mut record, &Format::default(), b"key", ValueRef::Str(b"rdb"), None, Access::None);
        writer.records(0, &record, &mut out);
        writer.finish(&mut out);
        out
    }
    fn put(disk: &MemDisk, path: &str, bytes: &[u8]) {
        disk.create(path).unwrap().write(bytes).unwrap();
    }
    /// Keys and units as text, one string each.
    fn load(
        disk: &MemDisk,
        manifest: &str,
        options: &AofOptions,
    ) -> (Vec<String>, Result<LoadReport, AofError>) {
        let manifest = Manifest::parse(manifest.as_bytes()).unwrap();
        let mut seen = Vec::new();
        let report = load_manifest(disk, "d", &manifest, options, &mut |item| {
            match item {
                Item::Rdb(Event::Key(r)) => seen.push(format!("key {}", String::from_utf8_lossy(&r.key))),
                Item::Rdb(_) | Item::Read(_) => {}
                Item::Unit(unit) => {
                    let text = |c: &Command| String::from_utf8(c.join(&b' ')).unwrap();
                    seen.push(unit.iter().map(text).collect::<Vec<_>>().join("; "));
                }
            }
            Ok(())
        });
        (seen, report)
    }
    fn disk() -> MemDisk {
        let disk = MemDisk::new();
        disk.create_dir("d").unwrap();
        disk
    }
    const TWO: &str = "file b seq 1 type b\nfile i seq 1 type i\n";

    #[test]
    fn base_and_increments_in_order() {
        let disk = disk();
        put(&disk, "d/b", &rdb());
        let mut first = commands(&["SELECT 0", "SET a 1"]);
        first.extend_from_slice(b"#TS:1700000000\r\n");
        first.extend(commands(&["MULTI", "SET b 2", "SET c 3", "EXEC", "DEL a"]));
        put(&disk, "d/i", &first);
        put(&disk, "d/j", b"");
        let manifest = "file b seq 1 type b\nfile i seq 1 type i\nfile j seq 2 type i\nfile k seq 3 type i\n";
        let (seen, report) = load(&disk, manifest, &AofOptions::default());
        assert_eq!(seen, ["key key", "SELECT 0", "SET a 1", "SET b 2; SET c 3", "DEL a"]);
        assert_eq!(report.unwrap(), LoadReport { cut: None, units: 4 });
    }

    #[test]
    fn the_old_single_file_has_a_preamble() {
        let disk = disk();
        put(&disk, "d/b", &[rdb(), commands(&["SET a 1"])].concat());
        let (seen, report) = load(&disk, "file b seq 1 type b", &AofOptions::default());
        assert_eq!((seen, report.unwrap().units), (vec!["key key".into(), "SET a 1".into()], 1));
    }

    #[test]
    fn a_file_cut_anywhere_gives_the_whole_units_before_the_cut() {
        let whole = commands(&["SET a 1", "MULTI", "SET b 2", "EXEC", "SET c 3"]);
        let ends = [commands(&["SET a 1"]).len(), whole.len() - commands(&["SET c 3"]).len(), whole.len()];
        for cut in 0..=whole.len() {
            let disk = disk();
            put(&disk, "d/b", &rdb());
            put(&disk, "d/i", &whole[..cut]);
            let (seen, report) = load(&disk, TWO, &AofOptions::default());
            let units = ends.iter().filter(|&&end| end <= cut).count();
            let valid = if units == 0 { 0 } else { ends[units - 1] };
            assert_eq!(seen.len(), 1 + units, "cut at {cut}");
            let torn = TornTail { valid: valid as u64, len: cut as u64, corrupt: None };
            assert_eq!(report.unwrap().cut, (valid < cut).then(|| ("d/i".into(), torn)));
            assert_eq!(disk.len("d/i").unwrap(), valid as u64);
            // What is left loads cleanly, and strictly.
            let strict = AofOptions { load_truncated: false, ..AofOptions::default() };
            assert_eq!(load(&disk, TWO, &strict).1.unwrap().cut, None);
        }
    }

    #[test]
    fn damage_is_refused_but_for_an_allowed_tail() {
        let disk = disk();
        put(&disk, "d/b", &rdb());
        put(&disk, "d/i", &[commands(&["SET a 1"]), vec![0; 100]].concat());
        let (seen, report) = load(&disk, TWO, &AofOptions::default());
        assert_eq!(seen, ["key key", "SET a 1"]);
        assert!(matches!(report, Err(AofError::Corrupt { offset: 27, .. })), "{report:?}");
        let lenient = AofOptions { corrupt_tail_max: 100, ..AofOptions::default() };
        assert!(load(&disk, TWO, &lenient).1.unwrap().cut.is_some());
        assert_eq!(disk.len("d/i").unwrap(), 27);
        // A torn file that is not the last is never cut.
        put(&disk, "d/i", b"*1\r\n$4\r\nPI");
        put(&disk, "d/j", b"");
        let (_, report) = load(&disk, &format!("{TWO}file j seq 2 type i"), &lenient);
        assert!(matches!(report, Err(AofError::Truncated { offset: 0, .. })), "{report:?}");
        put(&disk, "d/b", &rdb()[..20]);
        assert!(matches!(load(&disk, TWO, &lenient).1, Err(AofError::Rdb { .. })));
        disk.remove("d/b").unwrap();
        assert!(matches!(load(&disk, TWO, &lenient).1, Err(AofError::Io { .. })));
        assert!(EXEC_ALONE.iter().all(|lines| {
            put(&disk, "d/b", &commands(lines));
            matches!(
                load(&disk, "file b seq 1 type b", &AofOptions::default()).1,
                Err(AofError::Corrupt { .. })
            )
        }));
    }
    const EXEC_ALONE: [&[&str]; 2] = [&["EXEC"], &["MULTI", "MULTI", "EXEC"]];

    #[test]
    fn commands_larger_than_a_chunk() {
        let disk = disk();
        let mut file = Vec::new();
        encode_command(&mut file, &[b"SET", b"k", &vec![b'v'; 3 * CHUNK]]);
        encode_command(&mut file, &[b"GET", b"k"]);
        put(&disk, "d/b", &file);
        let (seen, _) = load(&disk, "file b seq 1 type b", &AofOptions::default());
        assert_eq!((seen.len(), seen[0].len(), &seen[1][..]), (2, 6 + 3 * CHUNK, "GET k"));
    }
}
