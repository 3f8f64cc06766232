//! Strings as arrays of bits: SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP. Bit 0 is the highest of byte 0.

use crate::Error;
use crate::cx::Cx;
use crate::number::parse_i64;
use crate::settings::notify;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use storage::Value;

const BASE: Command = Command { group: Group::Bitmap, ..Command::BASE };

const BAD_OFFSET: Error = Error::text("ERR bit offset is not an integer or out of range");

const UNIT: Arg = Arg::one_of("index_unit", &[Arg::word("byte", "BYTE"), Arg::word("bit", "BIT")])
    .optional()
    .since("7.0.0");
const UNIT_HISTORY: &[(&str, &str)] = &[("7.0.0", "Added the `BYTE|BIT` option.")];

/// The offset of a bit among the arguments. `width`: with `#` before it, it counts fields of so many bits.
pub fn bit_offset(cx: &Cx, text: &[u8], width: Option<u32>) -> Result<u64, Error> {
    let (text, unit) = match (text, width) {
        ([b'#', rest @ ..], Some(width)) => (rest, width as i64),
        _ => (text, 1),
    };
    parse_i64(text)
        .and_then(|n| n.checked_mul(unit))
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| n >> 3 < cx.settings.proto_max_bulk_len as u64)
        .ok_or(BAD_OFFSET)
}

pub const SETBIT: Command = Command {
    name: "setbit",
    summary: "Sets or clears one bit of a string value. Creates the key if it does not exist.",
    since: "2.2.0",
    arity: 4,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::ACCESS | key::UPDATE)],
    args: &[Arg::key("key", 0), Arg::integer("offset"), Arg::integer("value")],
    run: Handler::Keys(setbit),
    ..BASE
};
fn setbit(cx: &mut Cx) -> Result<(), Error> {
    let (key, offset) = (cx.args[1], bit_offset(cx, cx.args[2], None)?);
    let is_on = match parse_i64(cx.args[3]) {
        Some(n @ (0 | 1)) => n == 1,
        _ => return Err(Error::text("ERR bit is not an integer or out of range")),
    };
    let (byte, mask) = ((offset >> 3) as usize, 0x80 >> (offset & 7));
    let (was_on, has_grown) = cx.keys.update_str(key, byte + 1, |bytes| {
        let was_on = bytes[byte] & mask != 0;
        bytes[byte] = if is_on { bytes[byte] | mask } else { bytes[byte] & !mask };
        was_on
    })?;
    if has_grown || was_on != is_on {
        cx.keys.changed(key, notify::STRING, "setbit");
    }
    cx.out.int(was_on as i64);
    Ok(())
}

pub const GETBIT: Command = Command {
    name: "getbit",
    summary: "Returns one bit of a string value.",
    since: "2.2.0",
    arity: 3,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::integer("offset")],
    run: Handler::Keys(getbit),
    ..BASE
};
fn getbit(cx: &mut Cx) -> Result<(), Error> {
    let offset = bit_offset(cx, cx.args[2], None)?;
    let byte = cx.keys.read_str(cx.args[1])?.and_then(|bytes| bytes.get((offset >> 3) as usize));
    let is_on = byte.is_some_and(|byte| byte & (0x80 >> (offset & 7)) != 0);
    cx.out.int(is_on as i64);
    Ok(())
}

/// The bits `first..=last` that a start and an end name, which may count from the end of `len` bytes. `None`: no bit.
fn bit_range(start: i64, end: i64, len: usize, is_bits: bool) -> Option<(u64, u64)> {
    let total = if is_bits { (len as i64) << 3 } else { len as i64 };
    let place = |i: i64| if i < 0 { total.saturating_add(i).max(0) } else { i };
    let (start, end) = (place(start), place(end).min(total - 1));
    let (first, last) = if is_bits { (start, end) } else { (start.saturating_mul(8), end * 8 + 7) };
    (start <= end).then_some((first as u64, last as u64))
}

/// Whether argument `index` says that a range counts bits; there may be none.
fn is_in_bits(cx: &Cx, index: usize) -> Result<bool, Error> {
    match cx.args.get(index) {
        None => Ok(false),
        Some(_) if cx.is_word(index, "BIT") => Ok(true),
        Some(_) if cx.is_word(index, "BYTE") => Ok(false),
        Some(_) => Err(Error::Syntax),
    }
}

