//! LOLWUT: a drawing, and the version below it. Ours is a shoal: fish that swim the same way, but for a few.

use super::Functions;
use super::info::REDIS_VERSION;
use crate::env::Env;
use crate::host::HostCx;
use engine::spec::{Arg, Command, Group, Handler, flag};
use engine::{Error, HostOutcome};

pub static COMMANDS: &[Command] = &[Command {
    name: "lolwut",
    summary: "Displays computer art and the server's version.",
    group: Group::Server,
    since: "5.0.0",
    arity: -1,
    flags: flag::READONLY | flag::FAST,
    args: &[Arg::integer("version").token("VERSION").optional()],
    run: Handler::Host,
    ..Command::BASE
}];

/// Size of the drawing: columns, rows, fish.
type Size = [usize; 3];

const DEFAULT: Size = [66, 12, 24];
const SMALLEST: Size = [8, 1, 0];
/// As large as a terminal: a reply of at most some ten kilobytes.
const LARGEST: Size = [200, 50, 500];

/// The numbers after VERSION n are the size, as many as there are; Redis's drawings take theirs there too.
fn lolwut<E: Env>(cx: &mut HostCx<E>) -> Result<HostOutcome, Error> {
    let mut size = DEFAULT;
    if cx.args.len() > 2 && cx.is_word(1, "VERSION") {
        cx.int(2)?;
        for (i, given) in (3..cx.args.len()).zip(0..size.len()) {
            let asked = cx.int(i)?.clamp(SMALLEST[given] as i64, LARGEST[given] as i64);
            size[given] = asked as usize;
        }
    }
    let now = cx.host.setting.now;
    let picture = drawing(size, now.wall.0 as u64 ^ now.mono.0);
    cx.out.verbatim("txt", format!("{picture}\nA shoal, ASCII. Redis ver. {REDIS_VERSION}\n").as_bytes());
    Ok(HostOutcome::Done)
}

/// Water with fish in it. What finds no free place after a few tries is left out.
fn drawing([columns, rows, fish]: Size, seed: u64) -> String {
    const TRIES: usize = 8;
    let mut random = Random(seed);
    let mut water = vec![vec![b' '; columns]; rows];
    let is_rightward = random.below(2) == 0;
    for _ in 0..fish {
        let turns_back = random.below(12) == 0;
        let shape: &[u8] = match (is_rightward != turns_back, random.below(3)) {
            (true, 0) => b"><>",
            (true, 1) => b"><))'>",
            (true, _) => b">=>",
            (false, 0) => b"<><",
            (false, 1) => b"<'((><",
            (false, _) => b"<=<",
        };
        for _ in 0..TRIES {
            let (row, column) = (random.below(rows), random.below(columns - shape.len() + 1));
            let place = &mut water[row][column..column + shape.len()];
            if place.iter().all(|c| *c == b' ') {
                place.copy_from_slice(shape);
                break;
            }
        }
    }
    let lines = water.iter().map(|l| String::from_utf8_lossy(l).trim_end().to_string() + "\n");
    lines.collect()
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

pub fn functions<E: Env>() -> Functions<E> {
    &[("lolwut", lolwut::<E>)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_has_its_size_and_fish() {
        let picture = drawing(DEFAULT, 7);
        assert_eq!(picture.lines().count(), 12);
        assert!(picture.lines().all(|l| l.len() <= 66));
        assert!(picture.contains("><") || picture.contains("=>") || picture.contains("=<"));
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        assert_eq!(drawing(DEFAULT, 1), drawing(DEFAULT, 1));
        assert_ne!(drawing(DEFAULT, 1), drawing(DEFAULT, 2));
    }

    #[test]
    fn the_smallest_and_the_largest_can_be_drawn() {
        assert_eq!(drawing(SMALLEST, 3), "\n");
        assert_eq!(drawing([8, 1, 500], 3).lines().count(), 1);
        assert!(drawing(LARGEST, 3).len() <= 50 * 201);
    }
}
