//! `string.find`, `match`, `gmatch` and `gsub`, as `lstrlib.c` of Lua 5.1 has them, over a matcher that can be ended. Written
//! against Lua's C interface; the rules are those of `native.rs`.
#![allow(unsafe_code)]

use super::control::Watch;
use super::native::{closure_of, pointer, watch_of};
use super::pattern::{Capture, Matcher, Stop};
use mlua::ffi::{self, lua_State, lua_upvalueindex};
use mlua::{Function, Lua, Result};
use std::ffi::{c_char, c_int};

/// Items of a pattern that may match several times. Matching recurses once for each; the bound keeps it far from the end of a
/// thread's stack.
const ITEMS_MAX: usize = 1000;

/// `string.find`. The watch must live as long as the interpreter, here and below.
pub fn find(lua: &Lua, watch: &Watch) -> Result<Function> {
    closure_of(lua, find_c, (pointer(watch),))
}
/// `string.match`.
pub fn first_match(lua: &Lua, watch: &Watch) -> Result<Function> {
    closure_of(lua, match_c, (pointer(watch),))
}
/// `string.gmatch`.
pub fn all_matches(lua: &Lua, watch: &Watch) -> Result<Function> {
    closure_of(lua, gmatch_c, (pointer(watch),))
}
/// `string.gsub`.
pub fn replace(lua: &Lua, watch: &Watch) -> Result<Function> {
    closure_of(lua, gsub_c, (pointer(watch),))
}

/// The bytes of a string argument, which stays where it is.
///
/// # Safety
/// The result is used while the value stands on the stack.
unsafe fn bytes<'a>(l: *mut lua_State, place: c_int) -> &'a [u8] {
    // SAFETY: Lua gives as many bytes as it says.
    unsafe {
        let mut len = 0;
        let text = ffi::luaL_checklstring(l, place, &mut len);
        std::slice::from_raw_parts(text.cast::<u8>(), len)
    }
}

/// The pattern that is argument 2.
///
/// # Safety
/// As [`bytes`].
unsafe fn pattern<'a>(l: *mut lua_State) -> &'a [u8] {
    // SAFETY: as the caller's.
    unsafe {
        let pattern = bytes(l, 2);
        let is_repeated = |c: &&u8| matches!(c, b'*' | b'+' | b'-' | b'?');
        if pattern.len() > ITEMS_MAX && pattern.iter().filter(is_repeated).count() > ITEMS_MAX {
            stop(l, Stop::Error(c"pattern too complex"));
        }
        pattern
    }
}

/// Raises why matching ended.
///
/// # Safety
/// Nothing with a destructor is alive.
unsafe fn stop(l: *mut lua_State, stop: Stop) -> ! {
    // SAFETY: as the caller's.
    unsafe {
        match stop {
            Stop::Error(text) => {
                ffi::luaL_where(l, 1);
                ffi::lua_pushstring(l, text.as_ptr());
                ffi::lua_concat(l, 2);
            }
            Stop::End => {
                ffi::lua_pushstring(l, c"the script is to end".as_ptr());
            }
        }
        ffi::lua_error(l)
    }
}

/// The value, or the error raised.
///
/// # Safety
/// As [`stop`].
#[inline]
unsafe fn checked<T: Copy>(l: *mut lua_State, result: std::result::Result<T, Stop>) -> T {
    match result {
        Ok(value) => value,
        // SAFETY: as the caller's.
        Err(reason) => unsafe { stop(l, reason) },
    }
}

/// Pushes bytes of a string.
///
/// # Safety
/// Room for a value.
unsafe fn push(l: *mut lua_State, bytes: &[u8]) {
    // SAFETY: as the caller's.
    unsafe {
        ffi::lua_pushlstring(l, bytes.as_ptr().cast::<c_char>(), bytes.len());
    }
}

/// Pushes one capture of a match.
///
/// # Safety
/// As [`stop`]; room for a value.
unsafe fn push_capture(l: *mut lua_State, matcher: &Matcher<'_>, place: usize, found: (usize, usize)) {
    // SAFETY: as the caller's.
    unsafe {
        match checked(l, matcher.capture(place, found)) {
            (start, Capture::Text(len)) => push(l, &matcher.subject()[start..start + len]),
            (start, _) => ffi::lua_pushnumber(l, (start + 1) as f64),
        }
    }
}

