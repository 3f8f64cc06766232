//! What scripts can reach: Redis 7.0's allow-list of globals, all of them read-only.
//!
//! Redis has taught its copy of Lua read-only tables. Here a protected table is an empty one whose metatable reads from
//! the table behind it and refuses writes; functions that go past metatables (`rawset`, `table.insert`, `next` ...)
//! know the protected ones. So `pairs(redis)` works, and `redis.call = f` and `rawset(_G, ...)` fail.
//!
//! Invariant: a script never holds the table behind a protected one, nor a metatable that can be changed.

use super::args::{Answer, Fail, function, one};
use super::control::Watch;
use super::{bit, cjson, cmsgpack, native, pack, search};
use mlua::{Function, IntoLua, Lua, Table, Value};

/// Functions of Lua's base library that scripts may call as they are.
const PLAIN: &[&str] = &[
    "assert",
    "error",
    "gcinfo",
    "getmetatable",
    "ipairs",
    "rawequal",
    "select",
    "tonumber",
    "tostring",
    "type",
    "_VERSION",
];

/// The parts of a sandbox.
pub struct Sandbox {
    /// What scripts take for their globals.
    pub globals: Table,
    /// Metatable of `globals`.
    pub meta: Table,
    /// The table behind `globals`.
    pub behind: Table,
    /// The tables behind read-only ones, by these.
    pub protected: Table,
    refuse: Function,
}

impl Sandbox {
    /// Builds the sandbox and makes it the globals of `lua`. `redis`: the table `redis`.
    pub fn new(lua: &Lua, watch: &Watch, redis: Table) -> mlua::Result<Sandbox> {
        let original = lua.globals();
        let protected = lua.create_table()?;
        let refuse = function(lua, "newindex", |_, _| Fail::at("Attempt to modify a readonly table"))?;
        let behind = lua.create_table()?;
        let (globals, meta) = (lua.create_table()?, lua.create_table()?);
        let sandbox = Sandbox { globals, meta, behind, protected, refuse };
        sandbox.base(lua, watch, &original)?;
        sandbox.libraries(lua, watch, &original)?;
        sandbox.behind.raw_set("redis", sandbox.protect(lua, &redis)?)?;
        sandbox.freeze_strings(lua, &original)?;
        sandbox.behind.raw_set("_G", &sandbox.globals)?;
        sandbox.behind.set_metatable(Some(sandbox.no_such_global(lua)?))?;
        sandbox.meta.raw_set("__index", &sandbox.behind)?;
        sandbox.meta.raw_set("__newindex", &sandbox.refuse)?;
        // What a script sees as the metatable: nothing can be changed in it.
        let shown = lua.create_table()?;
        sandbox.meta.raw_set("__metatable", sandbox.protect(lua, &shown)?)?;
        sandbox.globals.set_metatable(Some(sandbox.meta.clone()))?;
        sandbox.protected.raw_set(&sandbox.globals, &sandbox.behind)?;
        lua.set_globals(sandbox.globals.clone())?;
        Ok(sandbox)
    }

    /// A read-only view of a table.
    pub fn protect(&self, lua: &Lua, table: &Table) -> mlua::Result<Table> {
        let (view, meta) = (lua.create_table()?, lua.create_table()?);
        meta.raw_set("__index", table)?;
        meta.raw_set("__newindex", &self.refuse)?;
        meta.raw_set("__metatable", false)?;
        view.set_metatable(Some(meta))?;
        self.protected.raw_set(&view, table)?;
        Ok(view)
    }

    /// A metatable that makes reading what is not there an error.
    pub fn no_such_global(&self, lua: &Lua) -> mlua::Result<Table> {
        let meta = lua.create_table()?;
        let fail = function(lua, "index", |_, args| -> Answer {
            let Some(name) = super::args::to_bytes(args.value(1)) else {
                return Fail::at("Second argument to luaProtectedTableError must be a string or number");
            };
            let name = String::from_utf8_lossy(&name);
            Fail::at(format!("Script attempted to access nonexistent global variable '{name}'"))
        })?;
        meta.raw_set("__index", fail)?;
        Ok(meta)
    }

