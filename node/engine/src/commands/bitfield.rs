//! Strings as arrays of integers of any width: BITFIELD and BITFIELD_RO.

use super::bitmap::bit_offset;
use crate::cx::Cx;
use crate::number::parse_i64;
use crate::settings::notify;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use crate::{Args, Error};

const BASE: Command = Command { group: Group::Bitmap, ..Command::BASE };

/// An integer's place and form.
#[derive(Clone, Copy)]
struct Field {
    offset: u64,
    /// 1 to 64, of unsigned ones to 63.
    width: u32,
    is_signed: bool,
}

impl Field {
    fn parse(cx: &Cx, kind: &[u8], offset: &[u8]) -> Result<Field, Error> {
        let width = kind.get(1..).and_then(parse_i64).unwrap_or(0);
        let (is_signed, width_max) = match kind.first() {
            Some(b'i') => (true, 64),
            Some(b'u') => (false, 63),
            _ => (false, 0),
        };
        if !(1..=width_max).contains(&width) {
            return Err(Error::text(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            ));
        }
        let width = width as u32;
        Ok(Field { offset: bit_offset(cx, offset, Some(width))?, width, is_signed })
    }

    /// Number of bytes that a string needs to hold it.
    fn end(&self) -> usize {
        ((self.offset + self.width as u64 - 1) >> 3) as usize + 1
    }

    /// The bytes that hold it, as far as they are there, in the upper bits.
    fn window(&self, bytes: &[u8]) -> u128 {
        let begin = ((self.offset >> 3) as usize).min(bytes.len());
        let held = &bytes[begin..self.end().clamp(begin, bytes.len())];
        let mut window = [0; 16];
        window[..held.len()].copy_from_slice(held);
        u128::from_be_bytes(window)
    }

    /// The low bits of `raw` as the field's number.
    fn number(&self, raw: u128) -> i128 {
        let spare = 128 - self.width;
        if self.is_signed { (raw << spare) as i128 >> spare } else { (raw << spare >> spare) as i128 }
    }

    /// Bits outside of `bytes` are zeros.
    fn get(&self, bytes: &[u8]) -> i128 {
        self.number(self.window(bytes) << (self.offset & 7) >> (128 - self.width))
    }

    /// `bytes` hold the whole field.
    fn set(&self, bytes: &mut [u8], value: i128) {
        let shift = 128 - self.width - (self.offset & 7) as u32;
        let mask = u128::MAX >> (128 - self.width) << shift;
        let window = self.window(bytes) & !mask | ((value as u128) << shift & mask);
        let held = &mut bytes[(self.offset >> 3) as usize..self.end()];
        held.copy_from_slice(&window.to_be_bytes()[..held.len()]);
    }

    fn limits(&self) -> (i128, i128) {
        if self.is_signed {
            let half = 1i128 << (self.width - 1);
            (-half, half - 1)
        } else {
            (0, (1i128 << self.width) - 1)
        }
    }

    /// What is stored for `value`; `None`: it does not fit and that is a failure.
    fn fit(&self, value: i128, overflow: Overflow) -> Option<i128> {
        let (min, max) = self.limits();
        match overflow {
            _ if (min..=max).contains(&value) => Some(value),
            Overflow::Wrap => Some(self.number(value as u128)),
            Overflow::Saturate => Some(value.clamp(min, max)),
            Overflow::Fail => None,
        }
    }
}

#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64, Overflow),
    Add(i64, Overflow),
}

/// Subcommands in order.
fn parse(cx: &Cx) -> Result<Vec<(Field, Action)>, Error> {
    let mut steps = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut i = 2;
    while i < cx.args.len() {
        let rest = cx.args.len() - i - 1;
        if cx.is_word(i, "OVERFLOW") && rest >= 1 {
            overflow = match () {
                () if cx.is_word(i + 1, "WRAP") => Overflow::Wrap,
                () if cx.is_word(i + 1, "SAT") => Overflow::Saturate,
                () if cx.is_word(i + 1, "FAIL") => Overflow::Fail,
                () => return Err(Error::text("ERR Invalid OVERFLOW type specified")),
            };
            i += 2;
            continue;
        }
        let (is_get, is_set) = (cx.is_word(i, "GET"), cx.is_word(i, "SET"));
        let operands = if is_get { 2 } else { 3 };
        if !(is_get || is_set || cx.is_word(i, "INCRBY")) || rest < operands {
            return Err(Error::Syntax);
        }
        let field = Field::parse(cx, cx.args[i + 1], cx.args[i + 2])?;
        let action = match (is_get, is_set) {
            (true, _) => Action::Get,
            (_, true) => Action::Set(cx.int(i + 3)?, overflow),
            _ => Action::Add(cx.int(i + 3)?, overflow),
        };
        steps.push((field, action));
        i += 1 + operands;
    }
    Ok(steps)
}

