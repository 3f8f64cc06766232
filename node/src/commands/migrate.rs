//! MIGRATE: keys to another server, one connection per call. The key-by-key way in which older tools reshard.
//!
//! Invariant: while a key is on its way nobody reads or writes its slot here, so that it is at one place at any time.

use super::Functions;
use crate::env::Env;
use crate::host::HostCx;
use crate::shared::Shared;
use engine::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};
use engine::{Args, Error, HostOutcome, purge};
use proto::Slot;
use proto::resp::{Value, decode, encode_command};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::Ownership;
use storage::rdb::{Format, dump};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Outcome = Result<HostOutcome, Error>;

pub static COMMANDS: &[Command] = &[Command {
    name: "migrate",
    summary: "Moves keys to another server.",
    since: "2.6.0",
    group: Group::Generic,
    complexity: "O(N) where N is the size of the values that are moved.",
    arity: -6,
    flags: flag::WRITE | flag::NO_MULTI | flag::NOSCRIPT,
    acl: acl::KEYSPACE | acl::DANGEROUS,
    keys: &[
        KeySpec::one(3, key::RW | key::ACCESS | key::DELETE | key::INCOMPLETE | key::NOT_EMPTY),
        KeySpec {
            begin: engine::spec::Begin::Keyword { word: "KEYS", start: -2 },
            find: engine::spec::Find::Range { last: -1, step: 1, limit: 0 },
            flags: key::RW | key::ACCESS | key::DELETE | key::INCOMPLETE,
        },
    ],
    args: &[
        Arg::string("host"),
        Arg::integer("port"),
        Arg::one_of("key-selector", &[Arg::key("key", 0), Arg::word("empty-string", "\"\"")]),
        Arg::integer("destination-db"),
        Arg::integer("timeout"),
        Arg::word("copy", "COPY").since("3.0.0").optional(),
        Arg::word("replace", "REPLACE").since("3.0.0").optional(),
        Arg::one_of(
            "authentication",
            &[
                Arg::string("password").token("AUTH").since("4.0.7"),
                Arg::block("auth2", &[Arg::string("username"), Arg::string("password")])
                    .token("AUTH2")
                    .since("6.0.0"),
            ],
        )
        .optional(),
        Arg::key("keys", 1).token("KEYS").since("3.0.6").multiple().optional(),
    ],
    tips: &["nondeterministic_output"],
    is_secret: Some(is_secret),
    run: Handler::Host,
    ..Command::BASE
}];

/// What follows AUTH and AUTH2, up to KEYS.
fn is_secret(args: Args, index: usize) -> bool {
    let mut i = 6;
    while i < args.len() && !args[i].eq_ignore_ascii_case(b"KEYS") {
        let secrets = match () {
            _ if args[i].eq_ignore_ascii_case(b"AUTH") => 1,
            _ if args[i].eq_ignore_ascii_case(b"AUTH2") => 2,
            _ => 0,
        };
        if index > i && index <= i + secrets {
            return true;
        }
        i += 1 + secrets;
    }
    false
}

/// What a call asks for.
struct Request {
    host: String,
    port: u16,
    db: u16,
    target_db: i64,
    timeout: Duration,
    is_copy: bool,
    is_replace: bool,
    login: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
    /// A cluster's target takes keys of a slot that it does not own yet.
    verb: &'static [u8],
}

fn parse<E: Env>(cx: &HostCx<E>) -> Result<Request, Error> {
    let settings = cx.host.setting.settings;
    let target_db = cx.int(4).map_err(|_| Error::NotInteger)?;
    let timeout_ms = cx.int(5).map_err(|_| Error::NotInteger)?;
    let mut request = Request {
        host: cx.text(1),
        port: cx.text(2).parse().map_err(|_| Error::NotInteger)?,
        db: cx.session.db,
        target_db,
        timeout: Duration::from_millis(if timeout_ms <= 0 { 1000 } else { timeout_ms as u64 }),
        is_copy: false,
        is_replace: false,
        login: Vec::new(),
        keys: vec![cx.args[3].to_vec()],
        verb: if settings.is_cluster { b"RESTORE-ASKING" } else { b"RESTORE" },
    };
    let mut i = 6;
    while i < cx.args.len() {
        let left = cx.args.len() - i - 1;
        if cx.is_word(i, "COPY") {
            request.is_copy = true;
        } else if cx.is_word(i, "REPLACE") {
            request.is_replace = true;
        } else if cx.is_word(i, "AUTH") && left >= 1 {
            request.login = vec![cx.args[i + 1].to_vec()];
            i += 1;
        } else if cx.is_word(i, "AUTH2") && left >= 2 {
            request.login = vec![cx.args[i + 1].to_vec(), cx.args[i + 2].to_vec()];
            i += 2;
        } else if cx.is_word(i, "KEYS") && left >= 1 {
            if !cx.args[3].is_empty() {
                return Err(Error::text(
                    "ERR When using MIGRATE KEYS option, the key argument must be set to the empty string",
                ));
            }
            request.keys = cx.args[i + 1..].iter().map(|k| k.to_vec()).collect();
            break;
        } else {
            return Err(Error::Syntax);
        }
        i += 1;
    }
    Ok(request)
}

