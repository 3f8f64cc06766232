//! Loading: RDB as it arrives, and at start the log or the snapshot of an earlier life.
//!
//! Invariant: what is wrong with a file is said with its name, and ends the start; nothing is served from half a file.

use super::apply::{Applier, ApplyError};
use super::files::{Found, LogFiles};
use crate::env::Env;
use crate::shared::Shared;
use engine::evict;
use proto::{Epoch, Offset, ReplId, Slot};
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::aof::{AofError, AofOptions, Item, load_manifest};
use storage::rdb::{Decoder, Event, LoadOptions, RdbError, Record};
use storage::{GateReader, Keyspace};

/// Bytes read from a file at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What an RDB file brought.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub keys: u64,
    /// Keys whose time had come and that were left out.
    pub expired: u64,
    /// History, offset and selected database that the file's head names.
    pub replid: Option<ReplId>,
    pub offset: Option<u64>,
    pub stream_db: Option<u16>,
}

/// Why data were not loaded. What was loaded before remains.
#[derive(Debug)]
pub enum LoadError {
    Rdb(RdbError),
    Aof(AofError),
    Apply(ApplyError),
    /// The file has more databases than this node.
    Database(u32),
    /// The file has a key twice, or one that is there already.
    Duplicate(Vec<u8>),
    /// A function library does not load.
    Library(String),
    /// The node ends.
    Ended,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Rdb(error) => write!(f, "{error}"),
            LoadError::Aof(error) => write!(f, "{error}"),
            LoadError::Apply(error) => write!(f, "{error}"),
            LoadError::Database(db) => {
                write!(f, "the file has keys in database {db}: raise 'databases'")
            }
            LoadError::Ended => write!(f, "the node ends"),
            LoadError::Library(error) => write!(f, "a function library does not load: {error}"),
            LoadError::Duplicate(key) => {
                write!(f, "the key '{}' is there twice", String::from_utf8_lossy(key).escape_debug())
            }
        }
    }
}

impl From<RdbError> for LoadError {
    fn from(error: RdbError) -> LoadError {
        LoadError::Rdb(error)
    }
}
impl From<AofError> for LoadError {
    fn from(error: AofError) -> LoadError {
        LoadError::Aof(error)
    }
}
impl From<ApplyError> for LoadError {
    fn from(error: ApplyError) -> LoadError {
        LoadError::Apply(error)
    }
}

/// How to load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadRule {
    /// Leaves out keys whose time has come: on primaries. A replica waits for its primary's word.
    pub skips_expired: bool,
    /// Keys of the file take the place of those that are there.
    pub may_replace: bool,
    /// The caller has the gate closed.
    pub is_exclusive: bool,
}

/// What an RDB file held, if it was loaded beside the data in use.
pub struct Beside {
    pub keyspace: Keyspace,
    pub libraries: Vec<Vec<u8>>,
}

/// Takes the bytes of an RDB file as they come, and puts its keys into the keyspace, or into one beside it.
pub struct RdbLoader<E: Env> {
    keys: KeyLoader<E>,
    decoder: Decoder,
}

impl<E: Env> RdbLoader<E> {
    pub fn new(shared: &Arc<Shared<E>>, rule: LoadRule) -> RdbLoader<E> {
        let decoder = Decoder::new(load_options(shared));
        RdbLoader { keys: KeyLoader::new(shared.clone(), rule), decoder }
    }
    /// As [`RdbLoader::new`], for data that others are not to see yet.
    pub fn beside(shared: &Arc<Shared<E>>, rule: LoadRule) -> RdbLoader<E> {
        let mut loader = RdbLoader::new(shared, rule);
        let keyspace = shared.engine.keyspace.beside();
        keyspace.set_clock(fresh_clock(shared));
        loader.keys.gate = None;
        loader.keys.into.beside = Some(Beside { keyspace, libraries: Vec::new() });
        loader
    }
    /// What was loaded, if that was beside the data in use.
    pub fn into_beside(self) -> Option<Beside> {
        self.keys.into.beside
    }
    /// Takes the next bytes. Returns whether the file's end mark was among them.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, LoadError> {
        self.decoder.push(bytes);
        let KeyLoader { shared, gate, into } = &mut self.keys;
        let _inside = gate.as_mut().map(GateReader::enter_wait);
        while let Some(event) = self.decoder.next()? {
            into.take(shared, event)?;
        }
        Ok(self.decoder.is_ended())
    }
    /// As [`RdbLoader::push`] of the last bytes: an error unless the file is complete. A long value is tried again only
    /// when many more bytes have come, so that the last one would wait for ever.
    pub fn push_last(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.push(bytes)?;
        self.finish()
    }
    /// No more bytes will come: an error unless the file is complete.
    pub fn finish(&mut self) -> Result<(), LoadError> {
        while !self.decoder.is_ended() {
            if let Some(event) = self.decoder.next_at_end()? {
                self.keys.take(event)?;
            }
        }
        Ok(())
    }
    /// Bytes that came behind the end mark.
    pub fn rest(&self) -> &[u8] {
        self.decoder.rest()
    }
    /// Bytes of the file that are taken in.
    pub fn offset(&self) -> u64 {
        self.decoder.offset()
    }
    pub fn loaded(&self) -> &Loaded {
        &self.keys.into.loaded
    }
}

