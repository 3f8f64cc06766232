//! Replies of commands as Lua values, and what a script returns as a reply. The rules are Redis's.

use super::args::to_number;
use super::format::format_g;
use super::pack::BYTES_MAX;
use mlua::{Lua, Table, Value};
use proto::resp::Reply;

/// Tables inside one another in what a script returns. Redis stops where Lua's stack ends, at about 8000; clients stop
/// far earlier, and a thread's stack has to hold them.
const DEPTH_MAX: usize = 200;

/// Tables in what a script returns: more than an interpreter has room for. Tables that hold one another have no end otherwise.
const TABLES_MAX: usize = BYTES_MAX / 128;

/// The reply at the start of `buf` as a Lua value, and whether it is an error. It was written by a command: it is
/// well-formed.
pub fn to_lua(lua: &Lua, buf: &[u8]) -> mlua::Result<(Value, bool)> {
    let mut reader = Reader { lua, buf, at: 0 };
    Ok((reader.value()?, buf.first() == Some(&b'-')))
}

struct Reader<'a> {
    lua: &'a Lua,
    buf: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> &'a [u8] {
        let rest = &self.buf[self.at..];
        let len = memchr::memchr(b'\r', rest).expect("a reply's line ends");
        self.at += len + 2;
        &rest[..len]
    }
    fn len(&self, line: &[u8]) -> Option<usize> {
        let number = crate::number::parse_i64(line).expect("a reply's length is a number");
        usize::try_from(number).ok()
    }
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let bytes = &self.buf[self.at..self.at + len];
        self.at += len + 2;
        bytes
    }
    fn string(&self, bytes: &[u8]) -> mlua::Result<Value> {
        Ok(Value::String(self.lua.create_string(bytes)?))
    }
    fn single(&self, name: &str, value: Value) -> mlua::Result<Value> {
        let table = self.lua.create_table()?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
    }

    fn value(&mut self) -> mlua::Result<Value> {
        let kind = self.buf[self.at];
        self.at += 1;
        let line = self.line();
        match kind {
            b':' => {
                let number = crate::number::parse_i64(line).expect("an integer reply is a number");
                Ok(Value::Number(number as f64))
            }
            b'$' => match self.len(line) {
                Some(len) => {
                    let bytes = self.bytes(len);
                    self.string(bytes)
                }
                None => Ok(Value::Boolean(false)),
            },
            b'+' => self.single("ok", self.string(line)?),
            b'-' => Ok(Value::Table(error_table(self.lua, &String::from_utf8_lossy(line))?)),
            b'*' | b'>' => match self.len(line) {
                Some(len) => self.array(len),
                None => Ok(Value::Boolean(false)),
            },
            // An attribute, of which scripts are not told: what it is about follows.
            b'|' => {
                for _ in 0..2 * self.len(line).unwrap_or(0) {
                    self.value()?;
                }
                self.value()
            }
            b'%' => {
                let map = self.lua.create_table()?;
                for _ in 0..self.len(line).unwrap_or(0) {
                    let (key, value) = (self.value()?, self.value()?);
                    map.raw_set(key, value)?;
                }
                self.single("map", Value::Table(map))
            }
            b'~' => {
                let set = self.lua.create_table()?;
                for _ in 0..self.len(line).unwrap_or(0) {
                    set.raw_set(self.value()?, true)?;
                }
                self.single("set", Value::Table(set))
            }
            b'#' => Ok(Value::Boolean(line == b"t")),
            b',' => {
                let text = String::from_utf8_lossy(line);
                self.single("double", Value::Number(text.parse().unwrap_or(f64::NAN)))
            }
            b'(' => self.single("big_number", self.string(line)?),
            b'=' => {
                let len = self.len(line).unwrap_or(0);
                let bytes = self.bytes(len);
                let (format, text) = (&bytes[..3.min(len)], &bytes[4.min(len)..]);
                let inner = self.lua.create_table()?;
                inner.raw_set("string", self.string(text)?)?;
                inner.raw_set("format", self.string(format)?)?;
                self.single("verbatim_string", Value::Table(inner))
            }
            _ => Ok(Value::Nil),
        }
    }

    fn array(&mut self, len: usize) -> mlua::Result<Value> {
        let table = self.lua.create_table_with_capacity(len, 0)?;
        for i in 1..=len {
            table.raw_set(i, self.value()?)?;
        }
        Ok(Value::Table(table))
    }
}

