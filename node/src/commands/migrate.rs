//! MIGRATE: keys to another server. The key-by-key way in which older tools reshard.
//!
//! Invariant: while a key is on its way nobody reads or writes its slot here, so that it is at one place at any time.

use super::Functions;
use super::migrate_links::{self as links, Target};
use crate::env::Env;
use crate::host::HostCx;
use crate::shared::Shared;
use engine::spec::{Arg, Command, Group, Handler, KeySpec, acl, flag, key};
use engine::{Args, Error, HostOutcome, purge};
use proto::Slot;
use proto::resp::{Value, encode_command};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::Ownership;
use storage::rdb::{Format, dump};

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
    target: Target,
    db: u16,
    target_db: i64,
    timeout: Duration,
    is_copy: bool,
    is_replace: bool,
    keys: Vec<Vec<u8>>,
    /// A cluster's target takes keys of a slot that it does not own yet.
    verb: &'static [u8],
}

fn parse<E: Env>(cx: &HostCx<E>) -> Result<Request, Error> {
    let settings = cx.host.setting.settings;
    let target_db = cx.int(4).map_err(|_| Error::NotInteger)?;
    let timeout_ms = cx.int(5).map_err(|_| Error::NotInteger)?;
    let mut request = Request {
        target: Target {
            host: cx.text(1),
            port: cx.text(2).parse().map_err(|_| Error::NotInteger)?,
            login: Vec::new(),
        },
        db: cx.session.db,
        target_db,
        timeout: Duration::from_millis(if timeout_ms <= 0 { 1000 } else { timeout_ms as u64 }),
        is_copy: false,
        is_replace: false,
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
            request.target.login = vec![cx.args[i + 1].to_vec()];
            i += 1;
        } else if cx.is_word(i, "AUTH2") && left >= 2 {
            request.target.login = vec![cx.args[i + 1].to_vec(), cx.args[i + 2].to_vec()];
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
        let done = send(&shared, &request).await;
        drop(pause);
        ticket.answer(|out| match done {
            Ok(0) => out.simple("NOKEY"),
            Ok(_) => out.ok(),
            Err(text) => out.error(&text),
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
    let (mut commands, mut sent) = (Vec::new(), Vec::new());
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
        encode_command(&words, &mut commands);
        sent.push(name.clone());
    }
    if sent.is_empty() {
        return Ok(0);
    }
    let (commands, count) = (Arc::new(commands), sent.len());
    let ask = links::Request { db: request.target_db, commands, count, timeout: request.timeout };
    let answer = links::ask(shared, &request.target, ask).await;
    if !request.is_copy {
        let has_arrived = |(_, reply): &(&Vec<u8>, &Value)| !reply.is_error();
        let arrived: Vec<Vec<u8>> =
            sent.iter().zip(&answer.replies).filter(has_arrived).map(|(key, _)| key.clone()).collect();
        delete(shared, request.db, &arrived);
    }
    // Redis: what the target says goes before what became of the connection.
    match answer.replies.iter().find_map(links::failure).or(answer.error) {
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
