//! One run of a script or function: what it is, whether it may run, its commands, its end. The checks and their texts
//! follow Redis 7.0's `script.c`.

use super::cache::{Script, ScriptFlags, parse_sha, sha_of};
use super::control::{End, Running};
use super::convert::{self, COUNTED, ScriptError, Writer};
use super::debug::Debugger;
use super::interpreter::{Finish, Interpreter, Invocation, Kind, MEMORY_MAX};
use super::library::Library;
use super::{LastRun, native};
use crate::acl::Context;
use crate::admission::{self, Route};
use crate::cx::Waiting;
use crate::execute::{self, Outcome};
use crate::keys::Keys;
use crate::locks::{Locks, Places};
use crate::spec::{Handler, flag};
use crate::table::Spec;
use crate::turn::Ran;
use crate::{Args, Engine, Error, Session, Turn, evict};
use mlua::{Function, Lua, MultiValue, Value};
use proto::Slot;
use proto::resp::Reply;
use smallvec::SmallVec;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The commands that run a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScriptCommand {
    Eval { is_sha: bool, is_ro: bool },
    Function { is_ro: bool },
}

impl ScriptCommand {
    fn is_ro(self) -> bool {
        match self {
            ScriptCommand::Eval { is_ro, .. } | ScriptCommand::Function { is_ro } => is_ro,
        }
    }
}

/// Looks for the slot's holder to go, before the script is given up. A slot is held for microseconds.
const LOCK_SPINS_MAX: usize = 2000;

const NO_SCRIPT: Error = Error::text("NOSCRIPT No matching script. Please use EVAL.");

/// Where a script's text is.
enum Source {
    Script(Arc<Script>),
    Library(Arc<Library>),
}

impl Source {
    fn needs_gate(&self) -> &std::sync::atomic::AtomicBool {
        match self {
            Source::Script(script) => &script.needs_gate,
            Source::Library(library) => &library.needs_gate,
        }
    }
    /// Its text has a loop.
    fn may_loop(&self) -> bool {
        match self {
            Source::Script(script) => script.may_loop,
            Source::Library(library) => library.may_loop,
        }
    }
}

/// A script that was found and compiled.
struct Prepared {
    source: Source,
    function: Function,
    /// SHA-1 of a script, or a function's name.
    name: Arc<str>,
    flags: ScriptFlags,
    is_ro: bool,
    kind: Kind,
    /// Places of its keys among the arguments.
    keys: Range<usize>,
}

/// How many keys the arguments declare.
fn count_keys(args: Args, not_a_number: Error) -> Result<Range<usize>, Error> {
    let count = crate::number::parse_i64(args[2]).ok_or(not_a_number)?;
    if count > args.len() as i64 - 3 {
        return Err(Error::text("ERR Number of keys can't be greater than number of args"));
    }
    match usize::try_from(count) {
        Ok(count) => Ok(3..3 + count),
        Err(_) => Err(Error::text("ERR Number of keys can't be negative")),
    }
}

fn prepare(turn: &mut Turn, command: ScriptCommand, args: Args) -> Result<Prepared, Error> {
    let is_ro = command.is_ro();
    match command {
        ScriptCommand::Eval { is_sha, .. } => {
            if is_sha && args[1].len() != 40 {
                return Err(NO_SCRIPT);
            }
            let keys = count_keys(args, Error::NotInteger)?;
            let script = find_script(turn.engine, args[1], is_sha)?;
            let vm = turn.local.scripts.vm(Kind::Eval, &turn.engine.scripts);
            let (script, function) = match vm.compiled(&script.sha) {
                Some(function) => (script, function),
                None => compile(turn, script, false)?,
            };
            Ok(Prepared {
                name: script.name.clone(),
                flags: script.flags,
                source: Source::Script(script),
                function,
                is_ro,
                kind: Kind::Eval,
                keys,
            })
        }
        ScriptCommand::Function { .. } => {
            let set = turn.engine.scripts.libraries.set();
            let found = set.function(args[1]).map(|(library, f)| (library.clone(), f.name.clone(), f.flags));
            let (library, name, flags) = found.ok_or(Error::text("ERR Function not found"))?;
            let keys = count_keys(args, Error::text("ERR Bad number of keys provided"))?;
            let vm = turn.local.scripts.vm(Kind::Function, &turn.engine.scripts);
            let function = vm.function(&library, &name)?;
            let source = Source::Library(library);
            Ok(Prepared { source, function, name: name.into(), flags, is_ro, kind: Kind::Function, keys })
        }
    }
}

