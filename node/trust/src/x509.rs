//! The outline of an X.509 certificate (RFC 5280), as far as certificates of version 1 need it: webpki refuses them, but
//! `openssl x509 -req` makes them when it is given no extensions, and so do the scripts that Redis's documentation names.
//!
//! Invariant: no bytes make this panic, read beyond their end or reserve memory.

/// What stands in a certificate. Parts that webpki and rustls compare are kept in the form that these want.
#[derive(Debug, PartialEq, Eq)]
pub struct Outline<'a> {
    /// No version is named and nothing stands behind the key.
    pub is_v1: bool,
    /// What the issuer signed, with its head.
    pub signed: &'a [u8],
    /// Contents of the issuer's name.
    pub issuer: &'a [u8],
    /// Seconds since 1970.
    pub not_before_s: i64,
    pub not_after_s: i64,
    /// With its head.
    pub key: &'a [u8],
    /// Contents of the AlgorithmIdentifier of the signature.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
}

/// The algorithm (contents of its AlgorithmIdentifier) and the bits of a SubjectPublicKeyInfo's contents.
pub fn key_parts(contents: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(contents);
    let algorithm = reader.expect(SEQUENCE)?;
    let bits = reader.bits()?;
    reader.0.is_empty().then_some((algorithm, bits))
}

/// Contents of the one SEQUENCE that `der` is.
pub fn sequence(der: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(der);
    let contents = reader.expect(SEQUENCE)?;
    reader.0.is_empty().then_some(contents)
}

pub fn outline(der: &[u8]) -> Option<Outline<'_>> {
    let mut all = Reader(sequence(der)?);
    let (signed, contents) = all.element(SEQUENCE)?;
    let algorithm = all.expect(SEQUENCE)?;
    let signature = all.bits()?;
    if !all.0.is_empty() {
        return None;
    }
    let mut part = Reader(contents);
    let has_version = part.0.first() == Some(&VERSION);
    if has_version {
        part.expect(VERSION)?;
    }
    part.expect(INTEGER)?;
    if part.expect(SEQUENCE)? != algorithm {
        return None;
    }
    let issuer = part.expect(SEQUENCE)?;
    let mut validity = Reader(part.expect(SEQUENCE)?);
    let (not_before_s, not_after_s) = (validity.time()?, validity.time()?);
    part.expect(SEQUENCE)?;
    let (key, _) = part.element(SEQUENCE)?;
    let is_v1 = !has_version && part.0.is_empty();
    Some(Outline { is_v1, signed, issuer, not_before_s, not_after_s, key, algorithm, signature })
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element, which must have this tag: all of it, and its contents.
    fn element(&mut self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        let all = self.0;
        let [found, first, rest @ ..] = all else { return None };
        if *found != tag {
            return None;
        }
        let (len, rest) = match *first {
            short @ 0..=0x7F => (short as usize, rest),
            long @ 0x81..=0x83 => {
                let count = (long - 0x80) as usize;
                let (digits, rest) = rest.split_at_checked(count)?;
                (digits.iter().fold(0, |n, d| n << 8 | *d as usize), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((&all[..all.len() - rest.len()], contents))
    }
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element(tag).map(|(_, contents)| contents)
    }
    /// A BIT STRING of whole bytes.
    fn bits(&mut self) -> Option<&'a [u8]> {
        match self.expect(BIT_STRING)? {
            [0, bytes @ ..] => Some(bytes),
            _ => None,
        }
    }
    /// Seconds since 1970.
    fn time(&mut self) -> Option<i64> {
        let (digits, century) = match self.0.first() {
            Some(&UTC_TIME) => (self.expect(UTC_TIME)?, None),
            _ => {
                let text = self.expect(GENERALIZED_TIME)?;
                (text.get(2..)?, Some(number(text.get(..2)?)?))
            }
        };
        let [pairs @ .., b'Z'] = digits else { return None };
        if pairs.len() != 12 {
            return None;
        }
        let mut fields = [0; 6];
        for (field, pair) in fields.iter_mut().zip(pairs.chunks_exact(2)) {
            *field = number(pair)?;
        }
        let [year, month, day, hour, minute, second] = fields;
        // RFC 5280, 4.1.2.5.1: two digits from 50 on are of the twentieth century.
        let year = year + 100 * century.unwrap_or(if year >= 50 { 19 } else { 20 });
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
    }
}

/// Two digits.
fn number(pair: &[u8]) -> Option<i64> {
    match pair {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some((a - b'0') as i64 * 10 + (b - b'0') as i64),
        _ => None,
    }
}

/// Days since 1970 in the Gregorian calendar. `year` is not negative.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let in_year = (153 * month + 2) / 5 + day - 1;
    const TO_1970: i64 = 719_468;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + in_year - TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_since_1970() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 3, 1), 11_017);
        assert_eq!(days(2026, 11, 20), 20_777);
    }

    #[test]
    fn times_of_both_kinds() {
        assert_eq!(Reader(b"\x17\x0d700101000001Z").time(), Some(1));
        assert_eq!(Reader(b"\x17\x0d491231235959Z").time(), Reader(b"\x18\x0f20491231235959Z").time());
        for bad in
            [&b"\x17\x0d701301000001Z"[..], b"\x17\x0c70010100000Z", b"\x17\x0d70010100000aZ", b"\x18\x01Z"]
        {
            assert_eq!(Reader(bad).time(), None, "{bad:?}");
        }
    }

    #[test]
    fn a_real_certificate_and_every_part_of_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(["a.b".to_string()]).unwrap().self_signed(&key).unwrap();
        let der = certificate.der();
        let outline_ = outline(der).unwrap();
        assert!(!outline_.is_v1, "it has extensions");
        assert!(outline_.not_before_s < outline_.not_after_s);
        assert!(key_parts(sequence(outline_.key).unwrap()).is_some());
        for end in 0..der.len() {
            assert_eq!(outline(&der[..end]), None);
        }
        let mut bad = der.to_vec();
        for at in 0..bad.len() {
            for flip in [0x80, 0xFF, 1] {
                bad[at] ^= flip;
                let _ = outline(&bad);
                bad[at] ^= flip;
            }
        }
    }
}
