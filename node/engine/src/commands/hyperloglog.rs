//! Counting different elements approximately: PFADD, PFCOUNT, PFMERGE and what tests use. The form is in [`crate::hll`].

use crate::cx::Cx;
use crate::hll::{self, REGISTERS, Registers};
use crate::keys::Keys;
use crate::settings::notify;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use crate::{Error, commands::collection};
use storage::Expiry;

const BASE: Command = Command { group: Group::HyperLogLog, since: "2.8.9", ..Command::BASE };

/// The HyperLogLog at a key. `Err`: the key holds something else.
fn read<'k>(keys: &'k mut Keys<'_>, key: &[u8]) -> Result<Option<&'k [u8]>, Error> {
    match keys.read_str(key)? {
        Some(bytes) if !hll::is_hll(bytes) => {
            Err(Error::text("WRONGTYPE Key is not a valid HyperLogLog string value."))
        }
        other => Ok(other),
    }
}

/// Changes the HyperLogLog at a key, which is there, in its place.
fn change<R>(keys: &mut Keys<'_>, key: &[u8], f: impl FnOnce(&mut [u8]) -> R) -> Result<R, Error> {
    Ok(keys.update_str(key, 0, f)?.0)
}

pub const PFADD: Command = Command {
    name: "pfadd",
    summary: "Adds elements to a HyperLogLog. Creates the key if it does not exist.",
    complexity: "O(1) to add every element.",
    arity: -2,
    flags: flag::WRITE | flag::DENYOOM | flag::FAST,
    keys: &[KeySpec::one(1, key::RW | key::INSERT)],
    args: &[Arg::key("key", 0), Arg::string("element").optional().multiple()],
    run: Handler::Keys(pfadd),
    ..BASE
};
fn pfadd(cx: &mut Cx) -> Result<(), Error> {
    let (key, elements) = (cx.args[1], &cx.args[2..]);
    let places = elements.iter().map(|element| hll::place(element));
    let changes = match read(cx.keys, key)? {
        Some(dense) if !hll::is_sparse(dense) => change(cx.keys, key, |dense| {
            let changes = places.filter(|(index, count)| hll::dense_raise(dense, *index, *count)).count();
            if changes > 0 {
                hll::invalidate(dense);
            }
            changes
        })?,
        sparse => {
            let mut changes = sparse.is_none() as usize;
            let mut value = sparse.map_or_else(hll::empty, |bytes| bytes.to_vec());
            for (index, count) in places {
                changes += hll::raise(&mut value, index, count, cx.settings.hll_sparse_max_bytes)? as usize;
            }
            if changes > 0 {
                hll::invalidate(&mut value);
                cx.keys.store_str(key, &value, Expiry::Keep);
            }
            changes
        }
    };
    if changes > 0 {
        collection::changed(cx.keys, key, notify::STRING, "pfadd", changes);
    }
    cx.out.int((changes > 0) as i64);
    Ok(())
}

pub const PFCOUNT: Command = Command {
    name: "pfcount",
    summary: "Estimates how many different elements were added to one or more HyperLogLogs.",
    complexity: "O(1) for one key whose estimate is cached. O(N) with N being the number of keys, and much bigger constant times, otherwise.",
    arity: -2,
    flags: flag::READONLY | flag::MAY_REPLICATE,
    // Read and written: the estimate is kept in the value, and replicas get it.
    keys: &[KeySpec::range(1, -1, 1, key::RW | key::ACCESS)],
    args: &[Arg::key("key", 0).multiple()],
    run: Handler::Keys(pfcount),
    ..BASE
};
fn pfcount(cx: &mut Cx) -> Result<(), Error> {
    let [key] = cx.args[1..] else {
        let (registers, _) = union(cx, &cx.args[1..])?;
        cx.out.int(hll::count_registers(&registers) as i64);
        return Ok(());
    };
    let (cached, count) = match read(cx.keys, key)? {
        None => (None, Some(0)),
        Some(hll) => match hll::cached(hll) {
            Some(count) => (None, Some(count)),
            None => (Some(hll::count(hll)?), None),
        },
    };
    if let Some(count) = cached
        && cx.keys.may_cache()
    {
        change(cx.keys, key, |hll| hll::set_cached(hll, count))?;
        cx.keys.touched(key);
        cx.keys.effects.dirty += 1;
    }
    cx.out.int(count.or(cached).unwrap_or(0) as i64);
    Ok(())
}

/// The highest registers of several values, and whether one of them is dense. Missing keys are empty.
fn union(cx: &mut Cx, keys: &[&[u8]]) -> Result<(Box<Registers>, bool), Error> {
    let (mut registers, mut is_dense) = (Box::new([0; REGISTERS]), false);
    for key in keys {
        if let Some(hll) = read(cx.keys, key)? {
            is_dense |= !hll::is_sparse(hll);
            hll::merge_into(&mut registers, hll)?;
        }
    }
    Ok((registers, is_dense))
}

