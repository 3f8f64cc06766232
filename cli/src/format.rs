//! Replies as people read them, and as scripts do.

use proto::resp::Value;
use std::fmt::Write;

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Typed, with quotes and numbers.
    Typed,
    /// Bytes as they are, a line for each element.
    Raw,
    Json,
}

/// The reply in the given style, with the line's end.
pub fn format(value: &Value, style: Style) -> Vec<u8> {
    match style {
        Style::Typed => {
            let mut out = String::new();
            typed(value, 0, &mut out);
            out.into_bytes()
        }
        Style::Raw => {
            let mut out = Vec::new();
            raw(value, &mut out);
            if !out.ends_with(b"\n") {
                out.push(b'\n');
            }
            out
        }
        Style::Json => {
            let mut out = String::new();
            json(value, &mut out);
            out.push('\n');
            out.into_bytes()
        }
    }
}

fn typed(value: &Value, indent: usize, out: &mut String) {
    let _ = match value {
        Value::Null => writeln!(out, "(nil)"),
        Value::Simple(s) => writeln!(out, "{s}"),
        Value::Error(s) => writeln!(out, "(error) {s}"),
        Value::Int(n) => writeln!(out, "(integer) {n}"),
        Value::Double(d) => writeln!(out, "(double) {}", proto::resp::format_double(*d)),
        Value::Bool(b) => writeln!(out, "({b})"),
        Value::BigNumber(n) => writeln!(out, "{n}"),
        Value::Bulk(b) => writeln!(out, "{}", quoted(b)),
        Value::Verbatim(_, b) => writeln!(out, "{}", String::from_utf8_lossy(b).trim_end_matches('\n')),
        Value::Array(v) | Value::Push(v) => return list(v, ')', "(empty array)", indent, out),
        Value::Set(v) => return list(v, '~', "(empty set)", indent, out),
        Value::Map(pairs) => return map(pairs, indent, out),
    };
}

fn list(values: &[Value], mark: char, empty: &str, indent: usize, out: &mut String) {
    if values.is_empty() {
        let _ = writeln!(out, "{empty}");
    }
    let width = values.len().to_string().len();
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push_str(&" ".repeat(indent));
        }
        let _ = write!(out, "{:>width$}{mark} ", i + 1);
        typed(value, indent + width + 2, out);
    }
}

fn map(pairs: &[(Value, Value)], indent: usize, out: &mut String) {
    if pairs.is_empty() {
        let _ = writeln!(out, "(empty hash)");
    }
    let width = pairs.len().to_string().len();
    for (i, (key, value)) in pairs.iter().enumerate() {
        if i > 0 {
            out.push_str(&" ".repeat(indent));
        }
        let mut name = String::new();
        typed(key, 0, &mut name);
        let head = format!("{:>width$}# {} => ", i + 1, name.trim_end());
        out.push_str(&head);
        typed(value, indent + head.chars().count(), out);
    }
}

/// A string in quotes, with what cannot be printed escaped.
pub fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for &c in bytes {
        match c {
            b'"' | b'\\' => out.extend(['\\', c as char]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            c if c.is_ascii_graphic() || c == b' ' => out.push(c as char),
            c => {
                let _ = write!(out, "\\x{c:02x}");
            }
        }
    }
    out.push('"');
    out
}

fn raw(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Simple(s) | Value::Error(s) | Value::BigNumber(s) => out.extend_from_slice(s.as_bytes()),
        Value::Int(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::Double(d) => out.extend_from_slice(proto::resp::format_double(*d).as_bytes()),
        Value::Bool(b) => out.extend_from_slice(if *b { b"1" } else { b"0" }),
        Value::Bulk(b) | Value::Verbatim(_, b) => out.extend_from_slice(b),
        Value::Array(v) | Value::Push(v) | Value::Set(v) => {
            for (i, value) in v.iter().enumerate() {
                if i > 0 {
                    out.push(b'\n');
                }
                raw(value, out);
            }
        }
        Value::Map(pairs) => {
            for (i, (key, value)) in pairs.iter().enumerate() {
                if i > 0 {
                    out.push(b'\n');
                }
                raw(key, out);
                out.push(b'\n');
                raw(value, out);
            }
        }
    }
}

fn json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Simple(s) | Value::Error(s) | Value::BigNumber(s) => json_text(s.as_bytes(), out),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Double(d) if d.is_finite() => out.push_str(&proto::resp::format_double(*d)),
        Value::Double(d) => json_text(proto::resp::format_double(*d).as_bytes(), out),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Bulk(b) | Value::Verbatim(_, b) => json_text(b, out),
        Value::Array(v) | Value::Push(v) | Value::Set(v) => {
            out.push('[');
            for (i, value) in v.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                json(value, out);
            }
            out.push(']');
        }
        Value::Map(pairs) => {
            out.push('{');
            for (i, (key, value)) in pairs.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let mut name = Vec::new();
                raw(key, &mut name);
                json_text(&name, out);
                out.push(':');
                json(value, out);
            }
            out.push('}');
        }
    }
}

fn json_text(bytes: &[u8], out: &mut String) {
    out.push('"');
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(value: &Value, style: Style) -> String {
        String::from_utf8(format(value, style)).unwrap()
    }
    fn bulk(text: &str) -> Value {
        Value::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn typed_as_redis_cli() {
        assert_eq!(show(&Value::Int(1), Style::Typed), "(integer) 1\n");
        assert_eq!(show(&Value::Null, Style::Typed), "(nil)\n");
        assert_eq!(show(&Value::Error("ERR x".into()), Style::Typed), "(error) ERR x\n");
        assert_eq!(show(&bulk("a\"\n\u{1}"), Style::Typed), "\"a\\\"\\n\\x01\"\n");
        let nested = Value::Array(vec![bulk("a"), Value::Array(vec![Value::Int(1), Value::Int(2)])]);
        assert_eq!(show(&nested, Style::Typed), "1) \"a\"\n2) 1) (integer) 1\n   2) (integer) 2\n");
        let map = Value::Map(vec![(bulk("k"), Value::Bool(true))]);
        assert_eq!(show(&map, Style::Typed), "1# \"k\" => (true)\n");
        assert_eq!(show(&Value::Array(vec![]), Style::Typed), "(empty array)\n");
    }

    #[test]
    fn raw_and_json() {
        let value = Value::Array(vec![bulk("a"), Value::Int(2)]);
        assert_eq!(show(&value, Style::Raw), "a\n2\n");
        assert_eq!(show(&value, Style::Json), "[\"a\",2]\n");
        let map = Value::Map(vec![(Value::Int(1), Value::Null)]);
        assert_eq!(show(&map, Style::Json), "{\"1\":null}\n");
    }
}
