//! The writer of the append-only log: a reader of the feed that loses nothing and writes it to the current increment.
//!
//! It writes what has come in one go, and with `appendfsync always` syncs it at once and then lets the replies of all
//! those writes leave: group commit. A rewrite tells it the offset at which the next increment begins.
//!
//! Invariant: a file of which a sync failed is not written to again; the log ends, and begins anew with a new base.
//! Invariant: `log_synced` never runs ahead of what is durable.

use super::files::LogFiles;
use crate::config::Fsync;
use crate::env::Env;
use crate::shared::{Shared, gate, throttle};
use proto::Mono;
use proto::resp::encode_command;
use replication::feed::{Reader, Wake};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::disk::DiskFile;
use tokio::sync::{Notify, mpsc, oneshot};

/// Bytes written at a time. Choice: a few milliseconds of a disk, so that orders do not wait long.
const WRITE_BYTES_MAX: usize = 4 << 20;
/// Bytes that may wait for the disk before writes wait.
const BEHIND_BYTES_MAX: u64 = 64 << 20;
/// How often is looked while the disk is busy.
const LOOK: Duration = Duration::from_millis(2);
/// `appendfsync everysec`, and how often a failed write is tried again.
const SECOND: Duration = Duration::from_secs(1);

/// What the log is told to do, once it has written everything up to the offset that goes with it.
pub enum Order {
    /// A new increment begins; `stream_db`: the database that is selected there in a relayed stream.
    Switch { at: u64, stream_db: Option<u16>, done: oneshot::Sender<io::Result<()>> },
    /// The temporary base is complete: it holds everything before the present increment.
    InstallBase { done: oneshot::Sender<io::Result<()>> },
    /// Everything up to `at` is written and synced before the answer.
    Sync { at: u64, done: oneshot::Sender<io::Result<()>> },
    /// As `Sync`; then the log ends.
    Stop { at: u64, done: oneshot::Sender<io::Result<()>> },
    /// The configuration has changed.
    Look,
}

/// The way to a log that runs.
pub struct LogHandle {
    orders: mpsc::UnboundedSender<Order>,
    /// There is a base: what the files hold is complete.
    pub is_complete: Rc<Cell<bool>>,
}

/// How a log ended.
#[derive(Debug)]
pub enum LogEnd {
    Stopped,
    /// A sync failed, or the file cannot be written to any more.
    Failed(io::Error),
}

impl LogHandle {
    /// A log that has ended gives no answers.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
    /// Sends an order that is answered; a log that has ended answers with an error.
    pub async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Order) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        self.order(make(done));
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the log has ended")))
    }
}

/// Wakes the log when the feed has something for it.
#[derive(Default)]
pub struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// With what a log begins.
pub enum Begin {
    /// Goes on with the last increment of a complete set.
    Continue(Box<dyn DiskFile>),
    /// A new increment, which counts once its base is installed.
    Fresh { stream_db: Option<u16> },
}

/// A log that runs.
struct Log<E: Env> {
    shared: Arc<Shared<E>>,
    files: LogFiles,
    reader: Reader,
    bell: Arc<Bell>,
    file: Option<Box<dyn DiskFile>>,
    is_complete: Rc<Cell<bool>>,
    orders: mpsc::UnboundedReceiver<Order>,
    waiting: VecDeque<Order>,
    /// Bytes of the files that are not written to any more.
    other_bytes: u64,
    /// Durable up to here.
    synced: u64,
    synced_at: Mono,
    /// A write failed at that time and will be tried again.
    failed_at: Option<Mono>,
}

