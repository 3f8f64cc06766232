//! Searching places in sorted sets by area: GEOSEARCH, GEOSEARCHSTORE, and the older GEORADIUS family.

use super::collection::changed;
use super::geo::{BASE, UNIT, distance_text, place, point, unit};
use crate::Error;
use crate::cx::Cx;
use crate::geo::{Point, Shape};
use crate::number::{parse_f64, parse_i64};
use crate::settings::notify;
use crate::spec::{Arg, Command, Deprecated, Handler, KeySpec, flag, key};
use storage::{Value, ZSet};

/// Which arguments a command takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Longitude, latitude, radius and unit stand first.
    Radius,
    /// Member, radius and unit stand first.
    RadiusByMember,
    Search,
    SearchStore,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Nearest,
    Farthest,
}

/// Lengths of a shape as they were given.
#[derive(Clone)]
enum Extent {
    Circle(f64),
    Box(f64, f64),
    Polygon(Vec<Point>),
}

/// What is asked for.
struct Request<'a> {
    source: &'a [u8],
    store: Option<&'a [u8]>,
    /// What is stored is the distance, not the place.
    is_distance_stored: bool,
    center: Option<Point>,
    /// A member is the centre; its place is not known if the source does not exist.
    is_from_member: bool,
    is_from_place: bool,
    extent: Option<Extent>,
    /// Metres of the unit.
    unit: f64,
    with_distance: bool,
    with_hash: bool,
    with_coordinates: bool,
    order: Option<Order>,
    /// 0: all.
    count: usize,
    is_any: bool,
}

struct Found {
    member: Vec<u8>,
    score: f64,
    place: Point,
    distance: f64,
}

fn length(cx: &Cx, at: usize, message: &'static str) -> Result<f64, Error> {
    parse_f64(cx.args[at]).ok_or(Error::text(message))
}

fn radius(cx: &Cx, at: usize) -> Result<(Extent, f64), Error> {
    let radius = length(cx, at, "ERR need numeric radius")?;
    if radius < 0.0 {
        return Err(Error::text("ERR radius cannot be negative"));
    }
    let unit = unit(cx, at + 1)?;
    Ok((Extent::Circle(radius), unit))
}

fn rectangle(cx: &Cx, at: usize) -> Result<(Extent, f64), Error> {
    let width = length(cx, at, "ERR need numeric width")?;
    let height = length(cx, at + 1, "ERR need numeric height")?;
    if width < 0.0 || height < 0.0 {
        return Err(Error::text("ERR height or width cannot be negative"));
    }
    let unit = unit(cx, at + 2)?;
    Ok((Extent::Box(width, height), unit))
}

/// The vertices whose number is at argument `at`.
// Valkey 9.0.
fn polygon(cx: &Cx, at: usize) -> Result<Vec<Point>, Error> {
    let count = parse_i64(cx.args[at]).ok_or(Error::text("ERR invalid number of vertices"))?;
    let count_max = (cx.args.len() - at - 1) / 2;
    let count = usize::try_from(count)
        .ok()
        .filter(|n| (3..=count_max).contains(n))
        .ok_or(Error::text("ERR GEOSEARCH BYPOLYGON must have at least 3 vertices"))?;
    (0..count).map(|i| point(cx, at + 1 + 2 * i)).collect()
}

/// The place of the member at argument `at`. `None`: the set does not exist.
fn member_place(cx: &mut Cx, source: &[u8], at: usize) -> Result<Option<Point>, Error> {
    let Some(set) = cx.keys.read_as::<ZSet>(source)? else { return Ok(None) };
    let found = place(set, cx.args[at]);
    found.map(Some).ok_or(Error::text("ERR could not decode requested zset member"))
}