/// Carries out one step. The reply, and whether something was written although it may be what was there.
fn run_step(bytes: &mut [u8], field: Field, action: Action) -> (Option<i128>, Option<bool>) {
    let old = field.get(bytes);
    let (wanted, overflow, is_set) = match action {
        Action::Get => return (Some(old), None),
        // Redis 7.0: a negative number for an unsigned field is a very large one.
        Action::Set(value, overflow) if !field.is_signed => (value as u64 as i128, overflow, true),
        // Redis 7.0 computes the distance to the highest number in 64 bits: where that overflows, what is far too low
        // counts as too high.
        Action::Set(value, Overflow::Saturate)
            if field.width < 64 && field.limits().1 - value as i128 > i64::MAX as i128 =>
        {
            (field.limits().1, Overflow::Saturate, true)
        }
        Action::Set(value, overflow) => (value as i128, overflow, true),
        Action::Add(by, overflow) => (old + by as i128, overflow, false),
    };
    let Some(new) = field.fit(wanted, overflow) else { return (None, None) };
    field.set(bytes, new);
    (Some(if is_set { old } else { new }), Some(old != new))
}

const GET_ARG: Arg =
    Arg::block("encoding_offset", &[Arg::string("encoding"), Arg::integer("offset")]).token("GET");
const WRITE_ARG: Arg = Arg::block(
    "write",
    &[
        Arg::one_of(
            "wrap_sat_fail",
            &[Arg::word("wrap", "WRAP"), Arg::word("sat", "SAT"), Arg::word("fail", "FAIL")],
        )
        .token("OVERFLOW")
        .optional(),
        Arg::one_of(
            "write_operation",
            &[
                Arg::block(
                    "encoding_offset_value",
                    &[Arg::string("encoding"), Arg::integer("offset"), Arg::integer("value")],
                )
                .token("SET"),
                Arg::block(
                    "encoding_offset_increment",
                    &[Arg::string("encoding"), Arg::integer("offset"), Arg::integer("increment")],
                )
                .token("INCRBY"),
            ],
        ),
    ],
);

/// Only SET and INCRBY write. Arguments that are none of its words count as if they did.
fn flags(args: Args) -> u16 {
    let mut i = 2;
    while i < args.len() {
        let is = |word: &str| args[i].eq_ignore_ascii_case(word.as_bytes());
        i += match () {
            _ if is("GET") => 3,
            _ if is("OVERFLOW") => 2,
            _ => return key::RW | key::ACCESS | key::UPDATE,
        };
    }
    key::RO | key::ACCESS
}

pub const BITFIELD: Command = Command {
    name: "bitfield",
    summary: "Reads, sets and adds to integers of any width inside of a string value.",
    since: "3.2.0",
    complexity: "O(1) for each subcommand specified",
    arity: -2,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE | key::ACCESS | key::VARIABLE_FLAGS)],
    vary: Some(flags),
    args: &[Arg::key("key", 0), Arg::one_of("operation", &[GET_ARG, WRITE_ARG]).optional().multiple()],
    run: Handler::Keys(bitfield),
    ..BASE
};
fn bitfield(cx: &mut Cx) -> Result<(), Error> {
    let steps = parse(cx)?;
    let written = steps.iter().filter(|(_, action)| !matches!(action, Action::Get));
    let Some(len_min) = written.map(|(field, _)| field.end()).max() else {
        return read_fields(cx, &steps);
    };
    let (results, has_grown) = cx.keys.update_str(cx.args[1], len_min, |bytes| {
        steps.iter().map(|(field, action)| run_step(bytes, *field, *action)).collect::<Vec<_>>()
    })?;
    cx.out.array(results.len());
    for (reply, _) in &results {
        match reply {
            Some(value) => cx.out.int(*value as i64),
            None => cx.out.null(),
        }
    }
    let changes = results.iter().filter(|(_, change)| change.is_some_and(|is| is || has_grown)).count();
    // A string may have grown although nothing fitted: copies of it grow too.
    if changes > 0 || has_grown {
        super::collection::changed(cx.keys, cx.args[1], notify::STRING, "setbit", changes);
    }
    Ok(())
}

