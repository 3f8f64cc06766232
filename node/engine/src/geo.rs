//! Places on earth as 52-bit numbers: the bits of longitude and latitude in turn, so that a square of a grid is a range of
//! numbers. Cells, their neighbours, and the cells that cover an area, as Redis chooses them.
//!
//! Longitudes and latitudes are in degrees, distances in metres on a sphere.

/// Bits of each coordinate in the number that is stored.
pub const STEP_MAX: u32 = 26;
const LON: (f64, f64) = (-180.0, 180.0);
/// Where the Mercator projection is cut off to make a square.
const LAT: (f64, f64) = (-85.05112878, 85.05112878);
const EARTH_RADIUS: f64 = 6372797.560856;
const MERCATOR_MAX: f64 = 20037726.37;
const DEGREE: f64 = std::f64::consts::PI / 180.0;
const LON_BITS: u64 = 0xaaaa_aaaa_aaaa_aaaa;
const LAT_BITS: u64 = 0x5555_5555_5555_5555;

/// Longitude and latitude.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    pub lon: f64,
    pub lat: f64,
}

impl Point {
    /// Whether it can be stored.
    pub fn is_valid(&self) -> bool {
        (LON.0..=LON.1).contains(&self.lon) && (LAT.0..=LAT.1).contains(&self.lat)
    }

    /// The number that is stored for it.
    pub fn score(&self) -> u64 {
        Cell::of(*self, STEP_MAX, LON, LAT).bits
    }

    /// The place that a stored number stands for: the centre of its cell.
    // Any score will do: a sorted set may hold others than those of places.
    pub fn of_score(score: f64) -> Point {
        let area = Cell { bits: bits_of(score), step: STEP_MAX }.area();
        Point {
            lon: ((area.lon.0 + area.lon.1) / 2.0).clamp(LON.0, LON.1),
            lat: ((area.lat.0 + area.lat.1) / 2.0).clamp(LAT.0, LAT.1),
        }
    }

    /// The usual geohash of eleven letters. The last one carries no information: there are 52 bits.
    pub fn geohash(&self) -> [u8; 11] {
        const LETTERS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = Cell::of(*self, STEP_MAX, LON, (-90.0, 90.0)).bits;
        std::array::from_fn(|i| {
            if i == 10 { LETTERS[0] } else { LETTERS[(bits >> (52 - (i + 1) * 5)) as usize & 31] }
        })
    }

    /// Great-circle distance, by the haversine formula.
    pub fn distance(&self, to: Point) -> f64 {
        let v = ((to.lon * DEGREE - self.lon * DEGREE) / 2.0).sin();
        if v == 0.0 {
            return self.lat_distance(to.lat);
        }
        let (lat, to_lat) = (self.lat * DEGREE, to.lat * DEGREE);
        let u = ((to_lat - lat) / 2.0).sin();
        2.0 * EARTH_RADIUS * (u * u + lat.cos() * to_lat.cos() * v * v).sqrt().asin()
    }

    fn lat_distance(&self, lat: f64) -> f64 {
        EARTH_RADIUS * (lat * DEGREE - self.lat * DEGREE).abs()
    }
}

/// A score as bits. C leaves open what becomes of one below 0 or above 64 bits; this is what Redis does on x86-64.
fn bits_of(score: f64) -> u64 {
    const TWO_TO_63: f64 = (1u64 << 63) as f64;
    match score {
        _ if score < TWO_TO_63 => score as i64 as u64,
        _ if score < 2.0 * TWO_TO_63 => score as u64,
        _ => 0,
    }
}

/// A square of the grid with 2^step by 2^step cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    bits: u64,
    step: u32,
}

/// Lowest and highest coordinates.
#[derive(Clone, Copy, Debug)]
struct Area {
    lon: (f64, f64),
    lat: (f64, f64),
}