    fn base(&self, lua: &Lua, watch: &Watch, original: &Table) -> mlua::Result<()> {
        let set = |name: &str, value: Function| self.behind.raw_set(name, value);
        let get = |name: &str| original.raw_get::<Function>(name);
        for name in PLAIN {
            self.behind.raw_set(*name, original.raw_get::<Value>(*name)?)?;
        }
        let next = get("next")?;
        let guarded_next = native::reads(lua, &self.protected, next.clone())?;
        set("pairs", native::pairs(lua, &self.protected, next, guarded_next.clone())?)?;
        set("next", guarded_next)?;
        set("rawget", native::reads(lua, &self.protected, get("rawget")?)?)?;
        set("rawset", native::writes(lua, &self.protected, get("rawset")?)?)?;
        set("setmetatable", native::writes(lua, &self.protected, get("setmetatable")?)?)?;
        set("pcall", native::pcall(lua, watch)?)?;
        set("xpcall", native::xpcall(lua, watch)?)?;
        set("unpack", native::unpack(lua, get("unpack")?)?)?;
        set("collectgarbage", native::collect(lua, get("collectgarbage")?)?)?;
        let loadstring = native::text_only(lua, get("loadstring")?)?;
        set("loadstring", loadstring.clone())?;
        set("load", self.load(lua, watch, loadstring)?)?;
        set("__redis__err__handler", native::handler(lua, get("tostring")?)?)
    }

    /// `load`: the pieces are put together first.
    fn load(&self, lua: &Lua, watch: &Watch, loadstring: Function) -> mlua::Result<Function> {
        let text = "local loadstring, pcall, concat, type, error = ... \
            local function read(reader) \
                local parts, n = {}, 0 \
                while true do \
                    local part = reader() \
                    if part == nil or part == '' then return concat(parts) end \
                    if type(part) ~= 'string' then error('reader function must return a string', 0) end \
                    n = n + 1 parts[n] = part \
                end \
            end \
            return function(reader, name) \
                local ok, text = pcall(read, reader) \
                if not ok then return nil, text end \
                return loadstring(text, name or '=(load)') \
            end";
        let original = lua.globals();
        let concat: Function = original.get::<Table>("table")?.raw_get("concat")?;
        let parts = (
            loadstring,
            native::pcall(lua, watch)?,
            concat,
            original.raw_get::<Function>("type")?,
            original.raw_get::<Function>("error")?,
        );
        let load = lua.load(text).set_name("=load").call(parts)?;
        native::on_function(lua, load)
    }

    fn libraries(&self, lua: &Lua, watch: &Watch, original: &Table) -> mlua::Result<()> {
        let table: Table = original.raw_get("table")?;
        // The others find no elements in a protected table.
        let insert = native::insert(lua, &self.protected, table.raw_get("insert")?)?;
        table.raw_set("insert", insert)?;
        for name in ["foreach", "foreachi"] {
            table.raw_set(name, native::reads(lua, &self.protected, table.raw_get(name)?)?)?;
        }
        let string: Table = original.raw_get("string")?;
        for (name, function) in [
            ("find", search::find(lua, watch)?),
            ("match", search::first_match(lua, watch)?),
            ("gmatch", search::all_matches(lua, watch)?),
            ("gfind", search::all_matches(lua, watch)?),
            ("gsub", search::replace(lua, watch)?),
        ] {
            string.raw_set(name, function)?;
        }
        let repeat = function(lua, "rep", repeat)?;
        string.raw_set("rep", native::repeat(lua, string.raw_get("rep")?, repeat)?)?;
        let coroutine: Table = original.raw_get("coroutine")?;
        coroutine.raw_set("resume", native::resume(lua, watch, coroutine.raw_get("resume")?)?)?;
        let math: Table = original.raw_get("math")?;
        for (name, library) in [
            ("table", table),
            ("string", string),
            ("coroutine", coroutine),
            ("math", math),
            ("bit", bit::library(lua)?),
            ("struct", pack::library(lua)?),
            ("cmsgpack", cmsgpack::library(lua)?),
            ("cjson", cjson::library(lua)?),
        ] {
            self.behind.raw_set(name, self.protect(lua, &library)?)?;
        }
        Ok(())
    }

    /// Methods of strings stay, and cannot be changed for the next script.
    fn freeze_strings(&self, lua: &Lua, original: &Table) -> mlua::Result<()> {
        let getmetatable: Function = original.raw_get("getmetatable")?;
        let meta: Table = getmetatable.call("")?;
        let shown = lua.create_table()?;
        shown.raw_set("__index", self.behind.raw_get::<Value>("string")?)?;
        meta.raw_set("__metatable", self.protect(lua, &shown)?)
    }
}

/// `string.rep` for long results within the interpreter's memory, which Lua makes byte by byte where nothing can end it.
fn repeat(lua: &Lua, args: &super::args::Args) -> Answer {
    let text = args.bytes(0)?;
    let count = usize::try_from(args.integer(1)? as i32).unwrap_or(0);
    one(lua, lua.create_string(text.repeat(count))?)
}

/// A constant or function of the table `redis`.
pub fn add(table: &Table, lua: &Lua, name: &str, value: impl IntoLua) -> mlua::Result<()> {
    table.raw_set(name, value.into_lua(lua)?)
}

/// A function that answers with one value.
pub fn constant(lua: &Lua, name: &'static str, value: bool) -> mlua::Result<Function> {
    function(lua, name, move |lua, _| one(lua, value))
}