pub const PFMERGE: Command = Command {
    name: "pfmerge",
    summary: "Merges HyperLogLogs into one. Creates that key if it does not exist.",
    complexity: "O(N) to merge N HyperLogLogs, but with high constant times.",
    arity: -2,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[
        KeySpec::one(1, key::RW | key::ACCESS | key::INSERT),
        KeySpec::range(2, -1, 1, key::RO | key::ACCESS),
    ],
    args: &[Arg::key("destkey", 0), Arg::key("sourcekey", 1).optional().multiple()],
    run: Handler::Keys(pfmerge),
    ..BASE
};
fn pfmerge(cx: &mut Cx) -> Result<(), Error> {
    let target = cx.args[1];
    let (registers, is_dense) = union(cx, &cx.args[1..])?;
    let mut value = read(cx.keys, target)?.map_or_else(hll::empty, |bytes| bytes.to_vec());
    if is_dense {
        hll::make_dense(&mut value)?;
    }
    for (index, count) in registers.iter().enumerate().filter(|(_, count)| **count > 0) {
        hll::raise(&mut value, index, *count, cx.settings.hll_sparse_max_bytes)?;
    }
    hll::invalidate(&mut value);
    cx.keys.store_str(target, &value, Expiry::Keep);
    // Redis says pfadd here too: it is an addition of many elements.
    cx.keys.changed(target, notify::STRING, "pfadd");
    cx.out.ok();
    Ok(())
}

pub const PFDEBUG: Command = Command {
    name: "pfdebug",
    summary: "Shows what a HyperLogLog is made of, for tests.",
    complexity: "N/A",
    arity: 3,
    flags: flag::WRITE | flag::DENYOOM | flag::ADMIN,
    keys: &[KeySpec::one(2, key::RW | key::ACCESS)],
    args: &[Arg::string("subcommand"), Arg::key("key", 0)],
    run: Handler::Keys(pfdebug),
    ..BASE
};
fn pfdebug(cx: &mut Cx) -> Result<(), Error> {
    let (name, key) = (cx.args[1], cx.args[2]);
    let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
    let Some(hll) = read(cx.keys, key)? else {
        return Err(Error::text("ERR The specified key does not exist"));
    };
    let is_sparse = hll::is_sparse(hll);
    match () {
        () if is(b"GETREG") => {
            let mut registers = Box::new([0; REGISTERS]);
            hll::merge_into(&mut registers, hll)?;
            if is_sparse {
                store_dense(cx.keys, key)?;
            }
            cx.out.array(REGISTERS);
            registers.iter().for_each(|count| cx.out.int(*count as i64));
        }
        () if is(b"DECODE") => {
            if !is_sparse {
                return Err(Error::text("ERR HLL encoding is not sparse"));
            }
            let text = hll::describe(hll);
            cx.out.bulk(text.as_bytes());
        }
        () if is(b"ENCODING") => cx.out.simple(if is_sparse { "sparse" } else { "dense" }),
        () if is(b"TODENSE") => {
            if is_sparse {
                store_dense(cx.keys, key)?;
            }
            cx.out.int(is_sparse as i64);
        }
        () => {
            let name = String::from_utf8_lossy(name);
            return Err(Error::err(&format!("Unknown PFDEBUG subcommand '{name}'")));
        }
    }
    Ok(())
}

fn store_dense(keys: &mut Keys<'_>, key: &[u8]) -> Result<(), Error> {
    let mut value = read(keys, key)?.unwrap_or_default().to_vec();
    hll::make_dense(&mut value)?;
    keys.store_str(key, &value, Expiry::Keep);
    keys.touched(key);
    keys.effects.dirty += 1;
    Ok(())
}

pub const PFSELFTEST: Command = Command {
    name: "pfselftest",
    summary: "Tests the implementation of HyperLogLogs.",
    complexity: "N/A",
    arity: 1,
    flags: flag::ADMIN | flag::LONG,
    run: Handler::Keys(pfselftest),
    ..BASE
};
/// Adds a million different elements to a sparse and a dense value, which must agree with each other and, within six
/// standard errors, with the truth.
fn pfselftest(cx: &mut Cx) -> Result<(), Error> {
    const ELEMENTS: u64 = 1_000_000;
    const PART: u64 = 4096; // some 100 microseconds
    let failed = |what: &str| Err(Error::err(&format!("TESTFAILED {what}")));
    let standard_error = 1.04 / (REGISTERS as f64).sqrt();
    let (seed, sparse_max) = (cx.rng.next_u64(), cx.settings.hll_sparse_max_bytes);
    let (mut any, mut dense) = (hll::empty(), hll::empty());
    hll::make_dense(&mut dense)?;
    let mut checkpoint = 1;
    for n in 1..=ELEMENTS {
        let (index, count) = hll::place(&(n ^ seed).to_le_bytes());
        hll::dense_raise(&mut dense, index, count);
        hll::raise(&mut any, index, count, sparse_max)?;
        if n.is_multiple_of(PART) && !cx.keys.passage.is_none_or(|passage| (passage.0)()) {
            break;
        }
        if n < checkpoint {
            continue;
        }
        if n < sparse_max as u64 / 2 && !hll::is_sparse(&any) {
            return failed("sparse encoding not used");
        }
        let estimate = hll::count(&any)?;
        if estimate != hll::count(&dense)? {
            return failed("dense/sparse disagree");
        }
        let error = estimate.abs_diff(n);
        let error_max = if n == 10 { 1 } else { (standard_error * 6.0 * n as f64).ceil() as u64 };
        if error > error_max {
            return failed(&format!("Too big error. card:{n} abserr:{error}"));
        }
        checkpoint *= 10;
    }
    cx.out.ok();
    Ok(())
}