/// Pushes all captures of a match, or the match where there are none and `is_whole`. Returns how many.
///
/// # Safety
/// As [`stop`].
unsafe fn push_captures(
    l: *mut lua_State,
    matcher: &Matcher<'_>,
    found: (usize, usize),
    is_whole: bool,
) -> c_int {
    // SAFETY: as the caller's.
    unsafe {
        let count = matcher.level().max(usize::from(is_whole));
        ffi::luaL_checkstack(l, count as c_int, c"too many captures".as_ptr());
        (0..count).for_each(|place| push_capture(l, matcher, place, found));
        count as c_int
    }
}

unsafe extern "C-unwind" fn find_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is the watch.
    unsafe { search(l, true) }
}

unsafe extern "C-unwind" fn match_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is the watch.
    unsafe { search(l, false) }
}

/// # Safety
/// Bound is the watch.
unsafe fn search(l: *mut lua_State, is_find: bool) -> c_int {
    const SPECIALS: &[u8] = b"^$*+?.([%-";
    // SAFETY: as the caller's.
    unsafe {
        let (subject, plain) = (bytes(l, 1), bytes(l, 2));
        let start = start_of(ffi::luaL_optinteger(l, 3, 1) as i64, subject.len());
        let is_special = || plain.iter().take_while(|c| **c != 0).any(|c| SPECIALS.contains(c));
        if is_find && (ffi::lua_toboolean(l, 4) != 0 || !is_special()) {
            return match memchr::memmem::find(&subject[start..], plain) {
                Some(at) => {
                    ffi::lua_pushnumber(l, (start + at + 1) as f64);
                    ffi::lua_pushnumber(l, (start + at + plain.len()) as f64);
                    2
                }
                None => {
                    ffi::lua_pushnil(l);
                    1
                }
            };
        }
        let mut matcher = Matcher::new(subject, pattern(l), true, watch_of(l));
        let Some(found) = checked(l, matcher.find(start)) else {
            ffi::lua_pushnil(l);
            return 1;
        };
        if !is_find {
            return push_captures(l, &matcher, found, true);
        }
        ffi::lua_pushnumber(l, (found.0 + 1) as f64);
        ffi::lua_pushnumber(l, found.1 as f64);
        push_captures(l, &matcher, found, false) + 2
    }
}

/// Where a search begins: a negative place counts from the end.
fn start_of(place: i64, len: usize) -> usize {
    let place = if place < 0 { place.saturating_add(len as i64 + 1) } else { place };
    usize::try_from(place.max(1) - 1).unwrap_or(usize::MAX).min(len)
}

unsafe extern "C-unwind" fn gmatch_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is the watch.
    unsafe {
        bytes(l, 1);
        pattern(l);
        ffi::lua_settop(l, 2);
        ffi::lua_pushvalue(l, lua_upvalueindex(1));
        ffi::lua_insert(l, 1);
        ffi::lua_pushnumber(l, 0.0);
        ffi::lua_pushcclosure(l, next_match_c, 4);
        1
    }
}

unsafe extern "C-unwind" fn next_match_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound are the watch, two strings and a number.
    unsafe {
        let (subject, pattern) = (bytes(l, lua_upvalueindex(2)), bytes(l, lua_upvalueindex(3)));
        let start = ffi::lua_tonumber(l, lua_upvalueindex(4)) as usize;
        let mut matcher = Matcher::new(subject, pattern, false, watch_of(l));
        let Some(found) = checked(l, matcher.find(start)) else { return 0 };
        // Behind an empty match at least one place further.
        let next = found.1 + usize::from(found.0 == found.1);
        ffi::lua_pushnumber(l, next as f64);
        ffi::lua_replace(l, lua_upvalueindex(4));
        push_captures(l, &matcher, found, true)
    }
}