/// Starts a log whose reader stands where the file's next byte belongs.
pub fn start<E: Env>(
    shared: &Arc<Shared<E>>,
    files: LogFiles,
    reader: Reader,
    bell: Arc<Bell>,
    begin: Begin,
    ended: impl FnOnce(LogEnd) + 'static,
) -> LogHandle {
    let (orders, inbox) = mpsc::unbounded_channel();
    let is_complete = Rc::new(Cell::new(matches!(begin, Begin::Continue(_))));
    let position = reader.position().0;
    shared.state.log_taken.store(position, Ordering::Relaxed);
    let log = Log {
        shared: shared.clone(),
        files,
        reader,
        bell,
        file: None,
        is_complete: is_complete.clone(),
        orders: inbox,
        waiting: VecDeque::new(),
        other_bytes: 0,
        synced: position,
        synced_at: shared.env.now().mono,
        failed_at: None,
    };
    if is_complete.get() {
        log.open_gate();
        shared.persist.status().is_log_complete = true;
    }
    tokio::task::spawn_local(async move { ended(log.run(begin).await) });
    LogHandle { orders, is_complete }
}

impl<E: Env> Log<E> {
    async fn run(mut self, begin: Begin) -> LogEnd {
        let end = match self.serve(begin).await {
            Ok(()) => LogEnd::Stopped,
            Err(error) => LogEnd::Failed(error),
        };
        self.shared.state.set_throttle(throttle::LOG, false);
        self.shared.state.log_synced.store(0, Ordering::Release);
        self.shared.persist.status().is_log_complete = false;
        crate::replica::log_was_synced(&self.shared);
        end
    }

    /// `Err`: what is written to the file may be lost, whatever it reads back.
    async fn serve(&mut self, begin: Begin) -> io::Result<()> {
        match begin {
            Begin::Continue(file) => {
                let (disk, files) = (self.shared.env.disk(), self.files.clone());
                let total = self.blocking(move || files.total_bytes(&*disk)).await;
                self.other_bytes = total.saturating_sub(file.len());
                self.file = Some(file);
                self.shared.persist.status().log_base_bytes = total;
            }
            Begin::Fresh { stream_db } => self.new_increment(stream_db, false).await?,
        }
        loop {
            while let Ok(order) = self.orders.try_recv() {
                self.waiting.push_back(order);
            }
            if self.carry_out().await? {
                return Ok(());
            }
            self.look();
            let is_idle = !self.write().await?;
            self.sync_if_due().await?;
            if is_idle && self.waiting.is_empty() {
                self.wait().await;
            }
        }
    }

