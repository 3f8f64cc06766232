//! Values and replies as people read them. The forms are those of Redis 7.0's `ldbCatStackValue` and
//! `ldbRedisProtocolToHuman`.

use crate::script::format::format_g;
use mlua::{Table, Value};
use std::io::Write;

/// Tables inside one another that are shown.
const DEPTH_MAX: usize = 10;
/// Bytes of one value that are shown, and elements of tables that are looked at for it. Choice: what nobody reads to its
/// end. Redis has no bound, and never ends with a table of many tables that hold it.
pub const BYTES_MAX: usize = 1 << 20;
const LOOKS_MAX: usize = 1 << 20;

/// Writes `text` in quotes, with what cannot be printed escaped.
pub fn put_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &c in text {
        match c {
            b'\\' | b'"' => out.extend([b'\\', c]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            7 => out.extend(b"\\a"),
            8 => out.extend(b"\\b"),
            b' '..=b'~' => out.push(c),
            _ => {
                let _ = write!(out, "\\x{c:02x}");
            }
        }
    }
    out.push(b'"');
}

/// Writes a value of Lua. `protected`: the tables behind read-only ones.
pub fn put_value(value: &Value, protected: &Table, out: &mut Vec<u8>) {
    let end = out.len() + BYTES_MAX;
    Shower { protected, out, end, looks: LOOKS_MAX }.put(value, 0);
}

struct Shower<'a> {
    protected: &'a Table,
    out: &'a mut Vec<u8>,
    /// Length of `out` at which it ends.
    end: usize,
    looks: usize,
}

impl Shower<'_> {
    fn is_full(&self) -> bool {
        self.out.len() > self.end || self.looks == 0
    }

    fn put(&mut self, value: &Value, depth: usize) {
        if depth == DEPTH_MAX {
            return self.out.extend(b"<max recursion level reached! Nested table?>");
        }
        let kind = match value {
            Value::String(text) => {
                let bytes = text.as_bytes();
                return put_quoted(&bytes[..bytes.len().min(BYTES_MAX)], self.out);
            }
            Value::Boolean(b) => return self.out.extend(b.to_string().bytes()),
            Value::Integer(n) => return self.out.extend(format_g(*n as f64, 6).bytes()),
            Value::Number(n) => return self.out.extend(format_g(*n, 6).bytes()),
            Value::Nil => return self.out.extend(b"nil"),
            Value::Table(table) => return self.put_table(table, depth),
            Value::Function(_) => "function",
            Value::Thread(_) => "thread",
            Value::LightUserData(_) => "light-userdata",
            _ => "userdata",
        };
        let _ = write!(self.out, "\"{kind}@{:p}\"", value.to_pointer());
    }

    fn put_table(&mut self, view: &Table, depth: usize) {
        let behind = self.protected.raw_get::<Option<Table>>(view).ok().flatten();
        let table = behind.as_ref().unwrap_or(view);
        let is_array = self.is_array(table);
        self.out.push(b'{');
        for (place, pair) in table.pairs::<Value, Value>().enumerate() {
            let Ok((key, value)) = pair else { break };
            if place > 0 {
                self.out.extend(b"; ");
            }
            if self.is_full() {
                self.out.extend(b"...");
                break;
            }
            self.looks -= 1;
            if !is_array {
                self.out.push(b'[');
                self.put(&key, depth + 1);
                self.out.extend(b"]=");
            }
            self.put(&value, depth + 1);
        }
        self.out.push(b'}');
    }

    /// Whether a walk over the table meets 1, 2, 3 and so on, and nothing else.
    fn is_array(&mut self, table: &Table) -> bool {
        for (place, pair) in table.pairs::<Value, Value>().enumerate() {
            let number = match pair {
                Ok((Value::Integer(n), _)) => n as f64,
                Ok((Value::Number(n), _)) => n,
                _ => return false,
            };
            if number != (place + 1) as f64 {
                return false;
            }
            if self.looks == 0 {
                return true;
            }
            self.looks -= 1;
        }
        true
    }
}

