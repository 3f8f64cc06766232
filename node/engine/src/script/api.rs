//! The table `redis`, and `math.random`, which behaves the same on every machine.

use super::args::{Answer, Args, Fail, function, one, to_number};
use super::convert::error_table;
use super::debug::Debugger;
use super::native;
use super::sandbox::{add, constant};
use mlua::{Lua, Table, Value};
use sha1::{Digest, Sha1};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The version that scripts see.
const REDIS_VERSION: &str = "7.0.15";
const REDIS_VERSION_NUM: i64 = 0x0007_000F;

/// Lines of `redis.log` that are kept until the script ends; more are dropped, so that no script fills the memory.
const LOG_LINES_MAX: usize = 1000;

/// Levels of `redis.log`, from debug to warning.
pub type LogLine = (u8, Vec<u8>);

/// What functions of the sandbox know of the script that runs.
#[derive(Debug)]
pub struct State {
    pub is_running: Cell<bool>,
    /// The script asked for RESP3.
    pub is_resp3: Cell<bool>,
    pub log: RefCell<Vec<LogLine>>,
    /// Who debugs the script, and the tables behind read-only ones.
    pub debugger: RefCell<Option<(Rc<Debugger>, Table)>>,
    random: Cell<u64>,
}

impl Default for State {
    fn default() -> State {
        State {
            is_running: Cell::new(false),
            is_resp3: Cell::new(false),
            log: RefCell::default(),
            debugger: RefCell::default(),
            // As POSIX's generator begins, and Redis's.
            random: Cell::new(0x1234_ABCD_330E),
        }
    }
}

impl State {
    /// POSIX's `lrand48`: 31 bits.
    fn random(&self) -> u32 {
        let next = self.random.get().wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & 0xFFFF_FFFF_FFFF;
        self.random.set(next);
        (next >> 17) as u32
    }
    /// Tells a debugger of an error that a function of `redis` makes.
    fn tell_error(&self, text: &[u8]) {
        if let Some((debugger, _)) = &*self.debugger.borrow() {
            debugger.tell_error(text);
        }
    }
    /// Begins the random numbers anew.
    pub fn seed(&self, seed: i64) {
        self.random.set((seed as u32 as u64) << 16 | 0x330E);
    }
}

/// An error as `redis.error_reply` makes it.
fn error(lua: &Lua, state: &State, text: &str) -> Fail {
    state.tell_error(text.as_bytes());
    match error_table(lua, &format!("ERR {text}")) {
        Ok(table) => Fail::Raw(Value::Table(table)),
        Err(error) => error.into(),
    }
}

/// What libraries see while they load, beside `register_function`: the log and the version.
pub fn common(lua: &Lua, state: &Rc<State>) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    for (level, name) in ["LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"].into_iter().enumerate() {
        add(&redis, lua, name, level)?;
    }
    add(&redis, lua, "REDIS_VERSION", REDIS_VERSION)?;
    add(&redis, lua, "REDIS_VERSION_NUM", REDIS_VERSION_NUM)?;
    let state = state.clone();
    add(&redis, lua, "log", function(lua, "log", move |lua, args| log(lua, args, &state))?)?;
    Ok(redis)
}

