//! The source's side of one move: a task that carries out what `migration::source` says.

use super::link::{Progress, Sender};
use super::record;
use crate::env::Env;
use crate::shared::{Shared, throttle};
use gossip::topology::Move;
use gossip::{Command, Request};
use migration::Tag;
use migration::source::{Effect, Event, Source, Why};
use proto::{Mono, NodeId};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::Ownership;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes of writes that may wait for the link before writes wait themselves.
const BEHIND_MAX: u64 = 32 << 20;

/// Items the target may be behind when the slots pause. Choice: some ms of what a target applies.
const ITEMS_BEHIND_MAX: u64 = 1024;
/// Bytes of the feed that count as one item, until they are looked at. Choice: the size of a small write, since more
/// would stop the slots too early and less too late.
const ITEM_BYTES: u64 = 256;
/// Events that may wait for the task: one per adopted version; a task that is further behind hears of a later one.
const EVENTS_MAX: usize = 64;

/// Starts the task of a move; it ends by itself after the move did, or when its sender is dropped.
pub fn spawn<E: Env>(
    shared: &Arc<Shared<E>>,
    mv: &Move,
    tag: Tag,
    (me, target): (NodeId, NodeId),
) -> mpsc::Sender<Event> {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    shared.migrations.add(record(mv, true, me, target, shared.env.now().wall.0, "connecting"));
    let mut effects = Vec::new();
    let core = Source::new(tag, ITEMS_BEHIND_MAX, None, shared.env.now(), &mut effects);
    let mut export = Export {
        shared: shared.clone(),
        mv: mv.clone(),
        core,
        link: None,
        failure: String::new(),
        pause: None,
    };
    effects.into_iter().for_each(|e| export.carry_out(e));
    tokio::task::spawn_local(export.run(events));
    sender
}

struct Export<E: Env> {
    shared: Arc<Shared<E>>,
    mv: Move,
    core: Source,
    link: Option<Link>,
    /// What the last attempt failed with.
    failure: String,
    pause: Option<Pause>,
}

/// The slots are served by nobody.
struct Pause {
    since: Mono,
    /// What was written to them is in the feed before this offset.
    feed_end: u64,
}