/// Writes a reply, which a command made: it is well-formed.
pub fn put_reply(reply: &[u8], out: &mut Vec<u8>) {
    ReplyReader { buf: reply, at: 0 }.put(out);
}

struct ReplyReader<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> ReplyReader<'a> {
    fn line(&mut self) -> &'a [u8] {
        let rest = &self.buf[self.at.min(self.buf.len())..];
        let len = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
        self.at += len + 2;
        &rest[..len]
    }
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let start = self.at.min(self.buf.len());
        let end = (start + len).min(self.buf.len());
        self.at = end + 2;
        &self.buf[start..end]
    }

    fn put(&mut self, out: &mut Vec<u8>) {
        let line = self.line();
        let Some((kind, rest)) = line.split_first() else { return };
        let len = || crate::number::parse_i64(rest).and_then(|n| usize::try_from(n).ok());
        match kind {
            b':' | b'(' => out.extend(rest),
            b'+' | b'-' => put_quoted(line, out),
            b'_' => out.extend(b"(null)"),
            b'#' => out.extend(if rest == b"t" { &b"#true"[..] } else { b"#false" }),
            b',' => {
                out.extend(b"(double) ");
                out.extend(rest);
            }
            b'$' | b'=' => match len() {
                Some(len) => put_quoted(self.bytes(len), out),
                None => out.extend(b"NULL"),
            },
            b'*' | b'>' => match len() {
                Some(len) => self.put_list(len, [b"[", b"]"], out),
                None => out.extend(b"NULL"),
            },
            b'~' => self.put_list(len().unwrap_or(0), [b"~(", b")"], out),
            b'%' => self.put_map(len().unwrap_or(0), out),
            _ => {}
        }
    }

    fn put_list(&mut self, len: usize, [open, close]: [&[u8]; 2], out: &mut Vec<u8>) {
        out.extend(open);
        for place in 0..len {
            if place > 0 {
                out.push(b',');
            }
            self.put(out);
        }
        out.extend(close);
    }

    fn put_map(&mut self, len: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for place in 0..len {
            if place > 0 {
                out.push(b',');
            }
            self.put(out);
            out.extend(b" => ");
            self.put(out);
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> String {
        let mut out = Vec::new();
        put_reply(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies() {
        for (wire, shown) in [
            (":-3\r\n", "-3"),
            ("+OK\r\n", "\"+OK\""),
            ("-ERR x\r\n", "\"-ERR x\""),
            ("$2\r\na\"\r\n", "\"a\\\"\""),
            ("$-1\r\n", "NULL"),
            ("*-1\r\n", "NULL"),
            ("*0\r\n", "[]"),
            ("*2\r\n:1\r\n*1\r\n$-1\r\n", "[1,[NULL]]"),
            ("%1\r\n$1\r\na\r\n#t\r\n", "{\"a\" => #true}"),
            ("~2\r\n:1\r\n:2\r\n", "~(1,2)"),
            ("_\r\n", "(null)"),
            (",1.5\r\n", "(double) 1.5"),
            ("(123\r\n", "123"),
            ("=5\r\ntxt:x\r\n", "\"txt:x\""),
        ] {
            assert_eq!(reply(wire), shown, "{wire}");
        }
    }

    #[test]
    fn what_cannot_be_printed_is_escaped() {
        let mut out = Vec::new();
        put_quoted(b"\\\"\n\r\t\x07\x08\0\xff ~", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#""\\\"\n\r\t\a\b\x00\xff ~""#);
    }

    #[test]
    fn a_value_without_end_is_cut() {
        let lua = mlua::Lua::new();
        let wide: Value = lua.load("local t = {} for i = 1, 100 do t[i] = t end return t").eval().unwrap();
        let mut out = Vec::new();
        put_value(&wide, &lua.create_table().unwrap(), &mut out);
        assert!((BYTES_MAX..2 * BYTES_MAX).contains(&out.len()), "{}", out.len());
        assert!(out.ends_with(b"; ...}"));
    }
}
