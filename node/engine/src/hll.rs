//! HyperLogLog, byte for byte as Redis keeps it in a string, so that values move between the two and back.
//!
//! ```text
//! 0   "HYLL"
//! 4   encoding u8: 0 dense, 1 sparse; then three zeros
//! 8   cardinality u64, little endian; its highest bit: stale
//! 16  registers: 16384 of six bits each from the lowest bit up (dense), or runs (sparse)
//!     00llllll            l + 1 registers of 0
//!     01llllll llllllll   l + 1 registers of 0
//!     1vvvvvll            l + 1 registers of v + 1
//! ```
//! Elements are hashed with MurmurHash64A; the estimate is that of Ertl, "New cardinality estimation algorithms for
//! HyperLogLog sketches" (2017).
//!
//! Invariant: bytes that are no valid form are an error, never a panic: anybody may SET them.

use crate::Error;

/// Number of registers.
pub const REGISTERS: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 14;
/// Bits of a hash that are looked at for the run of zeros.
const RUN_BITS: u32 = 64 - INDEX_BITS;
const HEADER: usize = 16;
const MAGIC: &[u8; 4] = b"HYLL";
const ENCODING: usize = 4;
const CARDINALITY: usize = 8;
const STALE_AT: usize = 15;
const STALE: u8 = 0x80;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
/// Bytes of a dense value.
pub const DENSE_BYTES: usize = HEADER + REGISTERS * 6 / 8;
const VALUE_MAX: u8 = 32;
const VALUE_RUN_MAX: usize = 4;
const SHORT_ZEROS_MAX: usize = 64;
const HASH_SEED: u64 = 0xadc8_3b19;

/// The header is right but not what follows it.
const CORRUPT: Error = Error::text("INVALIDOBJ Corrupted HLL object detected");

/// One register a byte.
pub type Registers = [u8; REGISTERS];

/// Whether these bytes begin as a HyperLogLog does.
pub fn is_hll(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER
        && bytes.starts_with(MAGIC)
        && match bytes[ENCODING] {
            DENSE => bytes.len() == DENSE_BYTES,
            SPARSE => true,
            _ => false,
        }
}

/// Whether a value is sparse; it must be one ([`is_hll`]), here and below.
pub fn is_sparse(hll: &[u8]) -> bool {
    hll[ENCODING] == SPARSE
}

/// A sparse value of zeros.
pub fn empty() -> Vec<u8> {
    let mut hll = vec![0; HEADER];
    hll[..4].copy_from_slice(MAGIC);
    hll[ENCODING] = SPARSE;
    push_zeros(&mut hll, REGISTERS);
    hll
}

/// The cardinality that was stored, unless something changed since.
pub fn cached(hll: &[u8]) -> Option<u64> {
    let bytes: [u8; 8] = hll[CARDINALITY..HEADER].try_into().expect("eight bytes");
    (hll[STALE_AT] & STALE == 0).then_some(u64::from_le_bytes(bytes))
}

pub fn set_cached(hll: &mut [u8], cardinality: u64) {
    hll[CARDINALITY..HEADER].copy_from_slice(&cardinality.to_le_bytes());
}

pub fn invalidate(hll: &mut [u8]) {
    hll[STALE_AT] |= STALE;
}

/// Register and count of an element.
pub fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur64a(element, HASH_SEED);
    let index = hash as usize & (REGISTERS - 1);
    let run = (hash >> INDEX_BITS | 1 << RUN_BITS).trailing_zeros();
    (index, run as u8 + 1)
}

