//! The library `cjson`: values as JSON. Behaves as lua-cjson 2.1.0, which Redis carries.
//!
//! Settings that scripts change hold for the interpreter, as in Redis; each worker has its own.

use super::args::{Answer, Args, Fail, function, one, to_number, type_name};
use super::format::format_g;
use super::pack::BYTES_MAX;
use mlua::{Lua, MultiValue, Table, Value};
use std::cell::RefCell;
use std::rc::Rc;

/// What scripts can change.
#[derive(Clone, Copy, Debug)]
struct Settings {
    converts_sparse: bool,
    sparse_ratio: i64,
    sparse_safe: i64,
    encode_depth_max: i64,
    decode_depth_max: i64,
    encode_invalid: Invalid,
    decode_invalid: bool,
    precision: i64,
    keeps_buffer: bool,
}

/// What becomes of numbers that JSON does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Invalid {
    Refused,
    Written,
    Null,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            converts_sparse: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth_max: DEPTH_MAX,
            decode_depth_max: DEPTH_MAX,
            encode_invalid: Invalid::Refused,
            decode_invalid: true,
            precision: 14,
            keeps_buffer: true,
        }
    }
}

/// Tables inside one another, unless a script sets it otherwise.
const DEPTH_MAX: i64 = 1000;

pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let settings = Rc::new(RefCell::new(Settings::default()));
    type Setter = fn(&Lua, &Args, &mut Settings) -> Answer;
    let functions: [(&'static str, Setter); 9] = [
        ("encode", |lua, a, s| encode(lua, a, s)),
        ("decode", |lua, a, s| decode(lua, a, s)),
        ("encode_sparse_array", |lua, a, s| {
            at_most(a, 3)?;
            set_flag(a, 0, &mut s.converts_sparse)?;
            set_number(a, 1, &mut s.sparse_ratio, 0)?;
            set_number(a, 2, &mut s.sparse_safe, 0)?;
            let values = [
                Value::Boolean(s.converts_sparse),
                Value::Integer(s.sparse_ratio),
                Value::Integer(s.sparse_safe),
            ];
            let _ = lua;
            Ok(MultiValue::from_iter(values))
        }),
        ("encode_max_depth", |lua, a, s| {
            at_most(a, 1)?;
            set_number(a, 0, &mut s.encode_depth_max, 1)?;
            one(lua, s.encode_depth_max)
        }),
        ("decode_max_depth", |lua, a, s| {
            at_most(a, 1)?;
            set_number(a, 0, &mut s.decode_depth_max, 1)?;
            one(lua, s.decode_depth_max)
        }),
        ("encode_number_precision", |lua, a, s| {
            at_most(a, 1)?;
            if !a.value(0).is_nil() && !(1..=14).contains(&a.integer(0)?) {
                return a.error(0, "expected integer between 1 and 14");
            }
            set_number(a, 0, &mut s.precision, 1)?;
            one(lua, s.precision)
        }),
        ("encode_keep_buffer", |lua, a, s| {
            at_most(a, 1)?;
            set_flag(a, 0, &mut s.keeps_buffer)?;
            one(lua, s.keeps_buffer)
        }),
        ("encode_invalid_numbers", encode_invalid),
        ("decode_invalid_numbers", |lua, a, s| {
            at_most(a, 1)?;
            set_flag(a, 0, &mut s.decode_invalid)?;
            one(lua, s.decode_invalid)
        }),
    ];
    for (name, f) in functions {
        let settings = settings.clone();
        // A setter changes a copy: `encode` may come back here through nothing, but a borrow must not outlive an error.
        let run = move |lua: &Lua, args: &Args| {
            let mut copy = *settings.borrow();
            let answer = f(lua, args, &mut copy);
            *settings.borrow_mut() = copy;
            answer
        };
        table.raw_set(name, function(lua, name, run)?)?;
    }
    table.raw_set("new", function(lua, "new", |lua, _| one(lua, library(lua)?))?)?;
    table.raw_set("null", Value::NULL)?;
    table.raw_set("_NAME", "cjson")?;
    table.raw_set("_VERSION", "2.1.0")?;
    Ok(table)
}

fn at_most(args: &Args, count: usize) -> Result<(), Fail> {
    match args.len() > count {
        true => args.error(count, "found too many arguments"),
        false => Ok(()),
    }
}

