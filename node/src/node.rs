//! A node from start to end: what it is made of and who runs where.

use crate::clients::Clients;
use crate::commands;
use crate::config::{Config, NodeSettings};
use crate::control::ControlHandle;
use crate::env::Env;
use crate::mail::{Letter, Mail};
use crate::persist::{self, Persist, PersistHandle, PersistRequest};
use crate::pubsub::PubSub;
use crate::replica::ReplicationState;
use crate::shared::{Counters, Shared, State};
use crate::worker::Worker;
use arc_swap::{ArcSwap, ArcSwapOption};
use engine::Engine;
use engine::stats::Stats;
use proto::{Offset, ReplId, Slot};
use replication::feed::Feed;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::Keyspace;

/// The feed, as the engine sees it.
struct EngineFeed(Arc<Feed>);

impl engine::Feed for EngineFeed {
    fn is_attached(&self) -> bool {
        self.0.is_attached()
    }
    fn append(&self, slot: Option<Slot>, unit: &engine::Unit) -> u64 {
        if !self.0.is_attached() {
            return self.0.end().0;
        }
        let ops: smallvec::SmallVec<[(u16, &[u8]); 4]> = unit.ops().collect();
        self.0.append(slot, ops.as_slice()).0
    }
}

/// Runs a node until it is told to end. `Err`: it could not start.
pub async fn run<E: Env>(env: E, config: Config) -> Result<(), String> {
    let (_sender, signals) = tokio::sync::mpsc::unbounded_channel();
    run_until(env, config, signals).await
}

/// A request from outside to end.
#[derive(Clone, Copy, Debug)]
pub struct EndSignal {
    /// `shutdown-on-sigterm` or `shutdown-on-sigint`, which says how.
    pub directive: &'static str,
}

/// As [`run`]; `signals` end it as well.
pub async fn run_until<E: Env>(
    env: E,
    config: Config,
    signals: tokio::sync::mpsc::UnboundedReceiver<EndSignal>,
) -> Result<(), String> {
    let settings = NodeSettings::from(&config);
    let workers = match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let (shared, persist_inbox, control_inbox) = build(env, config, settings, workers);
    let _supply = shared.env.has_side_threads().then(|| crate::supply::start(&shared));
    crate::users::load_at_start(&shared)?;
    shared.clients.bytes_max.store(shared.settings().clients_bytes_max, Ordering::Relaxed);
    shared.state.is_loading.store(true, Ordering::Release);
    // As soon as may be: who saw the process start connects.
    let listening = crate::listen::Listening::start(&shared).await?;
    measure_ticks(&shared);
    for index in 0..workers {
        let shared_ = shared.clone();
        let main = move || -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move { Worker::new(shared_, index).run().await })
        };
        shared.env.spawn_thread(&format!("worker-{index}"), Box::new(main));
    }
    tokio::task::spawn_local(rounds(shared.clone()));
    tokio::task::spawn_local(listening.run());
    tokio::task::spawn_local(sample(shared.clone()));
    tokio::task::spawn_local(obey(shared.clone(), signals));
    let result = serve(&shared, persist_inbox, control_inbox).await;
    shared.mail.iter().for_each(|m| m.post(Letter::Stop));
    result
}

/// Tells the workers when it is time for background work: expiry, limits, statistics. They have no clock of their own for
/// it: a thread that waits until some time costs the kernel more than one that waits for what comes.
async fn rounds<E: Env>(shared: Arc<Shared<E>>) {
    const ROUND: Duration = Duration::from_millis(100);
    loop {
        tokio::time::sleep(ROUND).await;
        shared.mail.iter().for_each(|mail| mail.post_round());
    }
}

/// Loads, and serves until the node ends. Clients may connect already, and are told that data are loaded.
async fn serve<E: Env>(
    shared: &Arc<Shared<E>>,
    persist_inbox: persist::PersistInbox<E::Socket>,
    control_inbox: crate::control::ControlInbox,
) -> Result<(), String> {
    let Some(persist) = Persist::start(shared.clone(), persist_inbox).await? else { return Ok(()) };
    shared.apply_config();
    tokio::task::spawn_local(crate::compact::run(shared.clone()));
    crate::replica::start(shared);
    tokio::task::spawn_local(crate::replica::run(shared.clone()));
    if shared.settings().is_cluster {
        tokio::task::spawn_local(control(shared.clone(), control_inbox));
        while shared.view.load().is_none() {
            shared.adopted.notified().await;
        }
        tokio::task::spawn_local(crate::migrate::run(shared.clone()));
    } else {
        shared.state.is_loading.store(false, Ordering::Release);
    }
    shared.env.has_started();
    tracing::info!("Ready to accept connections");
    persist.run().await;
    Ok(())
}

/// Redis obeys a signal at a turn of its timer, until which SHUTDOWN ABORT takes it back. Here it is obeyed at once, but
/// while the timers stand still (DEBUG PAUSE-CRON). False: it was taken back.
async fn has_gone_on<E: Env>(shared: &Shared<E>) -> bool {
    const LOOK: std::time::Duration = std::time::Duration::from_millis(5);
    let gone_on = async {
        while shared.state.is_cron_paused.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
        }
    };
    shared.persist.shutdown.wait(gone_on).await.is_some()
}