pub const BITCOUNT: Command = Command {
    name: "bitcount",
    summary: "Counts the set bits of a string value, or of a range of it.",
    since: "2.6.0",
    complexity: "O(N)",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::block("index", &[Arg::integer("start"), Arg::integer("end"), UNIT]).optional(),
    ],
    history: UNIT_HISTORY,
    run: Handler::Keys(bitcount),
    ..BASE
};
fn bitcount(cx: &mut Cx) -> Result<(), Error> {
    // Redis 7.0: a key that is not there is answered before the range is looked at.
    if cx.keys.read_str(cx.args[1])?.is_none() {
        cx.out.int(0);
        return Ok(());
    }
    let range = match cx.args.len() {
        2 => Some((0, -1, false)),
        4 | 5 => {
            let (start, end) = (cx.int(2)?, cx.int(3)?);
            let is_backward = start < 0 && end < 0 && start > end;
            if is_backward { None } else { Some((start, end, is_in_bits(cx, 4)?)) }
        }
        _ => return Err(Error::Syntax),
    };
    let bytes = cx.keys.read_str(cx.args[1])?.unwrap_or_default();
    let bits = range.and_then(|(start, end, is_bits)| bit_range(start, end, bytes.len(), is_bits));
    cx.out.int(bits.map_or(0, |(first, last)| count_ones(bytes, first, last)) as i64);
    Ok(())
}

/// Masks of the bits from `bit` on, and of those up to it, in its byte.
fn edges(first: u64, last: u64) -> (u8, u8) {
    (0xff >> (first & 7), 0xffu8 << (7 - (last & 7)))
}

/// Set bits from `first` to `last`, both included and inside of `bytes`.
fn count_ones(bytes: &[u8], first: u64, last: u64) -> u64 {
    let (at_first, at_last) = edges(first, last);
    let bytes = &bytes[(first >> 3) as usize..=(last >> 3) as usize];
    let outside = (bytes[0] & !at_first).count_ones() + (bytes[bytes.len() - 1] & !at_last).count_ones();
    // Sums of 32 bits for a block are faster than one of 64 bits for all.
    let in_block = |block: &[u8]| {
        let words = block.chunks_exact(8);
        let rest: u32 = words.remainder().iter().map(|b| b.count_ones()).sum();
        let whole: u32 =
            words.map(|w| u64::from_ne_bytes(w.try_into().expect("eight bytes")).count_ones()).sum();
        (whole + rest) as u64
    };
    bytes.chunks(1 << 16).map(in_block).sum::<u64>() - outside as u64
}

pub const BITPOS: Command = Command {
    name: "bitpos",
    summary: "Finds the first set or clear bit of a string value.",
    since: "2.8.7",
    complexity: "O(N)",
    arity: -3,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::integer("bit"),
        Arg::block(
            "index",
            &[Arg::integer("start"), Arg::block("end_index", &[Arg::integer("end"), UNIT]).optional()],
        )
        .optional(),
    ],
    history: UNIT_HISTORY,
    run: Handler::Keys(bitpos),
    ..BASE
};
fn bitpos(cx: &mut Cx) -> Result<(), Error> {
    let is_set = match cx.int(2)? {
        0 => false,
        1 => true,
        _ => return Err(Error::text("ERR The bit argument must be 1 or 0.")),
    };
    // A key that is not there is an endless row of zeros.
    if cx.keys.read_str(cx.args[1])?.is_none() {
        cx.out.int(if is_set { -1 } else { 0 });
        return Ok(());
    }
    let args = cx.args.len();
    if args > 6 {
        return Err(Error::Syntax);
    }
    let start = if args > 3 { cx.int(3)? } else { 0 };
    let is_bits = is_in_bits(cx, 5)?;
    let end = if args > 4 { cx.int(4)? } else { -1 };
    let bytes = cx.keys.read_str(cx.args[1])?.unwrap_or_default();
    let place = bit_range(start, end, bytes.len(), is_bits).map(|(first, last)| {
        let found = find_bit(bytes, is_set, first, last).map(|bit| bit as i64);
        // Without an end, zeros follow the string.
        found.or((!is_set && args < 5).then_some((bytes.len() as i64) << 3)).unwrap_or(-1)
    });
    cx.out.int(place.unwrap_or(-1));
    Ok(())
}