fn exactly_one(args: &Args) -> Result<(), Fail> {
    if args.len() == 1 { Ok(()) } else { args.error(0, "expected 1 argument") }
}

fn set_number(args: &Args, index: usize, setting: &mut i64, min: i64) -> Result<(), Fail> {
    const MAX: i64 = i32::MAX as i64;
    if !args.value(index).is_nil() {
        let value = args.integer(index)?;
        if !(min..=MAX).contains(&value) {
            return args.error(0, &format!("expected integer between {min} and {MAX}"));
        }
        *setting = value;
    }
    Ok(())
}

fn word(args: &Args, words: &[&str]) -> Result<usize, Fail> {
    let text = args.bytes(0)?;
    match words.iter().position(|w| w.as_bytes() == text) {
        Some(place) => Ok(place),
        None => args.error(0, &format!("invalid option '{}'", String::from_utf8_lossy(&text))),
    }
}

fn set_flag(args: &Args, index: usize, setting: &mut bool) -> Result<(), Fail> {
    match args.value(index) {
        Value::Nil => {}
        Value::Boolean(value) => *setting = *value,
        _ => *setting = word(args, &["off", "on"])? == 1,
    }
    Ok(())
}

fn encode_invalid(lua: &Lua, args: &Args, settings: &mut Settings) -> Answer {
    at_most(args, 1)?;
    settings.encode_invalid = match args.value(0) {
        Value::Nil => settings.encode_invalid,
        Value::Boolean(true) => Invalid::Written,
        Value::Boolean(false) => Invalid::Refused,
        _ => [Invalid::Refused, Invalid::Written, Invalid::Null][word(args, &["off", "on", "null"])?],
    };
    match settings.encode_invalid {
        Invalid::Null => one(lua, "null"),
        other => one(lua, other == Invalid::Written),
    }
}

// Encoding.

fn encode(lua: &Lua, args: &Args, settings: &mut Settings) -> Answer {
    exactly_one(args)?;
    let mut out = Vec::new();
    put(&mut out, args.value(0), settings)?;
    one(lua, lua.create_string(out)?)
}

fn refuse<T>(value: &Value, reason: &str) -> Result<T, Fail> {
    Fail::at(format!("Cannot serialise {}: {reason}", type_name(value)))
}

/// A table that is being written.
enum Open {
    Array { table: Table, next: i64, len: i64 },
    Object { pairs: std::vec::IntoIter<(Value, Value)>, is_first: bool },
}

/// Writes a value. Tables inside one another stand in a list, not on the thread's stack.
fn put(out: &mut Vec<u8>, value: &Value, settings: &Settings) -> Result<(), Fail> {
    let mut open = Vec::new();
    begin(out, value, settings, &mut open)?;
    while let Some(last) = open.last_mut() {
        // A table may stand in another many times over.
        if out.len() > BYTES_MAX {
            return Fail::at("not enough memory");
        }
        let value = match last {
            Open::Array { table, next, len } if *next <= *len => {
                if *next > 1 {
                    out.push(b',');
                }
                *next += 1;
                table.raw_get(*next - 1)?
            }
            Open::Array { .. } => {
                out.push(b']');
                open.pop();
                continue;
            }
            Open::Object { pairs, is_first } => match pairs.next() {
                Some((key, value)) => {
                    if !std::mem::take(is_first) {
                        out.push(b',');
                    }
                    put_key(out, &key, settings)?;
                    value
                }
                None => {
                    out.push(b'}');
                    open.pop();
                    continue;
                }
            },
        };
        begin(out, &value, settings, &mut open)?;
    }
    Ok(())
}

