//! The library `cmsgpack`: values as MessagePack. Behaves as lua-cmsgpack 0.4.0, which Redis carries.
//!
//! Invariant: no length that the input claims makes room for anything; depth is bounded both ways.

use super::args::{Answer, Args, Fail, function, one};
use super::pack::{BYTES_MAX, RESULTS_MAX};
use mlua::{Lua, MultiValue, Table, Value};

pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("pack", function(lua, "pack", pack)?)?;
    table.raw_set("unpack", function(lua, "unpack", |lua, a| unpack(lua, &a.bytes(0)?, 0, 0))?)?;
    let one_from = |lua: &Lua, a: &Args| unpack(lua, &a.bytes(0)?, 1, a.integer_or(1, 0)?);
    table.raw_set("unpack_one", function(lua, "unpack_one", one_from)?)?;
    let some = |lua: &Lua, a: &Args| unpack(lua, &a.bytes(0)?, a.integer(1)?, a.integer_or(2, 0)?);
    table.raw_set("unpack_limit", function(lua, "unpack_limit", some)?)?;
    for (name, text) in [
        ("_NAME", "cmsgpack"),
        ("_VERSION", "lua-cmsgpack 0.4.0"),
        ("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo"),
        ("_DESCRIPTION", "MessagePack C implementation for Lua"),
    ] {
        table.raw_set(name, text)?;
    }
    Ok(table)
}

/// Tables inside one another that are packed; deeper ones become nil. The number is the library's.
const PACK_DEPTH_MAX: usize = 16;
/// Values inside one another that are unpacked. Choice: some times what can be packed, and safe for the thread's stack.
const UNPACK_DEPTH_MAX: usize = 100;

fn pack(lua: &Lua, args: &Args) -> Answer {
    if args.len() == 0 {
        return Fail::at("bad argument #0 to 'pack' (MessagePack pack needs input.)");
    }
    let mut out = Vec::new();
    for value in args.all() {
        put(&mut out, value, 0)?;
    }
    one(lua, lua.create_string(out)?)
}

fn put(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Fail> {
    // A table may stand in another many times over.
    if out.len() > BYTES_MAX {
        return Fail::at("not enough memory");
    }
    match value {
        Value::String(s) => put_bytes(out, &s.as_bytes()),
        Value::Boolean(b) => out.push(if *b { 0xC3 } else { 0xC2 }),
        Value::Integer(n) => put_integer(out, *n),
        Value::Number(n) => match *n == (*n as i64) as f64 && *n != 9223372036854775808.0 {
            true => put_integer(out, *n as i64),
            false => put_double(out, *n),
        },
        Value::Table(table) if depth < PACK_DEPTH_MAX => put_table(out, table, depth)?,
        _ => out.push(0xC0),
    }
    Ok(())
}

fn put_table(out: &mut Vec<u8>, table: &Table, depth: usize) -> Result<(), Fail> {
    // An array: whole numbers from 1 without a hole.
    let (mut count, mut max, mut is_array) = (0usize, 0i64, true);
    for pair in table.pairs::<Value, Value>() {
        match pair?.0 {
            Value::Integer(n) if n > 0 => max = max.max(n),
            _ => is_array = false,
        }
        count += 1;
    }
    if is_array && max == count as i64 {
        put_header(out, count, (0x90, 0xDC, 0xDD));
        for i in 1..=count as i64 {
            put(out, &table.raw_get(i)?, depth + 1)?;
        }
        return Ok(());
    }
    put_header(out, count, (0x80, 0xDE, 0xDF));
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        put(out, &key, depth + 1)?;
        put(out, &value, depth + 1)?;
    }
    Ok(())
}

