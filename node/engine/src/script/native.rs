//! C functions of the sandbox, written against Lua's C interface.
//!
//! Why not closures: an error of a closure reaches a script as an opaque value, while scripts of Redis see tables with
//! `err`; a closure cannot say at which line of the script it failed; and `pcall` must let go what may not be caught.
//! Everything that computes lives in safe closures; what is here moves values about on Lua's stack.
//!
//! Rules for each function here, since Lua leaves them by `longjmp`: no local with a destructor is alive when Lua is
//! called, and at most [`ffi::LUA_MINSTACK`] slots are used beyond the arguments.
#![allow(unsafe_code)]

use super::control::Watch;
use super::interpreter::MEMORY_MAX;
use mlua::ffi::{self, lua_State, lua_upvalueindex};
use mlua::{Function, Lua, Result, Table, Value};
use std::ffi::{c_int, c_void};

/// Place in the holder where the function stands that serves the script that runs.
pub const HELD: i32 = 1;
/// What it is asked for: a command, or whether one may be called.
pub const CALL: i32 = 1;
pub const CHECK: i32 = 2;
/// Added to what is asked for: in the arguments' place stand their number and a table of them. A function in C has room for
/// 8000 values, which Redis lets scripts use up.
pub const PACKED: i32 = 1 << 8;
/// Arguments that are handed over as they are.
const UNPACKED_MAX: c_int = 2000;

/// First result of a closure behind [`api`] and [`call`]: the rest are results.
pub const OK: i32 = 1;
/// The second result is a text; the position in the script is put before it.
pub const ERROR_AT: i32 = 2;
/// The second result is the error as it is.
pub const ERROR: i32 = 3;
/// As [`ERROR`], and `redis.pcall` raises it too: the script ends.
pub const END: i32 = 4;

/// Instructions between two looks at whether the script was killed. Redis has 100 000; but functions in C that take long are
/// one instruction each, and so many of them would be an hour.
pub(super) const HOOK_COUNT: c_int = 1000;
/// Places that `table.insert` moves at most: more than a table has room for.
const MOVED_MAX: i64 = 1 << 24;
/// Bytes that Lua's own `string.rep` makes: some tens of microseconds.
const REPEATED_BYTES_MAX: usize = 1 << 16;

/// Makes a C function of a closure that answers `(OK, results...)` or `(ERROR.., error)`.
pub fn api(lua: &Lua, closure: Function) -> Result<Function> {
    closure_of(lua, api_c, (closure,))
}
/// A function that asks what stands in `holder` for `what`, and answers with one value. `raises`: an error is raised,
/// not returned. `outside`: what it says while no script runs.
pub fn call(lua: &Lua, holder: &Table, what: i32, raises: bool, outside: &str) -> Result<Function> {
    closure_of(lua, call_c, (holder, what, raises, outside))
}
/// `pcall`. The watch must live as long as the interpreter.
pub fn pcall(lua: &Lua, watch: &Watch) -> Result<Function> {
    closure_of(lua, pcall_c, (pointer(watch),))
}
/// `xpcall`, likewise.
pub fn xpcall(lua: &Lua, watch: &Watch) -> Result<Function> {
    closure_of(lua, xpcall_c, (pointer(watch),))
}
/// `coroutine.resume`, likewise.
pub fn resume(lua: &Lua, watch: &Watch, original: Function) -> Result<Function> {
    closure_of(lua, resume_c, (pointer(watch), original))
}
/// A function that reads a table: where it gets a protected one, it reads what stands behind it.
pub fn reads(lua: &Lua, protected: &Table, original: Function) -> Result<Function> {
    closure_of(lua, reads_c, (protected, original))
}
/// A function that changes a table: it fails on protected ones.
pub fn writes(lua: &Lua, protected: &Table, original: Function) -> Result<Function> {
    closure_of(lua, writes_c, (protected, original))
}
/// `table.insert`: as [`writes`], and with a bound on what is moved: Lua 5.1 moves up what stands at places below 1, be it
/// there or not.
pub fn insert(lua: &Lua, protected: &Table, original: Function) -> Result<Function> {
    closure_of(lua, insert_c, (protected, original))
}
/// `pairs`.
pub fn pairs(lua: &Lua, protected: &Table, next: Function, guarded_next: Function) -> Result<Function> {
    closure_of(lua, pairs_c, (protected, next, guarded_next))
}
/// `collectgarbage` without what would change how the interpreter collects.
pub fn collect(lua: &Lua, original: Function) -> Result<Function> {
    closure_of(lua, collect_c, (original,))
}
/// `string.rep`. `long`: does the same for results that would take long.
pub fn repeat(lua: &Lua, original: Function, long: Function) -> Result<Function> {
    closure_of(lua, repeat_c, (original, long))
}
/// `unpack` that refuses ranges which Lua 5.1 cannot count: their length overflows there, and its check with it.
pub fn unpack(lua: &Lua, original: Function) -> Result<Function> {
    closure_of(lua, unpack_c, (original,))
}
/// `loadstring` without compiled chunks.
pub fn text_only(lua: &Lua, original: Function) -> Result<Function> {
    closure_of(lua, text_only_c, (original,))
}
/// A function whose first argument must be a function.
pub fn on_function(lua: &Lua, original: Function) -> Result<Function> {
    closure_of(lua, on_function_c, (original,))
}
/// Adds source and line to an error, as Redis's handler does, and makes a table of it if it is none.
pub fn handler(lua: &Lua, tostring: Function) -> Result<Function> {
    closure_of(lua, handler_c, (tostring,))
}
/// Runs a function of its arguments: `(true, result)` or `(false, error)`. `handler`: sees an error where it is raised.
pub fn runner(lua: &Lua, handler: Option<Function>) -> Result<Function> {
    closure_of(lua, runner_c, (handler,))
}

