//! Numbers as C's `%g` writes them.

/// `%.<precision>g`.
pub fn format_g(value: f64, precision: usize) -> String {
    assert!((1..=17).contains(&precision));
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if value.is_nan() {
        return format!("{sign}nan");
    }
    if value.is_infinite() {
        return format!("{sign}inf");
    }
    if value == 0.0 {
        return format!("{sign}0");
    }
    if value.fract() == 0.0 && value.abs() < 1e14 && precision >= 14 {
        return (value as i64).to_string();
    }
    let scientific = format!("{value:.*e}", precision - 1);
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes a number");
    if (-4..precision as i32).contains(&exponent) {
        let decimals = (precision as i32 - 1 - exponent) as usize;
        return trim(&format!("{value:.decimals$}")).to_string();
    }
    let mark = if exponent < 0 { '-' } else { '+' };
    format!("{}e{mark}{:02}", trim(digits), exponent.abs())
}

fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_c_writes_them() {
        for (value, text) in [
            (1.0, "1"),
            (-3.5, "-3.5"),
            (0.1, "0.10000000000000001"),
            (1e15, "1000000000000000"),
            (1e17, "1e+17"),
            (9007199254740993.0, "9007199254740992"),
            (1e-5, "1.0000000000000001e-05"),
            (-0.0, "-0"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(format_g(value, 17), text);
        }
        for (value, text) in [(0.1, "0.1"), (1e15, "1e+15"), (123456789012345.0, "1.2345678901234e+14")] {
            assert_eq!(format_g(value, 14), text);
        }
    }
}