/// An error as scripts see it. `text`: code and message.
pub fn error_table(lua: &Lua, text: &str) -> mlua::Result<Table> {
    let text = text.trim_matches(['\r', '\n']);
    let table = lua.create_table()?;
    match text.contains(' ') {
        true => table.raw_set("err", text)?,
        false => table.raw_set("err", format!("ERR {text}"))?,
    }
    Ok(table)
}

/// The error that a table holds.
pub struct ScriptError {
    /// Code and message.
    pub text: Vec<u8>,
    /// Chunk and line where it was raised.
    pub place: Option<(String, String)>,
    /// It was counted when the command failed.
    pub is_counted: bool,
}

impl ScriptError {
    /// `None`: the value is no table with an error.
    pub fn of(table: &Table) -> Option<ScriptError> {
        let text = |name: &str| super::args::to_bytes(&table.raw_get::<Value>(name).ok()?);
        let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Some(ScriptError {
            text: text("err")?,
            place: text("source").zip(text("line")).map(|(s, l)| (lossy(s), lossy(l))),
            is_counted: matches!(table.raw_get(COUNTED), Ok(Value::Boolean(true))),
        })
    }
}

/// Marks errors that are counted already; the name is Redis's.
pub const COUNTED: &str = "ignore_error_stats_update";

/// Writes a line that may hold any bytes.
pub fn put_line(out: &mut Reply, kind: u8, bytes: &[u8]) {
    let bytes = match kind {
        b'-' => bytes.trim_ascii_start(),
        _ => bytes,
    };
    let end = bytes.iter().rposition(|c| !matches!(c, b'\r' | b'\n')).map_or(0, |i| i + 1);
    let mut line = Vec::with_capacity(end + 3);
    line.push(kind);
    line.extend(bytes[..end].iter().map(|c| if matches!(c, b'\r' | b'\n') { b' ' } else { *c }));
    line.extend_from_slice(b"\r\n");
    out.raw(&line);
}

/// What a script returned, as a reply.
pub struct Writer<'a> {
    /// Tables written so far.
    pub tables: usize,
    pub out: &'a mut Reply,
    /// The script has chosen RESP3: its booleans are booleans.
    pub is_script_resp3: bool,
    /// The first error that is not counted yet, by its code.
    pub error: Option<String>,
}