/// Flags of a script's command, as the script says; as they are declared where it does not.
pub(crate) fn flags_of(engine: &Engine, command: ScriptCommand, args: Args, declared: u32) -> u32 {
    let flags = match command {
        ScriptCommand::Eval { is_sha, .. } => find_script(engine, args[1], is_sha).ok().map(|s| s.flags),
        ScriptCommand::Function { .. } => {
            engine.scripts.libraries.set().function(args[1]).map(|(_, function)| function.flags)
        }
    };
    flags
        .filter(|flags| !flags.has(ScriptFlags::COMPAT))
        .map_or(declared, |flags| flags.command_flags(declared))
}

fn find_script(engine: &Engine, text: &[u8], is_sha: bool) -> Result<Arc<Script>, Error> {
    let cache = &engine.scripts.cache;
    if is_sha {
        return parse_sha(text).and_then(|sha| cache.get(&sha)).ok_or(NO_SCRIPT);
    }
    match cache.get(&sha_of(text)) {
        Some(script) => Ok(script),
        None => new_script(engine, text),
    }
}

fn new_script(engine: &Engine, text: &[u8]) -> Result<Arc<Script>, Error> {
    let names_whole_db = |word: &[u8]| {
        engine.table.by_name(word).is_some_and(|s| s.has(flag::EXCLUSIVE | flag::WHOLE_DB | flag::ANY_KEY))
    };
    Script::new(text, names_whole_db).map(Arc::new).map_err(|text| Error::err(&text))
}

/// Compiles a script here, and puts it into the cache if it compiles.
fn compile(turn: &mut Turn, script: Arc<Script>, is_kept: bool) -> Result<(Arc<Script>, Function), Error> {
    let vm = turn.local.scripts.vm(Kind::Eval, &turn.engine.scripts);
    let function = vm
        .compile(&script)
        .map_err(|text| Error::err(&format!("Error compiling script (new function): {text}")))?;
    Ok((turn.engine.scripts.cache.insert(script, is_kept), function))
}

/// SCRIPT LOAD: returns the SHA-1.
pub fn load(turn: &mut Turn, text: &[u8]) -> Result<String, Error> {
    let script = match turn.engine.scripts.cache.get(&sha_of(text)) {
        Some(script) => script,
        None => new_script(turn.engine, text)?,
    };
    compile(turn, script, true).map(|(script, _)| script.name.to_string())
}

/// Whether a script of these flags may run here. Follows `scriptPrepareForRun`.
fn check(turn: &Turn, session: &Session, prepared: &Prepared, is_oom: bool) -> Result<(), Error> {
    let flags = prepared.flags;
    let status = &turn.status;
    let is_stale = status.is_replica && !status.is_link_up && !turn.settings.replica_serve_stale_data;
    if flags.has(ScriptFlags::COMPAT) {
        return match is_stale {
            true => Err(Error::text(
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            )),
            false => Ok(()),
        };
    }
    if flags.has(ScriptFlags::NO_CLUSTER) && turn.cluster.is_some() {
        return Err(Error::text("ERR Can not run script on cluster, 'no-cluster' flag is set."));
    }
    if is_stale && !flags.has(ScriptFlags::ALLOW_STALE) {
        return Err(Error::text(
            "MASTERDOWN Link with MASTER is down, replica-serve-stale-data is set to 'no' and 'allow-stale' flag is not set on the script.",
        ));
    }
    if !flags.has(ScriptFlags::NO_WRITES) {
        let is_refused = status.is_replica && turn.settings.replica_read_only && !session.is_primary_link;
        if is_refused && turn.cluster.is_none() {
            return Err(Error::text("READONLY Can not run script with write flag on readonly replica"));
        }
        if prepared.is_ro {
            return Err(Error::text("ERR Can not execute a script with write flag using *_ro command."));
        }
    }
    if is_oom && !flags.has(ScriptFlags::ALLOW_OOM | ScriptFlags::NO_WRITES) {
        return Err(Error::text(
            "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
        ));
    }
    Ok(())
}

