//! The payload of DUMP and RESTORE: type byte, value, two bytes of version, eight bytes of CRC-64. That of FUNCTION DUMP
//! has libraries instead of the value.

use super::object::{Build, Input, Stop, read_value};
use super::read::is_known_version;
use super::write::{put_string, put_value, type_of};
use super::{Format, RdbError, op};
use crate::Thresholds;
use crate::crc64::crc64;
use crate::value::{Value, ValueRef};

const FOOTER: usize = 10;

/// The payload of a value, in the format's version.
pub fn dump(value: ValueRef<'_>, format: &Format) -> Vec<u8> {
    let mut out = vec![type_of(value, format)];
    put_value(&mut out, value, format);
    put_footer(&mut out, format);
    out
}

/// Ends a payload: version and checksum over all that stands before them.
pub fn put_footer(out: &mut Vec<u8>, format: &Format) {
    out.extend_from_slice(&format.version.to_le_bytes());
    let crc = crc64(0, out);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// The payload of FUNCTION DUMP: the texts of libraries as they stand in an RDB file.
pub fn dump_functions(texts: &[&[u8]], format: &Format) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        out.push(op::FUNCTION2);
        put_string(&mut out, text, format);
    }
    put_footer(&mut out, format);
    out
}

/// The texts of libraries in a payload. Errors as [`restore`]'s.
pub fn restore_functions(payload: &[u8]) -> Result<Vec<Vec<u8>>, RdbError> {
    let (end, _) = check_footer(payload)?;
    let mut input = Input::new(&payload[..end]);
    let mut texts = Vec::new();
    while input.at() < end {
        let offset = input.at() as u64;
        let broken = |what| RdbError::Corrupt { offset, what };
        match input.u8() {
            Ok(op::FUNCTION2) => {}
            _ => return Err(broken("given type is not a function")),
        }
        let text = input.string().map_err(|_| broken("failed loading the given functions payload"))?;
        texts.push(text.into_owned());
    }
    Ok(texts)
}

/// Checks version and checksum; gives where they begin, and whether Valkey wrote the payload.
fn check_footer(payload: &[u8]) -> Result<(usize, bool), RdbError> {
    let Some(end) = payload.len().checked_sub(FOOTER) else {
        return Err(RdbError::Truncated { offset: payload.len() as u64 });
    };
    let version = u16::from_le_bytes([payload[end], payload[end + 1]]);
    // A payload has no magic; the numbers tell Valkey's versions from Redis's.
    let is_valkey = version >= *super::VALKEY_VERSIONS.start();
    if !is_known_version(version, is_valkey) {
        return Err(RdbError::Unsupported { offset: end as u64, what: format!("RDB version {version}") });
    }
    let expected = u64::from_le_bytes(payload[end + 2..].try_into().expect("eight bytes"));
    let computed = crc64(0, &payload[..end + 2]);
    if expected != computed {
        return Err(RdbError::Checksum { expected, computed });
    }
    Ok((end, is_valkey))
}

/// The value of a payload. A wrong version or checksum is an error as well as broken content; RESTORE answers the
/// same to all of them but broken content.
pub fn restore(payload: &[u8], thresholds: &Thresholds) -> Result<Value, RdbError> {
    let (end, is_valkey) = check_footer(payload)?;
    if end == 0 {
        return Err(RdbError::Truncated { offset: 0 });
    }
    let mut input = Input::new(&payload[..end]);
    let build = Build { thresholds, is_valkey };
    let built = input.u8().and_then(|number| read_value(&mut input, number, &build));
    let offset = input.at() as u64;
    match built {
        Ok(_) if input.at() != end => Err(RdbError::Corrupt { offset, what: "bytes behind the value" }),
        Ok(value) => value.ok_or(RdbError::Corrupt { offset, what: "an empty collection" }),
        Err(Stop::More(_)) => Err(RdbError::Corrupt { offset, what: "the value ends too early" }),
        Err(Stop::Corrupt(what)) => Err(RdbError::Corrupt { offset, what }),
        Err(Stop::Unsupported(what)) => Err(RdbError::Unsupported { offset, what }),
    }
}