fn load_options<E: Env>(shared: &Shared<E>) -> LoadOptions {
    let settings = shared.settings();
    LoadOptions { thresholds: settings.engine.thresholds.clone(), verify_checksum: settings.is_rdb_checked }
}

/// Puts the events of an RDB file into the keyspace.
struct KeyLoader<E: Env> {
    shared: Arc<Shared<E>>,
    /// `None`: the gate is closed by the caller, or nobody else sees what is loaded.
    gate: Option<GateReader>,
    into: Into,
}

/// Where events go, and what they have brought.
struct Into {
    beside: Option<Beside>,
    rule: LoadRule,
    now_ms: i64,
    loaded: Loaded,
}

/// The access clock of what is loaded now.
fn fresh_clock<E: Env>(shared: &Shared<E>) -> u32 {
    evict::fresh(shared.env.now().wall.0, shared.settings().engine.maxmemory_policy.is_lfu())
}

impl<E: Env> KeyLoader<E> {
    fn new(shared: Arc<Shared<E>>, rule: LoadRule) -> KeyLoader<E> {
        let now_ms = shared.env.now().wall.0;
        shared.engine.keyspace.set_clock(fresh_clock(&shared));
        let gate = (!rule.is_exclusive).then(|| shared.engine.keyspace.gate().register());
        KeyLoader { shared, gate, into: Into { beside: None, rule, now_ms, loaded: Loaded::default() } }
    }
    fn take(&mut self, event: Event) -> Result<(), LoadError> {
        let _inside = self.gate.as_mut().map(GateReader::enter_wait);
        self.into.take(&self.shared, event)
    }
}

impl Into {
    fn take<E: Env>(&mut self, shared: &Shared<E>, event: Event) -> Result<(), LoadError> {
        if shared.state.is_shutting_down.load(Ordering::Relaxed) {
            return Err(LoadError::Ended);
        }
        match event {
            Event::Key(record) => {
                self.insert(shared, *record)?;
                delay(shared);
            }
            Event::Aux(name, value) => take_aux(&mut self.loaded, &name, &value),
            Event::EmptyKey(key) => {
                tracing::info!("rdbLoadObject skipping empty key: {}", String::from_utf8_lossy(&key));
            }
            Event::Function(text) => match &mut self.beside {
                Some(beside) => beside.libraries.push(text),
                None => load_library(shared, self.rule, &text)?,
            },
            Event::ModuleAux(name) => tracing::warn!("Data of the module '{name}' were left out"),
            Event::Header { .. } | Event::Sizes { .. } | Event::End => {}
        }
        Ok(())
    }

    fn insert<E: Env>(&mut self, shared: &Shared<E>, record: Record) -> Result<(), LoadError> {
        let keyspace = self.beside.as_ref().map_or(&*shared.engine.keyspace, |beside| &beside.keyspace);
        let db = u16::try_from(record.db).ok().filter(|db| *db < keyspace.databases());
        let db = db.ok_or(LoadError::Database(record.db))?;
        let Into { rule, now_ms, loaded, .. } = self;
        if rule.skips_expired && record.expire_ms.is_some_and(|at| at < *now_ms) {
            loaded.expired += 1;
            return Ok(());
        }
        let (slot, hash) = (Slot::of_key(&record.key), keyspace.hash(&record.key));
        let mut guard = keyspace.lock_wait(slot);
        let mut home = guard.db_mut(db);
        if !rule.may_replace && home.get(&record.key, hash).is_some() {
            return Err(LoadError::Duplicate(record.key));
        }
        home.insert(&record.key, hash, record.value, record.expire_ms);
        loaded.keys += 1;
        let is_lfu = shared.settings().engine.maxmemory_policy.is_lfu();
        let clock = match (record.idle_s, record.frequency) {
            (Some(idle_s), _) if !is_lfu => {
                evict::fresh(now_ms.saturating_sub(idle_s.min(1 << 32) as i64 * 1000), false)
            }
            (_, Some(count)) if is_lfu => evict::fresh(*now_ms, true) & !0xFF | count as u32,
            _ => return Ok(()),
        };
        if let Some(entry) = home.get(&record.key, hash) {
            entry.set_clock(clock);
        }
        Ok(())
    }
}