/// The first bit that is set (or clear) from `first` to `last`, both included and inside of `bytes`.
fn find_bit(bytes: &[u8], is_set: bool, first: u64, last: u64) -> Option<u64> {
    let flip = if is_set { 0 } else { 0xff };
    let (at_first, at_last) = edges(first, last);
    let (begin, end) = ((first >> 3) as usize, (last >> 3) as usize);
    let in_byte = |at: usize, mask: u8| match (bytes[at] ^ flip) & mask {
        0 => None,
        found => Some((at as u64) << 3 | found.leading_zeros() as u64),
    };
    if begin == end {
        return in_byte(begin, at_first & at_last);
    }
    in_byte(begin, at_first)
        .or_else(|| {
            let middle = &bytes[begin + 1..end];
            let none = [flip; 8];
            let words = middle.chunks_exact(8).take_while(|w| **w == none).count();
            let skipped = begin + 1 + words * 8;
            (skipped..end.min(skipped + 8)).find_map(|at| in_byte(at, 0xff))
        })
        .or_else(|| in_byte(end, at_last))
}

/// What BITOP does with its sources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    And,
    Or,
    Xor,
    Not,
    /// In the first and in no other.
    Diff,
    /// In some other but not in the first.
    Diff1,
    /// In the first and in some other.
    AndOr,
    /// In exactly one.
    One,
}

impl Op {
    const NAMES: &[(&str, Op)] = &[
        ("AND", Op::And),
        ("OR", Op::Or),
        ("XOR", Op::Xor),
        ("NOT", Op::Not),
        ("DIFF", Op::Diff),
        ("DIFF1", Op::Diff1),
        ("ANDOR", Op::AndOr),
        ("ONE", Op::One),
    ];

    fn parse(cx: &Cx) -> Result<Op, Error> {
        let (name, op) = Op::NAMES.iter().find(|(name, _)| cx.is_word(1, name)).ok_or(Error::Syntax)?;
        let sources = cx.args.len() - 3;
        match op {
            Op::Not if sources != 1 => {
                Err(Error::text("ERR BITOP NOT must be called with a single source key."))
            }
            Op::Diff | Op::Diff1 | Op::AndOr if sources < 2 => {
                Err(Error::err(&format!("BITOP {name} must be called with at least two source keys.")))
            }
            _ => Ok(*op),
        }
    }
}

/// A result that grows with the longest source seen so far; shorter ones count as filled up with zeros.
struct Fold {
    op: Op,
    seen: usize,
    /// What the sources make of each other; of those with a part of its own, without the first.
    bits: Vec<u8>,
    /// The first source, or for ONE the bits of more than one.
    aside: Vec<u8>,
}

impl Fold {
    fn new(op: Op) -> Fold {
        Fold { op, seen: 0, bits: Vec::new(), aside: Vec::new() }
    }

    fn add(&mut self, source: &[u8]) {
        self.seen += 1;
        if self.seen == 1 {
            match self.op {
                Op::Diff | Op::Diff1 | Op::AndOr => self.aside = source.to_vec(),
                _ => self.bits = source.to_vec(),
            }
            return;
        }
        if self.bits.len() < source.len() {
            self.bits.resize(source.len(), 0);
        }
        let (bits, behind) = self.bits.split_at_mut(source.len());
        let pairs = bits.iter_mut().zip(source);
        match self.op {
            Op::And => {
                pairs.for_each(|(a, b)| *a &= b);
                behind.fill(0);
            }
            Op::Or | Op::Diff | Op::Diff1 | Op::AndOr => pairs.for_each(|(a, b)| *a |= b),
            Op::Xor => pairs.for_each(|(a, b)| *a ^= b),
            Op::Not => unreachable!("has one source"),
            Op::One => {
                self.aside.resize(self.bits.len(), 0);
                let bits = &mut self.bits[..source.len()];
                for ((a, twice), b) in bits.iter_mut().zip(&mut self.aside).zip(source) {
                    *twice |= *a & b;
                    *a |= b;
                }
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let len = self.bits.len().max(self.aside.len());
        self.bits.resize(len, 0);
        self.aside.resize(len, 0);
        let pairs = self.bits.iter_mut().zip(&self.aside);
        match self.op {
            Op::And | Op::Or | Op::Xor => {}
            Op::Not => self.bits.iter_mut().for_each(|byte| *byte = !*byte),
            Op::Diff => pairs.for_each(|(others, first)| *others = first & !*others),
            Op::Diff1 | Op::One => pairs.for_each(|(bits, without)| *bits &= !without),
            Op::AndOr => pairs.for_each(|(others, first)| *others &= first),
        }
        self.bits
    }
}

pub const BITOP: Command = Command {
    name: "bitop",
    summary: "Combines the bits of several strings and stores the result.",
    since: "2.6.0",
    complexity: "O(N)",
    arity: -4,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(2, key::OW | key::UPDATE), KeySpec::range(3, -1, 1, key::RO | key::ACCESS)],
    args: &[
        Arg::one_of(
            "operation",
            &[
                Arg::word("and", "AND"),
                Arg::word("or", "OR"),
                Arg::word("xor", "XOR"),
                Arg::word("not", "NOT"),
                Arg::word("diff", "DIFF").since("8.2.0"),
                Arg::word("diff1", "DIFF1").since("8.2.0"),
                Arg::word("andor", "ANDOR").since("8.2.0"),
                Arg::word("one", "ONE").since("8.2.0"),
            ],
        ),
        Arg::key("destkey", 0),
        Arg::key("key", 1).multiple(),
    ],
    history: &[("8.2.0", "Added the `DIFF`, `DIFF1`, `ANDOR`, and `ONE` operations.")],
    run: Handler::Keys(bitop),
    ..BASE
};
fn bitop(cx: &mut Cx) -> Result<(), Error> {
    let target = cx.args[2];
    let mut fold = Fold::new(Op::parse(cx)?);
    for key in &cx.args[3..] {
        fold.add(cx.keys.read_str(key)?.unwrap_or_default());
    }
    let result = fold.finish();
    let len = result.len();
    if len > 0 {
        cx.keys.store(target, Value::Str(result.into_boxed_slice()), None);
        cx.keys.changed(target, notify::STRING, "set");
    } else {
        cx.keys.delete(target);
    }
    cx.out.int(len as i64);
    Ok(())
}

pub static COMMANDS: &[Command] = &[SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Runner, run};