    /// Runs what blocks, looking after the queue meanwhile.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let mut work = std::pin::pin!(self.shared.env.blocking(work));
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                () = tokio::time::sleep(LOOK) => self.look(),
            }
        }
    }

    /// Lets writes wait while the disk is behind.
    fn look(&self) {
        let behind = self.shared.feed.end().0.saturating_sub(self.reader.position().0);
        self.shared.state.set_throttle(throttle::LOG, behind > BEHIND_BYTES_MAX);
    }

    /// Waits for bytes, for an order, or until something is due.
    async fn wait(&mut self) {
        if self.reader.wait() {
            return;
        }
        let due = self.due_in();
        let bell = self.bell.clone();
        tokio::select! {
            biased;
            order = self.orders.recv() => match order {
                Some(order) => self.waiting.push_back(order),
                // Nobody holds the log any more.
                None => {
                    let at = self.reader.position().0;
                    self.waiting.push_back(Order::Stop { at, done: oneshot::channel().0 });
                }
            },
            () = bell.0.notified() => {}
            () = tokio::time::sleep(due) => {}
        }
    }

    fn due_in(&self) -> Duration {
        const LONG: Duration = Duration::from_secs(3600);
        let now = self.shared.env.now().mono;
        let until = |at: Mono| SECOND.saturating_sub(now.since(at)).max(Duration::from_millis(1));
        match self.failed_at {
            Some(at) => until(at),
            None if self.synced < self.reader.position().0 && self.policy() != Fsync::No => {
                until(self.synced_at)
            }
            None => LONG,
        }
    }

    fn policy(&self) -> Fsync {
        self.shared.settings().appendfsync
    }

    /// Writes what has come, up to the next order's offset. Returns whether there was anything to write.
    async fn write(&mut self) -> io::Result<bool> {
        let position = self.reader.position().0;
        let limit = self.waiting.front().and_then(order_at).unwrap_or(u64::MAX).saturating_sub(position);
        let now = self.shared.env.now().mono;
        if self.failed_at.is_some_and(|at| now.since(at) < SECOND) {
            return Ok(false);
        }
        let max = WRITE_BYTES_MAX.min(usize::try_from(limit).unwrap_or(usize::MAX));
        let pieces = self.reader.pieces(max).map_err(|_| io::Error::other("the feed began anew"))?;
        if pieces.is_empty() || max == 0 {
            return Ok(false);
        }
        let bytes: u64 = pieces.iter().map(|p| p.len() as u64).sum();
        let is_always = self.policy() == Fsync::Always;
        let mut file = self.file.take().expect("a log that runs has a file");
        let before = file.len();
        let work = move || {
            let result = pieces.iter().try_for_each(|piece| file.write(piece));
            let result = match result {
                Ok(()) if is_always => file.sync().map_err(Trouble::Lost),
                Ok(()) => Ok(()),
                // Half a unit must not stand before the next try.
                Err(error) => Err(match file.truncate(before) {
                    Ok(()) => Trouble::Again(error),
                    Err(error) => Trouble::Lost(error),
                }),
            };
            (file, result)
        };
        let (file, result) = self.blocking(work).await;
        let len = file.len();
        self.file = Some(file);
        match result {
            Ok(()) => {
                self.reader.advance(proto::Offset(position + bytes));
                self.shared.state.log_taken.store(position + bytes, Ordering::Relaxed);
                self.shared.persist.status().log_bytes = self.other_bytes + len;
                if self.failed_at.take().is_some() {
                    tracing::warn!("AOF write error looks solved. The server can write again.");
                    self.set_failing(false);
                }
                if is_always {
                    self.is_synced();
                }
                Ok(true)
            }
            Err(Trouble::Again(error)) => {
                tracing::warn!("Error writing to the AOF file: {error}");
                self.give_up_if_always("write", &error);
                self.failed_at = Some(now);
                self.set_failing(true);
                Ok(false)
            }
            Err(Trouble::Lost(error)) => {
                self.give_up_if_always("fsync", &error);
                Err(error)
            }
        }
    }

    /// Whoever promised durability and cannot keep it, ends: as Redis does.
    fn give_up_if_always(&self, what: &str, error: &io::Error) {
        if self.policy() == Fsync::Always {
            tracing::error!(
                "Can't recover from AOF {what} error when the AOF fsync policy is 'always': {error}. Exiting..."
            );
            self.shared.env.exit(1);
        }
    }

    fn set_failing(&self, is_failing: bool) {
        self.shared.state.is_log_failing.store(is_failing, Ordering::Relaxed);
        self.shared.persist.status().is_log_ok = !is_failing;
    }

    /// Everything that was written is durable.
    fn is_synced(&mut self) {
        self.synced = self.reader.position().0;
        self.synced_at = self.shared.env.now().mono;
        if self.is_complete.get() {
            self.open_gate();
        }
    }

    /// Lets the replies of durable writes go.
    fn open_gate(&self) {
        self.shared.state.log_synced.store(self.synced, Ordering::Release);
        self.shared.replication.log_synced.notify_one();
        if self.policy() == Fsync::Always {
            self.shared.allow(gate::LOG, Some(self.synced));
            self.shared.replication.acknowledged.notify_one();
        }
        crate::replica::log_was_synced(&self.shared);
    }

    async fn sync_if_due(&mut self) -> io::Result<()> {
        let is_dirty = self.synced < self.reader.position().0;
        let now = self.shared.env.now().mono;
        let is_due = match self.policy() {
            Fsync::Always => true,
            Fsync::EverySecond => now.since(self.synced_at) >= SECOND,
            Fsync::No => false,
        };
        if is_dirty && is_due { self.sync().await } else { Ok(()) }
    }

    async fn sync(&mut self) -> io::Result<()> {
        if self.synced == self.reader.position().0 {
            return Ok(());
        }
        let mut file = self.file.take().expect("a log that runs has a file");
        let (file, result) = self
            .blocking(move || {
                let result = file.sync();
                (file, result)
            })
            .await;
        self.file = Some(file);
        if let Err(error) = result {
            self.give_up_if_always("fsync", &error);
            return Err(error);
        }
        self.is_synced();
        Ok(())
    }

    /// Carries out the orders whose time has come. Returns whether the log ends.
    async fn carry_out(&mut self) -> io::Result<bool> {
        while let Some(order) = self.waiting.front() {
            if order_at(order).is_some_and(|at| self.reader.position().0 < at) {
                // While writing fails, nobody is left waiting for the disk to come back.
                if self.failed_at.is_none() {
                    return Ok(false);
                }
            }
            let is_behind = order_at(order).is_some_and(|at| self.reader.position().0 < at);
            let order = self.waiting.pop_front().expect("just seen");
            let failing = || io::Error::other("the append only file cannot be written");
            match order {
                Order::Look => {
                    if self.is_complete.get() {
                        self.open_gate();
                    }
                }
                Order::Sync { done, .. } if is_behind => drop(done.send(Err(failing()))),
                Order::Sync { done, .. } => {
                    self.sync().await?;
                    let _ = done.send(Ok(()));
                }
                Order::Stop { done, .. } => {
                    let result = if is_behind { Err(failing()) } else { self.sync().await };
                    let _ = done.send(result);
                    return Ok(true);
                }
                Order::Switch { done, .. } if is_behind => drop(done.send(Err(failing()))),
                Order::Switch { stream_db, done, .. } => {
                    self.sync().await?;
                    let result = self.new_increment(stream_db, true).await;
                    let _ = done.send(result);
                }
                Order::InstallBase { done } => {
                    let result = self.install().await;
                    let _ = done.send(result);
                }
            }
        }
        Ok(false)
    }

    /// Goes on in a new increment. `Err`: the old one goes on.
    async fn new_increment(&mut self, stream_db: Option<u16>, is_saved: bool) -> io::Result<()> {
        let (disk, mut files) = (self.shared.env.disk(), self.files.clone());
        let work = move || -> io::Result<_> {
            let mut file = files.create_increment(&*disk)?;
            if let Some(db) = stream_db {
                // A relayed stream says SELECT only where its database changes.
                let mut select = Vec::new();
                encode_command(&[b"SELECT".as_slice(), db.to_string().as_bytes()], &mut select);
                file.write(&select)?;
                file.sync()?;
            }
            if is_saved {
                files.save(&*disk)?;
            }
            Ok((file, files))
        };
        let (file, files) = self.blocking(work).await?;
        self.other_bytes += self.file.replace(file).map_or(0, |old| old.len());
        self.files = files;
        Ok(())
    }

    async fn install(&mut self) -> io::Result<()> {
        // The increment must be whole before the set says that it is.
        self.sync().await?;
        let (disk, mut files) = (self.shared.env.disk(), self.files.clone());
        let work = move || -> io::Result<_> {
            let current = files.manifest.increments.last().expect("a log that runs has an increment").seq;
            files.install_base(&*disk, current)?;
            let total = files.total_bytes(&*disk);
            Ok((files, total))
        };
        let (files, total) = self.blocking(work).await?;
        self.files = files;
        self.other_bytes = total.saturating_sub(self.file.as_ref().map_or(0, |f| f.len()));
        let mut status = self.shared.persist.status();
        (status.log_bytes, status.log_base_bytes) = (total, total);
        drop(status);
        self.is_complete.set(true);
        self.set_failing(false);
        self.open_gate();
        self.shared.persist.status().is_log_complete = true;
        Ok(())
    }
}

enum Trouble {
    /// Nothing of it is in the file: it may be tried again.
    Again(io::Error),
    Lost(io::Error),
}

fn order_at(order: &Order) -> Option<u64> {
    match order {
        Order::Switch { at, .. } | Order::Sync { at, .. } | Order::Stop { at, .. } => Some(*at),
        Order::InstallBase { .. } | Order::Look => None,
    }
}
