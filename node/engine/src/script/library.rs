//! Libraries of functions: what FUNCTION LOAD keeps, replicates and saves.
//!
//! The node keeps each library's text; each worker's interpreter loads it when one of its functions is first called
//! there. So what a library keeps in local variables is kept by each worker for itself.
//!
//! Invariant: libraries change only with the gate closed, so that a snapshot has them as they were at its instant.

use super::args::{Answer, Args, Fail, to_bytes};
use super::cache::ScriptFlags;
use super::convert::error_table;
use super::interpreter::{Interpreter, Kind};
use crate::Error;
use mlua::{Function, Lua, MultiValue, Table, Value};
use proto::resp::split_inline;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A function as it is listed.
#[derive(Clone, Debug)]
pub struct LibraryFunction {
    pub name: String,
    pub description: Option<Vec<u8>>,
    pub flags: ScriptFlags,
}

/// A library.
#[derive(Debug)]
pub struct Library {
    pub name: String,
    /// As it was loaded, with its first line.
    pub text: Vec<u8>,
    code_at: usize,
    pub functions: Vec<LibraryFunction>,
    /// It needs more than the slots of its declared keys: its functions run with the gate closed.
    pub needs_gate: std::sync::atomic::AtomicBool,
    /// It has a loop, which may have no end.
    pub may_loop: bool,
}

impl Library {
    pub fn code(&self) -> &[u8] {
        &self.text[self.code_at..]
    }
}

/// What a library has registered while it was loaded.
#[derive(Default, Debug)]
pub struct Collected {
    pub functions: Vec<(LibraryFunction, Function)>,
}

/// The libraries of a node at one moment.
#[derive(Clone, Default, Debug)]
pub struct LibrarySet {
    pub libraries: BTreeMap<String, Arc<Library>>,
    /// By lower-case name: library and place in it.
    functions: BTreeMap<String, (Arc<Library>, usize)>,
}

impl LibrarySet {
    /// A function by its name in any case.
    pub fn function(&self, name: &[u8]) -> Option<(&Arc<Library>, &LibraryFunction)> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        let (library, place) = self.functions.get(&name)?;
        Some((library, &library.functions[*place]))
    }
    pub fn functions_len(&self) -> usize {
        self.functions.len()
    }
    pub fn has(&self, library: &Arc<Library>) -> bool {
        self.libraries.get(&library.name).is_some_and(|l| Arc::ptr_eq(l, library))
    }
    /// Bytes of the libraries' texts.
    pub fn bytes(&self) -> usize {
        self.libraries.values().map(|l| l.text.len() + l.name.len()).sum()
    }

    fn unlink(&mut self, name: &str) -> bool {
        let is_there = self.libraries.remove(name).is_some();
        self.functions.retain(|_, (library, _)| library.name != name);
        is_there
    }

    /// Adds a library. `Err`: one of its functions is there already; nothing was changed.
    fn link(&mut self, library: Arc<Library>) -> Result<(), Error> {
        for function in &library.functions {
            if self.functions.contains_key(&function.name.to_ascii_lowercase()) {
                return Err(Error::err(&format!("Function {} already exists", function.name)));
            }
        }
        for (place, function) in library.functions.iter().enumerate() {
            self.functions.insert(function.name.to_ascii_lowercase(), (library.clone(), place));
        }
        self.libraries.insert(library.name.clone(), library);
        Ok(())
    }

    /// Adds a library that is loaded. Nothing is changed on an error.
    fn load(&mut self, library: Library, is_replace: bool) -> Result<(), Error> {
        if self.libraries.contains_key(&library.name) && !is_replace {
            return Err(Error::err(&format!("Library '{}' already exists", library.name)));
        }
        let mut next = self.clone();
        next.unlink(&library.name);
        next.link(Arc::new(library))?;
        *self = next;
        Ok(())
    }

    /// Takes over all of `others`. Nothing is changed on an error.
    fn join(&mut self, others: &LibrarySet, is_replace: bool) -> Result<(), Error> {
        let mut next = self.clone();
        for library in others.libraries.values() {
            if next.unlink(&library.name) && !is_replace {
                return Err(Error::err(&format!("Library {} already exists", library.name)));
            }
        }
        for library in others.libraries.values() {
            next.link(library.clone())?;
        }
        *self = next;
        Ok(())
    }
}

