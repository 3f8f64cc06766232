//! An engine for tests: one line in, the reply's bytes out; time stands still until it is moved.

use crate::blocking::Mailbox;
use crate::propagate::{Feed, Unit};
use crate::stats::Stats;
use crate::turn::{Host, HostOutcome, Local, Status, Turn};
use crate::{Args, Engine, Error, Outcome, Session, Settings, Spec, Table, execute};
use proto::resp::{Reply, split_inline};
use proto::{Mono, Now, Slot, WallMs};
use std::any::Any;
use std::sync::{Arc, Mutex};
use storage::{GateClosed, Keyspace};

/// What was replayed: one text a unit, commands joined by `; `.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<String>>);

impl Feed for Recorder {
    fn is_attached(&self) -> bool {
        true
    }
    fn append(&self, _slot: Option<Slot>, unit: &Unit) -> u64 {
        let text = |bytes: &[u8]| {
            let (value, _) = proto::resp::decode(bytes).unwrap().unwrap();
            let words: Vec<String> = value
                .as_list()
                .unwrap()
                .iter()
                .map(|v| String::from_utf8_lossy(v.as_bytes().unwrap()).into_owned())
                .collect();
            words.join(" ")
        };
        let commands: Vec<String> = unit.ops().map(|(_, bytes)| text(bytes)).collect();
        let mut units = self.0.lock().unwrap();
        units.push(commands.join("; "));
        units.len() as u64
    }
}

/// Replies for clients that waited: session and text.
#[derive(Default)]
pub struct Letters(pub Mutex<Vec<(u64, String)>>);

impl Mailbox for Letters {
    fn deliver(&self, session: u64, reply: Vec<u8>, _written: u64) {
        self.0.lock().unwrap().push((session, String::from_utf8_lossy(&reply).into_owned()));
    }
    fn retry(&self, session: u64) {
        self.0.lock().unwrap().push((session, "retry".into()));
    }
}

#[derive(Default)]
struct NoHost {
    published: Vec<String>,
}

impl Host for NoHost {
    fn run(
        &mut self,
        spec: &'static Spec,
        _args: Args,
        _session: &mut Session,
        _out: &mut Reply,
    ) -> Result<HostOutcome, Error> {
        panic!("{} needs a node", spec.full_name)
    }
    fn dispose(&mut self, garbage: Vec<Box<dyn Any + Send>>) {
        drop(garbage);
    }
    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.published.push(format!(
            "{} {}",
            String::from_utf8_lossy(channel),
            String::from_utf8_lossy(message)
        ));
    }
}

/// A lone engine with one client.
pub struct Runner {
    pub engine: Engine,
    pub settings: Settings,
    pub status: Status,
    pub beside_bytes: u64,
    pub now_ms: i64,
    /// The cluster that the node is part of.
    pub cluster: Option<Arc<proto::ClusterView>>,
    pub session: Session,
    pub letters: Arc<Letters>,
    feed: Arc<Recorder>,
    host: NoHost,
    stats: Stats,
    local: Local,
}

impl Default for Runner {
    fn default() -> Runner {
        let feed = Arc::new(Recorder::default());
        let table = Table::new(crate::commands::all());
        let letters = Arc::new(Letters::default());
        let local = Local::new(42, letters.clone());
        let stats = Stats::new(table.len());
        Runner {
            engine: Engine {
                keyspace: Arc::new(Keyspace::new(16, [1, 2])),
                table,
                feed: feed.clone(),
                scripts: Default::default(),
            },
            settings: Settings::default(),
            status: Status::default(),
            beside_bytes: 0,
            now_ms: 1_700_000_000_000,
            cluster: None,
            session: Session::new(1),
            letters,
            feed,
            host: NoHost::default(),
            stats,
            local,
        }
    }
}

impl Runner {
    /// Runs a line as the runner's own client; gives the reply as it stands on the wire.
    pub fn run(&mut self, line: &str) -> String {
        let mut session = std::mem::replace(&mut self.session, Session::new(0));
        let reply = self.run_as(&mut session, line);
        self.session = session;
        reply
    }