/// Runs EVAL and its kin for a client.
pub(crate) fn execute(
    turn: &mut Turn,
    session: &mut Session,
    spec: &'static Spec,
    command: ScriptCommand,
    args: Args,
    out: &mut Reply,
) -> Result<Outcome, Error> {
    let debugger = turn.local.scripts.debugger.clone();
    debugger.iter().for_each(|debugger| debugger.open());
    let prepared = match prepare(turn, command, args) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(fail(turn, spec, &error, out)),
    };
    let flags = prepared.flags.command_flags(spec.command.flags);
    if turn.status.is_paused
        && !command.is_ro()
        && flags & (flag::WRITE | flag::MAY_REPLICATE) != 0
        && !session.is_primary_link
    {
        return Ok(Outcome::Busy(Slot::default()));
    }
    if !prepared.flags.has(ScriptFlags::COMPAT) {
        admission::admit_as(turn, session, spec, args, flags)?;
    }
    // Here, since no slot may be locked yet.
    let has_limit = turn.settings.maxmemory > 0 && !session.is_primary_link;
    let is_oom = has_limit && evict::make_room(turn).is_err();
    let slots = spec.slots(args).unwrap_or_default();
    let route = admission::route(turn, session, &slots, flags)?;
    if let Err(error) = check(turn, session, &prepared, is_oom) {
        return Ok(fail(turn, spec, &error, out));
    }
    let needs_gate = prepared.source.needs_gate().load(Ordering::Relaxed);
    if needs_gate && turn.exclusive.is_none() {
        return Ok(Outcome::NeedsGate);
    }
    let locks = match Locks::take_for(turn, &slots) {
        Ok(locks) => locks,
        Err(slot) => return execute::held(turn, slot),
    };
    admission::check_import(session)?;
    let mut keys = execute::keys(turn, session, locks);
    if let Some(slot) = execute::paused(&mut keys, session, &slots) {
        keys.give_back(turn);
        return Ok(Outcome::Busy(slot));
    }
    let brought = debugger.map_or(Ok(true), |debugger| debugger.bring(&mut keys, spec, args));
    let may_run = brought.and_then(|_| match *slots {
        [slot, ..] => admission::check_presence(turn, session, route, &mut keys, spec, args, slot),
        [] => Ok(()),
    });
    if let Err(error) = may_run {
        execute::conclude(turn, session, &mut keys, &slots);
        return Err(error);
    }
    let start = out.len();
    let (slots, retry) = invoke(turn, session, spec, &mut keys, &prepared, args, is_oom, slots, out);
    execute::conclude(turn, session, &mut keys, &slots);
    match retry {
        None => Ok(Outcome::Done),
        Some(retry) => {
            out.truncate(start);
            Ok(match retry {
                Retry::Gate => Outcome::NeedsGate,
                Retry::Elsewhere => Outcome::Elsewhere,
                Retry::Slot(slot) => Outcome::Busy(slot),
            })
        }
    }
}

/// Runs EVAL and its kin in a transaction, under its locks.
pub(crate) fn execute_queued<'g>(
    turn: &mut Turn<'g>,
    session: &mut Session,
    spec: &'static Spec,
    command: ScriptCommand,
    args: Args,
    keys: &mut Keys<'g>,
    out: &mut Reply,
) {
    let prepared = prepare(turn, command, args).and_then(|prepared| {
        // Room was made, or not, when EXEC came: here slots are locked.
        let is_oom = !turn.status.is_replica && evict::is_over(turn);
        check(turn, session, &prepared, is_oom).map(|()| (prepared, is_oom))
    });
    let prepared = prepared.map_err(|error| fail(turn, spec, &error, out));
    if let Ok((prepared, is_oom)) = prepared {
        let slots = spec.slots(args).unwrap_or_default();
        let start = out.len();
        let (_, retry) = invoke(turn, session, spec, keys, &prepared, args, is_oom, slots, out);
        if retry.is_some() {
            out.truncate(start);
            out.error(LATE);
        }
    }
}