/// Makes the interpreter look at its watch from time to time. The watch must live as long as the interpreter.
pub fn set_hook(lua: &Lua, watch: &Watch) -> Result<()> {
    let address = pointer(watch);
    // SAFETY: the closure keeps to the stack that `exec_raw` gives it; the argument stands at its top.
    unsafe {
        lua.exec_raw::<()>(address, |l| {
            ffi::lua_pushlightuserdata(l, watch_key());
            ffi::lua_insert(l, -2);
            ffi::lua_rawset(l, ffi::LUA_REGISTRYINDEX);
            // Coroutines inherit it.
            ffi::lua_sethook(l, Some(hook_c), ffi::LUA_MASKCOUNT, HOOK_COUNT);
        })
    }
}

pub(super) fn pointer(watch: &Watch) -> Value {
    Value::LightUserData(mlua::LightUserData(std::ptr::from_ref(watch).cast_mut().cast()))
}

/// A key of the registry that nobody else can have.
fn watch_key() -> *mut c_void {
    static KEY: u8 = 0;
    std::ptr::from_ref(&KEY).cast_mut().cast()
}

/// A C function with these values bound to it.
pub(super) fn closure_of(
    lua: &Lua,
    f: ffi::lua_CFunction,
    values: impl mlua::IntoLuaMulti,
) -> Result<Function> {
    // SAFETY: the closure takes everything that stands on the stack it is given, which are the values, and leaves one
    // function. Each function takes as many as its maker gives.
    unsafe {
        lua.exec_raw(values, |l| {
            let count = ffi::lua_gettop(l);
            ffi::lua_pushcclosure(l, f, count);
        })
    }
}

unsafe extern "C-unwind" fn api_c(l: *mut lua_State) -> c_int {
    // SAFETY: the first bound value is the closure; see the module's head for the rest.
    unsafe {
        let count = ffi::lua_gettop(l);
        ffi::lua_pushvalue(l, lua_upvalueindex(1));
        ffi::lua_insert(l, 1);
        ffi::lua_call(l, count, ffi::LUA_MULTRET);
        let outcome = ffi::lua_tonumber(l, 1) as i32;
        if outcome == OK {
            return ffi::lua_gettop(l) - 1;
        }
        if outcome == ERROR_AT {
            ffi::luaL_where(l, 1);
            ffi::lua_insert(l, -2);
            ffi::lua_concat(l, 2);
        }
        ffi::lua_error(l)
    }
}

unsafe extern "C-unwind" fn call_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are the holder, a table, a number, a boolean and a string.
    unsafe {
        let count = ffi::lua_gettop(l);
        ffi::lua_rawgeti(l, lua_upvalueindex(1), HELD.into());
        if ffi::lua_isnil(l, -1) != 0 {
            ffi::lua_createtable(l, 0, 1);
            ffi::lua_pushvalue(l, lua_upvalueindex(4));
            ffi::lua_setfield(l, -2, c"err".as_ptr());
            ffi::lua_error(l);
        }
        let mut what = ffi::lua_tonumber(l, lua_upvalueindex(2)) as i32;
        let mut handed = count;
        if count > UNPACKED_MAX {
            // In the arguments' place, so that no more room is needed than they took.
            ffi::lua_insert(l, 1);
            ffi::lua_createtable(l, count, 0);
            ffi::lua_insert(l, 2);
            for place in (1..=count).rev() {
                ffi::lua_rawseti(l, 2, place.into());
            }
            ffi::lua_pushnumber(l, count.into());
            ffi::lua_insert(l, 2);
            (what, handed) = (what | PACKED, 2);
        } else {
            ffi::lua_insert(l, 1);
        }
        ffi::lua_pushnumber(l, what.into());
        ffi::lua_insert(l, 2);
        ffi::lua_call(l, handed + 1, 2);
        let outcome = ffi::lua_tonumber(l, -2) as i32;
        if outcome == END || outcome != OK && ffi::lua_toboolean(l, lua_upvalueindex(3)) != 0 {
            ffi::lua_error(l);
        }
        1
    }
}

