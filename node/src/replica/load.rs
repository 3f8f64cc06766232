//! Takes a full sync in, in one of three ways (`repl-diskless-load`, as in Redis 7.0).
//!
//! `disabled`: the snapshot goes to a file; when that has come whole, the old data go and the file is loaded. A file and not
//! the old tables beside the new ones, since this is the way that needs no memory for both. `on-empty-db`: where there
//! are no keys the snapshot is loaded as it comes. `swapdb`: it is loaded as it comes into a keyspace of its own, which
//! then takes the place of the old one; until then the old data stay, and are served if they are an earlier state of
//! the same history.
//!
//! Invariant: from the first dropped key to the last loaded one the node has no history: when that is cut off, what
//! was loaded is dropped as well, and the next sync is a full one. What is cut off before has changed nothing.
//! In a cluster, whose control loop may have given the copy up for this, the history ends when the sync begins.

use super::TemporaryFile;
use super::transfer::{EndMark, Length, MARK_BYTES, Progress, store};
use super::wire::{LinkEnd, Wire};
use crate::config::DisklessLoad;
use crate::env::Env;
use crate::persist::{Applier, Beside, LoadRule, RdbLoader};
use crate::shared::Shared;
use engine::script::library::RestorePolicy;
use proto::{Offset, ReplId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What has expired is loaded as well: removing it is the primary's.
const RULE: LoadRule = LoadRule { skips_expired: false, may_replace: true, is_exclusive: false };
/// Bytes read from the file at a time.
const READ_BYTES: usize = 256 * 1024;
/// Where a snapshot goes until it is loaded.
const FILE: &str = "temp-sync.rdb";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    File,
    Direct,
    /// `is_served`: meanwhile the old data are.
    Beside {
        is_served: bool,
    },
}

impl Way {
    fn choose<E: Env>(shared: &Shared<E>, replid: ReplId) -> Way {
        let keyspace = &shared.engine.keyspace;
        match shared.settings().diskless_load {
            DisklessLoad::OnEmptyDb if keyspace.is_empty() => Way::Direct,
            DisklessLoad::Disabled | DisklessLoad::OnEmptyDb => Way::File,
            DisklessLoad::SwapDb => Way::Beside { is_served: shared.replication.replid() == replid },
        }
    }
}

/// Loads the snapshot that follows in `wire` and begins the history `replid` at `offset` here. What came behind the
/// snapshot is left in `wire`.
pub async fn receive<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    applier: &mut Applier<E>,
    replid: ReplId,
    offset: Offset,
) -> Result<(), LinkEnd> {
    let length = Length::parse(&wire.line().await?)?;
    let way = Way::choose(shared, replid);
    let to = if way == Way::File { "to disk" } else { "to parser" };
    match &length {
        Length::Bytes(n) => {
            tracing::info!("MASTER <-> REPLICA sync: receiving {n} bytes from master {to}");
        }
        Length::Mark(_) => {
            tracing::info!("MASTER <-> REPLICA sync: receiving streamed RDB from master with EOF {to}");
        }
    }
    if shared.settings().is_cluster {
        shared.replication.state().has_history = false;
    }
    let keys = match way {
        Way::File => by_file(shared, wire, &length, applier, (replid, offset)).await?,
        Way::Direct => directly(shared, wire, &length, applier, (replid, offset)).await?,
        Way::Beside { is_served } => {
            beside(shared, wire, &length, applier, (replid, offset), is_served).await?
        }
    };
    tracing::info!("Done loading RDB, keys loaded: {keys}.");
    Ok(())
}

// By way of a file.

async fn by_file<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    length: &Length,
    applier: &mut Applier<E>,
    history: (ReplId, Offset),
) -> Result<u64, LinkEnd> {
    let file = TemporaryFile::new(&shared.env, FILE.into());
    store(shared, wire, length, &file).await?;
    let loading = Loading::begin(shared).await;
    tracing::info!("MASTER <-> REPLICA sync: Loading DB in memory");
    let loader = load_file(shared, wire, &file).await.inspect_err(|error| {
        tracing::warn!("Failed trying to load the MASTER synchronization DB from disk: {error}");
    })?;
    let keys = loading.finish(&loader, applier, history)?;
    keep(shared, file).await;
    Ok(keys)
}