/// The libraries of a node.
#[derive(Default, Debug)]
pub struct Libraries {
    set: RwLock<Arc<LibrarySet>>,
    changes: AtomicU64,
}

/// What FUNCTION RESTORE does with libraries that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestorePolicy {
    Append,
    Replace,
    Flush,
}

impl Libraries {
    pub fn set(&self) -> Arc<LibrarySet> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Changes whenever the libraries do.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
    fn replace(&self, set: LibrarySet) {
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Loads a library's text; returns its name. Nothing is changed on an error.
    pub fn load(&self, text: &[u8], is_replace: bool) -> Result<String, Error> {
        let mut set = (*self.set()).clone();
        let header = Header::parse(text)?;
        // Before the code runs, as Redis does.
        if set.libraries.contains_key(&header.name) && !is_replace {
            return Err(Error::err(&format!("Library '{}' already exists", header.name)));
        }
        let library = header.run(text)?;
        let name = library.name.clone();
        set.load(library, is_replace)?;
        self.replace(set);
        Ok(name)
    }

    pub fn delete(&self, name: &[u8]) -> Result<(), Error> {
        let mut set = (*self.set()).clone();
        match std::str::from_utf8(name).is_ok_and(|name| set.unlink(name)) {
            true => self.replace(set),
            false => return Err(Error::text("ERR Library not found")),
        }
        Ok(())
    }

    pub fn flush(&self) {
        self.replace(LibrarySet::default());
    }

    /// Loads the texts of several libraries: all or none.
    pub fn restore(&self, texts: &[Vec<u8>], policy: RestorePolicy) -> Result<(), Error> {
        let mut restored = LibrarySet::default();
        for text in texts {
            restored.load(Header::parse(text)?.run(text)?, false)?;
        }
        if policy != RestorePolicy::Flush {
            let mut set = (*self.set()).clone();
            set.join(&restored, policy == RestorePolicy::Replace)?;
            restored = set;
        }
        self.replace(restored);
        Ok(())
    }
}

/// The first line of a library.
struct Header {
    name: String,
    code_at: usize,
}

impl Header {
    fn parse(text: &[u8]) -> Result<Header, Error> {
        if !text.starts_with(b"#!") {
            return Err(Error::text("ERR Missing library metadata"));
        }
        let invalid = Error::text("ERR Invalid library metadata");
        let code_at = memchr::memchr(b'\n', text).ok_or(invalid.clone())?;
        let parts = split_inline(&text[..code_at]).filter(|p| !p.is_empty()).ok_or(invalid)?;
        let mut name: Option<String> = None;
        for part in &parts[1..] {
            let shown = String::from_utf8_lossy(part).into_owned();
            let Some(value) = part.get(..5).filter(|p| p.eq_ignore_ascii_case(b"name=")).map(|_| &part[5..])
            else {
                return Err(Error::err(&format!("Invalid metadata value given: {shown}")));
            };
            if name.is_some() {
                return Err(Error::text(
                    "ERR Invalid metadata value, name argument was given multiple times",
                ));
            }
            name = Some(String::from_utf8_lossy(value).into_owned());
        }
        let name = name.ok_or(Error::text("ERR Library name was not given"))?;
        if !is_name(name.as_bytes()) {
            return Err(Error::text(NAME_ERROR));
        }
        let engine = String::from_utf8_lossy(&parts[0][2..]).into_owned();
        if !engine.eq_ignore_ascii_case("lua") {
            return Err(Error::err(&format!("Engine '{engine}' not found")));
        }
        Ok(Header { name, code_at })
    }