/// Puts the bits of `x` at even places.
fn spread(x: u32) -> u64 {
    let mut x = x as u64;
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, LAT_BITS),
    ] {
        x = (x | x << shift) & mask;
    }
    x
}

/// The bits at even places of `x`.
fn gather(x: u64) -> u32 {
    let mut x = x & LAT_BITS;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        x = (x | x >> shift) & mask;
    }
    x as u32
}

impl Cell {
    fn of(point: Point, step: u32, lon: (f64, f64), lat: (f64, f64)) -> Cell {
        let place =
            |at: f64, (min, max): (f64, f64)| ((at - min) / (max - min) * (1u64 << step) as f64) as u32;
        Cell { bits: spread(place(point.lat, lat)) | spread(place(point.lon, lon)) << 1, step }
    }

    fn area(&self) -> Area {
        let scale = (1u64 << self.step) as f64;
        let range = |n: u32, (min, max): (f64, f64)| {
            let at = |n: u32| min + n as f64 / scale * (max - min);
            (at(n), at(n.wrapping_add(1)))
        };
        Area { lon: range(gather(self.bits >> 1), LON), lat: range(gather(self.bits), LAT) }
    }

    /// The cell so many columns to the east and rows to the north, round the earth in both directions.
    fn neighbour(&self, east: i8, north: i8) -> Cell {
        let unused = 64 - self.step * 2;
        // A part that does not move keeps its bits: a longitude of 180 is a column behind the last, and so are the cells
        // above and below it.
        let shift = |own: u64, others: u64, by: i8| {
            let (part, others) = (self.bits & own, others >> unused);
            match by {
                0 => part,
                1 => part.wrapping_add(others + 1) & own >> unused,
                _ => (part | others).wrapping_sub(others + 1) & own >> unused,
            }
        };
        Cell { bits: shift(LON_BITS, LAT_BITS, east) | shift(LAT_BITS, LON_BITS, north), step: self.step }
    }

    /// The stored numbers inside: from the first to before the second.
    fn scores(&self) -> (u64, u64) {
        let align = |bits: u64| bits << (2 * (STEP_MAX - self.step));
        (align(self.bits), align(self.bits + 1))
    }
}

/// What is searched for. Lengths are in metres.
#[derive(Clone, PartialEq, Debug)]
pub enum Shape {
    Circle { center: Point, radius: f64 },
    Box { center: Point, width: f64, height: f64 },
    Polygon { center: Point, vertices: Vec<Point> },
}

impl Shape {
    /// A polygon; distances are told from the middle of its vertices.
    pub fn polygon(vertices: Vec<Point>) -> Shape {
        let (mut x, mut y, mut z) = (0.0, 0.0, 0.0);
        for vertex in &vertices {
            let (lon, lat) = (vertex.lon * DEGREE, vertex.lat * DEGREE);
            x += lat.cos() * lon.cos();
            y += lat.cos() * lon.sin();
            z += lat.sin();
        }
        let center = Point { lon: y.atan2(x) / DEGREE, lat: z.atan2((x * x + y * y).sqrt()) / DEGREE };
        Shape::Polygon { center, vertices }
    }

    pub fn center(&self) -> Point {
        match self {
            Shape::Circle { center, .. } | Shape::Box { center, .. } | Shape::Polygon { center, .. } => {
                *center
            }
        }
    }

    /// Distance of a point inside from the centre; `None`: it is outside.
    pub fn distance_within(&self, point: Point) -> Option<f64> {
        let center = self.center();
        match self {
            Shape::Circle { radius, .. } => Some(center.distance(point)).filter(|d| d <= radius),
            Shape::Box { width, height, .. } => {
                let across = Point { lon: center.lon, lat: point.lat };
                let is_inside =
                    center.lat_distance(point.lat) <= height / 2.0 && point.distance(across) <= width / 2.0;
                is_inside.then(|| center.distance(point))
            }
            Shape::Polygon { vertices, .. } => is_inside(vertices, point).then(|| center.distance(point)),
        }
    }

