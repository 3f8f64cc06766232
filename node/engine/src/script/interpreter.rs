//! One Lua state in its sandbox. Each worker has one for scripts and one for functions, made on first use.
//!
//! Invariant: whatever a script does, the next one finds the globals as they were.

use super::api::{self, LogLine, State};
use super::cache::{Script, Sha};
use super::control::{End, Running, Watch};
use super::debug::{Console, Debugger};
use super::library::{Collected, Library};
use super::sandbox::Sandbox;
use super::{args, native};
use crate::Error;
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaOptions, MultiValue, StdLib, Table, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that one interpreter may hold. Choice: far above what scripts need, and so that a runaway script ends before
/// it takes the node's memory. Redis has no bound.
pub const MEMORY_MAX: usize = 256 << 20;
/// Compiled scripts that a worker keeps; above it all are dropped and compiled again when they are needed.
const COMPILED_MAX: usize = 5000;

/// What scripts an interpreter runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Eval,
    Function,
}

/// See the module's head.
pub struct Interpreter {
    // Dropped first: it has addresses of what follows.
    lua: Lua,
    kind: Kind,
    sandbox: Sandbox,
    holder: Table,
    runner: Function,
    /// Runs without adding source and line to errors.
    plain_runner: Function,
    state: Rc<State>,
    collected: Rc<RefCell<Option<Collected>>>,
    /// What the globals read from while a library loads.
    load_globals: Option<Table>,
    compiled: BTreeMap<Sha, Function>,
    libraries: BTreeMap<String, (Arc<Library>, BTreeMap<String, Function>)>,
    watch: Box<Watch>,
}

/// What a script is run with.
pub struct Invocation<'a> {
    pub keys: &'a [&'a [u8]],
    pub argv: &'a [&'a [u8]],
    pub running: &'a Arc<Running>,
    /// Where it takes long, it is given up before it does anything.
    pub may_move: bool,
}

/// How a script ended.
pub enum Finish {
    Returned(Value),
    Failed(Value),
    /// Killed; with the error that carries the place, if it is known.
    Ended(Option<Value>),
    /// Given up, to run elsewhere.
    Moved,
    /// The interpreter itself gave up: memory, most often.
    Broken(String),
}

impl Interpreter {
    pub fn new(kind: Kind) -> Interpreter {
        Self::build(kind).expect("an empty interpreter has room for its libraries")
    }