unsafe extern "C-unwind" fn gsub_c(l: *mut lua_State) -> c_int {
    // SAFETY: bound is the watch; the buffer is used as Lua demands: what it has on the stack is left alone.
    unsafe {
        let (subject, pattern) = (bytes(l, 1), pattern(l));
        let kind = ffi::lua_type(l, 3);
        let count_max = ffi::luaL_optinteger(l, 4, subject.len() as ffi::lua_Integer + 1) as i32;
        let is_replacement =
            matches!(kind, ffi::LUA_TNUMBER | ffi::LUA_TSTRING | ffi::LUA_TFUNCTION | ffi::LUA_TTABLE);
        if !is_replacement {
            ffi::luaL_argerror(l, 3, c"string/function/table expected".as_ptr());
        }
        let mut matcher = Matcher::new(subject, pattern, true, watch_of(l));
        let mut buffer: std::mem::MaybeUninit<ffi::luaL_Buffer> = std::mem::MaybeUninit::uninit();
        let buffer = buffer.as_mut_ptr();
        ffi::luaL_buffinit(l, buffer);
        let (mut at, mut count) = (0, 0);
        while count < count_max {
            let found = checked(l, matcher.match_at(at));
            if let Some(end) = found {
                count += 1;
                add_value(l, buffer, &matcher, kind, (at, end));
            }
            match found {
                Some(end) if end > at => at = end,
                _ if at < subject.len() => {
                    ffi::luaL_addchar(buffer, subject[at] as c_char);
                    at += 1;
                }
                _ => break,
            }
            if matcher.is_anchored {
                break;
            }
        }
        ffi::luaL_addlstring(buffer, subject[at..].as_ptr().cast(), subject.len() - at);
        ffi::luaL_pushresult(buffer);
        ffi::lua_pushnumber(l, count.into());
        2
    }
}

/// Adds what takes a match's place.
///
/// # Safety
/// As [`stop`].
unsafe fn add_value(
    l: *mut lua_State,
    buffer: *mut ffi::luaL_Buffer,
    matcher: &Matcher<'_>,
    kind: c_int,
    found: (usize, usize),
) {
    // SAFETY: as the caller's.
    unsafe {
        match kind {
            ffi::LUA_TFUNCTION => {
                ffi::lua_pushvalue(l, 3);
                let count = push_captures(l, matcher, found, true);
                ffi::lua_call(l, count, 1);
            }
            ffi::LUA_TTABLE => {
                push_capture(l, matcher, 0, found);
                ffi::lua_gettable(l, 3);
            }
            _ => return add_text(l, buffer, matcher, found),
        }
        if ffi::lua_toboolean(l, -1) == 0 {
            ffi::lua_pop(l, 1);
            push(l, &matcher.subject()[found.0..found.1]);
        } else if ffi::lua_isstring(l, -1) == 0 {
            let name = ffi::luaL_typename(l, -1);
            ffi::luaL_error(l, c"invalid replacement value (a %s)".as_ptr(), name);
        }
        ffi::luaL_addvalue(buffer);
    }
}

