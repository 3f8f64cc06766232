//! Sums as INCRBYFLOAT and HINCRBYFLOAT make them: 80-bit floats of x87, printed as `%.17Lf` without trailing zeros.
//!
//! Rust has no such type, and clients see its digits: 9223372036854775807 plus 10.1 is 9223372036854775817. Only what Redis
//! needs is here: reading decimal text, one addition, printing. Rounding is to nearest, ties to even, as the hardware and glibc do.
//! Bounds: texts are at most 330 bytes and within the range of `f64`, which the callers check; exponents of x87 are wider.

use crate::number::parse_f64;

/// The sum of two numbers in text. `None`: one is no number, or infinite.
pub fn add(a: &[u8], b: &[u8]) -> Option<String> {
    Some(Float::parse(a)?.plus(Float::parse(b)?).print())
}

/// `mantissa * 2^exponent`; the mantissa's top bit is set, or all of it is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Float {
    is_negative: bool,
    mantissa: u64,
    exponent: i32,
}

/// Decimal exponents below this are zero: less than the smallest that can be told from it.
const EXPONENT_MIN: i64 = -5000;
/// Digits behind the point.
const DECIMALS: u32 = 17;

impl Float {
    /// Rounds `mantissa * 2^exponent`, plus something below its last bit if `is_inexact`.
    fn round(is_negative: bool, mantissa: u128, exponent: i32, is_inexact: bool) -> Float {
        let over = 64 - mantissa.leading_zeros() as i32;
        if over <= 0 {
            let shift = (mantissa as u64).leading_zeros().min(63);
            return Float {
                is_negative,
                mantissa: (mantissa as u64) << shift,
                exponent: exponent - shift as i32,
            };
        }
        let (kept, rest) = (mantissa >> over, mantissa & ((1 << over) - 1));
        let half = 1u128 << (over - 1);
        let is_up = rest > half || rest == half && (is_inexact || kept & 1 == 1);
        let kept = kept + u128::from(is_up);
        match u64::try_from(kept) {
            Ok(mantissa) => Float { is_negative, mantissa, exponent: exponent + over },
            Err(_) => Float { is_negative, mantissa: 1 << 63, exponent: exponent + over + 1 },
        }
    }

    fn parse(text: &[u8]) -> Option<Float> {
        if !parse_f64(text)?.is_finite() {
            return None;
        }
        let (is_negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if digits.len() > 1 && digits[1].eq_ignore_ascii_case(&b'x') {
            let value = u64::from_str_radix(std::str::from_utf8(&digits[2..]).ok()?, 16).ok()?;
            return Some(Float::round(is_negative, value.into(), 0, false));
        }
        let (number, exponent) = match digits.iter().position(|c| c.eq_ignore_ascii_case(&b'e')) {
            None => (digits, 0),
            Some(at) => (&digits[..at], std::str::from_utf8(&digits[at + 1..]).ok()?.parse::<i64>().ok()?),
        };
        let mut all = Big::default();
        let (mut exponent, mut is_fraction) = (exponent, false);
        for &c in number {
            if c == b'.' {
                is_fraction = true;
                continue;
            }
            all.multiply_add(10, u32::from(c - b'0'));
            exponent -= i64::from(is_fraction);
        }
        if all.bits() == 0 || exponent < EXPONENT_MIN {
            return Some(Float { is_negative, mantissa: 0, exponent: 0 });
        }
        Some(Float::of_ratio(is_negative, all, exponent))
    }

    /// `digits * 10^exponent`, rounded.
    fn of_ratio(is_negative: bool, mut digits: Big, exponent: i64) -> Float {
        let mut divisor = Big::default();
        divisor.multiply_add(0, 1);
        for _ in 0..exponent.unsigned_abs() {
            if exponent > 0 { &mut digits } else { &mut divisor }.multiply_add(10, 0);
        }
        // So that the quotient has 65 or 66 bits: all of the mantissa and at least one to round by.
        let shift = divisor.bits() as i32 - digits.bits() as i32 + 65;
        if shift > 0 { &mut digits } else { &mut divisor }.shift_left(shift.unsigned_abs() as usize);
        let quotient = digits.divide(divisor, 66);
        Float::round(is_negative, quotient, -shift, digits.bits() > 0)
    }

    fn plus(self, other: Float) -> Float {
        let magnitude = |f: Float| (f.mantissa > 0, f.exponent, f.mantissa);
        let (large, small) = if magnitude(self) < magnitude(other) { (other, self) } else { (self, other) };
        if small.mantissa == 0 {
            return large;
        }
        // 63 bits below the larger number's last hold all of the smaller that can matter; what is lost is known to be there.
        let distance = (large.exponent - small.exponent) as u32;
        let (a, b) = (u128::from(large.mantissa) << 63, u128::from(small.mantissa) << 63);
        let shifted = b.checked_shr(distance).unwrap_or(0);
        let is_inexact = distance >= 128 || shifted << distance != b;
        let sum = match large.is_negative == small.is_negative {
            true => a + shifted,
            false => a - shifted - u128::from(is_inexact),
        };
        Float::round(large.is_negative && sum > 0, sum, large.exponent - 63, is_inexact)
    }

    fn print(self) -> String {
        let unit = 10u128.pow(DECIMALS);
        let (whole, fraction) = if self.exponent >= 0 {
            let mut all = Big::default();
            all.multiply_add(0, (self.mantissa >> 32) as u32);
            all.shift_left(32);
            all.multiply_add(1, self.mantissa as u32);
            all.shift_left(self.exponent as usize);
            (all.print(), 0)
        } else {
            let shift = self.exponent.unsigned_abs();
            let scaled = u128::from(self.mantissa) * unit;
            let kept = scaled.checked_shr(shift).unwrap_or(0);
            let rest = scaled - kept.checked_shl(shift).unwrap_or(0);
            let half = 1u128.checked_shl(shift - 1).unwrap_or(u128::MAX);
            let rounded = kept + u128::from(rest > half || rest == half && kept & 1 == 1);
            ((rounded / unit).to_string(), rounded % unit)
        };
        let digits = format!("{fraction:017}");
        let digits = digits.trim_end_matches('0');
        let text = if digits.is_empty() { whole } else { format!("{whole}.{digits}") };
        if self.is_negative && text != "0" { format!("-{text}") } else { text }
    }
}

/// A natural number: 32 bits a limb, the lowest first, no zero on top.
#[derive(Clone, Default, Debug)]
struct Big {
    limbs: Vec<u32>,
}

impl Big {
    fn bits(&self) -> usize {
        self.limbs.last().map_or(0, |top| 32 * self.limbs.len() - top.leading_zeros() as usize)
    }