fn fail(turn: &mut Turn, spec: &Spec, error: &Error, out: &mut Reply) -> Outcome {
    let stats = turn.stats;
    stats.commands[spec.id].calls.add(1);
    stats.commands[spec.id].failed.add(1);
    stats.count_error(error.code());
    out.error(&error.to_string());
    Outcome::Done
}

/// Why a run that changed nothing has to be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Retry {
    Gate,
    Elsewhere,
    Slot(Slot),
}

type Slots = SmallVec<[Slot; 4]>;

/// Runs the function; gives the slots whose keys it used, and whether it has to run again.
fn invoke<'g>(
    turn: &mut Turn<'g>,
    session: &mut Session,
    spec: &'static Spec,
    keys: &mut Keys<'g>,
    prepared: &Prepared,
    args: Args,
    is_oom: bool,
    slots: Slots,
    out: &mut Reply,
) -> (Slots, Option<Retry>) {
    let engine = turn.engine;
    let started = turn.local.ticked;
    turn.first_key = None;
    if turn.told_ticks == 0 {
        let begins = Ran { spec, args, ticks: 0, db: keys.db, is_script: turn.is_script, is_waiting: false };
        turn.host.begins(&begins);
    }
    turn.is_script = true;
    let is_eval = prepared.kind == Kind::Eval;
    let name = prepared.name.clone();
    let running = Arc::new(Running::new(name, is_eval, session.is_primary_link, turn.now.mono, args));
    engine.scripts.control.begin(&running);
    let debugger = turn.local.scripts.debugger.clone();
    if let Some(debugger) = &debugger {
        debugger.begin(&running, turn.settings.busy_reply_threshold_ms);
    }
    let vm = turn.local.scripts.take(prepared.kind);
    let db = keys.db;
    let mut run = Run {
        session: session.for_script(),
        vm: &vm,
        prepared,
        running: &running,
        is_oom,
        slots,
        out: Reply::new(false),
        retry: None,
        has_written: false,
        has_acted: false,
        has_read: false,
        debugger,
        turn,
        keys,
    };
    let invocation = Invocation {
        keys: &args[prepared.keys.clone()],
        argv: &args[prepared.keys.end..],
        running: &running,
        may_move: run.turn.may_move,
    };
    let finish = vm.run(&prepared.function, &invocation, |lua, what, values| {
        let values = if what & native::PACKED == 0 { values } else { unpacked(&values)? };
        match what & !native::PACKED {
            native::CHECK => acl_check(lua, engine, &run.session, run.debugger.as_deref(), &values),
            _ => run.call_from_lua(lua, &values),
        }
    });
    engine.scripts.control.end(&running);
    run.turn.is_script = false;
    if run.has_read && session.remembers_keys() {
        // What it read is told by the keys it declared.
        execute::remember_keys(run.turn, run.keys, spec, args);
    }
    let (mut retry, slots) = (run.retry, run.slots);
    let last = LastRun { has_acted: run.has_acted, may_loop: prepared.source.may_loop() };
    if matches!(finish, Finish::Moved) {
        retry = Some(Retry::Elsewhere);
    }
    keys.db = db;
    turn.local.scripts.last = last;
    if retry.is_none() {
        turn.local.lap(turn.ticks);
        let ticks = turn.local.ticked.wrapping_sub(started);
        let error = answer(&vm, finish, &prepared.name, running.is_stopped(), out);
        if ticks >= turn.told_ticks {
            execute::tell(turn, spec, args, ticks, db, false);
        }
        let stats = keys.stats.ran(spec.id, ticks);
        if let Some(code) = error {
            stats.failed.add(1);
            if !code.is_empty() {
                keys.stats.count_error(code);
            }
        }
    }
    for (level, line) in vm.take_log() {
        turn.host.log(level, &line);
    }
    // One that kept half of its memory would fail its next scripts: what it has compiled is compiled again.
    if vm.used_bytes() < MEMORY_MAX / 2 || vm.lua().gc_collect().is_ok() && vm.used_bytes() < MEMORY_MAX / 2 {
        turn.local.scripts.put_back(prepared.kind, vm, &engine.scripts);
    }
    (slots, retry)
}