    fn bounds(&self) -> Area {
        let (center, half_width, half_height) = match self {
            Shape::Circle { center, radius } => (center, *radius, *radius),
            Shape::Box { center, width, height } => (center, width / 2.0, height / 2.0),
            Shape::Polygon { vertices, .. } => {
                let range = |coordinate: fn(&Point) -> f64| {
                    let all = vertices.iter().map(coordinate);
                    (all.clone().fold(f64::INFINITY, f64::min), all.fold(f64::NEG_INFINITY, f64::max))
                };
                return Area { lon: range(|p| p.lon), lat: range(|p| p.lat) };
            }
        };
        let lat = half_height / EARTH_RADIUS / DEGREE;
        // Wider where the parallels are shorter: at the side that is nearer to the pole as seen from the equator.
        let side = if center.lat < 0.0 { center.lat - lat } else { center.lat + lat };
        let lon = half_width / EARTH_RADIUS / (side * DEGREE).cos() / DEGREE;
        Area { lon: (center.lon - lon, center.lon + lon), lat: (center.lat - lat, center.lat + lat) }
    }

    /// Radius of a circle round the centre that holds the shape.
    fn reach(&self, bounds: &Area) -> f64 {
        match self {
            Shape::Circle { radius, .. } => *radius,
            Shape::Box { width, height, .. } => {
                ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt()
            }
            Shape::Polygon { center, .. } => [bounds.lon.0, bounds.lon.1]
                .into_iter()
                .flat_map(|lon| [bounds.lat.0, bounds.lat.1].map(|lat| center.distance(Point { lon, lat })))
                .fold(0.0, f64::max),
        }
    }

    /// Ranges of stored numbers, first included and last not, that hold all points of the shape; at most nine, in the
    /// order in which Redis searches.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let (center, bounds) = (self.center(), self.bounds());
        let mut step = estimate_step(self.reach(&bounds), center.lat);
        let mut cell = Cell::of(center, step, LON, LAT);
        let is_too_small = {
            let area = |east, north| cell.neighbour(east, north).area();
            area(0, 1).lat.1 < bounds.lat.1
                || area(0, -1).lat.0 > bounds.lat.0
                || area(1, 0).lon.1 < bounds.lon.1
                || area(-1, 0).lon.0 > bounds.lon.0
        };
        if step > 1 && is_too_small {
            step -= 1;
            cell = Cell::of(center, step, LON, LAT);
        }
        let area = cell.area();
        let is_needed = |east: i8, north: i8| {
            step < 2
                || !(north < 0 && area.lat.0 < bounds.lat.0
                    || north > 0 && area.lat.1 > bounds.lat.1
                    || east < 0 && area.lon.0 < bounds.lon.0
                    || east > 0 && area.lon.1 > bounds.lon.1)
        };
        const AROUND: [(i8, i8); 8] = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        let mut cells = vec![cell];
        for (east, north) in AROUND.into_iter().filter(|(east, north)| is_needed(*east, *north)) {
            let next = cell.neighbour(east, north);
            // On a coarse grid the neighbours to both sides are one.
            if !cells[1..].contains(&next) {
                cells.push(next);
            }
        }
        cells.iter().map(Cell::scores).collect()
    }
}

/// How fine a grid has cells of at least this size.
fn estimate_step(mut reach: f64, lat: f64) -> u32 {
    if reach == 0.0 {
        return STEP_MAX;
    }
    let mut step = 1i32;
    while reach < MERCATOR_MAX {
        reach *= 2.0;
        step += 1;
    }
    step -= 2;
    if lat.abs() > 66.0 {
        step -= 1 + (lat.abs() > 80.0) as i32;
    }
    step.clamp(1, STEP_MAX as i32) as u32
}