    /// Runs a line as another client. A client that waits gets no reply: the text `blocked`.
    pub fn run_as(&mut self, session: &mut Session, line: &str) -> String {
        let words = split_inline(line.as_bytes()).expect("a line of words");
        let args: Vec<&[u8]> = words.iter().map(|w| w.as_slice()).collect();
        let mut out = Reply::new(session.is_resp3);
        let keyspace = self.engine.keyspace.clone();
        let closed;
        let outcome = match self.attempt(session, &args, &mut out, None) {
            Outcome::NeedsGate => {
                closed = keyspace.gate().close();
                self.attempt(session, &args, &mut out, Some(&closed))
            }
            outcome => outcome,
        };
        match outcome {
            Outcome::Blocked(_) => "blocked".into(),
            Outcome::Done => String::from_utf8_lossy(&out.take()).into_owned(),
            Outcome::Busy(slot) => panic!("slot {slot} is held"),
            _ => panic!("only a node answers later"),
        }
    }

    /// Runs a command of binary arguments as the runner's own client.
    pub fn run_args(&mut self, args: &[&[u8]]) -> String {
        String::from_utf8_lossy(&self.run_bytes(args)).into_owned()
    }
    fn run_bytes(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let (outcome, reply) = self.answer(args);
        assert!(matches!(outcome, Outcome::Done));
        reply
    }
    /// What becomes of a command, and the bytes of its reply.
    pub fn answer(&mut self, args: &[&[u8]]) -> (Outcome, Vec<u8>) {
        let mut session = std::mem::replace(&mut self.session, Session::new(0));
        let mut out = Reply::new(session.is_resp3);
        let mut outcome = self.attempt(&mut session, args, &mut out, None);
        if let Outcome::NeedsGate = outcome {
            let keyspace = self.engine.keyspace.clone();
            let closed = keyspace.gate().close();
            outcome = self.attempt(&mut session, args, &mut out, Some(&closed));
        }
        self.session = session;
        (outcome, out.take())
    }
    /// As [`Runner::answer`], in a lane. `None`: it is none for a lane at present.
    pub fn answer_in_lane(&mut self, args: &[&[u8]]) -> Option<Vec<u8>> {
        let mut session = std::mem::replace(&mut self.session, Session::new(0));
        let mut out = Reply::new(session.is_resp3);
        let mut raw = Vec::new();
        proto::resp::encode_command(args, &mut raw);
        let mut turn = self.turn(None);
        let spec = turn.engine.table.resolve(args).expect("a command");
        let mut ahead = Vec::new();
        spec.keys_ahead(args.len()).each(|at| ahead.push(turn.engine.keyspace.key_ahead(args[at])));
        let mut lane = crate::Lane::open(&mut turn, &session, &mut out).expect("nothing is special");
        let outcome = lane.run(&mut turn, &mut session, spec, &ahead, args, &raw, &mut out);
        lane.close(&mut turn);
        self.session = session;
        outcome.map(|outcome| {
            assert!(matches!(outcome, Outcome::Done));
            out.take()
        })
    }
    /// What becomes of a command whose slots may be held, with the gate open.
    pub fn first_attempt(&mut self, args: &[&[u8]]) -> Outcome {
        let mut session = std::mem::replace(&mut self.session, Session::new(0));
        let outcome = self.attempt(&mut session, args, &mut Reply::new(false), None);
        self.session = session;
        outcome
    }
    /// The bytes of a reply that is a string.
    pub fn bytes_of(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let reply = self.run_bytes(args);
        let (value, _) = proto::resp::decode(&reply).unwrap().unwrap();
        value.as_bytes().unwrap().to_vec()
    }
    /// Keys that were looked up so far: those that were there, and those that were not.
    pub fn looked_up(&self) -> (u64, u64) {
        (self.stats.hits.get(), self.stats.misses.get())
    }
    /// Error replies so far, by code.
    pub fn error_codes(&self) -> Vec<(String, u64)> {
        self.stats.error_codes().iter().map(|(code, n)| (code.clone(), *n)).collect()
    }
    /// Runs a script without keys.
    pub fn eval(&mut self, script: &str) -> String {
        self.run_args(&[b"EVAL", script.as_bytes(), b"0"])
    }
    /// Runs EVAL with a debugger. `is_on_copies`: asynchronously.
    pub fn debug(
        &mut self,
        args: &[&[u8]],
        debugger: std::rc::Rc<crate::script::debug::Debugger>,
        is_on_copies: bool,
    ) -> String {
        let mut session = std::mem::replace(&mut self.session, Session::new(0));
        let scripts = crate::script::LocalScripts::new(42);
        let plain = std::mem::replace(&mut self.local.scripts, scripts);
        self.local.scripts.debugger = Some(debugger.clone());
        let mut out = Reply::new(session.is_resp3);
        let keyspace = self.engine.keyspace.clone();
        let closed = (!is_on_copies).then(|| keyspace.gate().close());
        let outcome = match is_on_copies {
            false => self.attempt(&mut session, args, &mut out, closed.as_ref()),
            true => {
                let mut turn = self.turn(None);
                let spec = turn.engine.table.resolve(args).expect("a command");
                let seed = [3, 4];
                crate::script::debug::copies::execute_on_copies(
                    &mut turn,
                    &mut session,
                    spec,
                    args,
                    seed,
                    &mut out,
                )
            }
        };
        assert!(matches!(outcome, Outcome::Done));
        debugger.end();
        self.local.scripts = plain;
        self.session = session;
        String::from_utf8_lossy(&out.take()).into_owned()
    }
    /// The payload of DUMP.
    pub fn dump(&mut self, key: &str) -> Vec<u8> {
        self.bytes_of(&[b"DUMP", key.as_bytes()])
    }