impl<'a> Request<'a> {
    fn parse(cx: &mut Cx<'a, '_>, form: Form, may_store: bool) -> Result<Request<'a>, Error> {
        let args = cx.args;
        let source = args[if form == Form::SearchStore { 2 } else { 1 }];
        let mut request = Request {
            source,
            store: (form == Form::SearchStore).then(|| args[1]),
            is_distance_stored: false,
            center: None,
            is_from_member: false,
            is_from_place: false,
            extent: None,
            unit: 1.0,
            with_distance: false,
            with_hash: false,
            with_coordinates: false,
            order: None,
            count: 0,
            is_any: false,
        };
        let is_there = cx.keys.read_as::<ZSet>(source)?.is_some();
        let first = match form {
            Form::Radius => {
                request.center = Some(point(cx, 2)?);
                let (extent, unit) = radius(cx, 4)?;
                (request.extent, request.unit) = (Some(extent), unit);
                6
            }
            Form::RadiusByMember => {
                // Redis 7.0: without the set neither member nor radius is looked at.
                if is_there {
                    request.center = member_place(cx, source, 2)?;
                    let (extent, unit) = radius(cx, 3)?;
                    (request.extent, request.unit) = (Some(extent), unit);
                }
                5
            }
            Form::Search => 2,
            Form::SearchStore => 3,
        };
        let mut at = first;
        while at < args.len() {
            at += request.option(cx, at, form, may_store)?;
        }
        request.check(cx, form)?;
        Ok(request)
    }

    /// Reads the option at argument `at`. Returns how many arguments it takes.
    fn option(
        &mut self,
        cx: &mut Cx<'a, '_>,
        at: usize,
        form: Form,
        may_store: bool,
    ) -> Result<usize, Error> {
        let rest = cx.args.len() - at - 1;
        let is_search = matches!(form, Form::Search | Form::SearchStore);
        let is_polygon = matches!(self.extent, Some(Extent::Polygon(_)));
        let takes = match () {
            () if cx.is_word(at, "WITHDIST") => {
                self.with_distance = true;
                1
            }
            () if cx.is_word(at, "WITHHASH") => {
                self.with_hash = true;
                1
            }
            () if cx.is_word(at, "WITHCOORD") => {
                self.with_coordinates = true;
                1
            }
            () if cx.is_word(at, "ANY") => {
                self.is_any = true;
                1
            }
            () if cx.is_word(at, "ASC") => {
                self.order = Some(Order::Nearest);
                1
            }
            () if cx.is_word(at, "DESC") => {
                self.order = Some(Order::Farthest);
                1
            }
            () if cx.is_word(at, "COUNT") && rest >= 1 => {
                let count = cx.int(at + 1)?;
                if count <= 0 {
                    return Err(Error::text("ERR COUNT must be > 0"));
                }
                self.count = count as usize;
                2
            }
            // Each at most once: the key specs find the first.
            () if cx.is_word(at, "STORE") && rest >= 1 && may_store && !is_search => {
                if self.store.is_some() && !self.is_distance_stored {
                    return Err(Error::Syntax);
                }
                (self.store, self.is_distance_stored) = (Some(cx.args[at + 1]), false);
                2
            }
            () if cx.is_word(at, "STOREDIST") && rest >= 1 && may_store && !is_search => {
                if self.is_distance_stored {
                    return Err(Error::Syntax);
                }
                (self.store, self.is_distance_stored) = (Some(cx.args[at + 1]), true);
                2
            }
            () if cx.is_word(at, "STOREDIST") && form == Form::SearchStore => {
                self.is_distance_stored = true;
                1
            }
            () if !is_search || is_polygon => return Err(Error::Syntax),
            () if cx.is_word(at, "FROMMEMBER") && rest >= 1 && !self.is_from_place => {
                self.center = member_place(cx, self.source, at + 1)?;
                self.is_from_member = true;
                2
            }
            () => self.area_option(cx, at, rest)?,
        };
        Ok(takes)
    }

    fn has_center(&self) -> bool {
        self.is_from_member || self.is_from_place
    }

    fn area_option(&mut self, cx: &Cx, at: usize, rest: usize) -> Result<usize, Error> {
        let is_circle = matches!(self.extent, Some(Extent::Circle(_)));
        let is_box = matches!(self.extent, Some(Extent::Box(..)));
        match () {
            () if cx.is_word(at, "FROMLONLAT") && rest >= 2 && !self.is_from_member => {
                self.center = Some(point(cx, at + 1)?);
                self.is_from_place = true;
                Ok(3)
            }
            () if cx.is_word(at, "BYRADIUS") && rest >= 2 && !is_box => {
                let (extent, unit) = radius(cx, at + 1)?;
                (self.extent, self.unit) = (Some(extent), unit);
                Ok(3)
            }
            () if cx.is_word(at, "BYBOX") && rest >= 3 && !is_circle => {
                let (extent, unit) = rectangle(cx, at + 1)?;
                (self.extent, self.unit) = (Some(extent), unit);
                Ok(4)
            }
            () if cx.is_word(at, "BYPOLYGON") && rest >= 2 && self.extent.is_none() && !self.has_center() => {
                let vertices = polygon(cx, at + 1)?;
                let takes = 2 + 2 * vertices.len();
                (self.extent, self.unit) = (Some(Extent::Polygon(vertices)), 1.0);
                Ok(takes)
            }
            () => Err(Error::Syntax),
        }
    }

    fn check(&mut self, cx: &Cx, form: Form) -> Result<(), Error> {
        let is_search = matches!(form, Form::Search | Form::SearchStore);
        let name = String::from_utf8_lossy(cx.args[0]);
        if self.store.is_some() && (self.with_distance || self.with_hash || self.with_coordinates) {
            let what = if is_search { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            return Err(Error::err(&format!(
                "{what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            )));
        }
        let is_polygon = matches!(self.extent, Some(Extent::Polygon(_)));
        if is_search && !self.has_center() && !is_polygon {
            return Err(Error::err(&format!(
                "exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
            )));
        }
        if is_search && self.extent.is_none() {
            return Err(Error::err(&format!(
                "exactly one of BYRADIUS and BYBOX can be specified for {name}"
            )));
        }
        if self.is_any && self.count == 0 {
            return Err(Error::text("ERR the ANY argument requires COUNT argument"));
        }
        // The nearest ones, unless any will do.
        if self.count > 0 && !self.is_any {
            self.order = self.order.or(Some(Order::Nearest));
        }
        Ok(())
    }

    /// The area in metres. `None`: the source does not exist.
    fn shape(&self) -> Option<Shape> {
        match self.extent.clone()? {
            Extent::Polygon(vertices) => Some(Shape::polygon(vertices)),
            Extent::Circle(radius) => {
                Some(Shape::Circle { center: self.center?, radius: radius * self.unit })
            }
            Extent::Box(width, height) => Some(Shape::Box {
                center: self.center?,
                width: width * self.unit,
                height: height * self.unit,
            }),
        }
    }

    /// The members within, sorted and cut as asked for.
    fn find(&self, set: &ZSet) -> Vec<Found> {
        let Some(shape) = self.shape() else { return Vec::new() };
        let limit = if self.is_any { self.count } else { usize::MAX };
        let mut found: Vec<Found> = Vec::new();
        for (min, max) in shape.ranges() {
            let start = set.rank_of_score(min as f64, false);
            let end = set.rank_of_score(max as f64, false).max(start);
            for (member, score) in set.range(start, end) {
                if found.len() >= limit {
                    break;
                }
                let place = Point::of_score(score);
                if let Some(distance) = shape.distance_within(place) {
                    found.push(Found { member: member.to_vec(), score, place, distance });
                }
            }
        }
        match self.order {
            Some(Order::Nearest) => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
            Some(Order::Farthest) => found.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
            None => {}
        }
        if self.count > 0 {
            found.truncate(self.count);
        }
        found.iter_mut().for_each(|f| f.distance /= self.unit);
        found
    }

    fn reply(&self, cx: &mut Cx, found: &[Found]) {
        let parts =
            1 + self.with_distance as usize + self.with_hash as usize + self.with_coordinates as usize;
        cx.out.array(found.len());
        for f in found {
            if parts > 1 {
                cx.out.array(parts);
            }
            cx.out.bulk(&f.member);
            if self.with_distance {
                cx.out.bulk(distance_text(f.distance).as_bytes());
            }
            if self.with_hash {
                cx.out.int(f.score as i64);
            }
            if self.with_coordinates {
                cx.out.array(2);
                cx.out.decimal(f.place.lon);
                cx.out.decimal(f.place.lat);
            }
        }
    }

    fn store(&self, cx: &mut Cx, target: &[u8], found: &[Found], event: &'static str) {
        let mut set = ZSet::new();
        for f in found {
            let score = if self.is_distance_stored { f.distance } else { f.score };
            set.insert(&f.member, score, &cx.settings.thresholds);
        }
        let len = set.len();
        if len > 0 {
            cx.keys.store(target, Value::ZSet(set), None);
            changed(cx.keys, target, notify::ZSET, event, len);
        } else {
            cx.keys.delete(target);
        }
        cx.out.int(len as i64);
    }
}

fn search(cx: &mut Cx, form: Form, may_store: bool) -> Result<(), Error> {
    let request = Request::parse(cx, form, may_store)?;
    let found = cx.keys.read_as::<ZSet>(request.source)?.map(|set| request.find(set)).unwrap_or_default();
    match request.store {
        None => request.reply(cx, &found),
        Some(target) => {
            let is_search = form == Form::SearchStore;
            let event = if is_search { "geosearchstore" } else { "georadiusstore" };
            request.store(cx, target, &found, event);
        }
    }
    Ok(())
}

const RADIUS: Arg = Arg::double("radius");
const WITH: [Arg; 3] = [
    Arg::word("withcoord", "WITHCOORD").optional(),
    Arg::word("withdist", "WITHDIST").optional(),
    Arg::word("withhash", "WITHHASH").optional(),
];
const COUNT: Arg = Arg::block(
    "count-block",
    &[Arg::integer("count").token("COUNT"), Arg::word("any", "ANY").since("6.2.0").optional()],
)
.optional();
const ORDER: Arg = Arg::one_of("order", &[Arg::word("asc", "ASC"), Arg::word("desc", "DESC")]).optional();
const STORE: [Arg; 2] = [
    Arg::key("storekey", 1).token("STORE").optional(),
    Arg::key("storedistkey", 2).token("STOREDIST").optional(),
];
const UPPER_UNITS: (&str, &str) = ("7.0.0", "Added support for uppercase unit names.");

const SEARCH_BASE: Command = Command {
    complexity: "O(N+log(M)) where N is the number of elements inside the grid cells that cover the area and M is the number of items inside the index.",
    ..BASE
};

pub const GEORADIUS: Command = Command {
    name: "georadius",
    summary: "Returns or stores the members of a sorted set of places within a distance of a place.",
    arity: -6,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[
        KeySpec::one(1, key::RO | key::ACCESS),
        KeySpec::keyword("STORE", 6, key::OW | key::UPDATE),
        KeySpec::keyword("STOREDIST", 6, key::OW | key::UPDATE),
    ],
    args: &[
        Arg::key("key", 0),
        Arg::double("longitude"),
        Arg::double("latitude"),
        RADIUS,
        UNIT,
        WITH[0],
        WITH[1],
        WITH[2],
        COUNT,
        ORDER,
        STORE[0],
        STORE[1],
    ],
    history: &[("6.2.0", "Added the `ANY` option for `COUNT`."), UPPER_UNITS],
    deprecated: Some(Deprecated {
        since: "6.2.0",
        replaced_by: "`GEOSEARCH` and `GEOSEARCHSTORE` with the `BYRADIUS` argument",
    }),
    run: Handler::Keys(|cx| search(cx, Form::Radius, true)),
    ..SEARCH_BASE
};

pub const GEORADIUS_RO: Command = Command {
    name: "georadius_ro",
    summary: "Returns the members of a sorted set of places within a distance of a place.",
    since: "3.2.10",
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[
        Arg::key("key", 0),
        Arg::double("longitude"),
        Arg::double("latitude"),
        RADIUS,
        UNIT,
        WITH[0],
        WITH[1],
        WITH[2],
        COUNT,
        ORDER,
    ],
    deprecated: Some(Deprecated { since: "6.2.0", replaced_by: "`GEOSEARCH` with the `BYRADIUS` argument" }),
    run: Handler::Keys(|cx| search(cx, Form::Radius, false)),
    ..GEORADIUS
};

pub const GEORADIUSBYMEMBER: Command = Command {
    name: "georadiusbymember",
    summary: "Returns or stores the members of a sorted set of places within a distance of one of them.",
    arity: -5,
    keys: &[
        KeySpec::one(1, key::RO | key::ACCESS),
        KeySpec::keyword("STORE", 5, key::OW | key::UPDATE),
        KeySpec::keyword("STOREDIST", 5, key::OW | key::UPDATE),
    ],
    args: &[
        Arg::key("key", 0),
        Arg::string("member"),
        RADIUS,
        UNIT,
        WITH[0],
        WITH[1],
        WITH[2],
        COUNT,
        ORDER,
        STORE[0],
        STORE[1],
    ],
    deprecated: Some(Deprecated {
        since: "6.2.0",
        replaced_by: "`GEOSEARCH` and `GEOSEARCHSTORE` with the `BYRADIUS` and `FROMMEMBER` arguments",
    }),
    run: Handler::Keys(|cx| search(cx, Form::RadiusByMember, true)),
    ..GEORADIUS
};

pub const GEORADIUSBYMEMBER_RO: Command = Command {
    name: "georadiusbymember_ro",
    summary: "Returns the members of a sorted set of places within a distance of one of them.",
    since: "3.2.10",
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), Arg::string("member"), RADIUS, UNIT, WITH[0], WITH[1], WITH[2], COUNT, ORDER],
    deprecated: Some(Deprecated {
        since: "6.2.0",
        replaced_by: "`GEOSEARCH` with the `BYRADIUS` and `FROMMEMBER` arguments",
    }),
    run: Handler::Keys(|cx| search(cx, Form::RadiusByMember, false)),
    ..GEORADIUSBYMEMBER
};

const FROM: Arg = Arg::one_of(
    "from",
    &[
        Arg::string("member").token("FROMMEMBER"),
        Arg::block("fromlonlat", &[Arg::double("longitude"), Arg::double("latitude")]).token("FROMLONLAT"),
    ],
)
.optional();
const BY: Arg = Arg::one_of(
    "by",
    &[
        Arg::block("circle", &[RADIUS.token("BYRADIUS"), UNIT]),
        Arg::block("box", &[Arg::double("width").token("BYBOX"), Arg::double("height"), UNIT]),
        Arg::block(
            "polygon",
            &[
                Arg::integer("num-vertices").token("BYPOLYGON"),
                Arg::block("vertices", &[Arg::double("longitude"), Arg::double("latitude")]).multiple(),
            ],
        )
        .since("9.0.0"),
    ],
);

pub const GEOSEARCH: Command = Command {
    name: "geosearch",
    summary: "Returns the members of a sorted set of places inside of a circle, a box or a polygon.",
    since: "6.2.0",
    arity: -7,
    flags: flag::READONLY,
    keys: &[KeySpec::one(1, key::RO | key::ACCESS)],
    args: &[Arg::key("key", 0), FROM, BY, ORDER, COUNT, WITH[0], WITH[1], WITH[2]],
    history: &[UPPER_UNITS],
    run: Handler::Keys(|cx| search(cx, Form::Search, false)),
    ..SEARCH_BASE
};

pub const GEOSEARCHSTORE: Command = Command {
    name: "geosearchstore",
    summary: "Stores the members of a sorted set of places inside of a circle, a box or a polygon.",
    since: "6.2.0",
    arity: -8,
    flags: flag::WRITE | flag::DENYOOM,
    keys: &[KeySpec::one(1, key::OW | key::UPDATE), KeySpec::one(2, key::RO | key::ACCESS)],
    args: &[
        Arg::key("destination", 0),
        Arg::key("source", 1),
        FROM,
        BY,
        ORDER,
        COUNT,
        Arg::word("storedist", "STOREDIST").optional(),
    ],
    history: &[UPPER_UNITS],
    run: Handler::Keys(|cx| search(cx, Form::SearchStore, true)),
    ..SEARCH_BASE
};

pub static COMMANDS: &[Command] =
    &[GEORADIUS, GEORADIUS_RO, GEORADIUSBYMEMBER, GEORADIUSBYMEMBER_RO, GEOSEARCH, GEOSEARCHSTORE];

#[cfg(test)]
mod tests {
    use crate::testing::{Runner, run};

    const SICILY: &str = "GEOADD s 13.361389 38.115556 Palermo 15.087269 37.502669 Catania 12.5 41.9 Rome";

    #[test]
    fn circles_boxes_polygons() {
        let both = "*2\r\n$7\r\nCatania\r\n$7\r\nPalermo\r\n";
        assert_eq!(run(&[SICILY, "GEOSEARCH s FROMLONLAT 15 37 BYRADIUS 200 km ASC"]), both);
        assert_eq!(run(&[SICILY, "GEORADIUS s 15 37 200 km ASC"]), both);
        assert_eq!(run(&[SICILY, "GEOSEARCH s FROMLONLAT 15 37 BYBOX 400 400 km ASC"]), both);
        assert_eq!(run(&[SICILY, "GEOSEARCH s FROMMEMBER Catania BYRADIUS 200 km ASC"]), both);
        assert_eq!(run(&[SICILY, "GEOSEARCH s BYPOLYGON 3 12 37 14 37 13 39"]), "*1\r\n$7\r\nPalermo\r\n");
        assert_eq!(run(&[SICILY, "GEORADIUSBYMEMBER s Palermo 500 km COUNT 1 DESC"]), "*1\r\n$4\r\nRome\r\n");
    }

    #[test]
    fn options_of_the_reply() {
        assert_eq!(
            run(&[SICILY, "GEORADIUS_RO s 15 37 200 km WITHDIST WITHHASH WITHCOORD COUNT 1"]),
            "*1\r\n*4\r\n$7\r\nCatania\r\n$7\r\n56.4413\r\n:3479447370796909\r\n\
             *2\r\n$20\r\n15.08726745843887329\r\n$20\r\n37.50266842333162032\r\n"
        );
    }

    #[test]
    fn storing() {
        let mut r = Runner::default();
        r.run(SICILY);
        assert_eq!(r.run("GEOSEARCHSTORE d s FROMLONLAT 15 37 BYRADIUS 200 km"), ":2\r\n");
        assert_eq!(r.run("ZSCORE d Catania"), "$16\r\n3479447370796909\r\n");
        assert_eq!(r.run("GEORADIUS s 15 37 200 km STOREDIST d"), ":2\r\n");
        assert_eq!(r.run("ZRANGE d 0 0"), "*1\r\n$7\r\nCatania\r\n");
        assert_eq!(r.run("GEORADIUS s 15 37 1 km STORE d"), ":0\r\n");
        assert_eq!(r.run("EXISTS d"), ":0\r\n");
        assert_eq!(r.run("GEORADIUS s 15 37 200 km STORE a STORE b"), "-ERR syntax error\r\n");
        assert_eq!(r.run("GEORADIUS s 15 37 200 km STORE a STOREDIST b"), ":2\r\n");
        assert_eq!(r.run("EXISTS a b"), ":1\r\n");
        assert_eq!(r.run("GEORADIUS_RO s 15 37 200 km STORE a"), "-ERR syntax error\r\n");
    }

    #[test]
    fn what_is_missing() {
        assert_eq!(run(&["GEOSEARCH n FROMMEMBER x BYRADIUS 1 m"]), "*0\r\n");
        assert_eq!(run(&["GEORADIUSBYMEMBER n x 1 m STORE d"]), ":0\r\n");
        assert_eq!(
            run(&[SICILY, "GEOSEARCH s FROMMEMBER x BYRADIUS 1 m"]),
            "-ERR could not decode requested zset member\r\n"
        );
        assert_eq!(
            run(&["GEOSEARCH s BYRADIUS 1 m ASC COUNT 1"]),
            "-ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for GEOSEARCH\r\n"
        );
        assert_eq!(
            run(&["GEOSEARCH s FROMLONLAT 1 1 COUNT 1 ANY"]),
            "-ERR exactly one of BYRADIUS and BYBOX can be specified for GEOSEARCH\r\n"
        );
        assert_eq!(
            run(&["GEOSEARCH s FROMLONLAT 1 1 BYRADIUS 1 m ANY"]),
            "-ERR the ANY argument requires COUNT argument\r\n"
        );
        assert_eq!(
            run(&["GEOSEARCH s BYPOLYGON 2 1 1 2 2"]),
            "-ERR GEOSEARCH BYPOLYGON must have at least 3 vertices\r\n"
        );
        assert_eq!(
            run(&["GEOSEARCHSTORE d s FROMLONLAT 1 1 BYRADIUS 1 m WITHDIST"]),
            "-ERR GEOSEARCHSTORE is not compatible with WITHDIST, WITHHASH and WITHCOORD options\r\n"
        );
    }
}