/// `key-load-delay`, for tests of what happens meanwhile.
fn delay<E: Env>(shared: &Shared<E>) {
    let delay_us = shared.settings().load_delay_us;
    if delay_us > 0 {
        shared.env.stall(Duration::from_micros(delay_us));
    }
}

/// Puts a function library into the node's set.
fn load_library<E: Env>(shared: &Shared<E>, rule: LoadRule, text: &[u8]) -> Result<(), LoadError> {
    let libraries = &shared.engine.scripts.libraries;
    match libraries.load(text, rule.may_replace) {
        Ok(_) => Ok(()),
        Err(error) => Err(LoadError::Library(error.to_string())),
    }
}

fn take_aux(loaded: &mut Loaded, name: &[u8], value: &[u8]) {
    let text = String::from_utf8_lossy(value);
    match name {
        b"repl-id" => loaded.replid = ReplId::from_hex(value),
        b"repl-offset" => loaded.offset = text.parse().ok(),
        b"repl-stream-db" => loaded.stream_db = text.parse().ok(),
        b"redis-ver" => tracing::info!("Loading RDB produced by version {text}"),
        _ => {}
    }
}

/// Loads `dbfilename`, in one go. `None`: there is none.
pub fn load_rdb<E: Env>(shared: &Arc<Shared<E>>, rule: LoadRule) -> Result<Option<Loaded>, LoadError> {
    let path = shared.settings().dbfilename.clone();
    let disk = shared.env.disk();
    if !disk.exists(&path).map_err(RdbError::Io)? {
        return Ok(None);
    }
    let mut file = disk.open_read(&path).map_err(RdbError::Io)?;
    let progress = &shared.persist.progress;
    progress.begin(shared.env.now().wall.0 / 1000, disk.len(&path).unwrap_or(0));
    let mut loader = RdbLoader::new(shared, rule);
    // As much as is loaded before others may close the gate.
    let mut chunk = vec![0; CHUNK_BYTES.min(shared.settings().load_events_bytes)];
    loop {
        progress.loaded.store(loader.offset(), Ordering::Relaxed);
        match file.read(&mut chunk) {
            Ok(0) => loader.finish()?,
            Ok(n) => drop(loader.push(&chunk[..n])?),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(RdbError::Io(e).into()),
        }
        if loader.decoder.is_ended() {
            return Ok(Some(loader.keys.into.loaded));
        }
    }
}

/// Loads what an earlier life kept: the log if it is on, else the snapshot. Returns the log's files as far as there
/// are any. `Err`: what stands in the way of a start. Meanwhile clients are told that data are loaded; on a thread that
/// nobody waits for.
pub fn load<E: Env>(shared: &Arc<Shared<E>>) -> Result<Option<Found>, String> {
    assert!(shared.state.is_loading.load(Ordering::Relaxed), "nobody sees half of the data");
    let started = shared.env.now().mono;
    let seconds = || shared.env.now().mono.since(started).as_secs_f64();
    let mut found = None;
    if shared.settings().appendonly {
        let files = LogFiles::find(&*shared.env.disk(), &shared.settings()).map_err(|e| fatal(&e.into()))?;
        if let Found::Set(files) = &files {
            let loaded = load_log(shared, files).map_err(|e| fatal(&e))?;
            recover_offset(shared, files, loaded.offset);
            tracing::info!("DB loaded from append only file: {:.3} seconds", seconds());
        }
        found = Some(files);
    }
    if !matches!(found, Some(Found::Set(_))) {
        let rule = LoadRule { skips_expired: true, may_replace: false, is_exclusive: false };
        if let Some(loaded) = load_rdb(shared, rule).map_err(|e| fatal(&e))? {
            note(shared, &loaded);
            if let (Some(replid), Some(offset)) = (loaded.replid, loaded.offset) {
                shared.replication.recover(&shared.feed, replid, Offset(offset));
                shared.state.stream_db.store(loaded.stream_db.unwrap_or(0).into(), Ordering::Relaxed);
            }
            tracing::info!("DB loaded from disk: {:.3} seconds", seconds());
            if found.is_some() {
                tracing::warn!("There was no append only file: the snapshot becomes its base");
            }
        }
    }
    Ok(found)
}

/// Shows in INFO what was loaded.
pub fn note<E: Env>(shared: &Shared<E>, loaded: &Loaded) {
    tracing::info!("Done loading RDB, keys loaded: {}, keys expired: {}.", loaded.keys, loaded.expired);
    let mut status = shared.persist.status();
    (status.loaded_keys, status.loaded_expired) = (loaded.keys, loaded.expired);
}