fn migrate<E: Env>(cx: &mut HostCx<E>) -> Outcome {
    let request = parse(cx)?;
    let shared = cx.shared().clone();
    if let Some(view) = cx.host.setting.view {
        let slots: std::collections::BTreeSet<Slot> = request.keys.iter().map(|k| Slot::of_key(k)).collect();
        if slots.len() > 1 {
            return Err(Error::CrossSlot);
        }
        let is_mine = slots.iter().all(|s| view.owner(*s).is_some_and(|n| n.id == view.myself));
        if !is_mine || !cx.host.setting.status.has_lease {
            return Err(Error::text("ERR The keys' slot is not served by this node"));
        }
    }
    let pause = Pause::begin(&shared, &request.keys)?;
    let ticket = cx.ticket();
    tokio::task::spawn_local(async move {
        let timeout = request.timeout;
        let done = tokio::time::timeout(timeout, send(&shared, &request)).await;
        drop(pause);
        ticket.answer(|out| match done {
            Ok(Ok(0)) => out.simple("NOKEY"),
            Ok(Ok(_)) => out.ok(),
            Ok(Err(text)) => out.error(&text),
            Err(_) => out.error("IOERR error or timeout reading from target instance"),
        });
    });
    Ok(HostOutcome::Later)
}

/// Slots that wait; dropping it serves them again.
struct Pause<E: Env> {
    shared: Arc<Shared<E>>,
    slots: Vec<Slot>,
}

impl<E: Env> Pause<E> {
    fn begin(shared: &Arc<Shared<E>>, keys: &[Vec<u8>]) -> Result<Pause<E>, Error> {
        let mut slots: Vec<Slot> = keys.iter().map(|k| Slot::of_key(k)).collect();
        slots.sort_unstable();
        slots.dedup();
        let mut pause = Pause { shared: shared.clone(), slots: Vec::new() };
        for slot in slots {
            let mut guard = shared.engine.keyspace.lock_wait(slot);
            if guard.state().ownership != Ownership::Serving {
                return Err(Error::text("TRYAGAIN A slot of the keys is on its way already"));
            }
            guard.state_mut().ownership = Ownership::Paused;
            pause.slots.push(slot);
        }
        Ok(pause)
    }
}

impl<E: Env> Drop for Pause<E> {
    fn drop(&mut self) {
        for slot in &self.slots {
            let mut guard = self.shared.engine.keyspace.lock_wait(*slot);
            guard.state_mut().ownership = Ownership::Serving;
        }
    }
}

/// Sends the keys and deletes what arrived. Returns how many there were. `Err`: the text for the client; keys that the
/// target did not confirm are still here.
async fn send<E: Env>(shared: &Arc<Shared<E>>, request: &Request) -> Result<usize, String> {
    let now_ms = shared.env.now().wall.0;
    let (mut out, mut sent, mut heads) = (Vec::new(), Vec::new(), 0);
    if !request.login.is_empty() {
        let mut login: Vec<&[u8]> = vec![b"AUTH"];
        login.extend(request.login.iter().map(|w| w.as_slice()));
        encode_command(&login, &mut out);
        heads += 1;
    }
    if request.target_db != 0 {
        encode_command(&[b"SELECT".as_slice(), request.target_db.to_string().as_bytes()], &mut out);
        heads += 1;
    }
    for name in &request.keys {
        let guard = shared.engine.keyspace.lock_wait(Slot::of_key(name));
        let Some(entry) = guard.db(request.db).get(name, shared.engine.keyspace.hash(name)) else { continue };
        let ttl = match entry.expire_ms() {
            Some(at) if at <= now_ms => continue,
            Some(at) => at - now_ms,
            None => 0,
        };
        let payload = dump(entry.value(), &Format::default());
        let mut words: Vec<&[u8]> = vec![request.verb, name];
        let ttl = ttl.to_string();
        words.extend([ttl.as_bytes(), &payload]);
        if request.is_replace {
            words.push(b"REPLACE");
        }
        encode_command(&words, &mut out);
        sent.push(name.clone());
    }
    if sent.is_empty() {
        return Ok(0);
    }
    let target = |e: std::io::Error| format!("IOERR error or timeout talking to the target instance: {e}");
    let is_tls = shared.settings().is_cluster_tls;
    let connect = crate::tls::connect(shared, "", &request.host, request.port, is_tls);
    let mut stream = connect.await.map_err(target)?;
    stream.write_all(&out).await.map_err(target)?;
    let (mut input, mut chunk, mut replies) = (Vec::new(), vec![0u8; 16 * 1024], Vec::new());
    while replies.len() < heads + sent.len() {
        match decode(&input) {
            Ok(Some((value, used))) => {
                input.drain(..used);
                replies.push(value);
            }
            Ok(None) => match stream.read(&mut chunk).await.map_err(target)? {
                0 => return Err("IOERR error or timeout reading from target instance".into()),
                n => input.extend_from_slice(&chunk[..n]),
            },
            Err(error) => return Err(format!("IOERR {}", error.0)),
        }
    }
    let failure = |v: &Value| match v {
        Value::Error(text) => Some(format!("ERR Target instance replied with error: {text}")),
        _ => None,
    };
    if let Some(text) = replies[..heads].iter().find_map(failure) {
        return Err(text);
    }
    let arrived: Vec<Vec<u8>> =
        sent.iter().zip(&replies[heads..]).filter(|(_, v)| !v.is_error()).map(|(k, _)| k.clone()).collect();
    if !request.is_copy {
        delete(shared, request.db, &arrived);
    }
    match replies[heads..].iter().find_map(failure) {
        Some(text) => Err(text),
        None => Ok(sent.len()),
    }
}

fn delete<E: Env>(shared: &Shared<E>, db: u16, keys: &[Vec<u8>]) {
    let mut by_slot: BTreeMap<Slot, Vec<&[u8]>> = BTreeMap::new();
    keys.iter().for_each(|k| by_slot.entry(Slot::of_key(k)).or_default().push(k));
    let mut gate = shared.engine.keyspace.gate().register();
    let _inside = gate.enter_wait();
    for (slot, keys) in by_slot {
        purge::delete(&shared.engine, slot, db, &keys);
    }
}

pub fn functions<E: Env>() -> Functions<E> {
    &[("migrate", migrate::<E>)]
}
