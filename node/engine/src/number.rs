//! Numbers as Redis reads them: strict, without leading zeros, plus signs or spaces.

use crate::error::Error;
use std::ops::RangeInclusive;

/// An integer in its only canonical form: `-0`, `+1`, `01` and ` 1` are none.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    match text {
        [] => None,
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] => digits(text).and_then(|n| i64::try_from(n).ok()),
        [b'-', rest @ ..] if matches!(rest, [b'1'..=b'9', ..]) => {
            let n = digits(rest)?;
            if n == 1 << 63 { Some(i64::MIN) } else { i64::try_from(n).ok().map(|n| -n) }
        }
        _ => None,
    }
}

/// An unsigned integer in canonical form.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    match text {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] => digits(text),
        _ => None,
    }
}

/// An integer within bounds. Errors as Redis words them: no integer at all, or out of these bounds.
pub fn parse_within(text: &[u8], bounds: RangeInclusive<i64>) -> Result<i64, Error> {
    let n = parse_i64(text).ok_or(Error::NotInteger)?;
    match bounds.contains(&n) {
        true => Ok(n),
        false => Err(Error::err(&format!(
            "value is out of range, value must between {} and {}",
            bounds.start(),
            bounds.end()
        ))),
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0u64, |n, c| {
        let digit = c.is_ascii_digit().then(|| (c - b'0') as u64)?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// A floating point number as `strtod` reads it, without surrounding space; never NaN.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if !digits.is_empty()
        && digits.len() <= f64::DIGITS as usize
        && let Some(n) = self::digits(digits)
    {
        // Most are integers, and those of so few digits are exact.
        return Some(if digits.len() < text.len() { -(n as f64) } else { n as f64 });
    }
    let text = std::str::from_utf8(text).ok()?;
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.is_empty() || unsigned.len() > 330 {
        return None;
    }
    let lower = unsigned.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0x") {
        let value = u64::from_str_radix(hex, 16).ok()? as f64;
        return Some(if text.starts_with('-') { -value } else { value });
    }
    if lower == "inf" || lower == "infinity" {
        return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    // Rust also reads `nan`, which is no number here, and overflows to infinity, which Redis refuses.
    if !lower.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'+' | b'-')) {
        return None;
    }
    text.parse::<f64>().ok().filter(|v| v.is_finite())
}

/// A number as `strtod` reads a whole C string: up to a NUL, past spaces, and nothing at all as 0.
pub fn parse_c_f64(text: &[u8]) -> Option<f64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some(0.0);
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    parse_f64(&text[text.iter().take_while(|byte| is_space(byte)).count()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_form() {
        for text in ["", "-", "-0", "+1", "01", " 1", "1 ", "9223372036854775808", "1.0", "0x1"] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text}");
        }
        for n in [0, 1, -1, i64::MAX, i64::MIN, 1234567890] {
            assert_eq!(parse_i64(n.to_string().as_bytes()), Some(n));
        }
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"18446744073709551616"), None);
    }

    #[test]
    fn floats() {
        for text in ["", "nan", "1 ", " 1", "1e400", "abc", "--1", "1e"] {
            assert_eq!(parse_f64(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_f64(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"+1.5e3"), Some(1500.0));
        assert_eq!(parse_f64(b"3."), Some(3.0));
        for text in ["0", "-0", "0012", "-999999999999999", "9999999999999999", "-", "+", "+7", "12a"] {
            let expected = text.parse::<f64>().ok().map(f64::to_bits);
            assert_eq!(parse_f64(text.as_bytes()).map(f64::to_bits), expected, "{text}");
        }
    }

    #[test]
    fn floats_in_c_strings() {
        assert_eq!(parse_c_f64(b""), Some(0.0));
        assert_eq!(parse_c_f64(b" \x0b1.5"), Some(1.5));
        assert_eq!(parse_c_f64(b"2\0x"), Some(2.0));
        for text in ["nan", " ", "1 "] {
            assert_eq!(parse_c_f64(text.as_bytes()), None, "{text}");
        }
    }
}
