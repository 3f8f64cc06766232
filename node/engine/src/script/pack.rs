//! The library `struct`: C structures as strings. Behaves as Roberto Ierusalimschy's struct 0.2, which Redis carries.
//!
//! Invariant: no length of a format makes anything larger than what the format's values need.

use super::args::{Answer, Args, Fail, function, one, to_number};
use mlua::{Lua, MultiValue, Table, Value};

pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("pack", function(lua, "pack", pack)?)?;
    table.raw_set("unpack", function(lua, "unpack", unpack)?)?;
    table.raw_set("size", function(lua, "size", size)?)?;
    Ok(table)
}

/// Longest integer, in bytes.
const INTEGER_BYTES_MAX: usize = 32;
/// Alignment of `!` without a number: that of a double.
const ALIGN_NATIVE: usize = 8;
/// Longest string that a library makes. What is longer would not fit into the interpreter.
pub const BYTES_MAX: usize = super::interpreter::MEMORY_MAX;

/// A format as far as it is read.
struct Format<'a> {
    text: &'a [u8],
    is_big: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(text: &'a [u8]) -> Format<'a> {
        // As a C string.
        let text = text.split(|c| *c == 0).next().unwrap_or_default();
        Format { text, is_big: cfg!(target_endian = "big"), align: 1 }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.text.split_first()?;
        self.text = rest;
        Some(*first)
    }

    fn number(&mut self, default: usize) -> Result<usize, Fail> {
        let digits = self.text.iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 {
            return Ok(default);
        }
        let (number, rest) = self.text.split_at(digits);
        self.text = rest;
        let value = std::str::from_utf8(number).ok().and_then(|n| n.parse::<i32>().ok());
        value.map(|n| n as usize).ok_or(Fail::At("integral size overflow".into()))
    }

    /// Bytes of an option's value; 0 where that depends on the value, and for what is no value.
    fn size(&mut self, option: u8) -> Result<usize, Fail> {
        Ok(match option {
            b'b' | b'B' | b'x' => 1,
            b'h' | b'H' => 2,
            b'l' | b'L' | b'T' | b'd' => 8,
            b'f' => 4,
            b'c' => self.number(1)?,
            b'i' | b'I' => match self.number(4)? {
                size if size > INTEGER_BYTES_MAX => {
                    return Fail::at(format!(
                        "integral size {size} is larger than limit of {INTEGER_BYTES_MAX}"
                    ));
                }
                size => size,
            },
            _ => 0,
        })
    }

    /// Bytes between `at` and where a value of `size` bytes may begin.
    fn padding(&self, at: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let size = size.min(self.align);
        size.wrapping_sub(at & size.wrapping_sub(1)) & size.wrapping_sub(1)
    }

    /// An option that is no value.
    fn control(&mut self, args: &Args, option: u8) -> Result<(), Fail> {
        match option {
            b' ' => {}
            b'>' => self.is_big = true,
            b'<' => self.is_big = false,
            b'!' => {
                let align = self.number(ALIGN_NATIVE)?;
                if !align.is_power_of_two() {
                    return Fail::at(format!("alignment {align} is not a power of 2"));
                }
                self.align = align;
            }
            _ => return args.error(0, &format!("invalid format option '{}'", option as char)),
        }
        Ok(())
    }

    fn ordered(&self, mut little: Vec<u8>) -> Vec<u8> {
        if self.is_big {
            little.reverse();
        }
        little
    }
}

/// As C on x86-64 converts: what does not fit becomes the smallest integer, or wraps if it fits without a sign.
fn to_bits(number: f64) -> u64 {
    if number < 0.0 {
        return if number >= i64::MIN as f64 { number as i64 as u64 } else { 1 << 63 };
    }
    if number < u64::MAX as f64 { number as u64 } else { 0 }
}