/// The watch that is bound as the first value.
///
/// # Safety
/// Only in functions whose first bound value is made by [`pointer`].
pub(super) unsafe fn watch_of<'a>(l: *mut lua_State) -> &'a Watch {
    // SAFETY: the watch lives as long as the interpreter, which is running.
    unsafe { &*ffi::lua_touserdata(l, lua_upvalueindex(1)).cast::<Watch>() }
}

/// Whether the error on top may not be caught: the script is to end, or a closure failed in itself.
///
/// # Safety
/// As [`watch_of`]; something stands on the stack.
unsafe fn is_final(l: *mut lua_State) -> bool {
    // SAFETY: as the caller's.
    unsafe { watch_of(l).has_ended() || ffi::lua_type(l, -1) == ffi::LUA_TUSERDATA }
}

unsafe extern "C-unwind" fn pcall_c(l: *mut lua_State) -> c_int {
    // SAFETY: see the module's head.
    unsafe {
        let count = ffi::lua_gettop(l);
        if count == 0 {
            ffi::lua_pushboolean(l, 0);
            return 1;
        }
        ffi::lua_pushboolean(l, 1);
        ffi::lua_insert(l, 1);
        if ffi::lua_pcall(l, count - 1, ffi::LUA_MULTRET, 0) != 0 {
            if is_final(l) {
                ffi::lua_error(l);
            }
            ffi::lua_remove(l, 1);
            // Scripts from before Redis 7 expect a text where now a table is raised.
            if ffi::lua_istable(l, -1) != 0 {
                ffi::lua_pushliteral(l, c"err");
                ffi::lua_rawget(l, -2);
                if ffi::lua_isstring(l, -1) != 0 {
                    ffi::lua_replace(l, -2);
                } else {
                    ffi::lua_pop(l, 1);
                }
            }
            ffi::lua_pushboolean(l, 0);
            ffi::lua_insert(l, 1);
        }
        ffi::lua_gettop(l)
    }
}

unsafe extern "C-unwind" fn xpcall_c(l: *mut lua_State) -> c_int {
    // SAFETY: see the module's head.
    unsafe {
        ffi::luaL_checkany(l, 2);
        ffi::lua_settop(l, 2);
        ffi::lua_pushvalue(l, lua_upvalueindex(1));
        ffi::lua_insert(l, 2);
        ffi::lua_pushcclosure(l, guarded_handler_c, 2);
        ffi::lua_insert(l, 1);
        let status = ffi::lua_pcall(l, 0, ffi::LUA_MULTRET, 1);
        if status != 0 && is_final(l) {
            ffi::lua_error(l);
        }
        ffi::lua_pushboolean(l, (status == 0).into());
        ffi::lua_replace(l, 1);
        ffi::lua_gettop(l)
    }
}

/// A script's error handler. The error that ends a script is raised where hooks are off: a handler that is not to end would
/// not end there.
unsafe extern "C-unwind" fn guarded_handler_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are the watch and the script's handler.
    unsafe {
        ffi::lua_settop(l, 1);
        if is_final(l) {
            return 1;
        }
        // Not in this function's place: it may have values of its own.
        ffi::lua_pushvalue(l, lua_upvalueindex(2));
        ffi::lua_insert(l, 1);
        ffi::lua_call(l, 1, ffi::LUA_MULTRET);
        ffi::lua_gettop(l)
    }
}

unsafe extern "C-unwind" fn resume_c(l: *mut lua_State) -> c_int {
    // SAFETY: the second bound value is a function.
    unsafe {
        let results = forward(l, 2);
        if ffi::lua_toboolean(l, -results) == 0 && is_final(l) {
            ffi::lua_error(l);
        }
        results
    }
}