/// Writes a value that is no table, or the beginning of one.
fn begin(out: &mut Vec<u8>, value: &Value, settings: &Settings, open: &mut Vec<Open>) -> Result<(), Fail> {
    match value {
        Value::String(s) => put_string(out, &s.as_bytes()),
        Value::Integer(_) | Value::Number(_) => put_number(out, value, settings)?,
        Value::Boolean(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Nil => out.extend_from_slice(b"null"),
        Value::Table(table) => {
            let depth = open.len() as i64 + 1;
            if depth > settings.encode_depth_max {
                return Fail::at(format!("Cannot serialise, excessive nesting ({depth})"));
            }
            match array_len(table, settings)? {
                Some(len) if len > 0 => {
                    out.push(b'[');
                    open.push(Open::Array { table: table.clone(), next: 1, len });
                }
                _ => {
                    out.push(b'{');
                    let pairs: mlua::Result<Vec<_>> = table.pairs::<Value, Value>().collect();
                    open.push(Open::Object { pairs: pairs?.into_iter(), is_first: true });
                }
            }
        }
        Value::LightUserData(data) if data.0.is_null() => out.extend_from_slice(b"null"),
        _ => return refuse(value, "type not supported"),
    }
    Ok(())
}

fn put_key(out: &mut Vec<u8>, key: &Value, settings: &Settings) -> Result<(), Fail> {
    match key {
        Value::Integer(_) | Value::Number(_) => {
            out.push(b'"');
            put_number(out, key, settings)?;
            out.extend_from_slice(b"\":");
        }
        Value::String(s) => {
            put_string(out, &s.as_bytes());
            out.push(b':');
        }
        _ => return refuse(key, "table key must be a number or string"),
    }
    Ok(())
}

/// Length of a table that is an array; `None`: an object.
fn array_len(table: &Table, settings: &Settings) -> Result<Option<i64>, Fail> {
    let (mut max, mut items) = (0i64, 0i64);
    for pair in table.pairs::<Value, Value>() {
        match pair?.0 {
            Value::Integer(key) if key >= 1 => max = max.max(key),
            _ => return Ok(None),
        }
        items += 1;
    }
    let is_sparse = settings.sparse_ratio > 0
        && max > items.saturating_mul(settings.sparse_ratio)
        && max > settings.sparse_safe;
    match (is_sparse, settings.converts_sparse) {
        (false, _) => Ok(Some(max)),
        (true, true) => Ok(None),
        (true, false) => Fail::at("Cannot serialise table: excessively sparse array"),
    }
}

fn put_number(out: &mut Vec<u8>, value: &Value, settings: &Settings) -> Result<(), Fail> {
    let number = to_number(value).expect("a number");
    if !number.is_finite() {
        match settings.encode_invalid {
            Invalid::Refused => return refuse(value, "must not be NaN or Inf"),
            Invalid::Null => {
                out.extend_from_slice(b"null");
                return Ok(());
            }
            Invalid::Written if number.is_nan() => {
                out.extend_from_slice(b"nan");
                return Ok(());
            }
            Invalid::Written => {}
        }
    }
    out.extend_from_slice(format_g(number, settings.precision as usize).as_bytes());
    Ok(())
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    for &c in bytes {
        match c {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'/' => out.extend_from_slice(b"\\/"),
            8 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0..=31 | 127 => out.extend_from_slice(format!("\\u{c:04x}").as_bytes()),
            _ => out.push(c),
        }
    }
    out.push(b'"');
}

// Decoding.

fn decode(lua: &Lua, args: &Args, settings: &mut Settings) -> Answer {
    exactly_one(args)?;
    let text = args.bytes(0)?;
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Fail::at("JSON parser does not support UTF-16 or UTF-32");
    }
    let mut reader = Reader { lua, text: &text, at: 0, start: 0, settings };
    let token = reader.token();
    let value = reader.value(token)?;
    match reader.token() {
        Token::End => Ok(MultiValue::from_iter([value])),
        token => reader.unexpected("the end", &token),
    }
}

enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Token::ObjectBegin => "T_OBJ_BEGIN",
            Token::ObjectEnd => "T_OBJ_END",
            Token::ArrayBegin => "T_ARR_BEGIN",
            Token::ArrayEnd => "T_ARR_END",
            Token::String(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::Colon => "T_COLON",
            Token::Comma => "T_COMMA",
            Token::End => "T_END",
            Token::Error(what) => what,
        }
    }
}

struct Reader<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
    /// Where the last token began, or where it went wrong.
    start: usize,
    settings: &'a Settings,
}