struct Link {
    progress: Rc<Progress>,
    task: JoinHandle<()>,
    is_copied_told: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: Env> Export<E> {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while !self.core.has_ended() {
            const LOOK: Duration = Duration::from_millis(2);
            let progress = self.link.as_ref().map(|l| l.progress.clone());
            let event = tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => Some(event),
                    None => return self.leave(),
                },
                () = async {
                    match &progress {
                        Some(progress) => progress.changed.notified().await,
                        None => std::future::pending().await,
                    }
                } => None,
                () = tokio::time::sleep(LOOK) => None,
            };
            if let Some(event) = event {
                self.step(event);
            }
            self.observe();
            self.step(Event::Tick);
            self.describe();
        }
        self.link = None;
        self.shared.state.set_throttle(throttle::MIGRATION, false);
        tracing::info!("Slot migration {:016x} ended: {}", self.mv.id, self.core.state());
    }

    /// We are the source no more: whoever is goes on with the move (S8), and our word no longer serves the slots.
    fn leave(mut self) {
        self.link = None;
        self.shared.state.set_throttle(throttle::MIGRATION, false);
        self.end_pause();
        let now_ms = self.shared.env.now().wall.0;
        self.shared.migrations.update(self.mv.id, true, |m| {
            m.state = "failed";
            m.message = "this node is not the primary of the source any more".into();
            m.updated_ms = now_ms;
        });
    }

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.step(self.shared.env.now(), event, &mut effects);
        effects.into_iter().for_each(|e| self.carry_out(e));
    }

    /// Turns what the link did into events.
    fn observe(&mut self) {
        let Some(link) = &mut self.link else { return };
        let progress = link.progress.clone();
        let failure = progress.failure.borrow().clone();
        if let Some(reason) = failure {
            return self.on_failure(reason);
        }
        let (items, safe, is_copied) = (progress.items(), progress.safe(), progress.is_copied.get());
        let is_news = is_copied && !std::mem::replace(&mut link.is_copied_told, is_copied);
        let unsent_bytes =
            if is_copied { self.shared.feed.end().0.saturating_sub(progress.position.get()) } else { 0 };
        self.shared.state.set_throttle(throttle::MIGRATION, unsent_bytes > BEHIND_MAX);
        self.step(Event::Written { items, unnumbered: unsent_bytes / ITEM_BYTES });
        if is_news {
            self.step(Event::Copied { items });
        }
        // Every write from before the pause has a number once the feed is sent up to there.
        if self.pause.as_ref().is_some_and(|p| progress.position.get() >= p.feed_end) {
            self.step(Event::Paused { items });
        }
        self.step(Event::Ack { tag: self.core.tag(), applied: safe, safe });
    }

    fn on_failure(&mut self, reason: String) {
        tracing::warn!("Slot migration {:016x}: {reason}", self.mv.id);
        self.link = None;
        self.shared.state.set_throttle(throttle::MIGRATION, false);
        self.shared.migrations.update(self.mv.id, true, |m| m.message.clone_from(&reason));
        self.failure = reason;
        self.step(Event::Failed);
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Begin(tag) => self.begin(tag),
            Effect::Pause => {
                self.set_ownership(Ownership::Paused);
                let since = self.shared.env.now().mono;
                self.pause = Some(Pause { since, feed_end: self.shared.feed.end().0 });
            }
            Effect::Resume => self.end_pause(),
            Effect::AskCommit(Tag { id, epoch_from, epoch_to, .. }) => {
                // Whatever the answer, the next version of the topology decides (S2).
                self.ask(Request::MoveCommit { id, epoch_from, epoch_to });
            }
            Effect::AskCancel(id, why) => {
                let message = match why {
                    Why::Failing => format!("{why}, the last: {}", self.failure),
                    Why::Asked | Why::Undecided => why.to_string(),
                };
                self.shared.migrations.update(id, true, |m| m.message = message);
                self.ask(Request::MoveCancel { id });
            }
            Effect::Moved => {
                // Batches that began before the slots went still see them as ours. From here on those wait and are
                // looked at again; the closed gate ends what has passed that check.
                self.shared.state.slots_left.fetch_add(1, Ordering::Release);
                drop(self.shared.close_gate());
                self.end("success", String::new());
            }
            Effect::Cancelled => {
                let listed =
                    self.shared.migrations.list().into_iter().find(|m| m.id == self.mv.id && m.is_export);
                self.end("canceled", listed.map(|m| m.message).unwrap_or_default());
            }
        }
    }

    fn ask(&self, request: Request) {
        self.shared.control.ask(Command::Decide(request), Box::new(|_| {}));
    }

    fn end(&mut self, state: &'static str, message: String) {
        self.end_pause();
        let now_ms = self.shared.env.now().wall.0;
        self.shared.migrations.update(self.mv.id, true, |m| {
            (m.state, m.message, m.updated_ms, m.remaining_bytes) = (state, message, now_ms, 0);
        });
    }

    /// What the slots held still goes on: here, or with an answer that names the new owner.
    fn end_pause(&mut self) {
        let Some(pause) = self.pause.take() else { return };
        self.set_ownership(Ownership::Serving);
        let paused_us = self.shared.env.now().mono.since(pause.since).as_micros() as u64;
        self.shared.migrations.update(self.mv.id, true, |m| m.paused_us = m.paused_us.max(paused_us));
    }

    fn begin(&mut self, tag: Tag) {
        let progress = Rc::new(Progress::default());
        let sender =
            Sender { shared: self.shared.clone(), mv: self.mv.clone(), tag, progress: progress.clone() };
        let failed = progress.clone();
        let task = tokio::task::spawn_local(async move {
            if let Err(reason) = sender.run().await {
                failed.fail(reason);
            }
        });
        self.link = Some(Link { progress, task, is_copied_told: false });
    }

    /// Pauses the slots, or serves them again. Once a slot's lock was held, no command is in the middle of it.
    fn set_ownership(&self, ownership: Ownership) {
        for slot in self.mv.slots.iter().flat_map(|r| r.iter()) {
            let mut guard = self.shared.lock_for_node(slot);
            guard.state_mut().ownership = ownership;
        }
    }

    fn describe(&self) {
        let (state, now_ms) = (self.core.state(), self.shared.env.now().wall.0);
        let (position, keys) =
            self.link.as_ref().map_or((0, 0), |l| (l.progress.position.get(), l.progress.keys.get()));
        let end = self.shared.feed.end().0;
        self.shared.migrations.update(self.mv.id, true, |m| {
            m.state = state;
            m.updated_ms = now_ms;
            m.keys = m.keys.max(keys);
            m.remaining_bytes = if position == 0 { 0 } else { end.saturating_sub(position) };
        });
    }
}
