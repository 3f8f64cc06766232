//! Numbers as Redis reads them: strict, without leading zeros, plus signs or spaces.

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

/// Digits behind the point that INCRBYFLOAT keeps, as Redis's `%.17Lf`.
const DECIMALS: u32 = 17;

/// The sum of two decimal texts with 17 digits behind the point, without trailing zeros. Exact in decimal where both
/// are below 10^19 and have no exponent; else by `f64`. `None`: the sum is not finite.
// Redis adds as 80-bit floats: its result differs from the exact one from the 19th significant digit on.
pub fn add_decimal(a: &[u8], b: &[u8]) -> Option<String> {
    if let (Some(a), Some(b)) = (scaled(a), scaled(b)) {
        let sum = a.checked_add(b)?;
        let unit = 10i128.pow(DECIMALS);
        let (whole, fraction) = (sum.unsigned_abs() / unit as u128, sum.unsigned_abs() % unit as u128);
        let digits = format!("{fraction:017}");
        let digits = digits.trim_end_matches('0');
        let sign = if sum < 0 { "-" } else { "" };
        return Some(if digits.is_empty() {
            format!("{sign}{whole}")
        } else {
            format!("{sign}{whole}.{digits}")
        });
    }
    let sum = parse_f64(a)? + parse_f64(b)?;
    if !sum.is_finite() {
        return None;
    }
    let text = format!("{sum:.17}");
    Some(text.trim_end_matches('0').trim_end_matches('.').to_string())
}

/// A plain decimal text times 10^17.
fn scaled(text: &[u8]) -> Option<i128> {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let point = memchr::memchr(b'.', digits).unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    if whole.len() > 19 || fraction.len() > DECIMALS as usize || digits.is_empty() {
        return None;
    }
    let read =
        |t: &[u8]| t.iter().try_fold(0i128, |n, c| c.is_ascii_digit().then(|| n * 10 + (c - b'0') as i128));
    let value =
        read(whole)? * 10i128.pow(DECIMALS) + read(fraction)? * 10i128.pow(DECIMALS - fraction.len() as u32);
    Some(if is_negative { -value } else { value })
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
    fn decimal_sums() {
        let sum = |a: &str, b: &str| add_decimal(a.as_bytes(), b.as_bytes()).unwrap();
        assert_eq!(sum("10.50", "0.1"), "10.6");
        assert_eq!(sum("0.1", "0.2"), "0.3");
        assert_eq!(sum("3", "-1.20"), "1.8");
        assert_eq!(sum("1", "-1"), "0");
        assert_eq!(sum("5.0e3", "2.0e2"), "5200");
        assert_eq!(add_decimal(b"1e308", b"1.7e308"), None);
    }

    #[test]
    fn floats() {
        for text in ["", "nan", "1 ", " 1", "1e400", "abc", "--1", "1e"] {
            assert_eq!(parse_f64(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_f64(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"+1.5e3"), Some(1500.0));
        assert_eq!(parse_f64(b"3."), Some(3.0));
    }
}