impl Reader<'_> {
    /// The byte `ahead` of here; the text ends with a zero, as in C.
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }
    fn error(&mut self, what: &'static str) -> Token {
        self.start = self.at;
        Token::Error(what)
    }
    fn unexpected<T>(&self, expected: &str, found: &Token) -> Result<T, Fail> {
        Fail::at(format!("Expected {expected} but found {} at character {}", found.name(), self.start + 1))
    }

    fn token(&mut self) -> Token {
        while matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        self.start = self.at;
        let single = match self.peek(0) {
            0 => return Token::End,
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b',' => Token::Comma,
            b':' => Token::Colon,
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' if !self.settings.decode_invalid && self.is_invalid_number() => {
                return self.error("invalid number");
            }
            b'-' | b'0'..=b'9' => return self.number(),
            _ => return self.word(),
        };
        self.at += 1;
        single
    }

    fn word(&mut self) -> Token {
        let rest = &self.text[self.at..];
        for (word, token) in [
            (&b"true"[..], Token::Boolean(true)),
            (&b"false"[..], Token::Boolean(false)),
            (&b"null"[..], Token::Null),
        ] {
            if rest.starts_with(word) {
                self.at += word.len();
                return token;
            }
        }
        let may_be_number = matches!(rest[0], b'i' | b'I' | b'n' | b'N' | b'+');
        if self.settings.decode_invalid && may_be_number && self.is_invalid_number() {
            return self.number();
        }
        self.error("invalid token")
    }

    /// A number that C reads and JSON does not have.
    fn is_invalid_number(&self) -> bool {
        let mut rest = &self.text[self.at..];
        if rest[0] == b'+' {
            return true;
        }
        rest = rest.strip_prefix(b"-").unwrap_or(rest);
        let is = |word: &[u8]| rest.get(..3).is_some_and(|r| r.eq_ignore_ascii_case(word));
        match rest.first() {
            Some(b'0') => rest.get(1).is_some_and(|c| c | 0x20 == b'x' || c.is_ascii_digit()),
            Some(c) if *c <= b'9' => false,
            _ => is(b"inf") || is(b"nan"),
        }
    }

    fn number(&mut self) -> Token {
        match c_number(&self.text[self.at..]) {
            Some((number, len)) => {
                self.at += len;
                Token::Number(number)
            }
            None => self.error("invalid number"),
        }
    }

    fn string(&mut self) -> Token {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            // What needs no attention goes at once.
            let rest = &self.text[self.at..];
            let plain = rest.iter().position(|c| matches!(c, b'"' | b'\\' | 0)).unwrap_or(rest.len());
            out.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match self.peek(0) {
                b'"' => break,
                b'\\' => {}
                _ => return self.error("unexpected end of string"),
            }
            let plain = match self.peek(1) {
                c @ (b'"' | b'\\' | b'/') => c,
                b'b' => 8,
                b't' => b'\t',
                b'n' => b'\n',
                b'f' => 12,
                b'r' => b'\r',
                b'u' => match self.escape() {
                    Some((point, len)) => {
                        let mut buf = [0; 4];
                        out.extend_from_slice(point.encode_utf8(&mut buf).as_bytes());
                        self.at += len;
                        continue;
                    }
                    None => return self.error("invalid unicode escape code"),
                },
                _ => return self.error("invalid escape code"),
            };
            out.push(plain);
            self.at += 2;
        }
        self.at += 1;
        Token::String(out)
    }

    /// The character of `\uXXXX` here, or of two of them, and their length.
    fn escape(&self) -> Option<(char, usize)> {
        let unit = |ahead: usize| -> Option<u32> {
            let digits = self.text.get(self.at + ahead..self.at + ahead + 4)?;
            digits.iter().try_fold(0, |n, c| Some(n << 4 | (*c as char).to_digit(16)?))
        };
        let first = unit(2)?;
        if first & 0xF800 != 0xD800 {
            return Some((char::from_u32(first)?, 6));
        }
        if first & 0x400 != 0 || self.peek(6) != b'\\' || self.peek(7) != b'u' {
            return None;
        }
        let second = unit(8).filter(|u| u & 0xFC00 == 0xDC00)?;
        let point = ((first & 0x3FF) << 10 | second & 0x3FF) + 0x1_0000;
        Some((char::from_u32(point)?, 12))
    }

    /// The value that begins with a token. Tables inside one another stand in a list, not on the thread's stack.
    fn value(&mut self, token: Token) -> Result<Value, Fail> {
        let mut open: Vec<Partial> = Vec::new();
        let mut token = token;
        loop {
            let mut value = match token {
                Token::String(bytes) => Value::String(self.lua.create_string(bytes)?),
                Token::Number(number) => Value::Number(number),
                Token::Boolean(value) => Value::Boolean(value),
                Token::Null => Value::NULL,
                Token::ObjectBegin | Token::ArrayBegin => {
                    let is_object = matches!(token, Token::ObjectBegin);
                    let table = self.descend(open.len() as i64 + 1)?;
                    token = self.token();
                    match (is_object, &token) {
                        (true, Token::ObjectEnd) | (false, Token::ArrayEnd) => Value::Table(table),
                        (true, _) => {
                            let key = self.key(token)?;
                            open.push(Partial { table, key: Some(key), len: 0 });
                            token = self.token();
                            continue;
                        }
                        (false, _) => {
                            open.push(Partial { table, key: None, len: 0 });
                            continue;
                        }
                    }
                }
                token => return self.unexpected("value", &token),
            };
            // It belongs into the table that is open, and may end it, and so on.
            loop {
                let Some(mut last) = open.pop() else { return Ok(value) };
                last.add(value)?;
                match (self.token(), last.key.is_some()) {
                    (Token::Comma, true) => {
                        let token = self.token();
                        last.key = Some(self.key(token)?);
                    }
                    (Token::Comma, false) => {}
                    (Token::ObjectEnd, true) | (Token::ArrayEnd, false) => {
                        value = Value::Table(last.table);
                        continue;
                    }
                    (other, true) => return self.unexpected("comma or object end", &other),
                    (other, false) => return self.unexpected("comma or array end", &other),
                }
                open.push(last);
                break;
            }
            token = self.token();
        }
    }

    fn descend(&self, depth: i64) -> Result<Table, Fail> {
        if depth > self.settings.decode_depth_max {
            let at = self.at;
            return Fail::at(format!("Found too many nested data structures ({depth}) at character {at}"));
        }
        Ok(self.lua.create_table()?)
    }

    fn key(&mut self, token: Token) -> Result<mlua::LuaString, Fail> {
        let Token::String(key) = token else { return self.unexpected("object key string", &token) };
        match self.token() {
            Token::Colon => Ok(self.lua.create_string(key)?),
            other => self.unexpected("colon", &other),
        }
    }
}