    #[test]
    fn single_bits() {
        let mut r = Runner::default();
        assert_eq!(r.all(&["SETBIT k 1 1", "SETBIT k 7 1", "GET k"]), "$1\r\nA\r\n");
        assert_eq!(r.run("SETBIT k 1 1"), ":1\r\n");
        assert_eq!(r.run("GETBIT k 7"), ":1\r\n");
        assert_eq!(r.run("GETBIT k 100"), ":0\r\n");
        assert_eq!(r.replayed(), ["SETBIT k 1 1", "SETBIT k 7 1"]);
        assert_eq!(r.run("SETBIT k 20 0"), ":0\r\n");
        assert_eq!(r.replayed(), ["SETBIT k 20 0"]);
        assert_eq!(r.run("STRLEN k"), ":3\r\n");
    }

    #[test]
    fn offsets_are_checked() {
        let bad = "-ERR bit offset is not an integer or out of range\r\n";
        for line in ["SETBIT k -1 1", "SETBIT k 4294967296 1", "SETBIT k x 1", "GETBIT k -1"] {
            assert_eq!(run(&[line]), bad, "{line}");
        }
        for line in ["SETBIT k 0 2", "SETBIT k 0 -1", "SETBIT k 0 x"] {
            assert_eq!(run(&[line]), "-ERR bit is not an integer or out of range\r\n");
        }
        assert_eq!(
            run(&["LPUSH k a", "SETBIT k 0 1"]),
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        );
    }

    #[test]
    fn an_expiry_survives_a_bit() {
        assert_eq!(run(&["SET k 1 EX 9", "SETBIT k 77 1", "TTL k"]), ":9\r\n");
        assert_eq!(run(&["SET k 1", "SETBIT k 7 0", "OBJECT ENCODING k"]), "$3\r\nraw\r\n");
    }

    /// Slow and obvious.
    fn bits_of(bytes: &[u8]) -> Vec<bool> {
        bytes.iter().flat_map(|b| (0..8).map(move |i| b & (0x80 >> i) != 0)).collect()
    }