async fn obey<E: Env>(shared: Arc<Shared<E>>, mut signals: tokio::sync::mpsc::UnboundedReceiver<EndSignal>) {
    while let Some(signal) = signals.recv().await {
        if shared.state.is_cron_paused.load(Ordering::Relaxed) && !has_gone_on(&shared).await {
            continue;
        }
        let words = shared.config().get(signal.directive).to_string();
        let has = |word: &str| words.split_whitespace().any(|w| w.eq_ignore_ascii_case(word));
        let save = if has("save") {
            Some(true)
        } else if has("nosave") {
            Some(false)
        } else {
            None
        };
        shared.persist.request(PersistRequest::ShutDown {
            ticket: None,
            save,
            is_now: has("now"),
            is_forced: has("force"),
        });
    }
}

pub(crate) type Built<E> = (
    Arc<Shared<E>>,
    persist::PersistInbox<<E as Env>::Socket>,
    tokio::sync::mpsc::UnboundedReceiver<crate::control::ControlRequest>,
);

pub(crate) fn build<E: Env>(env: E, config: Config, mut settings: NodeSettings, workers: usize) -> Built<E> {
    settings.engine.thresholds.hash_seed = env.rand();
    let random_id = || {
        let mut id = [0u8; 20];
        id.chunks_mut(8).for_each(|c| c.copy_from_slice(&env.rand().to_le_bytes()[..c.len()]));
        id
    };
    let feed = Arc::new(Feed::new(Offset(0), settings.backlog_bytes));
    let keyspace = Arc::new(Keyspace::new(settings.engine.databases, [env.rand(), env.rand()]));
    let table = commands::renamed(&config.renames).expect("the loader has tried");
    let users = crate::users::Users::new(&table);
    let (persist, persist_inbox) = PersistHandle::new();
    let (control, control_inbox) = ControlHandle::new(settings.is_cluster);
    let state = State::default();
    state.is_expiring.store(true, Ordering::Relaxed);
    // One for each worker, one for each one's side thread, and one for the control thread, which applies a primary's
    // stream.
    let stats = (0..2 * workers + 2).map(|_| Arc::new(Stats::new(table.len()).into())).collect();
    let functions = table.specs().iter().map(|s| commands::function::<E>(&s.full_name)).collect();
    let shared = Shared {
        engine: Engine {
            keyspace,
            table,
            feed: Arc::new(EngineFeed(feed.clone())),
            scripts: Default::default(),
        },
        functions,
        feed,
        config: Mutex::new(config),
        settings: ArcSwap::from_pointee(settings),
        view: ArcSwapOption::empty(),
        topology: ArcSwapOption::empty(),
        adopted: tokio::sync::Notify::new(),
        state,
        clients: Clients::default(),
        users,
        observe: Default::default(),
        debugging: Default::default(),
        tracking: Default::default(),
        pause: Default::default(),
        pubsub: PubSub::default(),
        mail: (0..workers).map(|_| Arc::new(Mail::default())).collect(),
        load: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        crew: crate::crew::Crew::new(workers),
        stats,
        counters: Counters::default(),
        started: env.now(),
        run_id: ReplId(random_id()).to_string(),
        control,
        persist,
        disposal: Default::default(),
        listening: Default::default(),
        tls: ArcSwapOption::empty(),
        replication: ReplicationState::new(ReplId(random_id())),
        migrations: crate::migrate::Migrations::default(),
        migrate_links: Default::default(),
        messages: Default::default(),
        env,
    };
    (Arc::new(shared), persist_inbox, control_inbox)
}

/// Runs the cluster side; a node whose cluster side cannot go on must not go on either.
async fn control<E: Env>(shared: Arc<Shared<E>>, inbox: crate::control::ControlInbox) {
    if let Err(error) = crate::control::run(shared.clone(), inbox).await {
        tracing::error!("{error}");
        shared.env.exit(1);
    }
}

/// How fast the counter runs that commands are measured with; [`sample`] measures it better by and by.
fn measure_ticks<E: Env>(shared: &Shared<E>) {
    let (ticks, at) = ((shared.env.ticks())(), shared.env.now().mono);
    shared.env.stall(std::time::Duration::from_millis(2));
    let ticks = (shared.env.ticks())().wrapping_sub(ticks);
    let micros = (shared.env.now().mono.since(at).as_micros() as u64).max(1);
    shared.counters.ticks_per_us.store((ticks / micros).max(1), Ordering::Relaxed);
    shared.renew_observe();
}

/// Rates that INFO shows.
async fn sample<E: Env>(shared: Arc<Shared<E>>) {
    const PERIOD: std::time::Duration = std::time::Duration::from_millis(1000);
    let (mut before, mut ticks_before, mut at) = ([0u64; 3], (shared.env.ticks())(), shared.env.now().mono);
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = shared.env.now().mono;
        let micros = (now.since(at).as_micros() as u64).max(1);
        let counters = &shared.counters;
        let total = shared.total_stats();
        let counts = [
            total.commands.iter().map(|c| c.calls.get()).sum(),
            counters.net_in.load(Ordering::Relaxed) + total.net_in.get(),
            counters.net_out.load(Ordering::Relaxed) + total.net_out.get(),
        ];
        let rates = [&counters.ops_per_s, &counters.bytes_in_per_s, &counters.bytes_out_per_s];
        for ((rate, count), before) in rates.into_iter().zip(counts).zip(before) {
            // After CONFIG RESETSTAT it is less than it was.
            rate.store(count.saturating_sub(before) * 1_000_000 / micros, Ordering::Relaxed);
        }
        let ticks = (shared.env.ticks())();
        shared
            .counters
            .ticks_per_us
            .store((ticks.wrapping_sub(ticks_before) / micros).max(1), Ordering::Relaxed);
        shared.renew_observe();
        crate::memory::renew_peak(
            &shared,
            crate::memory::used_bytes(&shared, &crate::memory::Beside::of(&shared)),
        );
        (before, ticks_before, at) = (counts, ticks, now);
    }
}
