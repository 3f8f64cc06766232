//! The hook that stops a script, written against Lua's C interface: it alone sees the stack of what is being run. The rules
//! are those of `script/native.rs`.
#![allow(unsafe_code)]

use super::{Console, Debugger};
use crate::script::control::Watch;
use crate::script::native::{HOOK_COUNT, hook_c};
use mlua::ffi::{self, lua_Debug, lua_State};
use mlua::{Function, IntoLuaMulti, Lua, MultiValue, Result, Table, Value};
use std::ffi::{CStr, c_int, c_void};

/// Instructions after which a script is looked at in the middle of a line, as by Redis.
const LONG_COUNT: c_int = 100_000;

/// What the hook is to do.
pub(super) enum Action {
    /// The script goes on.
    Go,
    /// The script ends with this error.
    Fail(Table),
    /// The script ends, and the watch says why.
    End,
    /// Tell the local variables of the function that runs, or of all that have not returned.
    Locals { is_all_levels: bool },
    /// Tell the functions that have not returned.
    Frames,
    /// Run this, and tell its result.
    Eval(Function),
}

/// Actions as the hook gets them.
const GO: i32 = 0;
const FAIL: i32 = 1;
const END: i32 = 2;
const LOCALS: i32 = 3;
const ALL_LOCALS: i32 = 4;
const FRAMES: i32 = 5;
const EVAL: i32 = 6;

/// What the hook asks and tells.
const ASK: i32 = 0;
const LOCAL: i32 = 1;
const FRAME: i32 = 2;
const RESULT: i32 = 3;

impl IntoLuaMulti for Action {
    fn into_lua_multi(self, lua: &Lua) -> Result<MultiValue> {
        match self {
            Action::Go => GO.into_lua_multi(lua),
            Action::Fail(error) => (FAIL, error).into_lua_multi(lua),
            Action::End => END.into_lua_multi(lua),
            Action::Locals { is_all_levels: false } => LOCALS.into_lua_multi(lua),
            Action::Locals { is_all_levels: true } => ALL_LOCALS.into_lua_multi(lua),
            Action::Frames => FRAMES.into_lua_multi(lua),
            Action::Eval(function) => (EVAL, function).into_lua_multi(lua),
        }
    }
}

/// A key of the registry that nobody else can have: there stands what the hook talks to.
fn console_key() -> *mut c_void {
    static KEY: u8 = 0;
    std::ptr::from_ref(&KEY).cast_mut().cast()
}

/// Makes scripts of this interpreter stop, and has the console say what then happens.
pub(super) fn install(lua: &Lua, console: Console) -> Result<()> {
    let answer = lua.create_function(move |lua, (what, values): (i32, MultiValue)| {
        let debugger: &Debugger = &console.debugger;
        let value = |place: usize| values.get(place).unwrap_or(&Value::Nil);
        let text = |place: usize| value(place).as_string().map(|text| text.as_bytes().to_vec());
        let number = |place: usize| value(place).as_i64().unwrap_or_default();
        match what {
            LOCAL => debugger.on_local(&console, &text(1).unwrap_or_default(), value(0)).into_lua_multi(lua),
            FRAME => {
                debugger.on_frame(number(0), text(1).as_deref(), number(2));
                Ok(MultiValue::new())
            }
            RESULT => {
                debugger.on_result(&console, value(1) == &Value::Boolean(true), value(0));
                Ok(MultiValue::new())
            }
            _ => debugger.next(&console, lua)?.into_lua_multi(lua),
        }
    })?;
    // SAFETY: the closure keeps to the stack that `exec_raw` gives it; the argument stands at its top.
    unsafe {
        lua.exec_raw::<()>(answer, |l| {
            ffi::lua_pushlightuserdata(l, console_key());
            ffi::lua_insert(l, -2);
            ffi::lua_rawset(l, ffi::LUA_REGISTRYINDEX);
            ffi::lua_sethook(l, Some(hook_c), ffi::LUA_MASKCOUNT | ffi::LUA_MASKLINE, LONG_COUNT);
        })
    }
}