/// The table `redis`. `holder`: where functions of the script that runs stand.
pub fn redis(lua: &Lua, state: &Rc<State>, holder: &Table, is_eval: bool) -> mlua::Result<Table> {
    let redis = common(lua, state)?;
    let outside = "ERR redis.call/pcall can only be called inside a script invocation";
    add(&redis, lua, "call", native::call(lua, holder, native::CALL, true, outside)?)?;
    add(&redis, lua, "pcall", native::call(lua, holder, native::CALL, false, outside)?)?;
    let outside = "ERR redis.acl_check_cmd can only be called inside a script invocation";
    add(&redis, lua, "acl_check_cmd", native::call(lua, holder, native::CHECK, true, outside)?)?;
    for (name, run) in [
        ("sha1hex", sha1hex as fn(&Lua, &Args, &State) -> Answer),
        ("error_reply", error_reply),
        ("status_reply", status_reply),
    ] {
        let of = state.clone();
        add(&redis, lua, name, function(lua, name, move |lua, args| run(lua, args, &of))?)?;
    }
    let of = state.clone();
    add(&redis, lua, "setresp", function(lua, "setresp", move |lua, args| set_resp(lua, args, &of))?)?;
    let of = state.clone();
    add(&redis, lua, "set_repl", function(lua, "set_repl", move |lua, args| set_repl(lua, args, &of))?)?;
    for (name, flags) in
        [("REPL_NONE", 0), ("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3)]
    {
        add(&redis, lua, name, flags)?;
    }
    if is_eval {
        let of = state.clone();
        let breakpoint = function(lua, "breakpoint", move |lua, _| breakpoint(lua, &of))?;
        add(&redis, lua, "breakpoint", breakpoint)?;
        let of = state.clone();
        add(&redis, lua, "debug", function(lua, "debug", move |_, args| debug(args, &of))?)?;
        add(&redis, lua, "replicate_commands", constant(lua, "replicate_commands", true)?)?;
    }
    Ok(redis)
}

/// Stops a script that is debugged at its next line; says whether it is.
fn breakpoint(lua: &Lua, state: &State) -> Answer {
    let debugger = state.debugger.borrow();
    debugger.iter().for_each(|(debugger, _)| debugger.stop_soon());
    one(lua, debugger.is_some())
}

/// Shows values to whoever debugs the script.
fn debug(args: &Args, state: &State) -> Answer {
    if let Some((debugger, protected)) = &*state.debugger.borrow() {
        debugger.tell_values(args.all(), protected);
    }
    Ok(mlua::MultiValue::new())
}

fn log(lua: &Lua, args: &Args, state: &State) -> Answer {
    if args.len() < 2 {
        return Err(error(lua, state, "redis.log() requires two arguments or more."));
    }
    let Some(level) = to_number(args.value(0)) else {
        return Err(error(lua, state, "First argument must be a number (log level)."));
    };
    if !(0..=3).contains(&(level as i64)) {
        return Err(error(lua, state, "Invalid debug level."));
    }
    let words: Vec<Vec<u8>> = args.all()[1..].iter().filter_map(super::args::to_bytes).collect();
    let mut lines = state.log.borrow_mut();
    if lines.len() < LOG_LINES_MAX {
        lines.push((level as u8, words.join(&b' ')));
    }
    Ok(mlua::MultiValue::new())
}

fn sha1hex(lua: &Lua, args: &Args, state: &State) -> Answer {
    if args.len() != 1 {
        return Err(error(lua, state, "wrong number of arguments"));
    }
    let bytes = super::args::to_bytes(args.value(0)).unwrap_or_default();
    one(lua, super::cache::hex(&Sha1::digest(bytes).into()))
}

/// Redis answers with an error instead of raising it where the argument is no string.
fn one_string(lua: &Lua, args: &Args, state: &State) -> Result<Vec<u8>, Answer> {
    match args.all() {
        [Value::String(text)] => Ok(text.as_bytes().to_vec()),
        _ => Err(match error(lua, state, "wrong number or type of arguments") {
            Fail::Raw(table) => one(lua, table),
            fail => Err(fail),
        }),
    }
}

fn error_reply(lua: &Lua, args: &Args, state: &State) -> Answer {
    match one_string(lua, args, state) {
        Ok(bytes) => {
            let text = bytes.strip_prefix(b"-").unwrap_or(&bytes);
            state.tell_error(&[b"-", text].concat());
            let text = text.trim_ascii_end();
            let table = lua.create_table()?;
            let has_code = text.contains(&b' ');
            let text = if has_code { text.to_vec() } else { [b"ERR ", text].concat() };
            table.raw_set("err", lua.create_string(text)?)?;
            one(lua, table)
        }
        Err(answer) => answer,
    }
}

fn status_reply(lua: &Lua, args: &Args, state: &State) -> Answer {
    match one_string(lua, args, state) {
        Ok(text) => {
            let table = lua.create_table()?;
            table.raw_set("ok", lua.create_string(text)?)?;
            one(lua, table)
        }
        Err(answer) => answer,
    }
}

fn set_resp(lua: &Lua, args: &Args, state: &State) -> Answer {
    if !state.is_running.get() {
        return Err(error(lua, state, "redis.setresp can only be called inside a script invocation"));
    }
    if args.len() != 1 {
        return Err(error(lua, state, "redis.setresp() requires one argument."));
    }
    match to_number(args.value(0)).map(|n| n as i64) {
        Some(version @ (2 | 3)) => state.is_resp3.set(version == 3),
        _ => return Err(error(lua, state, "RESP version must be 2 or 3.")),
    }
    Ok(mlua::MultiValue::new())
}

/// Accepted and without effect: copies that lack what their primary has would break what replication promises.
fn set_repl(lua: &Lua, args: &Args, state: &State) -> Answer {
    if !state.is_running.get() {
        return Err(error(lua, state, "redis.set_repl can only be called inside a script invocation"));
    }
    if args.len() != 1 {
        return Err(error(lua, state, "redis.set_repl() requires two arguments."));
    }
    match to_number(args.value(0)).unwrap_or(0.0) as i64 {
        0..=3 => Ok(mlua::MultiValue::new()),
        _ => Err(error(
            lua,
            state,
            "Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
        )),
    }
}

/// Puts Redis's generator into the library `math`.
pub fn random(lua: &Lua, math: &Table, state: &Rc<State>) -> mlua::Result<()> {
    let of = state.clone();
    math.raw_set("random", function(lua, "random", move |lua, args| draw(lua, args, &of))?)?;
    let of = state.clone();
    let seed = function(lua, "randomseed", move |_, args| {
        if !of.is_running.get() {
            return Fail::at("math.randomseed can only be called inside a script invocation");
        }
        of.seed(args.integer(0)?);
        Ok(mlua::MultiValue::new())
    })?;
    math.raw_set("randomseed", seed)
}

fn draw(lua: &Lua, args: &Args, state: &State) -> Answer {
    if !state.is_running.get() {
        return Fail::at("math.random can only be called inside a script invocation");
    }
    const MAX: u32 = i32::MAX as u32;
    let r = f64::from(state.random() % MAX) / f64::from(MAX);
    let int = |index: usize| args.integer(index).map(|n| f64::from(n as i32));
    let (low, high) = match args.len() {
        0 => return one(lua, r),
        1 => (1.0, int(0)?),
        2 => (int(0)?, int(1)?),
        _ => return Fail::at("wrong number of arguments"),
    };
    if low > high {
        return args.error(args.len() - 1, "interval is empty");
    }
    one(lua, (r * (high - low + 1.0)).floor() + low)
}