/// Writes what a script ended with. Gives the code of an error; an empty one if it is counted already.
fn answer(vm: &Interpreter, finish: Finish, name: &str, is_stopped: bool, out: &mut Reply) -> Option<String> {
    let start = out.len();
    let plain = |out: &mut Reply, text: String| {
        out.truncate(start);
        out.error(&text);
        Some("ERR".to_string())
    };
    match finish {
        Finish::Returned(value) => {
            let mut writer =
                Writer { tables: 0, out, is_script_resp3: vm.state().is_resp3.get(), error: None };
            match writer.put(&value, 0) {
                // One that a command gave and the script returns was counted with the command.
                Ok(()) => {
                    let error = writer.error;
                    error.or_else(|| (out.as_bytes().get(start) == Some(&b'-')).then(String::new))
                }
                Err(error) => plain(out, format!("ERR Error running script {name}, {error}")),
            }
        }
        Finish::Failed(Value::Table(table)) => {
            let error = ScriptError::of(&table);
            let Some(mut error) = error else {
                return plain(out, format!("ERR Error running script {name}, unknown error"));
            };
            let code = String::from_utf8_lossy(&error.text).split(' ').next().unwrap_or("ERR").to_string();
            if let Some((source, line)) = error.place {
                error.text.extend(format!(" script: {name}, on {source}:{line}.").bytes());
            }
            convert::put_line(out, b'-', &error.text);
            Some(if error.is_counted { String::new() } else { code })
        }
        Finish::Failed(value) => {
            let text = super::args::to_bytes(&value).unwrap_or_else(|| b"execution failure".to_vec());
            let text = String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned();
            plain(out, format!("ERR Error running script {name}, {text}"))
        }
        Finish::Ended(value) => {
            let error = value.and_then(|v| ScriptError::of(v.as_table()?));
            let place = error.and_then(|e| e.place).unwrap_or(("@user_script".into(), "0".into()));
            let text = match is_stopped {
                false => "ERR Script killed by user with SCRIPT KILL...",
                true => "ERR Script ended by the node, which had to go on...",
            };
            plain(out, format!("{text} script: {name}, on {}:{}.", place.0, place.1))
        }
        Finish::Moved => unreachable!("one that is given up gives no answer"),
        Finish::Broken(text) => plain(out, format!("ERR Error running script {name}, {text}")),
    }
}

/// `redis.acl_check_cmd`: whether the script's user may run a command.
fn acl_check(
    lua: &Lua,
    engine: &Engine,
    session: &Session,
    debugger: Option<&Debugger>,
    values: &MultiValue,
) -> mlua::Result<(i32, Value)> {
    let error = |text: &str| {
        debugger.into_iter().for_each(|debugger| debugger.tell_refusal(text));
        Ok((native::ERROR, Value::Table(convert::error_table(lua, text)?)))
    };
    let args: Option<SmallVec<[Vec<u8>; 8]>> = values.iter().map(convert::argument).collect();
    let Some(args) = args else {
        return error("ERR Lua redis lib command arguments must be strings or integers");
    };
    let args: SmallVec<[&[u8]; 8]> = args.iter().map(|a| a.as_slice()).collect();
    if args.is_empty() {
        return error("ERR Please specify at least one argument for this redis lib call");
    }
    match engine.table.find(&args) {
        Ok(spec) => Ok((native::OK, Value::Boolean(session.check(spec, &args).is_ok()))),
        Err(_) => error("ERR Invalid command passed to redis.acl_check_cmd()"),
    }
}

/// Said where the script cannot be repeated.
const LATE: &str = "ERR Script attempted to use keys that it did not declare and that others use, after it had written. It may be run again";

/// Why a command of a script is not carried out.
enum Refusal {
    Error(Error),
    /// The script ends here.
    End(End),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

fn refused<T>(text: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Error(Error::text(text)))
}

