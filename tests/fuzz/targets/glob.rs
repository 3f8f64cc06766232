//! Patterns against a plain table of which part of the pattern matches which part of the text.
#![no_main]

use engine::glob::matches;
use libfuzzer_sys::fuzz_target;

/// Whether `byte` is in the class that begins behind `[`; and where the class ends.
fn class(pattern: &[u8], byte: u8) -> (bool, usize) {
    let (mut at, mut found) = (0, false);
    let is_negated = pattern.first() == Some(&b'^');
    at += usize::from(is_negated);
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => return (found != is_negated, pattern.len()),
            [b'\\', c, ..] => {
                found |= *c == byte;
                at += 2;
            }
            [b']', ..] => return (found != is_negated, at + 1),
            [low, b'-', high, ..] => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            [c, ..] => {
                found |= *c == byte;
                at += 1;
            }
        }
    }
}

fn slow(pattern: &[u8], text: &[u8]) -> bool {
    // Row by row from the pattern's end: whether its rest matches the text's rest.
    let mut memo = vec![vec![None; text.len() + 1]; pattern.len() + 1];
    fn rest(p: usize, t: usize, pattern: &[u8], text: &[u8], memo: &mut Vec<Vec<Option<bool>>>) -> bool {
        if let Some(known) = memo[p][t] {
            return known;
        }
        let is_match = match &pattern[p..] {
            [] => t == text.len(),
            [b'*', ..] => {
                rest(p + 1, t, pattern, text, memo) || t < text.len() && rest(p, t + 1, pattern, text, memo)
            }
            _ if t == text.len() => false,
            [b'?', ..] => rest(p + 1, t + 1, pattern, text, memo),
            [b'[', more @ ..] => {
                let (is_in, length) = class(more, text[t]);
                is_in && rest(p + 1 + length, t + 1, pattern, text, memo)
            }
            [b'\\', c, ..] => *c == text[t] && rest(p + 2, t + 1, pattern, text, memo),
            [c, ..] => *c == text[t] && rest(p + 1, t + 1, pattern, text, memo),
        };
        memo[p][t] = Some(is_match);
        is_match
    }
    rest(0, 0, pattern, text, &mut memo)
}

fuzz_target!(|input: (&[u8], &[u8])| {
    let (pattern, text) = input;
    if pattern.len() <= 64 && text.len() <= 64 {
        assert_eq!(matches(pattern, text, false), slow(pattern, text));
    }
    matches(pattern, text, true);
});
