//! Errors of commands and the only place where their texts are made. Texts are those of Redis 7.0.

use std::borrow::Cow;
use std::fmt;

/// Why a command was not carried out. The keyspace is as it was before, unless a variant says otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    Syntax,
    WrongType,
    NotInteger,
    NotFloat,
    OutOfRange,
    NoSuchKey,
    IncrementOverflow,
    IncrementNanOrInfinity,
    StringTooLong,
    InvalidExpire(&'static str),
    TimeoutNotFloat,
    TimeoutNegative,
    TimeoutOutOfRange,
    MinOrMaxNotFloat,
    MinOrMaxNotRange,
    ScoreIsNan,
    Oom,
    ReadOnlyReplica,
    CrossSlot,
    TryAgain,
    Arity(String),
    /// Never shown: the command has changed nothing and runs again with the gate closed ([`crate::keys::Keys::reach`]).
    NeedsGate,
    /// Whole text with its code, for what one command alone says.
    Text(Cow<'static, str>),
}

impl Error {
    /// `-ERR` with this text.
    pub fn err(text: &str) -> Error {
        Error::Text(Cow::Owned(format!("ERR {text}")))
    }
    pub const fn text(text: &'static str) -> Error {
        Error::Text(Cow::Borrowed(text))
    }
    /// The code at the head of the text, as INFO errorstats counts them.
    pub fn code(&self) -> String {
        self.to_string().split(' ').next().unwrap_or("ERR").to_string()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Error::Syntax => "ERR syntax error",
            Error::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Error::NotInteger => "ERR value is not an integer or out of range",
            Error::NotFloat => "ERR value is not a valid float",
            Error::OutOfRange => "ERR index out of range",
            Error::NoSuchKey => "ERR no such key",
            Error::IncrementOverflow => "ERR increment or decrement would overflow",
            Error::IncrementNanOrInfinity => "ERR increment would produce NaN or Infinity",
            Error::StringTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            Error::InvalidExpire(command) => {
                return write!(f, "ERR invalid expire time in '{command}' command");
            }
            Error::TimeoutNotFloat => "ERR timeout is not a float or out of range",
            Error::TimeoutNegative => "ERR timeout is negative",
            Error::TimeoutOutOfRange => "ERR timeout is out of range",
            Error::MinOrMaxNotFloat => "ERR min or max is not a float",
            Error::MinOrMaxNotRange => "ERR min or max not valid string range item",
            Error::ScoreIsNan => "ERR resulting score is not a number (NaN)",
            Error::Oom => "OOM command not allowed when used memory > 'maxmemory'.",
            Error::ReadOnlyReplica => "READONLY You can't write against a read only replica.",
            Error::CrossSlot => "CROSSSLOT Keys in request don't hash to the same slot",
            Error::TryAgain => "TRYAGAIN Multiple keys request during rehashing of slot",
            Error::Arity(name) => {
                return write!(f, "ERR wrong number of arguments for '{name}' command");
            }
            Error::NeedsGate => "TRYAGAIN Keys are in use",
            Error::Text(text) => text,
        };
        f.write_str(text)
    }
}
