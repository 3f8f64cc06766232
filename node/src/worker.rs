//! A worker: one thread that serves many connections and executes their commands itself.
//!
//! Connections parse into the worker's batch. Once all connections that were ready have done so, the batch runs: the
//! memory that its commands will touch is prefetched in stages (slot, segment, pointer, entry), then they are executed in
//! order, then each connection's replies are written with one system call.
//!
//! Invariant: nothing is awaited while a slot is locked or the gate is entered.

use crate::config::NodeSettings;
use crate::connection::{Connection, OUTPUT_PAUSE_BYTES, Phase};
use crate::debugger;
use crate::env::Env;
use crate::errand::{self, Choice, Errands};
use crate::host::NodeHost;
use crate::mail::{Letter, Mail};
use crate::observe;
use crate::pubsub::Space;
use crate::shared::Released;
use crate::shared::Shared;
use crate::users::Renewed;
use crossbeam::utils::CachePadded;
use engine::blocking::SlotSide;
use engine::stats::Stats;
use engine::{Args, Host, Local, Outcome, Session, Spec, Status, Turn, evict, execute};
use proto::resp::{ProtocolError, Reply, Request, Span, parse_request};
use proto::{ClusterView, Now, Slot};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::{ElementAhead, GateClosed, GateInside, GateReader};
use tokio::sync::Notify;

/// Commands prefetched at a time. 16 does as well, more does not help.
const BATCH_MAX: usize = 32;
/// Input gathered at which the batch runs before its turn: bounds the worker's buffer.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// A reply that is looked at before it is sent: shorter ones are within every limit that makes sense. Redis's buffer of a
/// client that is not counted.
pub(crate) const LONG_REPLY_BYTES: usize = 16 * 1024;
/// Input of a command that has not come whole at which it is counted as the client's memory.
const LONG_QUERY_BYTES: usize = 32 * 1024;
/// Between two looks at whether a pause has ended.
const PAUSE_ROUND: Duration = Duration::from_millis(10);
/// Rounds a second of background work: expiry, limits, statistics.
const ROUND: Duration = Duration::from_millis(100);

/// A parsed command.
struct Item {
    spans: Range<u32>,
    /// Where it stands, in the batch's buffer or in `own`.
    raw: Range<u32>,
    own: Option<Rc<Vec<u8>>>,
    spec: Option<&'static Spec>,
    /// Slot and hash of the first key, where it is argument 1.
    first_key: Option<(Slot, u64)>,
    /// No command but what is wrong with the input.
    is_error: bool,
}

/// The commands of one connection, which stand together.
struct Group<E: Env> {
    connection: Rc<Connection<E>>,
    items: Range<usize>,
}

/// What one turn works on.
struct Batch<E: Env> {
    input: Vec<u8>,
    spans: Vec<Span>,
    items: Vec<Item>,
    groups: Vec<Group<E>>,
    /// The most of input, spans and items that a turn had since the last round.
    peak: [usize; 3],
}

impl<E: Env> Default for Batch<E> {
    fn default() -> Self {
        Batch { input: Vec::new(), spans: Vec::new(), items: Vec::new(), groups: Vec::new(), peak: [0; 3] }
    }
}

impl<E: Env> Batch<E> {
    /// Ends a turn.
    fn clear(&mut self) {
        for (peak, len) in self.peak.iter_mut().zip([self.input.len(), self.spans.len(), self.items.len()]) {
            *peak = len.max(*peak);
        }
        self.input.clear();
        self.input.shrink_to(INPUT_BYTES_MAX);
        self.spans.clear();
        self.items.clear();
    }

    /// Between turns: gives up half of the room that no turn needed since it was last called.
    fn give_back(&mut self) {
        let [input, spans, items] = std::mem::take(&mut self.peak);
        give_back(&mut self.input, input);
        give_back(&mut self.spans, spans);
        give_back(&mut self.items, items);
    }

    /// The element that a command names in the collection at its first key.
    fn element<'a>(&'a self, item: &'a Item) -> Option<ElementAhead<'a>> {
        let (slot, hash) = item.first_key?;
        let place = item.spec.map(|s| s.command.element as u32).filter(|place| *place > 0)?;
        let at = item.spans.start + place;
        let buf: &[u8] = item.own.as_ref().map_or(&self.input, |own| own);
        (at < item.spans.end).then(|| ElementAhead { slot, hash, element: self.spans[at as usize].of(buf) })
    }
}

/// What holds for all commands of a turn.
pub struct Setting<'a> {
    pub settings: &'a NodeSettings,
    pub view: Option<&'a ClusterView>,
    pub now: Now,
    pub status: Status,
    pub watched: u32,
    /// See [`crate::observe::Observe`].
    pub told_ticks: u64,
    pub large_bytes: usize,
    /// Clients want to be told of keys that change.
    pub is_tracked: bool,
    /// State of the users; sessions with another take theirs anew.
    pub users_epoch: u64,
    /// The term in which the batch began.
    pub term: u64,
    /// As it was before the view was looked at.
    pub slots_left: u64,
}

impl<'a> Setting<'a> {
    /// Runs `f` with what holds now. It is looked at in an order that counts.
    pub fn with<E: Env, T>(shared: &Shared<E>, f: impl FnOnce(&Setting) -> T) -> T {
        let settings = shared.settings.load();
        let slots_left = shared.state.slots_left.load(Ordering::Acquire);
        let view = shared.view.load();
        let now = shared.env.now();
        // Before the status: a lease that is seen after a term ended belongs to a later one.
        let term = shared.state.term.load(Ordering::Acquire);
        let mut status = shared.status(now.mono);
        // Without a view nobody knows whose slots these are, whatever has been published since.
        status.is_loading |= settings.is_cluster && view.is_none();
        let watched = engine::admission::watched(&status, &settings.engine);
        f(&Setting {
            settings: &settings,
            view: (*view).as_deref(),
            now,
            status,
            watched,
            told_ticks: shared.observe.told_ticks(),
            large_bytes: shared.observe.large_bytes(),
            is_tracked: shared.tracking.is_on(),
            users_epoch: shared.users.epoch(),
            term,
            slots_left,
        })
    }

    /// The role changed or loading began, with the gate closed, since this was read, or slots left: it is true no more. To be asked
    /// inside the gate.
    pub fn is_outdated(&self, state: &crate::shared::State) -> bool {
        self.status.is_replica != state.is_replica.load(Ordering::Relaxed)
            || self.status.is_loading != state.is_loading.load(Ordering::Relaxed)
            || self.slots_left != state.slots_left.load(Ordering::Relaxed)
    }