/// Tells what a command answered, an error twice as Redis does: as what a script gets, and as the reply.
fn tell_reply(debugger: &Debugger, reply: &[u8]) {
    if reply.first() == Some(&b'-') {
        debugger.tell_error(reply.strip_suffix(b"\r\n").unwrap_or(reply));
    }
    debugger.tell_reply(reply);
}

/// The arguments behind their number and a table of them.
fn unpacked(values: &MultiValue) -> mlua::Result<MultiValue> {
    let (Some(count), Some(Value::Table(table))) = (values.front().and_then(Value::as_i64), values.get(1))
    else {
        unreachable!("made so by the function that calls")
    };
    (1..=count).map(|place| table.raw_get::<Value>(place)).collect()
}

/// A script as far as it has run.
struct Run<'r, 'g> {
    turn: &'r mut Turn<'g>,
    keys: &'r mut Keys<'g>,
    session: Session,
    vm: &'r Interpreter,
    prepared: &'r Prepared,
    running: &'r Arc<Running>,
    is_oom: bool,
    /// The slots whose keys it declared or has used.
    slots: Slots,
    out: Reply,
    retry: Option<Retry>,
    has_written: bool,
    /// It has done what a second run would do again.
    has_acted: bool,
    /// It has read keys.
    has_read: bool,
    debugger: Option<Rc<Debugger>>,
}

impl Run<'_, '_> {
    fn call_from_lua(&mut self, lua: &Lua, values: &MultiValue) -> mlua::Result<(i32, Value)> {
        let ended = |lua: &Lua| Ok((native::END, Value::String(lua.create_string("the script has ended")?)));
        if self.vm.watch().has_ended() {
            return ended(lua);
        }
        let debugger = self.debugger.clone();
        let error = |text: &str, is_counted: bool| {
            debugger.iter().for_each(|debugger| debugger.tell_refusal(text));
            let table = convert::error_table(lua, text)?;
            if is_counted {
                table.raw_set(COUNTED, true)?;
            }
            Ok((native::ERROR, Value::Table(table)))
        };
        if values.is_empty() {
            return error("ERR Please specify at least one argument for this redis lib call", false);
        }
        let args: Option<SmallVec<[Vec<u8>; 8]>> = values.iter().map(convert::argument).collect();
        let Some(args) = args else {
            return error("ERR Lua redis lib command arguments must be strings or integers", false);
        };
        let args: SmallVec<[&[u8]; 8]> = args.iter().map(|a| a.as_slice()).collect();
        self.out.clear();
        self.out.set_resp3(self.vm.state().is_resp3.get());
        if let Some(debugger) = &self.debugger {
            debugger.tell_command(&args);
            if let Some(now) = debugger.take_now() {
                self.turn.now = now;
                self.keys.now_ms = now.wall.0;
            }
        }
        match self.call(&args) {
            Ok(()) => {
                if let Some(debugger) = &self.debugger {
                    tell_reply(debugger, self.out.as_bytes());
                }
                let (value, is_error) = convert::to_lua(lua, self.out.as_bytes())?;
                if let (true, Value::Table(table)) = (is_error, &value) {
                    table.raw_set(COUNTED, true)?;
                }
                Ok((if is_error { native::ERROR } else { native::OK }, value))
            }
            Err(Refusal::Error(refusal)) => {
                self.keys.stats.count_error(refusal.code());
                error(&refusal.to_string(), true)
            }
            Err(Refusal::End(end)) => {
                self.vm.watch().set_end(end);
                ended(lua)
            }
        }
    }