    #[test]
    fn counting_and_finding_agree_with_single_bits() {
        let mut rng = crate::Rng::new(5);
        for len in [1usize, 2, 7, 8, 9, 25, 300] {
            for fill in [0u8, 0xff, 1] {
                let mut bytes = vec![fill; len];
                if fill == 1 {
                    bytes.iter_mut().for_each(|b| *b = (rng.next_u64() & rng.next_u64()) as u8);
                } else {
                    bytes[rng.below(len as u64) as usize] ^= 1 << rng.below(8);
                }
                let bits = bits_of(&bytes);
                for _ in 0..200 {
                    let first = rng.below(len as u64 * 8);
                    let last = first + rng.below(len as u64 * 8 - first);
                    let part = &bits[first as usize..=last as usize];
                    assert_eq!(count_ones(&bytes, first, last), part.iter().filter(|b| **b).count() as u64);
                    for is_set in [false, true] {
                        let place = part.iter().position(|b| *b == is_set).map(|i| first + i as u64);
                        assert_eq!(find_bit(&bytes, is_set, first, last), place, "{first}..={last}");
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_of_bitcount_and_bitpos() {
        assert_eq!(run(&["SET k foobar", "BITCOUNT k"]), ":26\r\n");
        assert_eq!(run(&["SET k foobar", "BITCOUNT k 1 1"]), ":6\r\n");
        assert_eq!(run(&["SET k foobar", "BITCOUNT k 5 30 BIT"]), ":17\r\n");
        assert_eq!(run(&["SET k foobar", "BITCOUNT k -2 -3"]), ":0\r\n");
        assert_eq!(run(&["SET k foobar", "BITCOUNT k 0"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["SET k foobar", "BITCOUNT k 0 1 x"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["BITCOUNT k x y"]), ":0\r\n");
        assert_eq!(run(&["BITPOS k 0"]), ":0\r\n");
        assert_eq!(run(&["BITPOS k 1"]), ":-1\r\n");
        assert_eq!(run(&["BITPOS k 2"]), "-ERR The bit argument must be 1 or 0.\r\n");
        let mut r = Runner::default();
        r.run_args(&[b"SET", b"k", b"\xff\xff\xff"]);
        assert_eq!(r.run("BITPOS k 0"), ":24\r\n");
        assert_eq!(r.run("BITPOS k 0 1"), ":24\r\n");
        assert_eq!(r.run("BITPOS k 0 0 -1"), ":-1\r\n");
        assert_eq!(r.run("BITPOS k 1 9 20 BIT"), ":9\r\n");
        assert_eq!(r.run("BITPOS k 1 3"), ":-1\r\n");
        assert_eq!(r.all(&["SET e ''", "BITPOS e 0"]), ":-1\r\n");
    }

    #[test]
    fn operations_agree_with_single_bits() {
        let mut rng = crate::Rng::new(9);
        for (name, op) in Op::NAMES {
            for _ in 0..50 {
                let count = if *op == Op::Not { 1 } else { 2 + rng.below(4) as usize };
                let sources: Vec<Vec<u8>> =
                    (0..count).map(|_| (0..rng.below(20)).map(|_| rng.next_u64() as u8).collect()).collect();
                let mut fold = Fold::new(*op);
                sources.iter().for_each(|s| fold.add(s));
                let result = fold.finish();
                assert_eq!(result.len(), sources.iter().map(|s| s.len()).max().unwrap_or(0));
                let bit = |s: &Vec<u8>, i: usize| bits_of(s).get(i).copied().unwrap_or(false);
                for (i, is_on) in bits_of(&result).into_iter().enumerate() {
                    let first = bit(&sources[0], i);
                    let others = sources[1..].iter().filter(|s| bit(s, i)).count();
                    let all = others + first as usize;
                    let expected = match op {
                        Op::And => all == count,
                        Op::Or => all > 0,
                        Op::Xor => all % 2 == 1,
                        Op::Not => !first,
                        Op::Diff => first && others == 0,
                        Op::Diff1 => !first && others > 0,
                        Op::AndOr => first && others > 0,
                        Op::One => all == 1,
                    };
                    assert_eq!(is_on, expected, "{name} bit {i} of {sources:?}");
                }
            }
        }
    }

    #[test]
    fn bitop_stores_or_deletes() {
        let mut r = Runner::default();
        assert_eq!(r.all(&["SET a abc", "SET d x EX 9", "BITOP AND d a none"]), ":3\r\n");
        assert_eq!(r.run("TTL d"), ":-1\r\n");
        assert_eq!(r.run("BITOP OR d x y"), ":0\r\n");
        assert_eq!(r.run("EXISTS d"), ":0\r\n");
        assert_eq!(r.run("BITOP NOT d a b"), "-ERR BITOP NOT must be called with a single source key.\r\n");
        assert_eq!(
            r.run("BITOP DIFF d a"),
            "-ERR BITOP DIFF must be called with at least two source keys.\r\n"
        );
        assert_eq!(r.run("BITOP NAND d a"), "-ERR syntax error\r\n");
    }
}