    /// Served as a primary of a cluster, whose lease has ended since.
    pub fn has_lost_lease<E: Env>(&self, shared: &Shared<E>) -> bool {
        self.view.is_some() && self.status.has_lease && !shared.status(shared.env.now().mono).has_lease
    }

    pub fn turn<'t, E: Env>(
        &self,
        shared: &'t Shared<E>,
        stats: &'t Stats,
        local: &'t mut Local,
        host: &'t mut dyn Host,
        exclusive: Option<&'t GateClosed<'t>>,
    ) -> Turn<'t>
    where
        'a: 't,
    {
        Turn {
            engine: &shared.engine,
            settings: &self.settings.engine,
            cluster: self.view,
            status: self.status,
            watched: self.watched,
            now: self.now,
            ticks: shared.env.ticks(),
            told_ticks: self.told_ticks,
            is_tracked: self.is_tracked,
            is_script: false,
            may_move: false,
            first_key: None,
            exclusive,
            passage: None,
            stats,
            local,
            host,
        }
    }
}

/// What the worker executes with.
struct Core {
    local: Local,
    out: Reply,
    expire_cursor: engine::expire::Cursor,
}

/// Being inside the gate, for a batch.
struct Inside<'a> {
    gate: GateInside<'a>,
    /// The gate was left: what was true for the batch may be no more.
    has_left: bool,
    /// A slow script has the gate closed: the rest of the batch does without.
    is_given_up: bool,
}

/// See the module's head.
pub struct Worker<E: Env> {
    pub shared: Arc<Shared<E>>,
    pub index: usize,
    pub mail: Arc<Mail<E::Socket>>,
    pub connections: RefCell<BTreeMap<u64, Rc<Connection<E>>>>,
    batch: RefCell<Batch<E>>,
    core: RefCell<Core>,
    gate: RefCell<GateReader>,
    parked: RefCell<Vec<Rc<Connection<E>>>>,
    /// Waiters whose wait is over and that stand beside slots yet.
    left_waiters: RefCell<Vec<(Arc<engine::blocking::Waiter>, Slot)>>,
    kick: Notify,
    is_stopped: Cell<bool>,
    stats: Arc<CachePadded<Stats>>,
    pub(crate) errands: RefCell<Errands>,
}

/// Gives up half of a buffer's room if not even a quarter is needed. Small ones are kept.
fn give_back<T>(buffer: &mut Vec<T>, needed: usize) {
    const KEPT: usize = 256;
    if buffer.capacity() > KEPT.max(needed * 4) {
        buffer.shrink_to(buffer.capacity() / 2);
    }
}

/// What a browser sends that a hostile page makes talk to us: Redis ends such connections too, lest the body of a
/// request be taken for commands.
fn is_cross_protocol(name: &[u8]) -> bool {
    [&b"post"[..], b"host:"].iter().any(|n| n.eq_ignore_ascii_case(name))
}

impl<E: Env> Worker<E> {
    pub fn new(shared: Arc<Shared<E>>, index: usize) -> Rc<Worker<E>> {
        let mail = shared.mail[index].clone();
        let local = Local::new(shared.env.rand(), mail.clone());
        let gate = shared.engine.keyspace.gate().register();
        Rc::new(Worker {
            index,
            mail,
            connections: RefCell::default(),
            batch: RefCell::default(),
            core: RefCell::new(Core { local, out: Reply::new(false), expire_cursor: Default::default() }),
            gate: RefCell::new(gate),
            parked: RefCell::default(),
            left_waiters: RefCell::default(),
            kick: Notify::new(),
            is_stopped: Cell::new(false),
            stats: shared.stats[index].clone(),
            errands: RefCell::default(),
            shared,
        })
    }

    /// Serves until the node stops.
    pub async fn run(self: Rc<Self>) {
        self.shared.env.step_forward();
        let runner = tokio::task::spawn_local(self.clone().run_batches());
        let rounds = tokio::task::spawn_local(self.clone().run_rounds());
        while !self.is_stopped.get() {
            self.open_letters();
            if !self.is_stopped.get() {
                self.mail.wait().await;
            }
        }
        runner.abort();
        rounds.abort();
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        connections.iter().for_each(|c| c.close(false));
    }

    /// Runs the batch one turn after its first command came, so that all connections that are ready join it.
    async fn run_batches(self: Rc<Self>) {
        let mut times_parked = 0u32;
        loop {
            self.kick.notified().await;
            self.run_batch();
            let parked = std::mem::take(&mut *self.parked.borrow_mut());
            if parked.is_empty() {
                times_parked = 0;
                continue;
            }
            // At first the slot's holder only needs the processor; a paused slot takes longer than a turn.
            times_parked += 1;
            match times_parked {
                1 => tokio::task::yield_now().await,
                _ if self.shared.pause.holds_writes(self.shared.env.now().mono) => {
                    tokio::time::sleep(PAUSE_ROUND).await;
                }
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
            for connection in parked {
                self.retry(&connection);
            }
        }
    }

    fn retry(&self, connection: &Rc<Connection<E>>) {
        if matches!(*connection.phase.borrow(), Phase::Parked) {
            connection.set_phase(Phase::Ready);
            connection.has_deferred.set(true);
            connection.wake();
        }
    }

    async fn run_rounds(self: Rc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            self.round();
        }
    }

    /// Opens what came by now: letters that were posted before a command was sent are opened before it runs. So a client
    /// that has a reply, whatever its worker, finds the others told of what that command did.
    fn open_letters(self: &Rc<Self>) {
        while !self.is_stopped.get()
            && let Some(letter) = self.mail.take()
        {
            self.open(letter);
        }
    }

    fn open(self: &Rc<Self>, letter: Letter<E::Socket>) {
        match letter {
            Letter::Socket(socket, peer, own) => self.accept(socket, peer, own),
            Letter::Errand(done) => self.finish_errand(*done),
            Letter::Reply { client, bytes, written } => self.on(client, |c| self.answer(c, &bytes, written)),
            Letter::Retry(client) => self.on(client, |c| self.run_again(c)),
            Letter::Push { client, bytes } => {
                let released = self.released();
                self.on(client, |c| {
                    c.send_shared(bytes, released);
                    self.count_buffers(c);
                    if c.output_bytes() > 0 {
                        self.check_output(c, &self.shared.settings(), self.shared.env.now());
                    }
                });
            }
            Letter::Kill { client, is_soft } => self.on(client, |c| c.close(is_soft)),
            Letter::Unblock { client, is_error, tally } => {
                self.on(client, |c| self.unblock(c, is_error, tally));
            }
            Letter::UsersChanged => self.recheck_waiting(),
            // Soon, and not with the next round: whoever lowered the limit looks at what went.
            Letter::MakeRoom => self.round(),
            Letter::Released => {
                let released = self.released();
                let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
                for connection in connections.iter().filter(|c| c.output_bytes() > 0) {
                    if connection.flush(released).is_err() {
                        connection.close(false);
                    }
                    if connection.output_bytes() == 0 {
                        connection.wake();
                    }
                }
            }
            Letter::Stop => self.is_stopped.set(true),
        }
    }

