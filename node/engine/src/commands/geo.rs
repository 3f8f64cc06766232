//! Places in sorted sets: GEOADD, GEODIST, GEOHASH, GEOPOS. Searching has a file of its own, what a place is another.

use super::zset::Add;
use crate::Error;
use crate::cx::Cx;
use crate::geo::Point;
use crate::spec::{Arg, Command, Group, Handler, KeySpec, flag, key};
use storage::ZSet;

pub(super) const BASE: Command = Command { group: Group::Geo, since: "3.2.0", ..Command::BASE };

pub(super) const UNIT: Arg = Arg::one_of(
    "unit",
    &[Arg::word("m", "m"), Arg::word("km", "km"), Arg::word("ft", "ft"), Arg::word("mi", "mi")],
);

/// Longitude and latitude at arguments `at` and `at + 1`.
pub(super) fn point(cx: &Cx, at: usize) -> Result<Point, Error> {
    let point = Point { lon: cx.float(at)?, lat: cx.float(at + 1)? };
    if point.is_valid() {
        return Ok(point);
    }
    Err(Error::err(&format!("invalid longitude,latitude pair {:.6},{:.6}", point.lon, point.lat)))
}

/// Metres of the unit at argument `at`.
pub(super) fn unit(cx: &Cx, at: usize) -> Result<f64, Error> {
    const UNITS: &[(&str, f64)] = &[("m", 1.0), ("km", 1000.0), ("ft", 0.3048), ("mi", 1609.34)];
    UNITS
        .iter()
        .find(|(name, _)| cx.is_word(at, name))
        .map(|(_, metres)| *metres)
        .ok_or(Error::text("ERR unsupported unit provided. please use M, KM, FT, MI"))
}

/// The text of a distance: four digits behind the point.
pub(super) fn distance_text(distance: f64) -> String {
    let ten_thousandths = (distance * 10000.0).round_ties_even() as i64;
    let sign = if ten_thousandths < 0 { "-" } else { "" };
    let digits = ten_thousandths.unsigned_abs();
    format!("{sign}{}.{:04}", digits / 10000, digits % 10000)
}

pub const GEOADD: Command = Command {
    name: "geoadd",
    summary: "Adds members with their places to a sorted set. The set is created if it does not exist.",
    complexity: "O(log(N)) for each item added, where N is the number of elements in the sorted set.",
    arity: -5,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::RW | key::UPDATE)],
    args: &[
        Arg::key("key", 0),
        Arg::one_of("condition", &[Arg::word("nx", "NX"), Arg::word("xx", "XX")]).since("6.2.0").optional(),
        Arg::word("change", "CH").since("6.2.0").optional(),
        Arg::block(
            "longitude_latitude_member",
            &[Arg::double("longitude"), Arg::double("latitude"), Arg::string("member")],
        )
        .multiple(),
    ],
    history: &[("6.2.0", "Added the `CH`, `NX` and `XX` options.")],
    run: Handler::Keys(geoadd),
    ..BASE
};
fn geoadd(cx: &mut Cx) -> Result<(), Error> {
    let (mut add, mut counts_changed, mut at) = (Add::default(), false, 2);
    loop {
        match () {
            () if cx.is_word(at, "NX") => add.only_new = true,
            () if cx.is_word(at, "XX") => add.only_old = true,
            () if cx.is_word(at, "CH") => counts_changed = true,
            () => break,
        }
        at += 1;
    }
    let count = (cx.args.len() - at) / 3;
    if count == 0 || !(cx.args.len() - at).is_multiple_of(3) || add.only_new && add.only_old {
        return Err(Error::Syntax);
    }
    let pairs = (0..count)
        .map(|i| at + 3 * i)
        .map(|at| Ok((point(cx, at)?.score() as f64, cx.args[at + 2])))
        .collect::<Result<Vec<_>, Error>>()?;
    let done = add.run(cx, &pairs)?;
    if done.new + done.changed > 0 {
        // Numbers are replayed, so that rounding elsewhere cannot differ.
        let scores: Vec<String> = pairs.iter().map(|(score, _)| (*score as u64).to_string()).collect();
        let mut replay: Vec<&[u8]> = vec![b"ZADD", cx.args[1]];
        replay.extend_from_slice(&cx.args[2..at]);
        replay.extend(pairs.iter().zip(&scores).flat_map(|((_, member), s)| [s.as_bytes(), member]));
        cx.replay(&replay);
    }
    cx.out.int(if counts_changed { done.new + done.changed } else { done.new } as i64);
    Ok(())
}

/// A member's place.
pub(super) fn place(set: &ZSet, member: &[u8]) -> Option<Point> {
    set.score(member).map(Point::of_score)
}