fn pack(lua: &Lua, args: &Args) -> Answer {
    let args = &args.with_nil();
    let text = args.bytes(0)?;
    let mut format = Format::new(&text);
    let mut out: Vec<u8> = Vec::new();
    let mut next = 1;
    let mut take = || {
        next += 1;
        next - 1
    };
    while let Some(option) = format.next() {
        let size = format.size(option)?;
        out.resize(out.len() + format.padding(out.len(), option, size), 0);
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let mut bytes = to_bits(args.number(take())?).to_le_bytes().to_vec();
                bytes.resize(size, 0);
                out.extend(format.ordered(bytes));
            }
            b'x' => out.push(0),
            b'f' => out.extend(format.ordered((args.number(take())? as f32).to_le_bytes().to_vec())),
            b'd' => out.extend(format.ordered(args.number(take())?.to_le_bytes().to_vec())),
            b'c' | b's' => {
                let index = take();
                let bytes = args.bytes(index)?;
                let size = if size == 0 { bytes.len() } else { size };
                match bytes.get(..size) {
                    Some(bytes) => out.extend_from_slice(bytes),
                    None => return args.error(index + 1, "string too short"),
                }
                if option == b's' {
                    out.push(0);
                }
            }
            _ => format.control(args, option)?,
        }
        if out.len() > BYTES_MAX {
            return Fail::at("result too long");
        }
    }
    one(lua, lua.create_string(out)?)
}

fn integer(bytes: &[u8], is_big: bool, is_signed: bool) -> f64 {
    let value = match is_big {
        true => bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)),
        false => bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)),
    };
    if !is_signed {
        return value as f64;
    }
    let spare = 64u32.saturating_sub(8 * bytes.len() as u32).min(63);
    ((value << spare) as i64 >> spare) as f64
}

fn unpack(lua: &Lua, args: &Args) -> Answer {
    let text = args.bytes(0)?;
    let data = args.bytes(1)?;
    let Some(mut at) = usize::try_from(args.integer_or(2, 1)?).ok().filter(|p| *p > 0).map(|p| p - 1) else {
        return args.error(2, "offset must be 1 or greater");
    };
    let mut format = Format::new(&text);
    let mut results: Vec<Value> = Vec::new();
    let short = || args.error::<&[u8]>(1, "data string too short");
    let piece = |at: usize, size: usize| match at.checked_add(size).and_then(|end| data.get(at..end)) {
        Some(bytes) => Ok(bytes),
        None => short(),
    };
    while let Some(option) = format.next() {
        let mut size = format.size(option)?;
        at = at.saturating_add(format.padding(at, option, size));
        let bytes = piece(at, size)?;
        // Results stand on Lua's stack.
        if results.len() >= RESULTS_MAX {
            return Fail::at("stack overflow (too many results)");
        }
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                results.push(Value::Number(integer(bytes, format.is_big, option.is_ascii_lowercase())));
            }
            b'x' => {}
            b'f' => {
                let bytes = format.ordered(bytes.to_vec());
                let value = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
                results.push(Value::Number(value.into()));
            }
            b'd' => {
                let bytes = format.ordered(bytes.to_vec());
                results.push(Value::Number(f64::from_le_bytes(bytes.try_into().expect("eight bytes"))));
            }
            b'c' => {
                if size == 0 {
                    let Some(length) = results.pop().as_ref().and_then(to_number) else {
                        return Fail::at("format 'c0' needs a previous size");
                    };
                    size = length as usize;
                }
                results.push(Value::String(lua.create_string(piece(at, size)?)?));
            }
            b's' => {
                let rest = &data[at..];
                let Some(end) = memchr::memchr(0, rest) else {
                    return Fail::at("unfinished string in data");
                };
                results.push(Value::String(lua.create_string(&rest[..end])?));
                size = end + 1;
            }
            _ => format.control(args, option)?,
        }
        at += size;
    }
    results.push(Value::Number((at + 1) as f64));
    Ok(MultiValue::from_vec(results))
}

/// Results of one call. Below what Lua's stack takes.
pub const RESULTS_MAX: usize = 7000;

fn size(lua: &Lua, args: &Args) -> Answer {
    let text = args.bytes(0)?;
    let mut format = Format::new(&text);
    let mut at = 0usize;
    while let Some(option) = format.next() {
        let size = format.size(option)?;
        at = at.saturating_add(format.padding(at, option, size));
        match option {
            b's' => return args.error(0, "option 's' has no fixed size"),
            b'c' if size == 0 => return args.error(0, "option 'c0' has no fixed size"),
            _ if !option.is_ascii_alphanumeric() => format.control(args, option)?,
            _ => {}
        }
        at = at.saturating_add(size);
    }
    one(lua, at as f64)
}