    pub(crate) fn on(&self, client: u64, act: impl FnOnce(&Rc<Connection<E>>)) {
        let connection = self.connections.borrow().get(&client).cloned();
        if let Some(connection) = connection {
            act(&connection);
        }
    }

    pub(crate) fn released(&self) -> Released {
        self.shared.released()
    }

    fn accept(self: &Rc<Self>, socket: E::Socket, peer: std::net::SocketAddr, own: std::net::SocketAddr) {
        let Ok(stream) = self.shared.env.adopt(socket) else {
            self.shared.load[self.index].fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let client = self.shared.clients.add(self.index, peer, own, self.shared.env.now().wall.0);
        let mut session = Session::new(client.id);
        session.is_tls = self.shared.env.is_secure(&stream);
        self.shared.users.begin(&mut session);
        session.user().into_iter().for_each(|user| client.set_user(user));
        let connection = Rc::new(Connection::new(client, stream, session));
        self.connections.borrow_mut().insert(connection.id, connection.clone());
        tokio::task::spawn_local(connection.run(self.clone()));
    }

    /// Cleans up after a connection.
    pub fn forget(&self, connection: &Rc<Connection<E>>) {
        connection.set_phase(Phase::Closed);
        self.leave(connection);
        self.connections.borrow_mut().remove(&connection.id);
        self.shared.load[self.index].fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a connection out of all registers. One that says goodbye is in none when it is answered.
    fn leave(&self, connection: &Rc<Connection<E>>) {
        if connection.has_left.replace(true) {
            return;
        }
        if let Some(waiter) = connection.left_waiting.take() {
            self.end_wait(&waiter);
        }
        engine::multi::unwatch(&mut connection.session.borrow_mut(), &self.shared.engine);
        for (space, names) in [Space::Channel, Space::Pattern, Space::Sharded]
            .into_iter()
            .zip(&connection.subscriptions.borrow().spaces)
        {
            names.iter().for_each(|name| self.shared.pubsub.unsubscribe(space, name, connection.id));
        }
        self.shared.tracking.end(connection.id);
        self.postpone(connection, false);
        if connection.session.borrow().is_monitor {
            observe::end_monitoring(&self.shared, connection.id);
        }
        crate::replica::forget_client(&self.shared, connection.id);
        self.shared.clients.remove(connection.id);
    }

    // Input.

    pub fn with_input<R>(&self, f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        f(&mut self.batch.borrow_mut().input)
    }

    /// Parses what a connection just read into the worker's buffer: its own leftover and `fresh` bytes. False: it sent
    /// nonsense, or too much.
    pub fn parse_shared(self: &Rc<Self>, connection: &Rc<Connection<E>>, fresh: usize) -> bool {
        self.stats().net_in.add(fresh as u64);
        let mut batch = self.batch.borrow_mut();
        let start = batch.input.len() - fresh - connection.input.borrow().len();
        let end = self.parse(connection, &mut batch, start, None);
        let mut input = connection.input.borrow_mut();
        input.clear();
        let alive = match end {
            Ok(end) => {
                input.extend_from_slice(&batch.input[end..]);
                if input.is_empty() {
                    input.shrink_to(0);
                }
                true
            }
            Err(error) => self.refuse(connection, &mut batch, &error),
        };
        let is_full = batch.input.len() > INPUT_BYTES_MAX;
        drop((batch, input));
        if is_full {
            self.run_batch();
        }
        alive && self.check_query(connection)
    }

    /// Parses the connection's own buffer, which holds a long command or commands that were put off.
    pub fn parse_own(self: &Rc<Self>, connection: &Rc<Connection<E>>) -> bool {
        let buf = Rc::new(std::mem::take(&mut *connection.input.borrow_mut()));
        let mut batch = self.batch.borrow_mut();
        let count = batch.items.len();
        match self.parse(connection, &mut batch, 0, Some(&buf)) {
            // Nothing complete: the buffer goes on growing where it is.
            Ok(_) if batch.items.len() == count => {
                drop(batch);
                let buf = Rc::try_unwrap(buf).unwrap_or_else(|buf| buf.to_vec());
                *connection.input.borrow_mut() = buf;
                self.check_query(connection)
            }
            Ok(end) => {
                *connection.input.borrow_mut() = buf[end..].to_vec();
                if buf.len() >= LONG_QUERY_BYTES {
                    self.count_memory(connection, buf.len(), 0);
                }
                true
            }
            Err(error) => self.refuse(connection, &mut batch, &error),
        }
    }

    /// Takes up commands that were put off. True: some stand in the batch now.
    pub fn resume(self: &Rc<Self>, connection: &Rc<Connection<E>>) -> bool {
        *connection.partial.borrow_mut() = None;
        if !self.parse_own(connection) {
            connection.set_phase(Phase::Closed);
        }
        matches!(*connection.phase.borrow(), Phase::InBatch)
    }

    fn check_query(&self, connection: &Rc<Connection<E>>) -> bool {
        let len = connection.input.borrow().len();
        if len >= LONG_QUERY_BYTES {
            self.count_buffers(connection);
        }
        let max = match connection.session.borrow().is_authenticated() {
            true => self.shared.settings().query_bytes_max,
            false => proto::limits::QUERY_BYTES_MAX_UNAUTHENTICATED,
        };
        len <= max
    }

    /// A protocol error: it is told after the replies of what came before, and the connection ends.
    fn refuse(&self, connection: &Rc<Connection<E>>, batch: &mut Batch<E>, error: &ProtocolError) -> bool {
        let text = format!("*1\r\n${}\r\n{}\r\n", error.0.len(), error.0);
        let own = Rc::new(text.into_bytes());
        let len = own.len() as u32;
        let start = batch.spans.len() as u32;
        let prefix = len - error.0.len() as u32 - 2;
        batch.spans.push(Span { start: prefix, len: error.0.len() as u32 });
        let item = Item {
            spans: start..start + 1,
            raw: 0..len,
            own: Some(own),
            spec: None,
            first_key: None,
            is_error: true,
        };
        self.push(connection, batch, item);
        true
    }

    /// Pushes the complete commands from `at` on; returns where they end.
    fn parse(
        &self,
        connection: &Rc<Connection<E>>,
        batch: &mut Batch<E>,
        mut at: usize,
        own: Option<&Rc<Vec<u8>>>,
    ) -> Result<usize, ProtocolError> {
        let limits = connection.limits(self.shared.settings().engine.proto_max_bulk_len);
        let mut partial = connection.partial.borrow_mut();
        let before = batch.items.len();
        loop {
            let first = batch.spans.len() as u32;
            let request = {
                let Batch { input, spans, .. } = batch;
                let buf: &[u8] = own.map_or(input, |o| o);
                match parse_request(buf, at, &limits, spans, &mut partial) {
                    // What stands before it may authenticate: it is judged again when that has run.
                    Err(_) if !limits.is_authenticated && batch.items.len() > before => {
                        connection.has_deferred.set(true);
                        return Ok(at);
                    }
                    request => request?,
                }
            };
            match request {
                Request::Incomplete => return Ok(at),
                Request::Command { end } => {
                    let spans = first..batch.spans.len() as u32;
                    let item = self.item(batch, spans, at as u32..end as u32, own.cloned());
                    self.push(connection, batch, item);
                    at = end;
                }
                Request::Inline { args, end } => {
                    at = end;
                    if args.is_empty() {
                        continue;
                    }
                    // An inline command becomes what it would have been on the wire.
                    let mut encoded = Vec::new();
                    proto::resp::encode_command(&args, &mut encoded);
                    let encoded = Rc::new(encoded);
                    let limits = proto::resp::Limits::authenticated(usize::MAX);
                    parse_request(&encoded, 0, &limits, &mut batch.spans, &mut None)?;
                    let spans = first..batch.spans.len() as u32;
                    let len = encoded.len() as u32;
                    let item = self.item(batch, spans, 0..len, Some(encoded));
                    self.push(connection, batch, item);
                }
            }
        }
    }

    fn item(&self, batch: &Batch<E>, spans: Range<u32>, raw: Range<u32>, own: Option<Rc<Vec<u8>>>) -> Item {
        let buf: &[u8] = own.as_ref().map_or(&batch.input, |o| o);
        let args = &batch.spans[spans.start as usize..spans.end as usize];
        let mut spec = self.shared.engine.table.by_name(args[0].of(buf));
        if spec.is_some_and(|s| !s.subcommands.is_empty() || !s.is_arity(args.len())) {
            spec = None; // resolved when it runs
        }
        let mut first_key = None;
        if let (Some(s), Some(key)) = (spec, args.get(1))
            && s.is_first_key_plain
        {
            let key = key.of(buf);
            let slot = Slot::of_key(key);
            first_key = Some((slot, self.shared.engine.keyspace.hash(key)));
            self.shared.engine.keyspace.prefetch_slot(slot);
        }
        Item { spans, raw, own, spec, first_key, is_error: false }
    }

    fn push(&self, connection: &Rc<Connection<E>>, batch: &mut Batch<E>, item: Item) {
        let place = batch.items.len();
        batch.items.push(item);
        match batch.groups.last_mut() {
            Some(group) if Rc::ptr_eq(&group.connection, connection) => group.items.end = place + 1,
            _ => {
                if batch.groups.is_empty() {
                    self.kick.notify_one();
                }
                connection.set_phase(Phase::InBatch);
                batch.groups.push(Group { connection: connection.clone(), items: place..place + 1 });
            }
        }
    }

    // Execution.

    /// Runs everything in the batch.
    pub fn run_batch(self: &Rc<Self>) {
        let mut batch = std::mem::take(&mut *self.batch.borrow_mut());
        if batch.groups.is_empty() {
            *self.batch.borrow_mut() = batch;
            return;
        }
        if !self.mail.is_empty() {
            self.open_letters();
        }
        Setting::with(&self.shared, |setting| self.run_groups(setting, &mut batch));
        batch.clear();
        *self.batch.borrow_mut() = batch;
    }

    fn run_groups(self: &Rc<Self>, setting: &Setting, batch: &mut Batch<E>) {
        self.shared
            .engine
            .keyspace
            .set_clock(evict::fresh(setting.now.wall.0, setting.settings.engine.maxmemory_policy.is_lfu()));
        let mut groups = std::mem::take(&mut batch.groups);
        let mut prefetched = 0;
        {
            let mut core = self.core.borrow_mut();
            core.local.ticked = (self.shared.env.ticks())();
            let mut gate = self.gate.borrow_mut();
            let mut inside = Inside { gate: gate.stand_before(), has_left: true, is_given_up: false };
            for group in &groups {
                inside.has_left |= inside.gate.give_way_soon();
                self.run_group(&mut core, &mut inside, batch, group, setting, &mut prefetched);
            }
        }
        groups.clear();
        batch.groups = groups;
    }

    fn prefetch(&self, batch: &Batch<E>, items: &[Item]) {
        // Alone, a command waits for its memory one way or the other.
        const WORTH_IT_MIN: usize = 3;
        if items.len() < WORTH_IT_MIN {
            return;
        }
        let keyspace = &self.shared.engine.keyspace;
        for item in items {
            if let Some((slot, hash)) = item.first_key {
                keyspace.prefetch_segment(slot, 0, hash);
            }
        }
        for item in items {
            if let Some((slot, hash)) = item.first_key {
                keyspace.prefetch_pointer(slot, 0, hash);
            }
        }
        for item in items {
            if let Some((slot, hash)) = item.first_key {
                keyspace.prefetch_entry(slot, 0, hash);
            }
        }
        let mut elements: smallvec::SmallVec<[ElementAhead<'_>; BATCH_MAX]> =
            items.iter().filter_map(|item| batch.element(item)).collect();
        let mut stage = 0;
        while !elements.is_empty() {
            let left = keyspace.prefetch_elements(0, &mut elements, stage);
            elements.truncate(left);
            stage += 1;
        }
    }

    fn run_group(
        self: &Rc<Self>,
        core: &mut Core,
        inside: &mut Inside,
        batch: &Batch<E>,
        group: &Group<E>,
        setting: &Setting,
        prefetched: &mut usize,
    ) {
        let connection = &group.connection;
        core.out.clear();
        let (written, users_epoch) = {
            let session = connection.session.borrow();
            (session.written, session.users_epoch)
        };
        if users_epoch != setting.users_epoch {
            self.renew_user(connection);
        }
        let (mut ran, mut later) = (0, 0);
        let looked_up = || self.stats().hits.get() + self.stats().misses.get();
        let (looked_up_before, mut is_data) = (looked_up(), false);
        for place in group.items.clone() {
            if place >= *prefetched {
                *prefetched = (place + BATCH_MAX).min(batch.items.len());
                self.prefetch(batch, &batch.items[place..*prefetched]);
            }
            // A client that does not read is not served ahead: the rest waits until it has read.
            let is_ahead = ran > 0 && core.out.len() + connection.output_bytes() > OUTPUT_PAUSE_BYTES;
            if is_ahead || !connection.is_ready() {
                break;
            }
            // Commands that a stale replica answers show no data, unless they look up keys after all.
            is_data |= batch.items[place].spec.is_none_or(|s| !s.has(engine::spec::flag::STALE));
            let before = core.out.len();
            let is_inside = inside.gate.is_inside() || self.goes_inside(inside, setting);
            let outcome =
                self.run_item(core, inside, is_inside, connection, batch, &batch.items[place], setting);
            let item = &batch.items[place];
            if item.raw.len().max(core.out.len() - before) >= setting.large_bytes {
                self.was_large(connection, batch, item, core.out.len() - before);
            }
            match outcome {
                Outcome::Done => {}
                Outcome::Busy(_) => {
                    self.postpone(connection, setting.status.is_paused);
                    connection.set_phase(Phase::Parked);
                    self.parked.borrow_mut().push(connection.clone());
                    break;
                }
                Outcome::Blocked(waiter) => self.block(connection, waiter),
                // The answer comes through the letter box, which this thread opens later.
                Outcome::Later => {
                    connection.set_phase(Phase::Waiting);
                    let is_blocked = item.spec.is_some_and(|s| s.has(engine::spec::flag::WAITS));
                    self.postpone(connection, is_blocked);
                    later += 1;
                }
                Outcome::Close => connection.set_phase(Phase::Closing),
                Outcome::NeedsGate | Outcome::Elsewhere => {
                    unreachable!("run_item closes the gate, or sends it on")
                }
            }
            ran += 1;
        }
        if ran > 0 && connection.is_ready() {
            self.postpone(connection, false);
        }
        if ran > later && setting.has_lost_lease(&self.shared) {
            // W12: what was read may belong to another primary by now; nobody may see it as an answer. What is answered
            // later read nothing: it may be what ended the lease, such as CLUSTER REPLICATE.
            connection.set_phase(Phase::Closed);
        }
        self.put_off(connection, batch, group.items.start + ran..group.items.end);
        is_data |= looked_up() != looked_up_before || connection.session.borrow().written != written;
        self.reply(core, connection, setting, written, (ran, is_data));
    }

    /// Goes inside the gate. False: a slow script has it closed.
    #[cold]
    fn goes_inside(&self, inside: &mut Inside, setting: &Setting) -> bool {
        inside.has_left = true;
        let slow_ms = setting.settings.engine.busy_reply_threshold_ms;
        while !inside.is_given_up && !inside.gate.return_soon() {
            let now = self.shared.env.now().mono;
            // A script that is slow and not outside has closed it.
            inside.is_given_up = self.shared.engine.keyspace.gate().is_held()
                && self.shared.engine.scripts.control.is_slow(now, slow_ms);
        }
        inside.gate.is_inside()
    }

    fn run_item(
        self: &Rc<Self>,
        core: &mut Core,
        inside: &mut Inside,
        is_inside: bool,
        connection: &Rc<Connection<E>>,
        batch: &Batch<E>,
        item: &Item,
        setting: &Setting,
    ) -> Outcome {
        let buf: &[u8] = item.own.as_ref().map_or(&batch.input, |o| o);
        let spans = &batch.spans[item.spans.start as usize..item.spans.end as usize];
        let (mut few, many): ([&[u8]; 8], Vec<&[u8]>);
        let args: Args = if spans.len() <= 8 {
            few = [&[]; 8];
            few.iter_mut().zip(spans).for_each(|(arg, span)| *arg = span.of(buf));
            &few[..spans.len()]
        } else {
            many = spans.iter().map(|s| s.of(buf)).collect();
            &many
        };
        if item.is_error {
            core.out.error(&format!("ERR {}", String::from_utf8_lossy(args[0])));
            return Outcome::Close;
        }
        let raw = &buf[item.raw.start as usize..item.raw.end as usize];
        let engine = &self.shared.engine;
        let resolved = match item.spec {
            Some(spec) => Ok(spec),
            None => engine.table.resolve(args),
        };
        if resolved.is_err() && is_cross_protocol(args[0]) {
            tracing::warn!(client = connection.id, peer = %connection.client.peer, "closed: it speaks HTTP");
            connection.close(false);
            return Outcome::Done;
        }
        if let Ok(spec) = &resolved {
            connection.client.command.store(spec.id + 1, Ordering::Relaxed);
        }
        let mut session = connection.session.borrow_mut();
        let mut host = NodeHost {
            shared: &self.shared,
            client: &connection.client,
            connection: Some(connection),
            setting,
            is_exclusive: false,
        };
        let Core { local, out, .. } = core;
        if !is_inside && !resolved.as_ref().is_ok_and(|spec| spec.runs_outside_the_gate()) {
            let mut turn = setting.turn(&self.shared, self.stats(), local, &mut host, None);
            return errand::gate_is_held(&self.shared, &mut turn, &mut session, &resolved, out);
        }
        if inside.has_left && setting.is_outdated(&self.shared.state) {
            return Outcome::Busy(Slot::default());
        }
        inside.has_left = false;
        let mut timed = None;
        if let Ok(spec) = &resolved
            && spec.has(engine::spec::flag::LONG)
            // It would stand behind the slow script that it is to be told of.
            && !setting.status.is_busy
        {
            let parts = (raw, spans, item.raw.start);
            if let Some(outcome) = debugger::intercept(self, connection, spec, args, parts, &mut session, out)
            {
                return outcome;
            }
            let choice = self.errands.borrow().choose(&self.shared, spec, args, &session);
            let Choice::InLine(script) = choice else {
                return self.send_errand(connection, spec, raw, spans, item.raw.start, &mut session, out);
            };
            timed = script.map(|script| (script, self.shared.env.now().mono));
        }
        let mut turn = setting.turn(&self.shared, self.stats(), local, &mut host, None);
        turn.may_move = timed.is_some();
        turn.first_key = item.first_key;
        let outcome = execute(&mut turn, &mut session, &resolved, args, Some(raw), out);
        if let Some((script, begun)) = timed {
            let us = self.shared.env.now().mono.since(begun).as_micros() as u64;
            let last = local.scripts.last;
            self.errands.borrow_mut().judge(script, us, last);
        }
        if matches!(outcome, Outcome::Elsewhere) {
            let spec = resolved.as_ref().expect("a script's command was found");
            return self.send_errand(connection, spec, raw, spans, item.raw.start, &mut session, out);
        }
        if !matches!(outcome, Outcome::NeedsGate) {
            return outcome;
        }
        inside.has_left = true;
        inside.gate.leave();
        let outcome = {
            // Who is inside for long is a script on a side thread: it may be ended only while others are served.
            let closed: Option<GateClosed<'_>> = engine.keyspace.gate().try_close();
            match &closed {
                None => {
                    let mut turn = setting.turn(&self.shared, self.stats(), local, &mut host, None);
                    errand::gate_is_held(&self.shared, &mut turn, &mut session, &resolved, out)
                }
                Some(_) if setting.is_outdated(&self.shared.state) => Outcome::Busy(Slot::default()),
                closed => {
                    host.is_exclusive = true;
                    let mut turn =
                        setting.turn(&self.shared, self.stats(), local, &mut host, closed.as_ref());
                    execute(&mut turn, &mut session, &resolved, args, Some(raw), out)
                }
            }
        };
        inside.gate.return_soon();
        outcome
    }

    /// Counts a connection among those that wait while it is paused.
    fn postpone(&self, connection: &Connection<E>, is_paused: bool) {
        let was_paused = connection.is_postponed.replace(is_paused);
        match (was_paused, is_paused) {
            (false, true) => self.shared.counters.blocked.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.shared.counters.blocked.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// A command whose request or reply is long.
    #[cold]
    fn was_large(&self, connection: &Rc<Connection<E>>, batch: &Batch<E>, item: &Item, reply: usize) {
        let buf: &[u8] = item.own.as_ref().map_or(&batch.input, |o| o);
        let spans = &batch.spans[item.spans.start as usize..item.spans.end as usize];
        let args: Vec<&[u8]> = spans.iter().map(|s| s.of(buf)).collect();
        if let Ok(spec) = self.shared.engine.table.find(&args) {
            observe::was_large(&self.shared, &connection.client, spec, &args, item.raw.len(), reply);
        }
    }

    /// Users have changed: the connection's own may have other rights now, or be gone.
    #[cold]
    fn renew_user(&self, connection: &Rc<Connection<E>>) {
        if let Renewed::Gone = self.shared.users.renew(&mut connection.session.borrow_mut()) {
            connection.close(false);
        }
    }

    /// Whoever waits for keys that its user may not use any more runs its command again, to be told so.
    fn recheck_waiting(self: &Rc<Self>) {
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            let phase = connection.phase.borrow().clone();
            let Phase::Blocked(waiter) = phase else { continue };
            self.renew_user(&connection);
            if !waiter.is_allowed_to(&connection.session.borrow()) {
                self.run_again(&connection);
            }
        }
    }

    /// Commands that could not run yet go back to the connection, before what it read later.
    fn put_off(&self, connection: &Rc<Connection<E>>, batch: &Batch<E>, items: Range<usize>) {
        if items.is_empty() || matches!(*connection.phase.borrow(), Phase::Closing | Phase::Closed) {
            return;
        }
        let mut input = Vec::new();
        for item in &batch.items[items] {
            let buf: &[u8] = item.own.as_ref().map_or(&batch.input, |o| o);
            input.extend_from_slice(&buf[item.raw.start as usize..item.raw.end as usize]);
        }
        input.extend_from_slice(&connection.input.borrow());
        *connection.input.borrow_mut() = input;
        *connection.partial.borrow_mut() = None;
        connection.has_deferred.set(true);
    }

    /// Sends what the group's commands answered, or holds it until the feed is released.
    fn reply(
        &self,
        core: &mut Core,
        connection: &Rc<Connection<E>>,
        setting: &Setting,
        written_before: u64,
        (ran, is_data): (usize, bool),
    ) {
        let session = connection.session.borrow();
        let state = &self.shared.state;
        let until = if !state.is_gated.load(Ordering::Acquire) {
            0
        } else if is_data && state.is_read_gated.load(Ordering::Acquire) {
            self.shared.feed.end().0
        } else if session.written != written_before {
            session.written
        } else {
            0
        };
        drop(session);
        // Whoever has the reply finds the others told of what it says.
        self.describe(connection, ran, setting.now);
        if matches!(*connection.phase.borrow(), Phase::Closing) {
            self.leave(connection);
        }
        self.stats().net_out.add(core.out.len() as u64);
        let released = self.released();
        if released.term != setting.term && (is_data || until > 0) {
            // What ran here is acknowledged by nobody: its outcome is not known.
            connection.set_phase(Phase::Closed);
        } else if core.out.len() > LONG_REPLY_BYTES
            && self.is_too_long(connection, core.out.len(), setting.settings)
        {
            connection.close(false);
        } else if !connection.is_closed() {
            connection.send(core.out.as_bytes(), until, released);
        }
        if core.out.len() > INPUT_BYTES_MAX {
            core.out = Reply::new(false);
        }
        self.check_output(connection, setting.settings, setting.now);
        self.count_buffers(connection);
        if matches!(*connection.phase.borrow(), Phase::InBatch) {
            connection.set_phase(Phase::Ready);
        }
        // Its task reads on, or goes on with what was put off, or ends; unless it waits for the socket already.
        if !connection.is_at_ease() {
            connection.wake();
        }
    }

    /// Whether so many bytes more are above the client's hard limit: then it gets none of them.
    pub(crate) fn is_too_long(
        &self,
        connection: &Rc<Connection<E>>,
        bytes: usize,
        settings: &NodeSettings,
    ) -> bool {
        let class = if connection.session.borrow().is_subscribed() { 2 } else { 0 };
        let hard_bytes = settings.output_limits[class].hard_bytes;
        let is_too_long = hard_bytes > 0 && (connection.output_bytes() + bytes) as u64 > hard_bytes;
        if is_too_long {
            tracing::warn!(
                client = connection.id,
                bytes,
                "client closed: its reply is above the output limit"
            );
        }
        is_too_long
    }

    pub(crate) fn check_output(&self, connection: &Rc<Connection<E>>, settings: &NodeSettings, now: Now) {
        if connection.output_bytes() == 0 {
            return;
        }
        let class = if connection.session.borrow().is_subscribed() { 2 } else { 0 };
        if connection.is_over_limit(settings.output_limits[class], now.mono.as_ms()) {
            tracing::warn!(
                client = connection.id,
                bytes = connection.output_bytes(),
                "client closed: it does not read its replies"
            );
            connection.close(false);
        }
    }

    /// Renews what CLIENT LIST shows.
    pub(crate) fn describe(&self, connection: &Rc<Connection<E>>, ran: usize, now: Now) {
        use crate::clients::state;
        let client = &connection.client;
        let session = connection.session.borrow();
        client.last_active_ms.store(now.wall.0, Ordering::Relaxed);
        client.db.store(session.db, Ordering::Relaxed);
        client.total_commands.fetch_add(ran as u64, Ordering::Relaxed);
        client.resp.store(if session.is_resp3 { 3 } else { 2 }, Ordering::Relaxed);
        client.multi.store(session.multi.as_ref().map_or(-1, |m| m.queue.len() as i64), Ordering::Relaxed);
        client.multi_bytes.store(session.multi.as_ref().map_or(0, |m| m.bytes), Ordering::Relaxed);
        client.watched.store(session.watches.as_ref().map_or(0, |w| w.keys.len()), Ordering::Relaxed);
        let is_blocked = match *connection.phase.borrow() {
            Phase::Blocked(_) => true,
            Phase::Waiting => connection.is_postponed.get(),
            _ => false,
        };
        let flags = [
            (is_blocked, state::BLOCKED),
            (session.in_multi(), state::MULTI),
            (session.is_subscribed(), state::SUBSCRIBED),
            (session.is_replica, state::REPLICA),
            (session.is_monitor, state::MONITOR),
            (session.tracking().is_some(), state::TRACKING),
            (session.tracking().is_some_and(|t| t.is_bcast), state::BCAST),
            (session.is_readonly, state::READONLY),
            (session.is_no_evict, state::NO_EVICT),
            (session.is_no_touch, state::NO_TOUCH),
            (session.watches.as_ref().is_some_and(|w| w.is_dirty()), state::DIRTY),
        ];
        let set = flags.iter().filter(|(is, _)| *is).fold(0, |set, (_, f)| set | f);
        client.state.store(set, Ordering::Relaxed);
        for (count, n) in client.subscriptions.iter().zip(session.subscriptions) {
            count.store(n as u32, Ordering::Relaxed);
        }
        let watched_bytes = session.watches.as_ref().map_or(0, |w| w.bytes);
        client.name_bytes.store(watched_bytes + connection.subscriptions.borrow().bytes, Ordering::Relaxed);
    }

    /// As [`Worker::count_memory`] for a connection as it stands.
    fn count_buffers(&self, connection: &Connection<E>) {
        let begun = connection.partial.borrow().as_ref().map_or(0, |partial| partial.begun());
        self.count_memory(connection, connection.input.borrow().len().saturating_sub(begun), begun);
    }

    /// Renews what is known of a connection's buffers. Where all clients' take too much, the largest clients go.
    fn count_memory(&self, connection: &Connection<E>, query_bytes: usize, argument_bytes: usize) {
        let client = &connection.client;
        client.query_bytes.store(query_bytes, Ordering::Relaxed);
        client.argument_bytes.store(argument_bytes, Ordering::Relaxed);
        client.output_bytes.store(connection.output_bytes(), Ordering::Relaxed);
        self.shared.clients.count_bytes(client);
        self.shared.evict_clients();
    }

    // Waiting clients.

    fn block(&self, connection: &Rc<Connection<E>>, waiter: Arc<engine::blocking::Waiter>) {
        self.shared.counters.blocked.fetch_add(1, Ordering::Relaxed);
        if waiter.timeout_ms > 0 {
            let sleep = tokio::time::sleep(Duration::from_millis(waiter.timeout_ms));
            *connection.deadline.borrow_mut() = Some(Box::pin(sleep));
        }
        connection.set_phase(Phase::Blocked(waiter));
    }

    /// A waiting connection's reply has come.
    fn answer(&self, connection: &Rc<Connection<E>>, bytes: &[u8], written: u64) {
        let phase = connection.phase.borrow().clone();
        if let Phase::Blocked(waiter) = &phase {
            self.shared.counters.blocked.fetch_sub(1, Ordering::Relaxed);
            if self.shared.observe.told_ticks() == 0 {
                self.tell_served(connection, waiter);
            }
        }
        *connection.deadline.borrow_mut() = None;
        let state = &self.shared.state;
        let until = if state.is_gated.load(Ordering::Acquire) { written } else { 0 };
        let released = self.released();
        let is_in_sync = self.shared.settings().durability != crate::config::Durability::Async;
        if written > 0 && is_in_sync && state.is_replica.load(Ordering::Acquire) {
            // Written by a tenure that is over: nobody knows whether it holds.
            return connection.close(false);
        }
        if written > 0 {
            connection.session.borrow_mut().written = written;
        }
        if matches!(phase, Phase::Blocked(_) | Phase::Waiting) {
            self.postpone(connection, false);
            connection.set_phase(Phase::Ready);
        }
        self.describe(connection, 0, self.shared.env.now());
        connection.send(bytes, until, released);
        self.go_on(connection);
    }

    /// A connection that waited has its reply: it reads on, or goes on with what came meanwhile.
    pub(crate) fn go_on(&self, connection: &Rc<Connection<E>>) {
        connection.has_deferred.set(!connection.input.borrow().is_empty());
        self.count_buffers(connection);
        connection.wake();
    }

    /// A command that waited has been served: it belongs into the log of slow ones if all do.
    #[cold]
    fn tell_served(&self, connection: &Rc<Connection<E>>, waiter: &engine::blocking::Waiter) {
        let args: Vec<&[u8]> = waiter.args().iter().map(|a| a.as_slice()).collect();
        observe::was_served(&self.shared, &connection.client, waiter.spec, &args);
    }

    /// The waiter's queues cannot be served by another: the command runs again here.
    fn run_again(&self, connection: &Rc<Connection<E>>) {
        let phase = connection.phase.borrow().clone();
        let Phase::Blocked(waiter) = phase else { return };
        if !waiter.claim() {
            return;
        }
        self.end_wait(&waiter);
        let mut again = Vec::new();
        proto::resp::encode_command(waiter.args(), &mut again);
        again.extend_from_slice(&connection.input.borrow());
        *connection.input.borrow_mut() = again;
        *connection.deadline.borrow_mut() = None;
        connection.set_phase(Phase::Ready);
        connection.has_deferred.set(true);
        connection.wake();
    }

    /// A waiting connection's time is up.
    pub fn time_up(&self, connection: &Rc<Connection<E>>) {
        *connection.deadline.borrow_mut() = None;
        let phase = connection.phase.borrow().clone();
        if let Phase::Blocked(waiter) = phase
            && waiter.claim()
        {
            self.end_wait(&waiter);
            let reply = waiter.timeout_reply();
            self.finish_wait(connection, &reply);
        }
    }

    /// Ends a wait that was claimed for that. `tally`: what one for copies would answer.
    fn unblock(&self, connection: &Rc<Connection<E>>, is_error: bool, tally: Option<Vec<u8>>) {
        let phase = connection.phase.borrow().clone();
        let (spec_id, reply) = match (&phase, tally) {
            (Phase::Blocked(waiter), _) => {
                self.end_wait(waiter);
                (waiter.spec().id, waiter.timeout_reply())
            }
            (Phase::Waiting, Some(tally)) => (connection.client.command.load(Ordering::Relaxed) - 1, tally),
            _ => return,
        };
        self.postpone(connection, false);
        if !is_error {
            return self.finish_wait(connection, &reply);
        }
        self.stats().count_error("UNBLOCKED".into());
        self.stats().commands[spec_id].failed.add(1);
        self.finish_wait(connection, b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    }

    fn finish_wait(&self, connection: &Rc<Connection<E>>, reply: &[u8]) {
        connection.set_phase(Phase::Ready);
        self.describe(connection, 0, self.shared.env.now());
        connection.send(reply, 0, self.released());
        self.go_on(connection);
    }

    /// Takes a waiter out of the queues beside its slots: later from one that is held, maybe by a script without end.
    fn end_wait(&self, waiter: &Arc<engine::blocking::Waiter>) {
        waiter.claim();
        self.shared.counters.blocked.fetch_sub(1, Ordering::Relaxed);
        for slot in waiter.slots() {
            if !self.take_out(waiter, slot) {
                self.left_waiters.borrow_mut().push((waiter.clone(), slot));
            }
        }
    }

    /// False: the slot is held.
    fn take_out(&self, waiter: &Arc<engine::blocking::Waiter>, slot: Slot) -> bool {
        let Some(mut guard) = self.shared.engine.keyspace.lock_soon(slot) else { return false };
        let state = guard.state_mut();
        if let Some(side) = state.side.as_mut().and_then(|s| s.downcast_mut::<SlotSide>()) {
            side.forget(waiter);
            if side.is_empty() {
                state.side = None;
            }
        }
        true
    }

    // Background.

    fn round(self: &Rc<Self>) {
        self.batch.borrow_mut().give_back();
        if self.shared.state.is_cron_paused.load(Ordering::Relaxed) {
            return;
        }
        Setting::with(&self.shared, |setting| self.round_in(setting));
    }

    fn round_in(self: &Rc<Self>, setting: &Setting) {
        let Setting { settings, now, status, .. } = *setting;
        let left = self.left_waiters.take();
        self.left_waiters.borrow_mut().extend(left.into_iter().filter(|(w, slot)| !self.take_out(w, *slot)));
        self.refuse_errands(setting);
        if !status.is_replica
            && !status.is_loading
            && !status.is_paused
            && self.shared.state.is_expiring.load(Ordering::Relaxed)
        {
            let begun = self.shared.env.now().mono;
            self.expire(setting);
            let ms = self.shared.env.now().mono.since(begun).as_millis() as u64;
            if settings.latency_threshold_ms > 0 && ms >= settings.latency_threshold_ms {
                self.shared.observe.events.add("expire-cycle", now.wall.0 / 1000, ms);
            }
        }
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        if setting.view.is_some() {
            connections.iter().for_each(|c| self.redirect_waiter(c, setting));
        }
        for connection in connections {
            self.check_output(&connection, settings, now);
            if connection.client.output_bytes.load(Ordering::Relaxed) != connection.output_bytes() {
                self.count_buffers(&connection);
            }
            let idle_ms = now.wall.0 - connection.client.last_active_ms.load(Ordering::Relaxed);
            let may_idle = {
                let session = connection.session.borrow();
                session.is_subscribed() || session.is_replica
            };
            let is_waiting = !matches!(*connection.phase.borrow(), Phase::Ready);
            if settings.timeout_s > 0
                && idle_ms > settings.timeout_s as i64 * 1000
                && !may_idle
                && !is_waiting
            {
                connection.close(false);
            }
        }
    }

    /// A client that waits for keys which have gone to another shard runs its command again, and is told where to.
    fn redirect_waiter(self: &Rc<Self>, connection: &Rc<Connection<E>>, setting: &Setting) {
        let phase = connection.phase.borrow().clone();
        let Phase::Blocked(waiter) = phase else { return };
        let is_welcome = {
            let mut core = self.core.borrow_mut();
            let mut host = crate::host::RoundHost { shared: &self.shared };
            let turn = setting.turn(&self.shared, self.stats(), &mut core.local, &mut host, None);
            let session = connection.session.borrow();
            engine::admission::route(&turn, &session, &waiter.slots(), waiter.spec().command.flags).is_ok()
        };
        if !is_welcome {
            self.run_again(connection);
        }
    }

    /// Runs `f` with what commands run with, on nobody's behalf.
    pub(crate) fn with_turn<R>(&self, setting: &Setting, f: impl FnOnce(&mut Turn) -> R) -> R {
        let mut core = self.core.borrow_mut();
        let mut host = crate::host::RoundHost { shared: &self.shared };
        f(&mut setting.turn(&self.shared, self.stats(), &mut core.local, &mut host, None))
    }

    fn expire(self: &Rc<Self>, setting: &Setting) {
        // A primary of a cluster without a lease may have been replaced: its keys are not its to remove.
        if setting.view.is_some() && !setting.status.has_lease {
            return;
        }
        let workers = self.shared.mail.len();
        const KEYS_PER_ROUND_MAX: usize = 20_000;
        let mut core = self.core.borrow_mut();
        let Core { local, expire_cursor, .. } = &mut *core;
        let mut host = crate::host::RoundHost { shared: &self.shared };
        let mut gate = self.gate.borrow_mut();
        let Some(_inside) = gate.enter_soon() else { return };
        if self.shared.state.is_replica.load(Ordering::Relaxed) {
            return;
        }
        let mut turn = setting.turn(&self.shared, self.stats(), local, &mut host, None);
        let (cursor, _) =
            engine::expire::cycle(&mut turn, self.index, workers, *expire_cursor, KEYS_PER_ROUND_MAX);
        *expire_cursor = cursor;
        // The limit may have been lowered, or raised since the round began. Whether there is room is the next write's
        // business.
        if self.shared.settings().engine.maxmemory == turn.settings.maxmemory {
            let _ = evict::make_room(&mut turn);
        }
    }

    /// The counters of this worker.
    #[inline]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