pub static COMMANDS: &[Command] = &[PFADD, PFCOUNT, PFMERGE, PFDEBUG, PFSELFTEST];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    #[test]
    fn add_count_merge() {
        let mut r = Runner::default();
        assert_eq!(r.run("PFADD a"), ":1\r\n");
        assert_eq!(r.run("PFADD a"), ":0\r\n");
        assert_eq!(r.run("PFADD a x y z"), ":1\r\n");
        assert_eq!(r.run("PFADD a x"), ":0\r\n");
        assert_eq!(r.run("PFCOUNT a"), ":3\r\n");
        assert_eq!(r.run("PFADD b z w"), ":1\r\n");
        assert_eq!(r.run("PFCOUNT a b none"), ":4\r\n");
        assert_eq!(r.run("PFMERGE nothing"), "+OK\r\n");
        assert_eq!(r.run("PFMERGE c a b"), "+OK\r\n");
        assert_eq!(r.run("PFCOUNT c"), ":4\r\n");
        assert_eq!(r.run("PFCOUNT none"), ":0\r\n");
        assert_eq!(r.run("PFSELFTEST"), "+OK\r\n");
    }

    #[test]
    fn a_cached_estimate_is_replayed_once_and_never_made_on_a_replica() {
        let mut r = Runner::default();
        r.run("PFADD a x");
        r.replayed();
        r.all(&["PFCOUNT a", "PFCOUNT a"]);
        assert_eq!(r.replayed(), ["PFCOUNT a"]);
        r.run("PFADD a y");
        let before = r.bytes_of(&[b"GET", b"a"]);
        r.status.is_replica = true;
        assert_eq!(r.run("PFCOUNT a"), ":2\r\n");
        assert_eq!(r.bytes_of(&[b"GET", b"a"]), before);
    }

    #[test]
    fn other_values_are_refused() {
        let wrong = "-WRONGTYPE Key is not a valid HyperLogLog string value.\r\n";
        for line in ["PFADD k a", "PFCOUNT k", "PFMERGE d k", "PFDEBUG ENCODING k"] {
            assert_eq!(run(&["SET k HYLLxxxxxxxxxxxxxxx", line]), wrong, "{line}");
        }
        let corrupt = "-INVALIDOBJ Corrupted HLL object detected\r\n";
        let mut r = Runner::default();
        r.all(&["PFADD k a b c", "APPEND k hello"]);
        for line in ["PFCOUNT k", "PFMERGE d k", "PFCOUNT k k", "PFDEBUG TODENSE k"] {
            assert_eq!(r.run(line), corrupt, "{line}");
        }
        r.all(&["DEL k", "PFADD k a b c", "SETRANGE k 15 'x\x00\x00'"]);
        r.run_args(&[b"SETRANGE", b"k", b"15", b"\x80\x00"]);
        assert_eq!(r.run("PFADD k 1 2 3 4"), corrupt);
    }

    #[test]
    fn promotion() {
        let mut r = Runner::default();
        r.settings.hll_sparse_max_bytes = 30;
        r.run("PFADD k a b c");
        assert_eq!(r.run("PFDEBUG ENCODING k"), "+sparse\r\n");
        r.run("PFADD k d e f g h i j k");
        assert_eq!(r.run("PFDEBUG ENCODING k"), "+dense\r\n");
        assert_eq!(r.run("PFCOUNT k"), ":11\r\n");
        assert_eq!(r.run("PFADD k a"), ":0\r\n");
        assert_eq!(r.run("STRLEN k"), ":12304\r\n");
        assert_eq!(r.run("PFDEBUG DECODE k"), "-ERR HLL encoding is not sparse\r\n");
        assert_eq!(r.run("PFDEBUG TODENSE k"), ":0\r\n");
        assert_eq!(r.run("PFDEBUG x k"), "-ERR Unknown PFDEBUG subcommand 'x'\r\n");
    }
}