/// A table that is being read; an object has the key of its next value.
struct Partial {
    table: Table,
    key: Option<mlua::LuaString>,
    len: i64,
}

impl Partial {
    fn add(&mut self, value: Value) -> mlua::Result<()> {
        match &self.key {
            Some(key) => self.table.raw_set(key, value),
            None => {
                self.len += 1;
                self.table.raw_set(self.len, value)
            }
        }
    }
}

/// What C's `strtod` reads at the start of a text, and how much of it.
fn c_number(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let rest = &text[sign..];
    let signed = |value: f64| if text[0] == b'-' { -value } else { value };
    let is = |word: &[u8]| rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word));
    if is(b"infinity") {
        return Some((signed(f64::INFINITY), sign + 8));
    }
    if is(b"inf") {
        return Some((signed(f64::INFINITY), sign + 3));
    }
    if is(b"nan") {
        return Some((signed(f64::NAN), sign + 3));
    }
    let digits = |from: usize| rest[from.min(rest.len())..].iter().take_while(|c| c.is_ascii_digit()).count();
    if is(b"0x") {
        let hex = rest[2..].iter().take_while(|c| c.is_ascii_hexdigit()).count();
        if hex > 0 {
            let value = rest[2..2 + hex].iter().fold(0.0, |n, c| n * 16.0 + hex_digit(*c));
            return Some((signed(value), sign + 2 + hex));
        }
    }
    let whole = digits(0);
    let mut end = whole;
    if rest.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if whole + fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    if end == 0 {
        return None;
    }
    if matches!(rest.get(end), Some(b'e' | b'E')) {
        let mark = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + mark);
        if exponent > 0 {
            end += 1 + mark + exponent;
        }
    }
    let value: f64 = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((signed(value), sign + end))
}

fn hex_digit(c: u8) -> f64 {
    (c as char).to_digit(16).map_or(0.0, f64::from)
}
