//! Commands with places to be filled in, and the seeded numbers that fill them.

use crate::usage;
use std::io::{self, Write};

/// xorshift64*: the state is odd at the start and never zero.
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

enum Piece {
    Text(Vec<u8>),
    Index(usize),
    Permuted(u64),
    Modulo(u64),
    Random(u64),
    Varying(u64, u64),
}

/// A command with places to be filled in.
pub struct Template(Vec<Vec<Piece>>);

impl Template {
    pub fn new(text: &str) -> io::Result<Template> {
        text.split(' ').filter(|w| !w.is_empty()).map(word).collect::<io::Result<_>>().map(Template)
    }

    /// Appends the command for number `i` as an array of bulk strings.
    pub fn encode(&self, i: u64, rng: &mut Rng, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        write!(out, "*{}\r\n", self.0.len()).expect("a Vec takes everything");
        for word in &self.0 {
            scratch.clear();
            for piece in word {
                let written = match piece {
                    Piece::Text(bytes) => scratch.write_all(bytes),
                    Piece::Index(width) => write!(scratch, "{i:0width$}"),
                    // A prime multiplier that no usual N is a multiple of: each number once.
                    Piece::Permuted(n) => write!(scratch, "{}", i.wrapping_mul(2_654_435_761) % n),
                    Piece::Modulo(n) => write!(scratch, "{}", i % n),
                    Piece::Random(n) => write!(scratch, "{:012}", rng.below(*n)),
                    Piece::Varying(min, max) => {
                        let len = min + rng.below(max - min + 1);
                        scratch.resize(scratch.len() + len as usize, b'v');
                        Ok(())
                    }
                };
                written.expect("a Vec takes everything");
            }
            write!(out, "${}\r\n", scratch.len()).expect("a Vec takes everything");
            out.extend_from_slice(scratch);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn word(text: &str) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').ok_or_else(usage)? + open;
        pieces.push(Piece::Text(rest[..open].into()));
        let parts: Vec<&str> = rest[open + 1..close].split(':').collect();
        let arg = |i: usize| parts.get(i).and_then(|p| p.parse::<u64>().ok()).filter(|n| *n < 1 << 40);
        let bounded = |i: usize| arg(i).filter(|n| *n > 0).ok_or_else(usage);
        pieces.push(match parts[0] {
            "i" => Piece::Index(arg(1).unwrap_or(12).min(40) as usize),
            "p" => Piece::Permuted(bounded(1)?),
            "m" => Piece::Modulo(bounded(1)?),
            "r" => Piece::Random(bounded(1)?),
            "x" => Piece::Text(vec![b'x'; bounded(1)?.min(1 << 24) as usize]),
            "v" if arg(1) <= arg(2) => Piece::Varying(bounded(1)?, bounded(2)?.min(1 << 24)),
            _ => return Err(usage()),
        });
        rest = &rest[close + 1..];
    }
    pieces.push(Piece::Text(rest.into()));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(template: &str, i: u64) -> String {
        let mut out = Vec::new();
        Template::new(template).unwrap().encode(i, &mut Rng(1), &mut Vec::new(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn templates_are_filled_in() {
        assert_eq!(encoded("GET key:{i:3}", 7), "*2\r\n$3\r\nGET\r\n$7\r\nkey:007\r\n");
        assert_eq!(encoded("A {m:5}{x:2}", 7), "*2\r\n$1\r\nA\r\n$3\r\n2xx\r\n");
        assert!(Template::new("{q:1}").is_err() && Template::new("{v:5:2}").is_err());
    }

    #[test]
    fn a_permutation_gives_each_number_once() {
        let mut seen: Vec<u64> = (0..1000).map(|i: u64| i.wrapping_mul(2_654_435_761) % 1000).collect();
        seen.sort();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }
}