/// What the hook does for a debugger.
///
/// # Safety
/// To be called in a hook with its record, by who has nothing on the stack that it needs and no local with a destructor.
/// A debugger of the watch's lives as long as the interpreter.
pub unsafe fn on_hook(l: *mut lua_State, record: *mut lua_Debug, watch: &Watch) {
    // SAFETY: the record is the hook's, so that Lua knows which function it is of. In a hook the stack has room for
    // `LUA_MINSTACK` values.
    unsafe {
        let is_count = (*record).event == ffi::LUA_HOOKCOUNT;
        ffi::lua_getinfo(l, c"Sl".as_ptr(), record);
        let Some(debugger) = watch.debugger() else { return };
        if !debugger.stops(is_count, (*record).currentline.into(), is_script(record)) {
            return;
        }
        let base = ffi::lua_gettop(l);
        loop {
            push_console(l, ASK);
            ffi::lua_call(l, 1, 2);
            match ffi::lua_tonumber(l, base + 1) as i32 {
                GO => return ffi::lua_settop(l, base),
                FAIL => ffi::lua_error(l),
                LOCALS => tell_locals(l, 1),
                ALL_LOCALS => tell_locals(l, c_int::MAX),
                FRAMES => tell_frames(l),
                EVAL => run_beside(l, watch),
                _ => {
                    ffi::lua_pushliteral(l, c"the script is to end");
                    ffi::lua_error(l);
                }
            }
            ffi::lua_settop(l, base);
        }
    }
}

/// # Safety
/// The record's source is filled in.
unsafe fn is_script(record: *const lua_Debug) -> bool {
    // SAFETY: Lua ends the text with a zero.
    let source = unsafe { CStr::from_ptr((*record).short_src.as_ptr()) };
    memchr::memmem::find(source.to_bytes(), b"user_script").is_some()
}

/// Pushes the console and what it is told.
///
/// # Safety
/// Room for two values.
unsafe fn push_console(l: *mut lua_State, what: i32) {
    // SAFETY: as the caller's.
    unsafe {
        ffi::lua_pushlightuserdata(l, console_key());
        ffi::lua_rawget(l, ffi::LUA_REGISTRYINDEX);
        ffi::lua_pushnumber(l, what.into());
    }
}

/// Tells local variables of so many functions, from the one that runs on outwards.
///
/// # Safety
/// As [`on_hook`].
unsafe fn tell_locals(l: *mut lua_State, levels: c_int) {
    // SAFETY: the record is filled by Lua before it is used.
    unsafe {
        let mut record: lua_Debug = std::mem::zeroed();
        let mut level = 0;
        while level < levels && ffi::lua_getstack(l, level, &mut record) != 0 {
            let mut number = 1;
            loop {
                let name = ffi::lua_getlocal(l, &record, number);
                if name.is_null() {
                    break;
                }
                push_console(l, LOCAL);
                ffi::lua_pushvalue(l, -3);
                ffi::lua_pushstring(l, name);
                ffi::lua_call(l, 3, 1);
                let goes_on = ffi::lua_toboolean(l, -1) != 0;
                ffi::lua_pop(l, 2);
                if !goes_on {
                    return;
                }
                number += 1;
            }
            level += 1;
        }
    }
}

/// Tells the functions of the script that have not returned.
///
/// # Safety
/// As [`on_hook`].
unsafe fn tell_frames(l: *mut lua_State) {
    // SAFETY: the record is filled by Lua before it is read.
    unsafe {
        let mut record: lua_Debug = std::mem::zeroed();
        let mut level = 0;
        while ffi::lua_getstack(l, level, &mut record) != 0 {
            ffi::lua_getinfo(l, c"Snl".as_ptr(), &mut record);
            if is_script(&record) {
                push_console(l, FRAME);
                ffi::lua_pushnumber(l, level.into());
                match record.name.is_null() {
                    true => ffi::lua_pushnil(l),
                    false => {
                        ffi::lua_pushstring(l, record.name);
                    }
                }
                ffi::lua_pushnumber(l, record.currentline.into());
                ffi::lua_call(l, 4, 0);
            }
            level += 1;
        }
    }
}

/// Runs the function on top and tells its result. In a coroutine of its own: hooks are off within a hook, and there they
/// are on, so that it can be ended.
///
/// # Safety
/// As [`on_hook`]; a function stands on top.
unsafe fn run_beside(l: *mut lua_State, watch: &Watch) {
    // SAFETY: a new coroutine has room for `LUA_MINSTACK` values.
    unsafe {
        let beside = ffi::lua_newthread(l);
        ffi::lua_sethook(beside, Some(hook_c), ffi::LUA_MASKCOUNT, HOOK_COUNT);
        ffi::lua_pushvalue(l, -2);
        ffi::lua_xmove(l, beside, 1);
        let status = ffi::lua_pcall(beside, 0, 1, 0);
        ffi::lua_xmove(beside, l, 1);
        if status != 0 && (watch.has_ended() || ffi::lua_type(l, -1) == ffi::LUA_TUSERDATA) {
            ffi::lua_error(l);
        }
        push_console(l, RESULT);
        ffi::lua_pushvalue(l, -3);
        ffi::lua_pushboolean(l, (status == 0).into());
        ffi::lua_call(l, 3, 0);
    }
}
