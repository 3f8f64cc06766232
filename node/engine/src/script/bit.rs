//! The library `bit`: operations on 32 bits. Behaves as LuaBitOp 1.0.2, which Redis carries.

use super::args::{Answer, Args, Fail, function, one, to_number};
use mlua::{Lua, Table};

pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let add = |name: &'static str, f: fn(&Lua, &Args) -> Answer| -> mlua::Result<()> {
        table.raw_set(name, function(lua, name, f)?)
    };
    add("tobit", |lua, a| signed(lua, bits(a, 0)?))?;
    add("bnot", |lua, a| signed(lua, !bits(a, 0)?))?;
    add("band", |lua, a| fold(lua, a, |x, y| x & y))?;
    add("bor", |lua, a| fold(lua, a, |x, y| x | y))?;
    add("bxor", |lua, a| fold(lua, a, |x, y| x ^ y))?;
    add("lshift", |lua, a| shift(lua, a, |b, n| b << n))?;
    add("rshift", |lua, a| shift(lua, a, |b, n| b >> n))?;
    add("arshift", |lua, a| shift(lua, a, |b, n| ((b as i32) >> n) as u32))?;
    add("rol", |lua, a| shift(lua, a, u32::rotate_left))?;
    add("ror", |lua, a| shift(lua, a, u32::rotate_right))?;
    add("bswap", |lua, a| signed(lua, bits(a, 0)?.swap_bytes()))?;
    add("tohex", to_hex)?;
    Ok(table)
}

/// An argument modulo 2^32. Fractions round to even, as adding 2^52 + 2^51 does.
fn bits(args: &Args, index: usize) -> Result<u32, Fail> {
    match to_number(args.value(index)) {
        Some(number) => Ok((number + 6755399441055744.0).to_bits() as u32),
        None => args.number(index).map(|_| 0),
    }
}

fn signed(lua: &Lua, value: u32) -> Answer {
    one(lua, value as i32)
}

fn fold(lua: &Lua, args: &Args, f: fn(u32, u32) -> u32) -> Answer {
    let first = bits(args, 0)?;
    signed(lua, (1..args.len()).try_fold(first, |b, i| bits(args, i).map(|next| f(b, next)))?)
}

fn shift(lua: &Lua, args: &Args, f: fn(u32, u32) -> u32) -> Answer {
    signed(lua, f(bits(args, 0)?, bits(args, 1)? & 31))
}

fn to_hex(lua: &Lua, args: &Args) -> Answer {
    let value = bits(args, 0)?;
    let digits = if args.len() > 1 { bits(args, 1)? as i32 } else { 8 };
    let text = format!("{value:08x}");
    let text = if digits < 0 { text.to_uppercase() } else { text };
    one(lua, &text[8 - digits.unsigned_abs().min(8) as usize..])
}
