//! Replies as a client reads them: the command line tool, replication links, proxies and tests.

use crate::limits::REPLY_DEPTH_MAX;

/// A decoded reply of either protocol.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    Double(f64),
    Bool(bool),
    BigNumber(String),
    /// Format (three letters) and text.
    Verbatim(String, Vec<u8>),
}

impl Value {
    /// The bytes of a string of any kind.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(b) | Value::Verbatim(_, b) => Some(b),
            Value::Simple(s) => Some(s.as_bytes()),
            _ => None,
        }
    }
    pub fn as_text(&self) -> Option<&str> {
        self.as_bytes().and_then(|b| std::str::from_utf8(b).ok())
    }
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => self.as_text()?.parse().ok(),
        }
    }
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::Array(v) | Value::Set(v) | Value::Push(v) => Some(v),
            _ => None,
        }
    }
    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }
}

/// The bytes are no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError(pub &'static str);

/// Decodes the reply at the start of `buf`: it and its length in bytes, or `None` when more bytes are needed.
/// Attributes are skipped.
pub fn decode(buf: &[u8]) -> Result<Option<(Value, usize)>, DecodeError> {
    let mut reader = Reader { buf, at: 0 };
    match reader.value(0) {
        Ok(value) => Ok(Some((value, reader.at))),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Invalid(text)) => Err(DecodeError(text)),
    }
}

enum Stop {
    Incomplete,
    Invalid(&'static str),
}

struct Reader<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, Stop> {
        if depth > REPLY_DEPTH_MAX {
            return Err(Stop::Invalid("reply nested too deeply"));
        }
        let kind = *self.buf.get(self.at).ok_or(Stop::Incomplete)?;
        self.at += 1;
        let line = self.line()?;
        let text = || String::from_utf8_lossy(line).into_owned();
        Ok(match kind {
            b'+' => Value::Simple(text()),
            b'-' => Value::Error(text()),
            b':' => Value::Int(int(line)?),
            b'_' => Value::Null,
            b'#' => Value::Bool(line == b"t"),
            b',' => Value::Double(text().parse().map_err(|_| Stop::Invalid("bad double in reply"))?),
            b'(' => Value::BigNumber(text()),
            b'$' | b'!' | b'=' => return self.blob(kind, line),
            b'*' if line == b"-1" => Value::Null,
            b'*' => Value::Array(self.values(line, 1, depth)?),
            b'~' => Value::Set(self.values(line, 1, depth)?),
            b'>' => Value::Push(self.values(line, 1, depth)?),
            b'%' => Value::Map(pairs(self.values(line, 2, depth)?)),
            b'|' => {
                self.values(line, 2, depth)?;
                return self.value(depth + 1);
            }
            _ => return Err(Stop::Invalid("unknown type byte in reply")),
        })
    }

    fn blob(&mut self, kind: u8, line: &[u8]) -> Result<Value, Stop> {
        if line == b"-1" {
            return Ok(Value::Null);
        }
        let len = usize::try_from(int(line)?).map_err(|_| Stop::Invalid("negative length in reply"))?;
        let end = self.at.checked_add(len).ok_or(Stop::Invalid("length in reply too large"))?;
        let bytes = self.buf.get(self.at..end).ok_or(Stop::Incomplete)?;
        if self.buf.len() < end + 2 {
            return Err(Stop::Incomplete);
        }
        self.at = end + 2;
        Ok(match kind {
            b'$' => Value::Bulk(bytes.to_vec()),
            b'!' => Value::Error(String::from_utf8_lossy(bytes).into_owned()),
            _ => match bytes {
                [a, b, c, b':', rest @ ..] => {
                    Value::Verbatim(String::from_utf8_lossy(&[*a, *b, *c]).into_owned(), rest.to_vec())
                }
                _ => return Err(Stop::Invalid("bad verbatim string in reply")),
            },
        })
    }

    fn values(&mut self, line: &[u8], each: i64, depth: usize) -> Result<Vec<Value>, Stop> {
        let count =
            int(line)?.checked_mul(each).filter(|n| *n >= 0).ok_or(Stop::Invalid("bad length in reply"))?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Ok(values)
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.buf[self.at..];
        let len = memchr::memchr(b'\r', rest).ok_or(Stop::Incomplete)?;
        if len + 1 >= rest.len() {
            return Err(Stop::Incomplete);
        }
        self.at += len + 2;
        Ok(&rest[..len])
    }
}

fn int(line: &[u8]) -> Result<i64, Stop> {
    let text = std::str::from_utf8(line).map_err(|_| Stop::Invalid("bad integer in reply"))?;
    text.parse().map_err(|_| Stop::Invalid("bad integer in reply"))
}

fn pairs(values: Vec<Value>) -> Vec<(Value, Value)> {
    let mut values = values.into_iter();
    let mut out = Vec::new();
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        out.push((key, value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_writer_writes() {
        let mut r = super::super::Reply::new(true);
        r.array(5);
        r.bulk(b"a\r\nb");
        r.int(-3);
        r.null();
        r.double(2.5);
        r.map(1);
        r.simple("k");
        r.verbatim("txt", b"hello");
        let bytes = r.take();
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let expected = Value::Array(vec![
            Value::Bulk(b"a\r\nb".to_vec()),
            Value::Int(-3),
            Value::Null,
            Value::Double(2.5),
            Value::Map(vec![(Value::Simple("k".into()), Value::Verbatim("txt".into(), b"hello".to_vec()))]),
        ]);
        assert_eq!(decode(&bytes), Ok(Some((expected, bytes.len()))));
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(decode(b"?x\r\n").is_err());
        assert!(decode(b"$-5\r\n").is_err());
        assert!(decode(b"*99999999999999999999\r\n").is_err());
        assert!(decode(&b"*1\r\n".repeat(100)).is_err());
    }
}