fn read_fields(cx: &mut Cx, steps: &[(Field, Action)]) -> Result<(), Error> {
    let bytes = cx.keys.read_str(cx.args[1])?.unwrap_or_default();
    cx.out.array(steps.len());
    steps.iter().for_each(|(field, _)| cx.out.int(field.get(bytes) as i64));
    Ok(())
}

pub const BITFIELD_RO: Command = Command {
    name: "bitfield_ro",
    summary: "Reads integers of any width inside of a string value.",
    since: "6.0.0",
    complexity: "O(1) for each subcommand specified",
    arity: -2,
    flags: flag::READONLY | flag::FAST,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), GET_ARG.optional().multiple_token()],
    run: Handler::Keys(bitfield_ro),
    ..BASE
};
fn bitfield_ro(cx: &mut Cx) -> Result<(), Error> {
    let steps = parse(cx)?;
    if steps.iter().any(|(_, action)| !matches!(action, Action::Get)) {
        return Err(Error::text("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    read_fields(cx, &steps)
}

pub static COMMANDS: &[Command] = &[BITFIELD, BITFIELD_RO];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Runner, run};

    #[test]
    fn fields_of_all_widths_and_places() {
        let mut rng = crate::Rng::new(3);
        for width in 1..=64 {
            for offset in 0..20 {
                for is_signed in [false, true] {
                    if width == 64 && !is_signed {
                        continue;
                    }
                    let field = Field { offset, width, is_signed };
                    let before: Vec<u8> = (0..12).map(|_| rng.next_u64() as u8).collect();
                    let mut bytes = before.clone();
                    let value = field.number(rng.next_u64() as u128);
                    field.set(&mut bytes, value);
                    assert_eq!(field.get(&bytes), value, "{width} bits at {offset}");
                    field.set(&mut bytes, field.get(&before));
                    assert_eq!(bytes, before, "{width} bits at {offset}: neighbours stay");
                }
            }
        }
    }

    #[test]
    fn overflow() {
        assert_eq!(run(&["BITFIELD k SET u8 0 255 INCRBY u8 0 10"]), "*2\r\n:0\r\n:9\r\n");
        assert_eq!(
            run(&["BITFIELD k OVERFLOW SAT INCRBY i8 0 200 INCRBY i8 0 -999"]),
            "*2\r\n:127\r\n:-128\r\n"
        );
        assert_eq!(run(&["BITFIELD k OVERFLOW FAIL INCRBY u2 0 9 GET u2 0"]), "*2\r\n$-1\r\n:0\r\n");
        assert_eq!(run(&["BITFIELD k OVERFLOW SAT SET u8 0 -1 GET u8 0"]), "*2\r\n:0\r\n:255\r\n");
        assert_eq!(
            run(&["BITFIELD k SET i64 0 9223372036854775807 INCRBY i64 0 1"]),
            "*2\r\n:0\r\n:-9223372036854775808\r\n"
        );
        assert_eq!(run(&["BITFIELD k SET u63 0 -1 GET u63 0"]), "*2\r\n:0\r\n:9223372036854775807\r\n");
    }

    #[test]
    fn arguments() {
        assert_eq!(run(&["BITFIELD k SET u8 #1 65", "GET k"]), "$2\r\n\0A\r\n");
        assert_eq!(run(&["BITFIELD k"]), "*0\r\n");
        assert_eq!(run(&["BITFIELD k GET u64 0"]).split('.').next(), Some("-ERR Invalid bitfield type"));
        assert_eq!(run(&["BITFIELD k GET u8"]), "-ERR syntax error\r\n");
        assert_eq!(run(&["BITFIELD k OVERFLOW x"]), "-ERR Invalid OVERFLOW type specified\r\n");
        assert_eq!(
            run(&["BITFIELD k SET u8 #536870912 1"]),
            "-ERR bit offset is not an integer or out of range\r\n"
        );
        assert_eq!(
            run(&["BITFIELD_RO k SET u8 0 1"]),
            "-ERR BITFIELD_RO only supports the GET subcommand\r\n"
        );
        assert_eq!(run(&["SET k a", "BITFIELD_RO k GET u8 0 GET i8 4"]), "*2\r\n:97\r\n:16\r\n");
    }

    #[test]
    fn what_reads_or_changes_nothing_is_not_replayed() {
        let mut r = Runner::default();
        r.all(&[
            "BITFIELD k SET u8 0 7",
            "BITFIELD k SET u8 0 7",
            "BITFIELD k GET u8 0",
            "BITFIELD n GET u8 0",
        ]);
        assert_eq!(r.replayed(), ["BITFIELD k SET u8 0 7"]);
        assert_eq!(r.run("EXISTS n"), ":0\r\n");
    }
}