pub const GEODIST: Command = Command {
    name: "geodist",
    summary: "Returns the distance between two members of a sorted set of places.",
    complexity: "O(1)",
    arity: -4,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::string("member1"), Arg::string("member2"), UNIT.optional()],
    run: Handler::Keys(geodist),
    ..BASE
};
fn geodist(cx: &mut Cx) -> Result<(), Error> {
    let metres = match cx.args.len() {
        4 => 1.0,
        5 => unit(cx, 4)?,
        _ => return Err(Error::Syntax),
    };
    let set = cx.keys.read_as::<ZSet>(cx.args[1])?;
    match set.and_then(|set| Some(place(set, cx.args[2])?.distance(place(set, cx.args[3])?))) {
        Some(distance) => cx.out.bulk(distance_text(distance / metres).as_bytes()),
        None => cx.out.null(),
    }
    Ok(())
}

pub const GEOHASH: Command = Command {
    name: "geohash",
    summary: "Returns the places of members of a sorted set as geohashes of eleven letters.",
    complexity: "O(1) for each member requested.",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::string("member").optional().multiple()],
    run: Handler::Keys(geohash),
    ..BASE
};
fn geohash(cx: &mut Cx) -> Result<(), Error> {
    let set = cx.keys.read_as::<ZSet>(cx.args[1])?;
    cx.out.array(cx.args.len() - 2);
    for member in &cx.args[2..] {
        match set.and_then(|set| place(set, member)) {
            Some(place) => cx.out.bulk(&place.geohash()),
            None => cx.out.null(),
        }
    }
    Ok(())
}

pub const GEOPOS: Command = Command {
    name: "geopos",
    summary: "Returns longitude and latitude of members of a sorted set of places.",
    complexity: "O(1) for each member requested.",
    arity: -2,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::string("member").optional().multiple()],
    run: Handler::Keys(geopos),
    ..BASE
};
fn geopos(cx: &mut Cx) -> Result<(), Error> {
    let set = cx.keys.read_as::<ZSet>(cx.args[1])?;
    cx.out.array(cx.args.len() - 2);
    for member in &cx.args[2..] {
        match set.and_then(|set| place(set, member)) {
            Some(place) => {
                cx.out.array(2);
                cx.out.decimal(place.lon);
                cx.out.decimal(place.lat);
            }
            None => cx.out.null_array(),
        }
    }
    Ok(())
}

pub static COMMANDS: &[Command] = &[GEOADD, GEODIST, GEOHASH, GEOPOS];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Runner, run};

    const SICILY: &str = "GEOADD s 13.361389 38.115556 Palermo 15.087269 37.502669 Catania";

    #[test]
    fn adding() {
        let mut r = Runner::default();
        assert_eq!(r.run(SICILY), ":2\r\n");
        assert_eq!(r.replayed(), ["ZADD s 3479099956230698 Palermo 3479447370796909 Catania"]);
        assert_eq!(r.run("GEOADD s CH 13 38 Palermo"), ":1\r\n");
        assert_eq!(r.run("GEOADD s NX 14 38 Palermo"), ":0\r\n");
        assert_eq!(r.run("GEOADD s NX XX 14 38 Palermo"), "-ERR syntax error\r\n");
        assert_eq!(r.run("GEOADD s 14 38 a 5"), "-ERR syntax error\r\n");
        assert_eq!(
            r.run("GEOADD s 181 38 a"),
            "-ERR invalid longitude,latitude pair 181.000000,38.000000\r\n"
        );
    }

    #[test]
    fn reading() {
        assert_eq!(run(&[SICILY, "GEODIST s Palermo Catania km"]), "$8\r\n166.2742\r\n");
        assert_eq!(run(&[SICILY, "GEODIST s Palermo Palermo"]), "$6\r\n0.0000\r\n");
        assert_eq!(run(&[SICILY, "GEODIST s Palermo Rome"]), "$-1\r\n");
        assert_eq!(
            run(&[SICILY, "GEODIST s Palermo Catania x"]),
            "-ERR unsupported unit provided. please use M, KM, FT, MI\r\n"
        );
        assert_eq!(run(&[SICILY, "GEOHASH s Palermo x"]), "*2\r\n$11\r\nsqc8b49rny0\r\n$-1\r\n");
        assert_eq!(
            run(&[SICILY, "GEOPOS s Palermo x"]),
            "*2\r\n*2\r\n$20\r\n13.36138933897018433\r\n$20\r\n38.11555639549629859\r\n*-1\r\n"
        );
    }

    #[test]
    fn distances_have_four_digits() {
        for (distance, text) in
            [(0.0, "0.0000"), (0.775, "0.7750"), (12.34567, "12.3457"), (166274.15156, "166274.1516")]
        {
            assert_eq!(distance_text(distance), text);
        }
    }
}