async fn load_file<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    file: &TemporaryFile,
) -> Result<RdbLoader<E>, LinkEnd> {
    let len = shared.env.disk().len(&file.path).map_err(LinkEnd::Io)?;
    let progress = &shared.persist.progress;
    progress.begin(shared.env.now().wall.0 / 1000, len);
    let mut loader = RdbLoader::new(shared, RULE);
    let mut said = Progress::loading(shared);
    let mut at = 0;
    while at < len {
        let (disk, path) = (shared.env.disk(), file.path.clone());
        let want = (len - at).min(READ_BYTES as u64) as usize;
        let read = move || -> io::Result<Vec<u8>> {
            let mut piece = vec![0; want];
            let n = disk.read_at(&path, at, &mut piece)?;
            piece.truncate(n);
            Ok(piece)
        };
        let piece = shared.env.blocking(read).await.map_err(LinkEnd::Io)?;
        if piece.is_empty() {
            return Err(LinkEnd::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        at += piece.len() as u64;
        push(&mut loader, &piece, at == len)?;
        progress.loaded.store(at, Ordering::Relaxed);
        said.say(wire).await?;
        tokio::task::yield_now().await;
    }
    Ok(loader)
}

/// As Redis: the file becomes the node's snapshot, unless nothing is to be kept on disk. In a cluster the settings of
/// persistence alone say what a node has after its restart.
async fn keep<E: Env>(shared: &Arc<Shared<E>>, file: TemporaryFile) {
    let settings = shared.settings.load_full();
    if settings.is_cluster {
        return;
    }
    let is_unwanted = settings.is_sync_file_removed && settings.save.is_empty() && !settings.appendonly;
    let (disk, path) = (shared.env.disk(), settings.dbfilename.clone());
    let work = move || -> io::Result<()> {
        disk.rename(&file.path, &path)?;
        if is_unwanted {
            tracing::info!(
                "Removing the RDB file obtained from the master. This replica has persistence disabled"
            );
            disk.remove(&path)?;
        }
        disk.sync_dir(storage::disk::parent(&path))
    };
    if let Err(error) = shared.env.blocking(work).await {
        tracing::warn!("Failed trying to keep the file of MASTER <-> REPLICA synchronization: {error}");
    }
}

// As it comes.

async fn directly<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    length: &Length,
    applier: &mut Applier<E>,
    history: (ReplId, Offset),
) -> Result<u64, LinkEnd> {
    let loading = Loading::begin(shared).await;
    tracing::info!("MASTER <-> REPLICA sync: Loading DB in memory");
    let loader = load(shared, wire, length, RdbLoader::new(shared, RULE)).await.inspect_err(say_failed)?;
    loading.finish(&loader, applier, history)
}

fn say_failed(error: &LinkEnd) {
    tracing::warn!("Failed trying to load the MASTER synchronization DB from socket: {error}");
}

/// While a snapshot is loaded into the emptied keyspace. Dropped before its end, it leaves that empty.
struct Loading<'a, E: Env> {
    shared: &'a Arc<Shared<E>>,
    is_done: bool,
}

impl<'a, E: Env> Loading<'a, E> {
    async fn begin(shared: &'a Arc<Shared<E>>) -> Loading<'a, E> {
        attach(shared).await;
        shared.state.is_loading.store(true, Ordering::Release);
        let loading = Loading { shared, is_done: false };
        tracing::info!("MASTER <-> REPLICA sync: Flushing old data");
        shared.flush_all();
        // The snapshot has the primary's.
        shared.engine.scripts.libraries.flush();
        loading
    }

    /// Everything is loaded; returns how many keys.
    fn finish(
        mut self,
        loader: &RdbLoader<E>,
        applier: &mut Applier<E>,
        history: (ReplId, Offset),
    ) -> Result<u64, LinkEnd> {
        select(self.shared, loader, applier)?;
        begin_history(self.shared, history);
        // Whoever asked while we loaded got nothing, but may hold a place in the bytes before.
        self.shared.replication.next_turn();
        self.is_done = true;
        Ok(loader.loaded().keys)
    }
}

impl<E: Env> Drop for Loading<'_, E> {
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.flush_all();
            self.shared.engine.scripts.libraries.flush();
        }
        self.shared.state.is_loading.store(false, Ordering::Release);
        engine::replace::wake(&self.shared.engine.keyspace);
        // The log, if there is to be one, begins anew with what is here now.
        self.shared.persist.start_log();
    }
}

// Beside the old data.

async fn beside<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    length: &Length,
    applier: &mut Applier<E>,
    history: (ReplId, Offset),
    is_served: bool,
) -> Result<u64, LinkEnd> {
    let aside = Aside::begin(shared, is_served);
    tracing::info!("MASTER <-> REPLICA sync: Loading DB in memory");
    let loader = match load(shared, wire, length, RdbLoader::beside(shared, RULE)).await {
        Ok(loader) => loader,
        Err(error) => {
            say_failed(&error);
            tracing::info!("MASTER <-> REPLICA sync: Discarding temporary DB in background");
            return Err(error);
        }
    };
    select(shared, &loader, applier)?;
    let keys = loader.loaded().keys;
    attach(shared).await;
    let result = swap(shared, loader.into_beside().expect("loaded beside"), history);
    drop(aside);
    shared.persist.start_log();
    result.map(|()| keys)
}

/// While a snapshot is loaded beside the data in use.
struct Aside<'a, E: Env> {
    shared: &'a Shared<E>,
    is_served: bool,
}