    /// Carries out a command; its reply is in `out`.
    fn call(&mut self, args: Args) -> Result<(), Refusal> {
        let spec = match self.turn.engine.table.resolve(args) {
            Ok(spec) => spec,
            Err(Error::Arity(_)) => {
                return refused("ERR Wrong number of args calling Redis command from script");
            }
            Err(_) => return refused("ERR Unknown Redis command called from script"),
        };
        let result = self.admit(spec, args).and_then(|()| {
            let mut places = Places::of(&self.turn.engine.keyspace, spec, args, &[]);
            let slots = places.number();
            let route = self.route(spec, &slots)?;
            self.bring(spec, args)?;
            self.lock(spec, &slots)?;
            self.check_presence(spec, args, &slots, route)?;
            self.begin_writing(spec)?;
            self.keys.db = self.session.db;
            self.keys.take_places(places);
            Ok(())
        });
        if let Err(refusal) = result {
            self.keys.stats.commands[spec.id].rejected.add(u64::from(matches!(refusal, Refusal::Error(_))));
            return Err(refusal);
        }
        self.keys.may_read_any = self.session.may_read_any_key(spec, args);
        match spec.command.run {
            Handler::Keys(_) => {
                execute::run_one(self.turn, spec, args, None, &mut self.out, self.keys, Waiting::InScript);
                self.has_read |= spec.has(flag::READONLY);
                // They name the arguments by their addresses, which the next command's may have.
                self.keys.set_places(Default::default());
            }
            Handler::Host | Handler::Engine(_) => {
                let is_done = match spec.command.run {
                    Handler::Host => {
                        let result =
                            execute::run_host(self.turn, &mut self.session, spec, args, &mut self.out);
                        if let Ok((Outcome::Done, true)) = result {
                            self.keys.unit.push(self.keys.db, args);
                        }
                        matches!(result, Ok((Outcome::Done, _)))
                    }
                    _ => {
                        execute::run_engine(self.turn, spec, args, self.session.db, &mut self.out);
                        true
                    }
                };
                if !is_done {
                    return refused(NOT_ALLOWED);
                }
            }
            Handler::Flow(_) | Handler::Script(_) | Handler::Container => return refused(NOT_ALLOWED),
        }
        Ok(())
    }

    /// DEBUG SET-DISABLE-DENY-SCRIPTS: what looks at the server or debugs it may run, and nothing that needs a connection
    /// or answers later.
    fn may_be_denied(&self, spec: &Spec) -> bool {
        self.turn.engine.scripts.denies_nothing.load(Ordering::Relaxed)
            && spec.has(flag::ADMIN)
            && !spec.has(flag::NO_MULTI | flag::PUBSUB | flag::BLOCKING | flag::WRITE)
    }

    fn admit(&mut self, spec: &Spec, args: Args) -> Result<(), Refusal> {
        if spec.has(flag::NOSCRIPT) && !self.may_be_denied(spec) {
            return refused(NOT_ALLOWED);
        }
        let (status, settings) = (&self.turn.status, self.turn.settings);
        let is_stale = status.is_replica && !status.is_link_up && !settings.replica_serve_stale_data;
        if is_stale && !spec.has(flag::STALE) {
            return refused("ERR Can not execute the command on a stale replica");
        }
        if let Err(denied) = self.session.check(spec, args) {
            self.turn.host.denied(&denied, Context::Script, spec, args, &self.session);
            return Err(denied.error_in_script().into());
        }
        let flags = self.prepared.flags;
        let has = |set: u32| flags.has(set) && !flags.has(ScriptFlags::COMPAT);
        if (self.prepared.is_ro || has(ScriptFlags::NO_WRITES)) && spec.has(flag::WRITE | flag::MAY_REPLICATE)
        {
            return refused("ERR Write commands are not allowed from read-only scripts.");
        }
        // Once it has written, a script is not stopped by what its surroundings have become.
        if self.has_written || self.session.is_primary_link {
            return Ok(());
        }
        if spec.has(flag::WRITE) {
            if status.is_replica && settings.replica_read_only {
                return Err(Error::ReadOnlyReplica.into());
            }
            admission::may_write(self.turn, spec)?;
        }
        if self.is_oom && spec.has(flag::DENYOOM) && !has(ScriptFlags::ALLOW_OOM) {
            return Err(Error::Oom.into());
        }
        Ok(())
    }