    /// Runs the code in an interpreter of its own and keeps what it registers.
    fn run(self, text: &[u8]) -> Result<Library, Error> {
        let mut interpreter = Interpreter::new(Kind::Function);
        let collected = interpreter.collect(&text[self.code_at..])?;
        let functions: Vec<_> = collected.functions.into_iter().map(|(function, _)| function).collect();
        if functions.is_empty() {
            return Err(Error::text("ERR No functions registered"));
        }
        Ok(Library {
            name: self.name,
            text: text.to_vec(),
            code_at: self.code_at,
            functions,
            needs_gate: Default::default(),
            may_loop: super::cache::may_loop(text),
        })
    }
}

const NAME_ERROR: &str = "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_')
}

fn raise<T>(lua: &Lua, text: &str) -> Result<T, Fail> {
    let text = if text.starts_with("ERR ") { text.to_string() } else { format!("ERR {text}") };
    Err(Fail::Raw(Value::Table(error_table(lua, &text)?)))
}

/// `redis.register_function`. `collected`: `None` while no library is loaded.
pub fn register(lua: &Lua, args: &Args, collected: &mut Option<Collected>) -> Answer {
    let Some(collected) = collected else {
        return raise(lua, "redis.register_function can only be called on FUNCTION LOAD command");
    };
    let (function, callback) = match args.all() {
        [named] => named_arguments(lua, named)?,
        [name, callback] => {
            let Some(name) = to_bytes(name) else {
                return raise(lua, "first argument to redis.register_function must be a string");
            };
            let Value::Function(callback) = callback else {
                return raise(lua, "second argument to redis.register_function must be a function");
            };
            (
                LibraryFunction { name: text(name), description: None, flags: ScriptFlags::default() },
                callback.clone(),
            )
        }
        _ => return raise(lua, "wrong number of arguments to redis.register_function"),
    };
    if !is_name(function.name.as_bytes()) {
        return raise(lua, NAME_ERROR);
    }
    if collected.functions.iter().any(|(f, _)| f.name == function.name) {
        return raise(lua, "Function already exists in the library");
    }
    collected.functions.push((function, callback));
    Ok(MultiValue::new())
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn named_arguments(lua: &Lua, named: &Value) -> Result<(LibraryFunction, Function), Fail> {
    let Value::Table(named) = named else {
        return raise(
            lua,
            "calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).",
        );
    };
    let (mut name, mut description, mut callback) = (None, None, None);
    let mut flags = ScriptFlags::default();
    for pair in named.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let Some(key) = to_bytes(&key) else {
            return raise(lua, "named argument key given to redis.register_function is not a string");
        };
        match key.to_ascii_lowercase().as_slice() {
            b"function_name" => match to_bytes(&value) {
                Some(bytes) => name = Some(text(bytes)),
                None => {
                    return raise(
                        lua,
                        "function_name argument given to redis.register_function must be a string",
                    );
                }
            },
            b"description" => match to_bytes(&value) {
                Some(bytes) => description = Some(bytes),
                None => {
                    return raise(
                        lua,
                        "description argument given to redis.register_function must be a string",
                    );
                }
            },
            b"callback" => match value {
                Value::Function(f) => callback = Some(f),
                _ => {
                    return raise(
                        lua,
                        "callback argument given to redis.register_function must be a function",
                    );
                }
            },
            b"flags" => match value {
                Value::Table(table) => flags = read_flags(lua, &table)?,
                _ => {
                    return raise(
                        lua,
                        "flags argument to redis.register_function must be a table representing function flags",
                    );
                }
            },
            _ => return raise(lua, "unknown argument given to redis.register_function"),
        }
    }
    let Some(name) = name else {
        return raise(lua, "redis.register_function must get a function name argument");
    };
    let Some(callback) = callback else {
        return raise(lua, "redis.register_function must get a callback argument");
    };
    Ok((LibraryFunction { name, description, flags }, callback))
}

fn read_flags(lua: &Lua, table: &Table) -> Result<ScriptFlags, Fail> {
    let mut flags = ScriptFlags::default();
    for i in 1.. {
        let value: Value = table.raw_get(i)?;
        if value.is_nil() {
            break;
        }
        match to_bytes(&value).and_then(|name| ScriptFlags::by_name(&name, true)) {
            Some(flag) => flags.add(flag),
            None => return raise(lua, "unknown flag given"),
        }
    }
    Ok(flags)
}
