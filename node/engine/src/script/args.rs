//! Arguments of the sandbox's functions, taken as Lua's auxiliary library takes them, and their answers.

use super::format::format_g;
use super::native::{self, ERROR, ERROR_AT, OK};
use mlua::{Function, IntoLua, Lua, MultiValue, Value};

/// Why a function of the sandbox fails.
#[derive(Debug)]
pub enum Fail {
    /// With a text; the position in the script is put before it.
    At(String),
    /// With this value as it is.
    Raw(Value),
}

impl Fail {
    pub fn at<T>(text: impl Into<String>) -> Result<T, Fail> {
        Err(Fail::At(text.into()))
    }
}

impl From<mlua::Error> for Fail {
    fn from(error: mlua::Error) -> Fail {
        Fail::At(match error {
            mlua::Error::MemoryError(_) => "not enough memory".into(),
            other => other.to_string(),
        })
    }
}

pub type Answer = Result<MultiValue, Fail>;

/// One result.
pub fn one(lua: &Lua, value: impl IntoLua) -> Answer {
    Ok(MultiValue::from_iter([value.into_lua(lua)?]))
}

/// A function that scripts can call. `name` stands in what it says of its arguments.
pub fn function(
    lua: &Lua,
    name: &'static str,
    f: impl Fn(&Lua, &Args) -> Answer + 'static,
) -> mlua::Result<Function> {
    let closure = lua.create_function(move |lua, values: MultiValue| {
        let args = Args { name, values: values.into_vec() };
        match f(lua, &args) {
            Ok(mut results) => {
                results.push_front(Value::Integer(OK.into()));
                Ok(results)
            }
            Err(Fail::At(text)) => {
                Ok(MultiValue::from_iter([Value::Integer(ERROR_AT.into()), text.into_lua(lua)?]))
            }
            Err(Fail::Raw(value)) => Ok(MultiValue::from_iter([Value::Integer(ERROR.into()), value])),
        }
    })?;
    native::api(lua, closure)
}

/// The arguments of one call.
#[derive(Debug)]
pub struct Args {
    name: &'static str,
    values: Vec<Value>,
}

impl Args {
    pub fn len(&self) -> usize {
        self.values.len()
    }
    pub fn all(&self) -> &[Value] {
        &self.values
    }
    /// Argument `index`, from 0; nil where there is none.
    pub fn value(&self, index: usize) -> &Value {
        self.values.get(index).unwrap_or(&Value::Nil)
    }

    /// The same arguments and a nil behind them.
    pub fn with_nil(&self) -> Args {
        let mut values = self.values.clone();
        values.push(Value::Nil);
        Args { name: self.name, values }
    }

    /// What is wrong with argument `index`.
    pub fn error<T>(&self, index: usize, what: &str) -> Result<T, Fail> {
        Fail::at(format!("bad argument #{} to '{}' ({what})", index + 1, self.name))
    }
    fn type_error<T>(&self, index: usize, expected: &str) -> Result<T, Fail> {
        let got = match self.values.get(index) {
            None => "no value",
            Some(value) => type_name(value),
        };
        self.error(index, &format!("{expected} expected, got {got}"))
    }

    pub fn number(&self, index: usize) -> Result<f64, Fail> {
        match to_number(self.value(index)) {
            Some(number) => Ok(number),
            None => self.type_error(index, "number"),
        }
    }
    /// An integer: what lies behind the point is cut off.
    pub fn integer(&self, index: usize) -> Result<i64, Fail> {
        self.number(index).map(|n| n as i64)
    }
    /// The same, or `default` where there is none.
    pub fn integer_or(&self, index: usize, default: i64) -> Result<i64, Fail> {
        match self.value(index) {
            Value::Nil => Ok(default),
            _ => self.integer(index),
        }
    }
    /// The bytes of a string, or of a number's text.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>, Fail> {
        match to_bytes(self.value(index)) {
            Some(bytes) => Ok(bytes),
            None => self.type_error(index, "string"),
        }
    }
}

/// A number, or a text that is one. Texts follow Lua: space around it, and hexadecimal.
pub fn to_number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Number(n) => Some(*n),
        Value::String(s) => {
            let bytes = s.as_bytes();
            let text = std::str::from_utf8(&bytes).ok()?.trim();
            let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
            if let Some(hex) = unsigned.strip_prefix("0x").or(unsigned.strip_prefix("0X")) {
                let number = u64::from_str_radix(hex, 16).ok()? as f64;
                return Some(if text.starts_with('-') { -number } else { number });
            }
            let is_number = |c: u8| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-');
            text.bytes().all(is_number).then(|| text.parse().ok())?
        }
        _ => None,
    }
}

/// The bytes of a string, or of a number as Lua writes it.
pub fn to_bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(s) => Some(s.as_bytes().to_vec()),
        Value::Integer(n) => Some(format_g(*n as f64, 14).into_bytes()),
        Value::Number(n) => Some(format_g(*n, 14).into_bytes()),
        _ => None,
    }
}

/// Lua's name of a value's type.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) | Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Table(_) => "table",
        Value::Function(_) => "function",
        Value::Thread(_) => "thread",
        _ => "userdata",
    }
}