fn put_header(out: &mut Vec<u8>, count: usize, (short, half, full): (u8, u8, u8)) {
    match count {
        0..16 => out.push(short | count as u8),
        16..0x1_0000 => {
            out.push(half);
            out.extend((count as u16).to_be_bytes());
        }
        _ => {
            out.push(full);
            out.extend((count as u32).to_be_bytes());
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len();
    match len {
        0..32 => out.push(0xA0 | len as u8),
        32..0x100 => out.extend([0xD9, len as u8]),
        0x100..0x1_0000 => {
            out.push(0xDA);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(0xDB);
            out.extend((len as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

fn put_integer(out: &mut Vec<u8>, n: i64) {
    match n {
        0..=0x7F => out.push(n as u8),
        0x80..=0xFF => out.extend([0xCC, n as u8]),
        0x100..=0xFFFF => {
            out.push(0xCD);
            out.extend((n as u16).to_be_bytes());
        }
        0x1_0000..=0xFFFF_FFFF => {
            out.push(0xCE);
            out.extend((n as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xCF);
            out.extend(n.to_be_bytes());
        }
        -32..=-1 => out.push(n as u8),
        -0x80..=-33 => out.extend([0xD0, n as u8]),
        -0x8000..=-0x81 => {
            out.push(0xD1);
            out.extend((n as i16).to_be_bytes());
        }
        -0x8000_0000..=-0x8001 => {
            out.push(0xD2);
            out.extend((n as i32).to_be_bytes());
        }
        _ => {
            out.push(0xD3);
            out.extend(n.to_be_bytes());
        }
    }
}

fn put_double(out: &mut Vec<u8>, n: f64) {
    if f64::from(n as f32) == n {
        out.push(0xCA);
        out.extend((n as f32).to_be_bytes());
    } else {
        out.push(0xCB);
        out.extend(n.to_be_bytes());
    }
}

fn unpack(lua: &Lua, data: &[u8], limit: i64, offset: i64) -> Answer {
    let len = data.len();
    let is_all = limit == 0 && offset == 0;
    if offset < 0 || limit < 0 {
        return Fail::at(format!("Invalid request to unpack with offset of {offset} and limit of {len}."));
    }
    if offset > len as i64 {
        return Fail::at(format!("Start offset {offset} greater than input length {len}."));
    }
    let limit = if is_all { i64::MAX } else { limit };
    let mut input = Input { data, at: offset as usize };
    let mut results = Vec::new();
    while input.at < len && (results.len() as i64) < limit {
        if results.len() >= RESULTS_MAX {
            return Fail::at(
                "stack overflow (too many return values at once; use unpack_one or unpack_limit instead.)",
            );
        }
        results.push(input.value(lua, 0)?);
    }
    if !is_all {
        let next = if input.at == len { -1 } else { input.at as i64 };
        results.insert(0, Value::Integer(next));
    }
    Ok(MultiValue::from_vec(results))
}

struct Input<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Fail> {
        let bytes = self.at.checked_add(len).and_then(|end| self.data.get(self.at..end));
        let bytes = bytes.ok_or(Fail::At("Missing bytes in input.".into()))?;
        self.at += len;
        Ok(bytes)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fail> {
        Ok(self.take(N)?.try_into().expect("as many as were taken"))
    }
    fn len16(&mut self) -> Result<usize, Fail> {
        Ok(u16::from_be_bytes(self.array()?).into())
    }
    fn len32(&mut self) -> Result<usize, Fail> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }

    fn value(&mut self, lua: &Lua, depth: usize) -> Result<Value, Fail> {
        if depth > UNPACK_DEPTH_MAX {
            return Fail::at("Bad data format in input.");
        }
        let [kind] = self.array()?;
        Ok(match kind {
            0x00..=0x7F => Value::Integer(kind.into()),
            0xE0..=0xFF => Value::Integer((kind as i8).into()),
            0x80..=0x8F => self.map(lua, (kind & 0xF).into(), depth)?,
            0x90..=0x9F => self.list(lua, (kind & 0xF).into(), depth)?,
            0xA0..=0xBF => self.string(lua, (kind & 0x1F).into())?,
            0xC0 => Value::Nil,
            0xC2 => Value::Boolean(false),
            0xC3 => Value::Boolean(true),
            0xCA => Value::Number(f32::from_be_bytes(self.array()?).into()),
            0xCB => Value::Number(f64::from_be_bytes(self.array()?)),
            0xCC => Value::Integer(u8::from_be_bytes(self.array()?).into()),
            0xCD => Value::Integer(u16::from_be_bytes(self.array()?).into()),
            0xCE => Value::Integer(u32::from_be_bytes(self.array()?).into()),
            // The library has no unsigned integers.
            0xCF => Value::Number(i64::from_be_bytes(self.array()?) as f64),
            0xD0 => Value::Integer(i8::from_be_bytes(self.array()?).into()),
            0xD1 => Value::Integer(i16::from_be_bytes(self.array()?).into()),
            0xD2 => Value::Integer(i32::from_be_bytes(self.array()?).into()),
            0xD3 => Value::Number(i64::from_be_bytes(self.array()?) as f64),
            0xD9 => {
                let [len] = self.array()?;
                self.string(lua, len.into())?
            }
            0xDA => {
                let len = self.len16()?;
                self.string(lua, len)?
            }
            0xDB => {
                let len = self.len32()?;
                self.string(lua, len)?
            }
            0xDC => {
                let len = self.len16()?;
                self.list(lua, len, depth)?
            }
            0xDD => {
                let len = self.len32()?;
                self.list(lua, len, depth)?
            }
            0xDE => {
                let len = self.len16()?;
                self.map(lua, len, depth)?
            }
            0xDF => {
                let len = self.len32()?;
                self.map(lua, len, depth)?
            }
            _ => return Fail::at("Bad data format in input."),
        })
    }

    fn string(&mut self, lua: &Lua, len: usize) -> Result<Value, Fail> {
        Ok(Value::String(lua.create_string(self.take(len)?)?))
    }

    fn list(&mut self, lua: &Lua, len: usize, depth: usize) -> Result<Value, Fail> {
        let table = lua.create_table()?;
        for i in 1..=len {
            table.raw_set(i, self.value(lua, depth + 1)?)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, lua: &Lua, len: usize, depth: usize) -> Result<Value, Fail> {
        let table = lua.create_table()?;
        for _ in 0..len {
            let key = self.value(lua, depth + 1)?;
            let value = self.value(lua, depth + 1)?;
            match key {
                Value::Nil => return Fail::at("table index is nil"),
                Value::Number(n) if n.is_nan() => return Fail::at("table index is NaN"),
                key => table.raw_set(key, value)?,
            }
        }
        Ok(Value::Table(table))
    }
}