/// Whether a line from the point to the west meets the polygon's edges an odd number of times.
// W. Randolph Franklin, PNPOLY.
fn is_inside(vertices: &[Point], point: Point) -> bool {
    let mut is_inside = false;
    let mut before = vertices[vertices.len() - 1];
    for vertex in vertices {
        let is_crossed = (vertex.lat > point.lat) != (before.lat > point.lat)
            && point.lon
                < (before.lon - vertex.lon) * (point.lat - vertex.lat) / (before.lat - vertex.lat)
                    + vertex.lon;
        is_inside ^= is_crossed;
        before = *vertex;
    }
    is_inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn random_point(rng: &mut Rng) -> Point {
        let mut within = |min: f64, max: f64| min + (max - min) * (rng.next_u64() as f64 / u64::MAX as f64);
        Point { lon: within(LON.0, LON.1), lat: within(LAT.0, LAT.1) }
    }

    #[test]
    fn a_place_is_found_again() {
        let palermo = Point { lon: 13.361389, lat: 38.115556 };
        assert_eq!(palermo.score(), 3479099956230698);
        assert_eq!(&palermo.geohash(), b"sqc8b49rny0");
        let mut rng = Rng::new(11);
        for _ in 0..1000 {
            let point = random_point(&mut rng);
            let again = Point::of_score(point.score() as f64);
            assert!(point.distance(again) < 1.0, "{point:?} {again:?}");
        }
    }

    #[test]
    fn any_score_is_some_place() {
        for score in [-1.0, 0.0, 1e300, f64::INFINITY, f64::NEG_INFINITY, 4503599627370496.0] {
            assert!(Point::of_score(score).is_valid());
        }
        let (first, last) = (Point::of_score(0.0), Point { lon: LON.1, lat: LAT.1 });
        assert_eq!((Point::of_score(1e300), Point::of_score(-1.0)), (first, last));
        assert_eq!(Point::of_score(f64::NEG_INFINITY), Point { lon: LON.1, ..first });
    }

    #[test]
    fn above_and_below_the_date_line_lie_columns_behind_the_last() {
        let cell = Cell::of(Point { lon: 180.0, lat: -85.05 }, 1, LON, LAT);
        assert_eq!(cell.bits, 0b1000);
        assert_eq!((cell.neighbour(0, 1).bits, cell.neighbour(0, -1).bits), (0b1001, 0b1001));
        assert_eq!((cell.neighbour(1, 0).bits, cell.neighbour(-1, 0).bits), (0b10, 0b10));
    }

    #[test]
    fn ranges_cover_the_shape() {
        let mut rng = Rng::new(12);
        for _ in 0..300 {
            // Away from the poles and the date line, where neither Redis's grid nor its distances wrap.
            let mut center = random_point(&mut rng);
            center.lon *= 0.8;
            center.lat *= 0.7;
            let radius = 10f64.powf(1.0 + rng.below(5) as f64);
            let shapes = [
                Shape::Circle { center, radius },
                Shape::Box { center, width: radius, height: radius * 2.0 },
                Shape::polygon(
                    [(-1.0, -1.0), (1.0, -0.5), (0.0, 1.0)]
                        .map(|(x, y)| Point {
                            lon: center.lon + x * radius / 2e5,
                            lat: center.lat + y * radius / 2e5,
                        })
                        .to_vec(),
                ),
            ];
            for shape in shapes {
                let ranges = shape.ranges();
                for _ in 0..100 {
                    let mut near =
                        |c: f64| c + (rng.next_u64() as f64 / u64::MAX as f64 - 0.5) * radius / 4e4;
                    let point = Point { lon: near(center.lon), lat: near(center.lat) };
                    if point.is_valid() && shape.distance_within(point).is_some() {
                        let score = point.score();
                        let is_covered = ranges.iter().any(|(min, max)| (*min..*max).contains(&score));
                        assert!(is_covered, "{shape:?} {point:?}");
                    }
                }
            }
        }
    }
}