impl Writer<'_> {
    pub fn put(&mut self, value: &Value, depth: usize) -> mlua::Result<()> {
        if self.out.len() > BYTES_MAX || self.tables > TABLES_MAX {
            return Err(mlua::Error::external("the reply is too long"));
        }
        if depth > DEPTH_MAX {
            self.out.error("ERR reached lua stack limit");
            return Ok(());
        }
        match value {
            Value::String(s) => self.out.bulk(&s.as_bytes()),
            Value::Boolean(b) if self.is_script_resp3 => self.out.bool(*b),
            Value::Boolean(true) => self.out.int(1),
            Value::Integer(n) => self.out.int(*n),
            Value::Number(n) => self.out.int(to_integer(*n)),
            Value::Table(table) => {
                self.tables += 1;
                self.table(table, depth)?;
            }
            _ => self.out.null(),
        }
        Ok(())
    }

    fn table(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        if let Value::String(_) = table.raw_get("err")? {
            let error = ScriptError::of(table).expect("it has an error");
            if !error.is_counted {
                let text = String::from_utf8_lossy(&error.text);
                self.error.get_or_insert(text.split(' ').next().unwrap_or("ERR").to_string());
            }
            put_line(self.out, b'-', &error.text);
            return Ok(());
        }
        if let Value::String(text) = table.raw_get("ok")? {
            put_line(self.out, b'+', &text.as_bytes());
            return Ok(());
        }
        let double: Value = table.raw_get("double")?;
        if let (Value::Number(_) | Value::Integer(_), Some(number)) = (&double, to_number(&double)) {
            self.out.double(number);
            return Ok(());
        }
        if let Value::String(text) = table.raw_get("big_number")? {
            match self.out.is_resp3() {
                true => put_line(self.out, b'(', &text.as_bytes()),
                false => {
                    let clean = |c: &u8| if matches!(c, b'\r' | b'\n') { b' ' } else { *c };
                    self.out.bulk(&text.as_bytes().iter().map(clean).collect::<Vec<u8>>());
                }
            }
            return Ok(());
        }
        if let Value::Table(inner) = table.raw_get("verbatim_string")?
            && let (Value::String(format), Value::String(text)) =
                (inner.raw_get("format")?, inner.raw_get("string")?)
        {
            self.verbatim(&format.as_bytes(), &text.as_bytes());
            return Ok(());
        }
        if let Value::Table(map) = table.raw_get("map")? {
            let mark = self.out.mark();
            let mut len = 0;
            for pair in map.pairs::<Value, Value>() {
                let (key, value) = pair?;
                self.put(&key, depth + 1)?;
                self.put(&value, depth + 1)?;
                len += 1;
            }
            self.out.map_at(mark, len);
            return Ok(());
        }
        if let Value::Table(set) = table.raw_get("set")? {
            let mark = self.out.mark();
            let mut len = 0;
            for pair in set.pairs::<Value, Value>() {
                self.put(&pair?.0, depth + 1)?;
                len += 1;
            }
            self.out.set_at(mark, len);
            return Ok(());
        }
        self.array(table, depth)
    }

    fn array(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        // An array is what stands before its first hole. Its length is known at once where it has none.
        let len = table.raw_len();
        if len > 0 && !table.raw_get::<Value>(len)?.is_nil() && table.raw_get::<Value>(len + 1)?.is_nil() {
            let values: Option<Vec<Value>> = (len <= SHORT_MAX).then(Vec::new);
            if let Some(mut values) = values {
                for i in 1..=len {
                    values.push(table.raw_get(i)?);
                }
                let count = values.iter().position(Value::is_nil).unwrap_or(len);
                self.out.array(count);
                for value in &values[..count] {
                    self.put(value, depth + 1)?;
                }
                return Ok(());
            }
        }
        let mark = self.out.mark();
        let mut count = 0;
        loop {
            let value: Value = table.raw_get(count + 1)?;
            if value.is_nil() {
                break;
            }
            self.put(&value, depth + 1)?;
            count += 1;
        }
        self.out.array_at(mark, count);
        Ok(())
    }

    fn verbatim(&mut self, format: &[u8], text: &[u8]) {
        if !self.out.is_resp3() {
            return self.out.bulk(text);
        }
        let mut name = [b' '; 3];
        for (to, from) in name.iter_mut().zip(format) {
            *to = *from;
        }
        self.out.raw(format!("={}\r\n", text.len() + 4).as_bytes());
        self.out.raw(&name);
        self.out.raw(b":");
        self.out.raw(text);
        self.out.raw(b"\r\n");
    }
}

/// Arrays up to here are looked at before they are written, so that their header need not be put in later.
const SHORT_MAX: usize = 64;

/// As C on x86-64 converts.
fn to_integer(n: f64) -> i64 {
    if (-9223372036854775808.0..9223372036854775808.0).contains(&n) { n as i64 } else { i64::MIN }
}

/// An argument of `redis.call`. `None`: neither a string nor a number.
pub fn argument(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(s) => Some(s.as_bytes().to_vec()),
        Value::Integer(n) => Some(format_g(*n as f64, 17).into_bytes()),
        Value::Number(n) => Some(format_g(*n, 17).into_bytes()),
        _ => None,
    }
}