/// Adds the replacement that is a text, with the captures that it names.
///
/// # Safety
/// As [`stop`].
unsafe fn add_text(
    l: *mut lua_State,
    buffer: *mut ffi::luaL_Buffer,
    matcher: &Matcher<'_>,
    found: (usize, usize),
) {
    // SAFETY: as the caller's; a number becomes a string in its place, which stays.
    unsafe {
        let text = bytes(l, 3);
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'%', rest) {
            ffi::luaL_addlstring(buffer, rest.as_ptr().cast(), at);
            // Behind the text stands a zero, which is taken as it is.
            let named = rest.get(at + 1).copied().unwrap_or(0);
            match named {
                b'0' => {
                    let whole = &matcher.subject()[found.0..found.1];
                    ffi::luaL_addlstring(buffer, whole.as_ptr().cast(), whole.len());
                }
                b'1'..=b'9' => {
                    push_capture(l, matcher, usize::from(named - b'1'), found);
                    ffi::luaL_addvalue(buffer);
                }
                _ => ffi::luaL_addchar(buffer, named as c_char),
            }
            rest = rest.get(at + 2..).unwrap_or_default();
        }
        ffi::luaL_addlstring(buffer, rest.as_ptr().cast(), rest.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use mlua::{Table, Value};

    /// Says of two functions what they answer to arguments, errors included.
    const SHOW: &str = "local f, g, n = ... \
        local function show(f, ...) \
            local all = {pcall(f, ...)} \
            if type(all[2]) ~= 'function' then return all end \
            local found = {} \
            for i = 1, 20 do \
                local one = {pcall(all[2])} \
                if one[2] == nil then break end \
                found[#found + 1] = one \
                if not one[1] then break end \
            end \
            return found \
        end \
        local function text(v) \
            if type(v) ~= 'table' then return tostring(v) .. ':' .. type(v) end \
            local parts = {} \
            for i = 1, table.maxn(v) do parts[i] = text(v[i]) end \
            return '{' .. table.concat(parts, ',') .. '}' \
        end \
        return function(...) return text(show(f, ...)), text(show(g, ...)) end";

    fn word(rng: &mut Rng, alphabet: &[&str], len_max: u64) -> String {
        (0..rng.below(len_max + 1)).map(|_| alphabet[rng.below(alphabet.len() as u64) as usize]).collect()
    }

    #[test]
    fn everything_is_found_as_by_lua() {
        let lua = Lua::new();
        let watch = Watch::default();
        let string: Table = lua.globals().get("string").unwrap();
        let own = [
            ("find", find(&lua, &watch).unwrap()),
            ("match", first_match(&lua, &watch).unwrap()),
            ("gmatch", all_matches(&lua, &watch).unwrap()),
            ("gsub", replace(&lua, &watch).unwrap()),
        ];
        let replacements: Vec<Value> = [
            "'<%0>'",
            "'%1%2'",
            "'%'",
            "'%%x%9'",
            "5",
            "{a='A', b=false, [1]='one', ab=2}",
            "true",
            "function(a, b) return b or a end",
            "function() return {} end",
            "function(a) error(a) end",
            "setmetatable({}, {__index=function(_, k) return k .. k end})",
        ]
        .iter()
        .map(|code| lua.load(*code).eval().unwrap())
        .collect();
        let mut rng = Rng::new(7);
        let pattern_parts = [
            "a", "b", "%a", "%A", "%d", "%s", "%z", "%w", ".", "*", "+", "-", "?", "(", ")", "()", "[ab]",
            "[^a]", "[a-c]", "[%a-]", "[", "]", "^", "$", "%", "%b()", "%bab", "%b", "%f[a]", "%f", "%1",
            "%2", "%0", "\0",
        ];
        let subject_parts = ["a", "b", "ab", "c", "(", ")", "-", "1", " ", "\0", "aaa"];
        for (name, own) in own {
            let original: Function = string.get(name).unwrap();
            let both: Function = lua.load(SHOW).call((original, own)).unwrap();
            for case in 0..20_000 {
                let subject = word(&mut rng, &subject_parts, 8);
                let pattern = word(&mut rng, &pattern_parts, 6);
                let third = match name {
                    "gsub" => replacements[rng.below(replacements.len() as u64) as usize].clone(),
                    _ if rng.below(3) == 0 => Value::Number(rng.below(20) as f64 - 10.0),
                    _ => Value::Nil,
                };
                let fourth = match rng.below(4) {
                    0 if name == "find" => Value::Boolean(true),
                    0 if name == "gsub" => Value::Number(rng.below(4) as f64 - 1.0),
                    _ => Value::Nil,
                };
                let (theirs, ours): (mlua::LuaString, mlua::LuaString) =
                    both.call((subject.as_str(), pattern.as_str(), &third, &fourth)).unwrap();
                assert_eq!(
                    ours.to_string_lossy(),
                    theirs.to_string_lossy(),
                    "case {case}: {name} {subject:?} {pattern:?} {third:?} {fourth:?}"
                );
            }
        }
    }

    #[test]
    fn arguments_are_taken_as_by_lua() {
        let lua = Lua::new();
        let watch = Watch::default();
        let string: Table = lua.globals().get("string").unwrap();
        for (name, own) in [
            ("find", find(&lua, &watch)),
            ("gmatch", all_matches(&lua, &watch)),
            ("gsub", replace(&lua, &watch)),
        ] {
            let both: Function =
                lua.load(SHOW).call((string.get::<Function>(name).unwrap(), own.unwrap())).unwrap();
            for args in [
                "",
                "nil",
                "{}, 'a'",
                "'a'",
                "'a', {}",
                "5, 5",
                "'a', 'a', {}",
                "'a', 'a', 'x', {}",
                "'a', 'a', '2'",
                "'aa', 'a', 1/0",
                "'aa', 'a', -1/0",
                "'aa', 'a', 0/0",
                "'a', ('(a)'):rep(33)",
                "'a', ('('):rep(33)",
                "('a'):rep(40), ('(a)'):rep(12)",
                "'', ''",
                "'', '', ''",
                "'abc', '', '-'",
                "'abc', '^', '-'",
                "'x', 'x', ('y'):rep(20000)",
                "('x'):rep(20000), '.', '%0%0'",
                "'hello world', 'o', 'x', 1",
            ] {
                let call = format!("local both = ... return both({args})");
                let (theirs, ours): (mlua::LuaString, mlua::LuaString) = lua.load(call).call(&both).unwrap();
                // What a function is called in its error depends on who calls it.
                assert_eq!(ours.to_string_lossy(), theirs.to_string_lossy(), "{name}({args})");
            }
        }
    }
}