/// Pushes what the protected table at `index` stands for; false and nothing pushed: it is not protected.
///
/// # Safety
/// The first bound value is the table of protected tables.
unsafe fn push_behind(l: *mut lua_State, index: c_int) -> bool {
    // SAFETY: as the caller's.
    unsafe {
        if ffi::lua_istable(l, index) == 0 {
            return false;
        }
        ffi::lua_pushvalue(l, index);
        ffi::lua_rawget(l, lua_upvalueindex(1));
        let is_protected = ffi::lua_istable(l, -1) != 0;
        if !is_protected {
            ffi::lua_pop(l, 1);
        }
        is_protected
    }
}

/// Runs a bound function with the arguments. One of Lua's own, which are written in C and have nothing bound to them, runs in
/// this function's place, so that what it says of its arguments names it and the line that called it.
///
/// # Safety
/// `place`: number of the bound value, which is a function.
unsafe fn forward(l: *mut lua_State, place: c_int) -> c_int {
    // SAFETY: as the caller's.
    unsafe {
        if let Some(f) = ffi::lua_tocfunction(l, lua_upvalueindex(place)) {
            return f(l);
        }
        let count = ffi::lua_gettop(l);
        ffi::lua_pushvalue(l, lua_upvalueindex(place));
        ffi::lua_insert(l, 1);
        ffi::lua_call(l, count, ffi::LUA_MULTRET);
        ffi::lua_gettop(l)
    }
}

unsafe extern "C-unwind" fn reads_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are the protected tables and a function.
    unsafe {
        if push_behind(l, 1) {
            ffi::lua_replace(l, 1);
        }
        forward(l, 2)
    }
}

unsafe extern "C-unwind" fn writes_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are the protected tables and a function.
    unsafe {
        if push_behind(l, 1) {
            ffi::lua_pushliteral(l, c"Attempt to modify a readonly table");
            ffi::lua_error(l);
        }
        forward(l, 2)
    }
}

unsafe extern "C-unwind" fn insert_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are the protected tables and a function.
    unsafe {
        if ffi::lua_gettop(l) == 3 && ffi::lua_istable(l, 1) != 0 && ffi::lua_isnumber(l, 2) != 0 {
            // As C's cast to int, which the original reads.
            let place = i64::from(ffi::lua_tointeger(l, 2) as i32);
            if ffi::lua_objlen(l, 1) as i64 - place > MOVED_MAX {
                ffi::luaL_argerror(l, 2, c"position out of bounds".as_ptr());
            }
        }
        writes_c(l)
    }
}

unsafe extern "C-unwind" fn pairs_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are the protected tables and two functions.
    unsafe {
        ffi::luaL_checktype(l, 1, ffi::LUA_TTABLE);
        let is_protected = push_behind(l, 1);
        ffi::lua_settop(l, 1);
        ffi::lua_pushvalue(l, lua_upvalueindex(if is_protected { 3 } else { 2 }));
        ffi::lua_insert(l, 1);
        ffi::lua_pushnil(l);
        3
    }
}

unsafe extern "C-unwind" fn collect_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is a function; the text is read before it leaves the stack.
    unsafe {
        let mut len = 0;
        let text = ffi::luaL_optlstring(l, 1, c"collect".as_ptr(), &mut len);
        let word = std::slice::from_raw_parts(text.cast::<u8>(), len);
        if matches!(word, b"stop" | b"restart" | b"setpause" | b"setstepmul") {
            ffi::lua_pushnumber(l, 0.0);
            return 1;
        }
        forward(l, 1)
    }
}

unsafe extern "C-unwind" fn repeat_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are two functions.
    unsafe {
        if ffi::lua_type(l, 1) == ffi::LUA_TSTRING && ffi::lua_isnumber(l, 2) != 0 {
            // As C's cast to int, which the original reads.
            let count = ffi::lua_tointeger(l, 2) as i32;
            let bytes = ffi::lua_objlen(l, 1).max(1).saturating_mul(count.max(0) as usize);
            if bytes > MEMORY_MAX && ffi::lua_objlen(l, 1) > 0 {
                ffi::lua_pushliteral(l, c"not enough memory");
                ffi::lua_error(l);
            }
            if bytes > REPEATED_BYTES_MAX {
                ffi::lua_settop(l, 2);
                ffi::lua_pushvalue(l, lua_upvalueindex(2));
                ffi::lua_insert(l, 1);
                ffi::lua_call(l, 2, 1);
                return 1;
            }
        }
        forward(l, 1)
    }
}