fn murmur64a(data: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = seed ^ (data.len() as u64).wrapping_mul(M);
    let words = data.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        let mut k = u64::from_le_bytes(word.try_into().expect("eight bytes")).wrapping_mul(M);
        k ^= k >> R;
        hash = (hash ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> R
}

fn dense_get(registers: &[u8], index: usize) -> u8 {
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let both = registers[byte] as u16 | (registers.get(byte + 1).copied().unwrap_or(0) as u16) << 8;
    (both >> shift) as u8 & 63
}

fn dense_put(registers: &mut [u8], index: usize, count: u8) {
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let (mask, bits) = (63u16 << shift, (count as u16) << shift);
    registers[byte] = registers[byte] & !(mask as u8) | bits as u8;
    if let Some(next) = registers.get_mut(byte + 1) {
        *next = *next & !((mask >> 8) as u8) | (bits >> 8) as u8;
    }
}

/// Raises a register of a dense value. Returns whether it was lower.
pub fn dense_raise(hll: &mut [u8], index: usize, count: u8) -> bool {
    let registers = &mut hll[HEADER..];
    let is_higher = count > dense_get(registers, index);
    if is_higher {
        dense_put(registers, index, count);
    }
    is_higher
}

/// Registers in a row with one value.
#[derive(Clone, Copy)]
struct Run {
    /// Bytes that it takes.
    bytes: usize,
    len: usize,
    /// 0 for runs of zeros.
    value: u8,
}

impl Run {
    fn read(hll: &[u8], at: usize) -> Option<Run> {
        let first = *hll.get(at)?;
        Some(match first >> 6 {
            0 => Run { bytes: 1, len: (first & 63) as usize + 1, value: 0 },
            1 => {
                let low = *hll.get(at + 1)?;
                Run { bytes: 2, len: ((first as usize & 63) << 8 | low as usize) + 1, value: 0 }
            }
            _ => Run { bytes: 1, len: (first & 3) as usize + 1, value: (first >> 2 & 31) + 1 },
        })
    }
}

fn value_run(value: u8, len: usize) -> u8 {
    0x80 | (value - 1) << 2 | (len - 1) as u8
}

fn push_zeros(to: &mut Vec<u8>, len: usize) {
    let low = len - 1;
    if len <= SHORT_ZEROS_MAX {
        to.push(low as u8);
    } else {
        to.extend([0x40 | (low >> 8) as u8, low as u8]);
    }
}

/// Adds a run of a length that stood in one before; none if that is 0.
fn push_run(to: &mut Vec<u8>, value: u8, len: usize) {
    match (len, value) {
        (0, _) => {}
        (len, 0) => push_zeros(to, len),
        (len, value) => to.push(value_run(value, len)),
    }
}

/// Calls `each` with number, length and value of every run of a sparse value.
fn sparse_runs(hll: &[u8], mut each: impl FnMut(usize, usize, u8)) -> Result<(), Error> {
    let (mut at, mut index) = (HEADER, 0);
    while at < hll.len() {
        let run = Run::read(hll, at).filter(|run| index + run.len <= REGISTERS).ok_or(CORRUPT)?;
        each(index, run.len, run.value);
        index += run.len;
        at += run.bytes;
    }
    if index == REGISTERS { Ok(()) } else { Err(CORRUPT) }
}

/// Makes a sparse value dense.
pub fn make_dense(hll: &mut Vec<u8>) -> Result<(), Error> {
    if !is_sparse(hll) {
        return Ok(());
    }
    let mut dense = vec![0; DENSE_BYTES];
    dense[..HEADER].copy_from_slice(&hll[..HEADER]);
    dense[ENCODING] = DENSE;
    sparse_runs(hll, |first, len, value| {
        if value > 0 {
            (first..first + len).for_each(|i| dense_put(&mut dense[HEADER..], i, value));
        }
    })?;
    *hll = dense;
    Ok(())
}

/// Raises a register. A sparse value longer than `sparse_max` bytes after it becomes dense. Returns whether the register
/// was lower; what is cached is stale then.
pub fn raise(hll: &mut Vec<u8>, index: usize, count: u8, sparse_max: usize) -> Result<bool, Error> {
    if !is_sparse(hll) {
        return Ok(dense_raise(hll, index, count));
    }
    match sparse_raise(hll, index, count, sparse_max)? {
        Some(is_changed) => Ok(is_changed),
        None => {
            make_dense(hll)?;
            Ok(dense_raise(hll, index, count))
        }
    }
}

/// As [`raise`] while the value stays sparse; `None`: it cannot.
// The very steps of Redis, down to how far merging looks: other ones would give other bytes.
fn sparse_raise(
    hll: &mut Vec<u8>,
    index: usize,
    count: u8,
    sparse_max: usize,
) -> Result<Option<bool>, Error> {
    if count > VALUE_MAX {
        return Ok(None);
    }
    let (mut at, mut first, mut previous) = (HEADER, 0, None);
    let run = loop {
        let run = Run::read(hll, at).ok_or(CORRUPT)?;
        if index < first + run.len {
            break run;
        }
        previous = Some(at);
        at += run.bytes;
        first += run.len;
    };
    if run.value >= count {
        return Ok(Some(false));
    }
    if run.len == 1 && run.bytes == 1 {
        hll[at] = value_run(count, 1);
    } else {
        let mut split = Vec::with_capacity(5);
        push_run(&mut split, run.value, index - first);
        split.push(value_run(count, 1));
        push_run(&mut split, run.value, first + run.len - 1 - index);
        let grown = split.len().saturating_sub(run.bytes);
        if grown > 0 && hll.len() + grown > sparse_max {
            return Ok(None);
        }
        hll.splice(at..at + run.bytes, split);
    }
    merge(hll, previous.unwrap_or(HEADER));
    invalidate(hll);
    Ok(Some(true))
}

/// Joins neighbours of equal value, in five steps from `at` on.
fn merge(hll: &mut Vec<u8>, mut at: usize) {
    for _ in 0..5 {
        let Some(run) = Run::read(hll, at) else { return };
        if run.value == 0 {
            at += run.bytes;
            continue;
        }
        match Run::read(hll, at + 1) {
            Some(next) if next.value == run.value && run.len + next.len <= VALUE_RUN_MAX => {
                hll[at] = value_run(run.value, run.len + next.len);
                hll.remove(at + 1);
            }
            _ => at += 1,
        }
    }
}

/// Raises `registers` to those of a value.
pub fn merge_into(registers: &mut Registers, hll: &[u8]) -> Result<(), Error> {
    if is_sparse(hll) {
        return sparse_runs(hll, |first, len, value| {
            registers[first..first + len].iter_mut().for_each(|r| *r = value.max(*r));
        });
    }
    // Four registers stand in three bytes.
    for (four, bytes) in registers.chunks_exact_mut(4).zip(hll[HEADER..].chunks_exact(3)) {
        let bits = bytes[0] as u32 | (bytes[1] as u32) << 8 | (bytes[2] as u32) << 16;
        for (i, register) in four.iter_mut().enumerate() {
            *register = (*register).max((bits >> (6 * i)) as u8 & 63);
        }
    }
    Ok(())
}

/// The estimated number of different elements.
pub fn count(hll: &[u8]) -> Result<u64, Error> {
    let mut histogram = [0; 64];
    if is_sparse(hll) {
        sparse_runs(hll, |_, len, value| histogram[value as usize] += len as u32)?;
    } else {
        for bytes in hll[HEADER..].chunks_exact(3) {
            let bits = bytes[0] as u32 | (bytes[1] as u32) << 8 | (bytes[2] as u32) << 16;
            (0..4).for_each(|i| histogram[(bits >> (6 * i)) as usize & 63] += 1);
        }
    }
    Ok(estimate(&histogram))
}

/// The estimate for registers of a byte each.
pub fn count_registers(registers: &Registers) -> u64 {
    let mut histogram = [0; 64];
    registers.iter().for_each(|r| histogram[*r as usize & 63] += 1);
    estimate(&histogram)
}

fn estimate(histogram: &[u32; 64]) -> u64 {
    const ALPHA: f64 = 0.721_347_520_444_481_7; // 0.5 / ln 2
    const M: f64 = REGISTERS as f64;
    let mut z = M * tau((M - histogram[RUN_BITS as usize + 1] as f64) / M);
    for n in histogram[1..=RUN_BITS as usize].iter().rev() {
        z = (z + *n as f64) * 0.5;
    }
    z += M * sigma(histogram[0] as f64 / M);
    (ALPHA * M * M / z).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

/// The runs of a sparse value as text: `z:5 Z:100 v:2,1`.
pub fn describe(hll: &[u8]) -> String {
    let (mut at, mut words) = (HEADER, Vec::new());
    while let Some(run) = Run::read(hll, at) {
        words.push(match (run.value, run.bytes) {
            (0, 1) => format!("z:{}", run.len),
            (0, _) => format!("Z:{}", run.len),
            (value, _) => format!("v:{value},{}", run.len),
        });
        at += run.bytes;
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn add(hll: &mut Vec<u8>, element: &[u8]) -> bool {
        let (index, count) = place(element);
        raise(hll, index, count, 3000).unwrap()
    }

    #[test]
    fn registers_do_not_touch_their_neighbours() {
        let mut rng = Rng::new(1);
        let mut dense = vec![0; DENSE_BYTES - HEADER];
        let mut model = [0u8; REGISTERS];
        for _ in 0..3 {
            for (i, register) in model.iter_mut().enumerate() {
                *register = rng.next_u64() as u8 & 63;
                dense_put(&mut dense, i, *register);
            }
            assert!((0..REGISTERS).all(|i| dense_get(&dense, i) == model[i]));
        }
    }

    #[test]
    fn both_forms_hold_the_same_and_estimate_well() {
        let (mut any, mut dense) = (empty(), empty());
        make_dense(&mut dense).unwrap();
        for n in 1..=20_000u64 {
            let element = (n ^ 0x1234_5678_9abc).to_le_bytes();
            assert_eq!(add(&mut any, &element), add(&mut dense, &element));
            if n.is_power_of_two() {
                let estimate = count(&any).unwrap();
                assert_eq!(count(&dense), Ok(estimate));
                let mut registers = [0; REGISTERS];
                merge_into(&mut registers, &any).unwrap();
                assert_eq!(count_registers(&registers), estimate);
                let error = estimate.abs_diff(n) as f64 / n as f64;
                assert!(error < 0.05, "{estimate} for {n}");
            }
        }
        assert!(!is_sparse(&any) && any[HEADER..] == dense[HEADER..]);
    }

    #[test]
    fn bytes_are_those_of_redis() {
        // DUMPed from Redis 7.0.15 after PFADD hll a b c d e f g.
        let mut hll = empty();
        for element in ["a", "b", "c", "d", "e", "f", "g"] {
            assert!(add(&mut hll, element.as_bytes()));
        }
        assert_eq!(describe(&hll), SEVEN);
        assert_eq!(count(&hll), Ok(7));
    }
    const SEVEN: &str =
        "Z:1646 v:1,1 Z:5645 v:1,1 Z:1085 v:2,1 z:57 v:1,1 Z:4274 v:2,1 Z:2445 v:1,1 Z:622 v:1,1 Z:603";

    #[test]
    fn what_is_no_valid_form_is_refused() {
        assert!(!is_hll(b"HYLL") && !is_hll(&[b'x'; 20]));
        let mut wrong = empty();
        wrong[ENCODING] = 2;
        assert!(!is_hll(&wrong));
        for runs in [&[][..], &[0x7f, 0xff, 0x00], &[0x7f], &[0x7f, 0xfe], &[0x80]] {
            let bytes = [&empty()[..HEADER], runs].concat();
            assert!(is_hll(&bytes));
            assert_eq!(count(&bytes), Err(CORRUPT), "{runs:?}");
            assert_eq!(make_dense(&mut bytes.clone()), Err(CORRUPT));
            assert_eq!(merge_into(&mut [0; REGISTERS], &bytes), Err(CORRUPT));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut rng = Rng::new(77);
        for _ in 0..2000 {
            let runs: Vec<u8> = (0..rng.below(40)).map(|_| rng.next_u64() as u8).collect();
            let mut bytes = [&empty()[..HEADER], &runs].concat();
            let _ = (count(&bytes), describe(&bytes), merge_into(&mut [0; REGISTERS], &bytes));
            for _ in 0..20 {
                let _ = raise(&mut bytes, rng.below(REGISTERS as u64) as usize, 1 + rng.below(51) as u8, 60);
            }
        }
    }
}