fn fatal(error: &LoadError) -> String {
    let text = match error {
        LoadError::Ended => {
            tracing::info!("Loading is given up, since the node ends.");
            return error.to_string();
        }
        LoadError::Aof(AofError::Truncated { file, offset }) => format!(
            "Unexpected end of file reading the append only file {file} (the last whole unit ends at {offset}). You can: 1) Make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>. 2) Alternatively you can set the 'aof-load-truncated' configuration option to yes and restart the server."
        ),
        LoadError::Aof(AofError::Corrupt { file, offset, what }) => format!(
            "Bad file format reading the append only file {file} at offset {offset} ({what}): make a backup of your AOF file, then use ./redis-check-aof --fix <filename.manifest>"
        ),
        LoadError::Aof(error) => format!("Fatal error loading the append only file: {error}. Exiting."),
        LoadError::Apply(error) => format!("Fatal error replaying the append only file: {error}. Exiting."),
        error => format!("Fatal error loading the DB: {error}. Exiting."),
    };
    tracing::warn!("{text}");
    text
}

fn load_log<E: Env>(shared: &Arc<Shared<E>>, files: &LogFiles) -> Result<Loaded, LoadError> {
    let settings = shared.settings.load_full();
    let options = AofOptions {
        rdb: load_options(shared),
        load_truncated: settings.aof_load_truncated,
        corrupt_tail_max: settings.aof_corrupt_tail_bytes_max,
    };
    // Redis: expired keys of the base are loaded as well, for the commands that follow expect them.
    let rule = LoadRule { skips_expired: false, may_replace: false, is_exclusive: false };
    let mut keys = KeyLoader::new(shared.clone(), rule);
    let mut applier = Applier::new(shared.clone());
    let disk = shared.env.disk();
    let names = files.manifest.base.iter().chain(&files.manifest.increments);
    let total = names.map(|f| disk.len(&format!("{}/{}", files.dir(), f.name)).unwrap_or(0)).sum();
    let progress = &shared.persist.progress;
    progress.begin(shared.env.now().wall.0 / 1000, total);
    let report =
        load_manifest(&*shared.env.disk(), files.dir(), &files.manifest, &options, &mut |item| -> Result<
            (),
            LoadError,
        > {
            if shared.state.is_shutting_down.load(Ordering::Relaxed) {
                return Err(LoadError::Ended);
            }
            match item {
                Item::Rdb(event) => keys.take(event),
                Item::Unit(commands) => {
                    delay(shared);
                    Ok(applier.apply(&commands)?)
                }
                Item::Read(bytes) => {
                    progress.loaded.fetch_add(bytes, Ordering::Relaxed);
                    Ok(())
                }
            }
        })?;
    if let Some((path, tail)) = report.cut {
        match tail.corrupt {
            None => tracing::warn!("!!! Warning: short read while loading the AOF file {path}!!!"),
            Some(what) => tracing::warn!("!!! Warning: corrupt tail of the AOF file {path}: {what} !!!"),
        }
        tracing::warn!("AOF {path} loaded anyway because aof-load-truncated is enabled");
        tracing::warn!("Truncating the AOF {path} at offset {}", tail.valid);
    }
    let mut status = shared.persist.status();
    status.loaded_keys = keys.into.loaded.keys;
    drop(status);
    Ok(keys.into.loaded)
}

/// Puts what the log holds in the place of all data. The log is durable up to the feed's end, and nobody writes.
pub fn reload_log<E: Env>(shared: &Arc<Shared<E>>) -> Result<(), String> {
    let found = LogFiles::find(&*shared.env.disk(), &shared.settings()).map_err(|e| e.to_string())?;
    let Found::Set(files) = found else {
        return Err("there is no append only file".into());
    };
    let closed = shared.close_gate();
    super::task::clear(shared);
    drop(closed);
    load_log(shared, &files).map(drop).map_err(|e| e.to_string())
}

/// The increments are the feed's bytes from the base's offset on, so that their lengths say how far our copy reaches.
/// The cluster compares that when it chooses a primary.
fn recover_offset<E: Env>(shared: &Arc<Shared<E>>, files: &LogFiles, base: Option<u64>) {
    let disk = shared.env.disk();
    let length = |name: &str| disk.len(&format!("{}/{name}", files.dir())).unwrap_or(0);
    let Some(base) = base else { return };
    let offset = Offset(base + files.manifest.increments.iter().map(|f| length(&f.name)).sum::<u64>());
    shared.feed.restart(offset);
    shared.restart_release(offset.0);
    shared.replication.set_recovered(Epoch(0), offset);
}