unsafe extern "C-unwind" fn unpack_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is a function.
    unsafe {
        // As C's casts to int, which the original reads.
        let first = ffi::luaL_optinteger(l, 2, 1) as i32;
        if ffi::lua_isnoneornil(l, 3) == 0 {
            let last = ffi::luaL_checkinteger(l, 3) as i32;
            if i64::from(last) - i64::from(first) >= i64::from(i32::MAX) {
                ffi::luaL_where(l, 1);
                ffi::lua_pushliteral(l, c"too many results to unpack");
                ffi::lua_concat(l, 2);
                ffi::lua_error(l);
            }
        } else if first < -(1 << 30) {
            // A table's own length is below that: the interpreter holds 256 MiB.
            ffi::luaL_where(l, 1);
            ffi::lua_pushliteral(l, c"too many results to unpack");
            ffi::lua_concat(l, 2);
            ffi::lua_error(l);
        }
        forward(l, 1)
    }
}

unsafe extern "C-unwind" fn text_only_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is a function; a string that stands on the stack stays where it is.
    unsafe {
        let mut len = 0;
        let text = ffi::luaL_checklstring(l, 1, &mut len);
        if len > 0 && *text.cast::<u8>() == b'\x1b' {
            ffi::lua_pushnil(l);
            ffi::lua_pushliteral(l, c"[string \"Lua\"]:1: unexpected symbol near 'char(27)'");
            return 2;
        }
        forward(l, 1)
    }
}

unsafe extern "C-unwind" fn on_function_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is a function.
    unsafe {
        ffi::luaL_checktype(l, 1, ffi::LUA_TFUNCTION);
        forward(l, 1)
    }
}

unsafe extern "C-unwind" fn handler_c(l: *mut lua_State) -> c_int {
    // SAFETY: the debug record is filled by Lua before it is read, and its texts live as long as the functions.
    unsafe {
        // Scripts can call it too.
        ffi::lua_settop(l, 1);
        if ffi::lua_type(l, 1) == ffi::LUA_TUSERDATA {
            return 1;
        }
        if ffi::lua_istable(l, 1) == 0 {
            ffi::lua_createtable(l, 0, 3);
            ffi::lua_pushliteral(l, c"ERR ");
            ffi::lua_pushvalue(l, lua_upvalueindex(1));
            ffi::lua_pushvalue(l, 1);
            ffi::lua_call(l, 1, 1);
            ffi::lua_concat(l, 2);
            ffi::lua_setfield(l, -2, c"err".as_ptr());
            ffi::lua_replace(l, 1);
        }
        let mut record: ffi::lua_Debug = std::mem::zeroed();
        let mut level = 1;
        while ffi::lua_getstack(l, level, &mut record) != 0 {
            ffi::lua_getinfo(l, c"nSl".as_ptr(), &mut record);
            // What raised it may be one of our functions: told is the line of the script that called it.
            if level == 1 && *record.what.cast::<u8>() == b'C' {
                level = 2;
                continue;
            }
            ffi::lua_pushstring(l, record.source);
            ffi::lua_setfield(l, 1, c"source".as_ptr());
            ffi::lua_pushnumber(l, record.currentline.into());
            ffi::lua_setfield(l, 1, c"line".as_ptr());
            break;
        }
        ffi::lua_settop(l, 1);
        1
    }
}

unsafe extern "C-unwind" fn runner_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is a function or nil.
    unsafe {
        let count = ffi::lua_gettop(l);
        let has_handler = ffi::lua_isnil(l, lua_upvalueindex(1)) == 0;
        ffi::lua_pushvalue(l, lua_upvalueindex(1));
        ffi::lua_insert(l, 1);
        let status = ffi::lua_pcall(l, count - 1, 1, has_handler.into());
        // A closure that failed in itself: that is not the script's business.
        if status != 0 && ffi::lua_type(l, -1) == ffi::LUA_TUSERDATA {
            ffi::lua_error(l);
        }
        ffi::lua_pushboolean(l, (status == 0).into());
        ffi::lua_insert(l, -2);
        2
    }
}

pub(super) unsafe extern "C-unwind" fn hook_c(l: *mut lua_State, record: *mut ffi::lua_Debug) {
    // SAFETY: the registry holds the watch's address, and the watch lives as long as the interpreter.
    unsafe {
        ffi::lua_pushlightuserdata(l, watch_key());
        ffi::lua_rawget(l, ffi::LUA_REGISTRYINDEX);
        let watch = ffi::lua_touserdata(l, -1).cast::<Watch>();
        ffi::lua_pop(l, 1);
        if watch.is_null() {
            return;
        }
        if !(*watch).is_to_end() {
            return super::debug::native::on_hook(l, record, &*watch);
        }
        ffi::lua_pushliteral(l, c"the script is to end");
        ffi::lua_error(l);
    }
}