    fn build(kind: Kind) -> mlua::Result<Interpreter> {
        let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, LuaOptions::default())?;
        let watch = Box::<Watch>::default();
        let state = Rc::<State>::default();
        let holder = lua.create_table()?;
        let tostring: Function = lua.globals().raw_get("tostring")?;
        let math: Table = lua.globals().raw_get("math")?;
        api::random(&lua, &math, &state)?;
        let redis = api::redis(&lua, &state, &holder, kind == Kind::Eval)?;
        let sandbox = Sandbox::new(&lua, &watch, redis)?;
        let handler = native::handler(&lua, tostring)?;
        let runner = native::runner(&lua, Some(handler))?;
        let plain_runner = native::runner(&lua, None)?;
        native::set_hook(&lua, &watch)?;
        let collected = Rc::<RefCell<Option<Collected>>>::default();
        let load_globals = match kind {
            Kind::Eval => None,
            Kind::Function => Some(load_globals(&lua, &sandbox, &state, &collected)?),
        };
        lua.set_memory_limit(MEMORY_MAX)?;
        Ok(Interpreter {
            lua,
            kind,
            sandbox,
            holder,
            runner,
            plain_runner,
            state,
            collected,
            load_globals,
            compiled: BTreeMap::new(),
            libraries: BTreeMap::new(),
            watch,
        })
    }

    /// Makes its scripts stop for a debugger.
    pub fn debug(&self, debugger: Rc<Debugger>) {
        *self.state.debugger.borrow_mut() = Some((debugger.clone(), self.sandbox.protected.clone()));
        Console::open(&self.lua, debugger, &self.sandbox, &self.holder, &self.watch)
            .expect("a new interpreter has room for a debugger");
    }

    pub fn lua(&self) -> &Lua {
        &self.lua
    }
    pub fn state(&self) -> &State {
        &self.state
    }
    pub fn watch(&self) -> &Watch {
        &self.watch
    }
    pub fn used_bytes(&self) -> usize {
        self.lua.used_memory()
    }
    pub fn take_log(&self) -> Vec<LogLine> {
        std::mem::take(&mut *self.state.log.borrow_mut())
    }

    fn load(&self, code: &[u8], name: &str) -> Result<Function, String> {
        let chunk = self.lua.load(code).set_name(name).set_mode(ChunkMode::Text);
        let chunk = chunk.set_environment(self.sandbox.globals.clone());
        chunk.into_function().map_err(|error| match error {
            mlua::Error::SyntaxError { message, .. } => message,
            mlua::Error::MemoryError(_) => "not enough memory".into(),
            other => other.to_string(),
        })
    }

    /// The function of a script. `Err`: what the compiler says.
    pub fn compile(&mut self, script: &Script) -> Result<Function, String> {
        if let Some(function) = self.compiled.get(&script.sha) {
            return Ok(function.clone());
        }
        let function = self.load(script.code(), "@user_script")?;
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(script.sha, function.clone());
        Ok(function)
    }
    /// A script that was compiled here before.
    pub fn compiled(&self, sha: &Sha) -> Option<Function> {
        self.compiled.get(sha).cloned()
    }

    /// Runs a function; `call` carries out what it asks for: [`native::CALL`] or [`native::CHECK`].
    pub fn run(
        &self,
        function: &Function,
        invocation: &Invocation<'_>,
        mut call: impl FnMut(&Lua, i32, MultiValue) -> mlua::Result<(i32, Value)>,
    ) -> Finish {
        self.state.is_running.set(true);
        self.state.is_resp3.set(false);
        self.watch.begin(Some(invocation.running.clone()));
        self.watch.set_may_move(invocation.may_move);
        let result = self.lua.scope(|scope| {
            let call = move |lua: &Lua, (what, values): (i32, MultiValue)| call(lua, what, values);
            self.holder.raw_set(native::HELD, scope.create_function_mut(call)?)?;
            let keys = self.lua.create_sequence_from(strings(&self.lua, invocation.keys)?)?;
            let argv = self.lua.create_sequence_from(strings(&self.lua, invocation.argv)?)?;
            match self.kind {
                Kind::Eval => {
                    self.sandbox.behind.raw_set("KEYS", keys)?;
                    self.sandbox.behind.raw_set("ARGV", argv)?;
                    self.runner.call::<(bool, Value)>(function)
                }
                Kind::Function => self.runner.call::<(bool, Value)>((function, keys, argv)),
            }
        });
        // It does not fail: the place is there, or was never made.
        let _ = self.holder.raw_set(native::HELD, Value::Nil);
        self.state.is_running.set(false);
        match (self.watch.finish(), result) {
            (Some(End::Moved), _) => Finish::Moved,
            (Some(End::Aborted), Ok((false, value))) => Finish::Failed(value),
            (Some(_), Ok((false, value))) => Finish::Ended(Some(value)),
            (Some(_), _) => Finish::Ended(None),
            (None, Ok((true, value))) => Finish::Returned(value),
            (None, Ok((false, value))) => Finish::Failed(value),
            (None, Err(mlua::Error::MemoryError(_))) => Finish::Broken("not enough memory".into()),
            (None, Err(error)) => Finish::Broken(error.to_string()),
        }
    }

    /// Loads a library's code and collects the functions that it registers.
    pub fn collect(&mut self, code: &[u8]) -> Result<Collected, Error> {
        let globals = self.load_globals.as_ref().expect("an interpreter for functions");
        let set = |table: &Table| self.sandbox.meta.raw_set("__index", table);
        let broken = |e: mlua::Error| Error::err(&format!("Error registering functions: {e}"));
        set(globals).map_err(broken)?;
        let result = self.register(code);
        set(&self.sandbox.behind).map_err(broken)?;
        let collected = self.collected.borrow_mut().take().unwrap_or_default();
        result.map(|()| collected)
    }

    fn register(&self, code: &[u8]) -> Result<(), Error> {
        let function = self
            .load(code, "@user_function")
            .map_err(|text| Error::err(&format!("Error compiling function: {text}")))?;
        *self.collected.borrow_mut() = Some(Collected::default());
        self.watch.begin(None);
        let result = self.plain_runner.call::<(bool, Value)>(function);
        let text = match (self.watch.finish(), result) {
            (Some(_), _) => "ERR FUNCTION LOAD timeout".to_string(),
            (None, Ok((true, _))) => return Ok(()),
            (None, Ok((false, Value::Table(table)))) => match super::convert::ScriptError::of(&table) {
                Some(error) => String::from_utf8_lossy(&error.text).into_owned(),
                None => "ERR unknown error".into(),
            },
            (None, Ok((false, value))) => {
                let text = args::to_bytes(&value).unwrap_or_else(|| b"unknown error".to_vec());
                format!("ERR {}", String::from_utf8_lossy(&text))
            }
            (None, Err(error)) => format!("ERR {error}"),
        };
        Err(Error::err(&format!("Error registering functions: {text}")))
    }

    /// A function of a library, which is loaded if it is not there or is another one by now.
    pub fn function(&mut self, library: &Arc<Library>, name: &str) -> Result<Function, Error> {
        let is_loaded = self.libraries.get(&library.name).is_some_and(|(l, _)| Arc::ptr_eq(l, library));
        if !is_loaded {
            self.libraries.remove(&library.name);
            let collected = self.collect(library.code())?;
            let functions = collected.functions.into_iter().map(|(f, callback)| (f.name, callback)).collect();
            self.libraries.insert(library.name.clone(), (library.clone(), functions));
        }
        let function = self.libraries.get(&library.name).and_then(|(_, f)| f.get(name).cloned());
        function.ok_or_else(|| Error::text("ERR Function not found"))
    }

    /// Drops libraries that are not among these any more.
    pub fn keep_libraries(&mut self, is_current: impl Fn(&Arc<Library>) -> bool) {
        self.libraries.retain(|_, (library, _)| is_current(library));
    }
}

fn strings(lua: &Lua, items: &[&[u8]]) -> mlua::Result<Vec<mlua::LuaString>> {
    items.iter().map(|item| lua.create_string(item)).collect()
}

/// Libraries see only what they need to register their functions.
fn load_globals(
    lua: &Lua,
    sandbox: &Sandbox,
    state: &Rc<State>,
    collected: &Rc<RefCell<Option<Collected>>>,
) -> mlua::Result<Table> {
    let redis = api::common(lua, state)?;
    let collected = collected.clone();
    let register = args::function(lua, "register_function", move |lua, args| {
        super::library::register(lua, args, &mut collected.borrow_mut())
    })?;
    redis.raw_set("register_function", register)?;
    redis.set_metatable(Some(sandbox.no_such_global(lua)?))?;
    let globals = lua.create_table()?;
    globals.raw_set("redis", sandbox.protect(lua, &redis)?)?;
    globals.set_metatable(Some(sandbox.no_such_global(lua)?))?;
    Ok(globals)
}