    /// One round of the expiry cycle over all slots. Returns how much was removed.
    pub fn expire_cycle(&mut self) -> usize {
        let mut turn = self.turn(None);
        crate::expire::cycle(&mut turn, 0, 1, Default::default(), usize::MAX).1
    }

    /// What a batch begins with where memory is short.
    pub fn make_room(&mut self) -> Result<(), crate::Error> {
        crate::evict::make_room(&mut self.turn(None))
    }

    fn attempt(
        &mut self,
        session: &mut Session,
        args: Args,
        out: &mut Reply,
        exclusive: Option<&GateClosed<'_>>,
    ) -> Outcome {
        let mut turn = self.turn(exclusive);
        let resolved = turn.engine.table.resolve(args);
        execute(&mut turn, session, &resolved, args, None, out)
    }

    fn turn<'a>(&'a mut self, exclusive: Option<&'a GateClosed<'a>>) -> Turn<'a> {
        Turn {
            engine: &self.engine,
            settings: &self.settings,
            cluster: self.cluster.as_deref(),
            status: self.status,
            beside_bytes: self.beside_bytes,
            now: Now { mono: Mono(0), wall: WallMs(self.now_ms) },
            ticks: || 0,
            told_ticks: u64::MAX,
            is_tracked: false,
            is_script: false,
            may_move: false,
            first_key: None,
            watched: crate::admission::watched(&self.status, &self.settings),
            exclusive,
            passage: None,
            stats: &self.stats,
            local: &mut self.local,
            host: &mut self.host,
        }
    }

    /// What was replayed since the last call.
    pub fn replayed(&self) -> Vec<String> {
        std::mem::take(&mut self.feed.0.lock().unwrap())
    }
    /// Notifications since the last call.
    pub fn published(&mut self) -> Vec<String> {
        std::mem::take(&mut self.host.published)
    }
    /// Runs several lines and gives the last reply.
    pub fn all(&mut self, lines: &[&str]) -> String {
        lines.iter().map(|l| self.run(l)).last().unwrap_or_default()
    }
}

/// Runs lines on a fresh engine and gives the last reply.
pub fn run(lines: &[&str]) -> String {
    Runner::default().all(lines)
}