impl<'a, E: Env> Aside<'a, E> {
    fn begin(shared: &'a Shared<E>, is_served: bool) -> Aside<'a, E> {
        let aside = Aside { shared, is_served };
        aside.set(true);
        aside
    }
    fn set(&self, is_on: bool) {
        let state = &self.shared.state;
        let flag = if self.is_served { &state.is_loading_beside } else { &state.is_loading };
        flag.store(is_on, Ordering::Release);
    }
}

impl<E: Env> Drop for Aside<'_, E> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Puts what was loaded in the place of what was here. `Err`: that is what is here yet, without a history.
fn swap<E: Env>(shared: &Arc<Shared<E>>, loaded: Beside, history: (ReplId, Offset)) -> Result<(), LinkEnd> {
    tracing::info!("MASTER <-> REPLICA sync: Swapping active DB with loaded DB");
    let closed = shared.close_gate();
    let restored = shared.engine.scripts.libraries.restore(&loaded.libraries, RestorePolicy::Flush);
    restored.map_err(|error| LinkEnd::Protocol(format!("a function library does not load: {error}")))?;
    let before = shared.replace_all(Some(loaded.keyspace), &closed);
    begin_history(shared, history);
    drop(closed);
    shared.replication.next_turn();
    tracing::info!("MASTER <-> REPLICA sync: Discarding old DB in background");
    shared.dispose(before);
    Ok(())
}

// What all ways have in common.

/// The old data are about to go: from now on nobody goes on from them.
async fn attach<E: Env>(shared: &Shared<E>) {
    shared.replication.state().has_history = false;
    // Our replicas have what is dropped now: they ask again, and get what we get.
    shared.replication.next_turn();
    // The log of the data before stands until the next one is complete.
    shared.persist.stop_log().await;
    // Offsets of another history: nothing of the one that comes is on disk.
    shared.state.log_synced.store(0, Ordering::Release);
}

/// Selects the database that the stream goes on in.
fn select<E: Env>(
    shared: &Shared<E>,
    loader: &RdbLoader<E>,
    applier: &mut Applier<E>,
) -> Result<(), LinkEnd> {
    let db = loader.loaded().stream_db.unwrap_or(0);
    if !applier.select(db) {
        return Err(LinkEnd::Protocol(format!("the stream has a database {db}, we do not")));
    }
    shared.state.stream_db.store(db.into(), Ordering::Relaxed);
    Ok(())
}

/// The data here are those of this history.
fn begin_history<E: Env>(shared: &Shared<E>, (replid, offset): (ReplId, Offset)) {
    let mut state = shared.replication.state();
    state.history.replace(replid);
    state.has_history = true;
    state.is_history_loaded = false;
    state.may_discard = None;
    shared.feed.restart(offset);
    shared.restart_release(offset.0);
    // Redis: save points count it.
    shared.stats.last().expect("the control thread has counters").dirty.add(1);
}

fn push<E: Env>(loader: &mut RdbLoader<E>, bytes: &[u8], is_last: bool) -> Result<bool, LinkEnd> {
    let pushed = match is_last {
        false => loader.push(bytes),
        true => loader.push_last(bytes).map(|()| true),
    };
    pushed.map_err(|error| LinkEnd::Protocol(error.to_string()))
}

/// Loads all that comes.
async fn load<E: Env>(
    shared: &Arc<Shared<E>>,
    wire: &mut Wire<E::Stream>,
    length: &Length,
    mut loader: RdbLoader<E>,
) -> Result<RdbLoader<E>, LinkEnd> {
    let mut received = 0u64;
    let mut end = EndMark::default();
    let mut progress = Progress::begin(shared, length);
    shared.persist.progress.begin(shared.env.now().wall.0 / 1000, length.bytes().unwrap_or(0));
    loop {
        let mut bytes = wire.take();
        if bytes.is_empty() {
            wire.fill().await?;
            bytes = wire.take();
        }
        // Behind the announced length the stream begins.
        let of_file = match length {
            Length::Bytes(n) => (n - received).min(bytes.len() as u64) as usize,
            Length::Mark(_) => bytes.len(),
        };
        received += of_file as u64;
        let is_last = match length {
            Length::Bytes(n) => *n == received,
            Length::Mark(mark) => end.is_in(&bytes, mark),
        };
        let is_ended = push(&mut loader, &bytes[..of_file], is_last)?;
        wire.give_back(&bytes[of_file..]);
        progress.received(received);
        shared.persist.progress.loaded.store(received, Ordering::Relaxed);
        if is_ended {
            break;
        }
        progress.say(wire).await?;
        // Others on this thread have had to wait for that.
        tokio::task::yield_now().await;
    }
    finish(wire, length, received, loader.rest()).await?;
    Ok(loader)
}

/// Takes the mark, or what the length announced beyond the end. `rest`: what the decoder got beyond the end.
async fn finish<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    length: &Length,
    received: u64,
    rest: &[u8],
) -> Result<(), LinkEnd> {
    match length {
        Length::Mark(mark) => {
            let mut rest = rest.to_vec();
            while rest.len() < MARK_BYTES {
                wire.fill().await?;
                rest.extend(wire.take());
            }
            if rest[..MARK_BYTES] != mark[..] {
                return Err(LinkEnd::Protocol("the snapshot's end mark is another".into()));
            }
            wire.give_back(&rest[MARK_BYTES..]);
            Ok(())
        }
        Length::Bytes(n) if *n == received => Ok(()),
        Length::Bytes(_) => Err(LinkEnd::Protocol("the snapshot is shorter than announced".into())),
    }
}