    /// In a cluster: whether the keys are here, and in the slot of the script's other keys.
    fn route(&self, spec: &Spec, slots: &[Slot]) -> Result<Route, Refusal> {
        if self.turn.cluster.is_none() || self.session.is_primary_link || slots.is_empty() {
            return Ok(Route::Here);
        }
        let route = admission::route(self.turn, &self.session, slots, spec.command.flags);
        let route = match route {
            Ok(route) => route,
            Err(error) => {
                let text = error.to_string();
                return refused(if text.contains("only accepts read") {
                    "ERR Script attempted to execute a write command while the cluster is down and readonly"
                } else if text == "CLUSTERDOWN The cluster is down" {
                    "ERR Script attempted to execute a command while the cluster is down"
                } else {
                    NOT_LOCAL
                });
            }
        };
        // Slots move one by one: what one script writes stays in one.
        if let [first, ..] = *self.slots
            && slots != [first]
        {
            let flags = self.prepared.flags;
            return match flags.has(ScriptFlags::COMPAT | ScriptFlags::ALLOW_CROSS_SLOT) {
                true => refused(NOT_LOCAL),
                false => refused("ERR Script attempted to access keys that do not hash to the same slot"),
            };
        }
        Ok(route)
    }

    fn check_presence(
        &mut self,
        spec: &Spec,
        args: Args,
        slots: &[Slot],
        route: Route,
    ) -> Result<(), Refusal> {
        match *slots {
            [slot] if route != Route::Here => {
                admission::check_presence(self.turn, &self.session, route, self.keys, spec, args, slot)
                    .or_else(|_| refused(NOT_LOCAL))
            }
            _ => Ok(()),
        }
    }

    /// Copies the keys of a command, if the script is debugged on copies.
    fn bring(&mut self, spec: &Spec, args: Args) -> Result<(), Refusal> {
        let Some(debugger) = &self.debugger else { return Ok(()) };
        self.keys.db = self.session.db;
        match debugger.bring(self.keys, spec, args)? {
            true => Ok(()),
            false => Err(Refusal::End(End::Killed)),
        }
    }

    /// Locks what the script has not declared.
    fn lock(&mut self, spec: &Spec, slots: &[Slot]) -> Result<(), Refusal> {
        if self.turn.exclusive.is_some() {
            self.slots.extend(slots.iter().copied());
            self.slots.sort_unstable();
            self.slots.dedup();
            return Ok(());
        }
        if spec.has(flag::EXCLUSIVE | flag::WHOLE_DB | flag::ANY_KEY) {
            return self.give_up(Retry::Gate);
        }
        for slot in slots {
            if self.keys.locks.holds(*slot) {
                continue;
            }
            let mut spins = 0;
            while !self.keys.locks.try_extend(&[*slot]) {
                spins += 1;
                if spins > LOCK_SPINS_MAX {
                    return self.give_up(Retry::Gate);
                }
                std::hint::spin_loop();
            }
            if execute::paused(self.keys, &self.session, &[*slot]).is_some() {
                return self.give_up(Retry::Slot(*slot));
            }
            let place = self.slots.binary_search(slot).unwrap_or_else(|place| place);
            self.slots.insert(place, *slot);
        }
        Ok(())
    }

    fn give_up<T>(&mut self, retry: Retry) -> Result<T, Refusal> {
        if retry == Retry::Gate {
            self.prepared.source.needs_gate().store(true, Ordering::Relaxed);
        }
        if self.has_acted {
            return refused(LATE);
        }
        self.retry = Some(retry);
        Err(Refusal::End(End::NeedsGate))
    }

    fn begin_writing(&mut self, spec: &Spec) -> Result<(), Refusal> {
        if spec.has(flag::WRITE | flag::MAY_REPLICATE) && !self.has_acted {
            self.has_acted = true;
            self.vm.watch().set_may_move(false);
        }
        let is_on_copies = self.debugger.as_ref().is_some_and(|debugger| debugger.copies().is_some());
        if spec.has(flag::WRITE) && !self.has_written && !is_on_copies {
            if !self.running.begin_writing() {
                return Err(Refusal::End(End::Killed));
            }
            self.has_written = true;
        }
        Ok(())
    }
}

const NOT_ALLOWED: &str = "ERR This Redis command is not allowed from script";
const NOT_LOCAL: &str = "ERR Script attempted to access a non local key in a cluster node";