    fn trim(&mut self) {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.limbs {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.limbs.push(carry as u32);
        }
        self.trim();
    }

    fn shift_left(&mut self, bits: usize) {
        self.multiply_add(1 << (bits % 32), 0);
        if !self.limbs.is_empty() {
            self.limbs.splice(0..0, std::iter::repeat_n(0, bits / 32));
        }
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for limb in self.limbs.iter_mut().rev() {
            (*limb, carry) = (*limb >> 1 | carry << 31, *limb & 1);
        }
        self.trim();
    }

    fn is_at_least(&self, other: &Big) -> bool {
        let order = self.limbs.len().cmp(&other.limbs.len());
        order.then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev())).is_ge()
    }

    /// Subtracts a number that is not greater.
    fn subtract(&mut self, other: &Big) {
        let mut borrow = 0;
        for (i, limb) in self.limbs.iter_mut().enumerate() {
            let less = u64::from(other.limbs.get(i).copied().unwrap_or(0)) + borrow;
            let (value, is_below) = u64::from(*limb).overflowing_sub(less);
            *limb = value as u32;
            borrow = u64::from(is_below);
        }
        self.trim();
    }

    /// The quotient, which has at most `bits` bits; the remainder stays.
    fn divide(&mut self, mut divisor: Big, bits: usize) -> u128 {
        divisor.shift_left(bits);
        let mut quotient = 0;
        for _ in 0..=bits {
            quotient <<= 1;
            if self.is_at_least(&divisor) {
                self.subtract(&divisor);
                quotient |= 1;
            }
            divisor.halve();
        }
        quotient
    }

    fn print(mut self) -> String {
        const GROUP: u64 = 1_000_000_000;
        let mut groups = Vec::new();
        while !self.limbs.is_empty() {
            let mut rest = 0;
            for limb in self.limbs.iter_mut().rev() {
                rest = rest << 32 | u64::from(*limb);
                *limb = (rest / GROUP) as u32;
                rest %= GROUP;
            }
            self.trim();
            groups.push(rest);
        }
        let Some(top) = groups.pop() else { return "0".into() };
        groups.iter().rev().fold(top.to_string(), |text, group| format!("{text}{group:09}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(a: &str, b: &str) -> String {
        add(a.as_bytes(), b.as_bytes()).unwrap()
    }

    #[test]
    fn sums_as_redis_prints_them() {
        // Each was answered so by Redis 7.0.15.
        for (a, b, expected) in [
            ("10.50", "0.1", "10.6"),
            ("0.1", "0.2", "0.3"),
            ("3", "-1.20", "1.8"),
            ("1", "-1", "0"),
            ("5.0e3", "2.0e2", "5200"),
            ("11", "1e-3", "11.001"),
            ("9223372036854775807", "10.10", "9223372036854775817"),
            ("-5", "1e-3", "-4.999"),
            ("-0", "0", "0"),
        ] {
            assert_eq!(sum(a, b), expected, "{a} + {b}");
        }
        assert_eq!(add(b"inf", b"1"), None);
        assert_eq!(add(b"x", b"1"), None);
    }

    #[test]
    fn far_apart_and_huge() {
        assert_eq!(sum("1e300", "1e-300"), sum("1e300", "0"));
        assert_eq!(sum("1e18", "-1e-18"), "1000000000000000000");
        assert!(sum("1e308", "7e307").starts_with("17000000000000000000"));
        assert_eq!(sum("1e-400", "1"), "1");
        assert_eq!(sum("0x10", "1"), "17");
    }

    proptest! {
        #[test]
        fn sums_of_integers_are_exact(a in -(1i64 << 62)..1 << 62, b in -(1i64 << 62)..1 << 62) {
            prop_assert_eq!(sum(&a.to_string(), &b.to_string()), (a + b).to_string());
        }

        #[test]
        fn a_sum_is_no_worse_than_that_of_doubles(a in -1e9..1e9f64, b in -1e9..1e9f64) {
            let printed: f64 = sum(&format!("{a:?}"), &format!("{b:?}")).parse().unwrap();
            prop_assert!((printed - (a + b)).abs() <= (a.abs() + b.abs()) * f64::EPSILON + 1e-16, "{printed} {}", a + b);
        }
    }
}
