//! Patterns of KEYS, SCAN, PSUBSCRIBE and ACL: `*`, `?`, `[a-z]`, `[^a]` and `\` as Redis's `stringmatchlen` reads them.
//!
//! Invariant: time is at most the product of both lengths; there is no recursion.

/// Stars with something behind them that a pattern may have. Redis, which recurses there, gives up at more: such a
/// pattern matches nothing.
const STARS_MAX: usize = 1000;

/// Whether `text` matches `pattern`, both taken as bytes.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut p, mut t, mut stars) = (0, 0, 0);
    // Where to go on after a mismatch: behind the last star, with one more byte under it.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            while p < pattern.len() && pattern[p] == b'*' {
                p += 1;
            }
            if p == pattern.len() {
                return true;
            }
            stars += 1;
            if stars > STARS_MAX {
                return false;
            }
            star = Some((p, t));
            continue;
        }
        let step = if t < text.len() { one(&pattern[p..], text[t], ignore_case) } else { None };
        if t == text.len() && p == pattern.len() {
            return true;
        }
        match (step, star) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
            _ => return false,
        }
    }
}

/// Length of the pattern's first element if it matches `c`.
fn one(pattern: &[u8], c: u8, ignore_case: bool) -> Option<usize> {
    let fold = |b: u8| if ignore_case { b.to_ascii_lowercase() } else { b };
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => class(rest, c, fold).map(|used| used + 1),
        [b'\\', escaped, ..] => (fold(*escaped) == fold(c)).then_some(2),
        [literal, ..] => (fold(*literal) == fold(c)).then_some(1),
    }
}

/// Length of the class after its `[`, if it matches. A class that is not closed ends with the pattern.
fn class(pattern: &[u8], c: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let is_negated = pattern.first() == Some(&b'^');
    let mut at = is_negated as usize;
    let mut is_match = false;
    let c = fold(c);
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => break,
            [b'\\', escaped, ..] => {
                is_match |= fold(*escaped) == c;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [low, b'-', high, ..] => {
                let (low, high) = (fold(*low).min(fold(*high)), fold(*low).max(fold(*high)));
                is_match |= (low..=high).contains(&c);
                at += 3;
            }
            [literal, ..] => {
                is_match |= fold(*literal) == c;
                at += 1;
            }
        }
    }
    (is_match != is_negated).then_some(at)
}

/// The slot of all that a pattern can match, if it is one: it is no pattern, or none before the end of its `{tag}`.
pub fn slot_of(pattern: &[u8]) -> Option<proto::Slot> {
    let mut open = None;
    for (at, c) in pattern.iter().enumerate() {
        match (c, open) {
            (b'*' | b'?' | b'[' | b'\\', _) => return None,
            (b'{', None) => open = Some(at),
            (b'}', Some(open)) if at > open + 1 => return proto::Slot::of_tag(&pattern[..=at]),
            _ => {}
        }
    }
    Some(proto::Slot::of_key(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn m(pattern: &str, text: &str) -> bool {
        matches(pattern.as_bytes(), text.as_bytes(), false)
    }

    #[test]
    fn elements() {
        assert!(m("*", ""));
        assert!(m("h?llo", "hello") && !m("h?llo", "hllo"));
        assert!(m("h*llo", "heeeello") && m("h*llo", "hllo"));
        assert!(m("h[ae]llo", "hallo") && !m("h[ae]llo", "hillo"));
        assert!(m("h[^e]llo", "hallo") && !m("h[^e]llo", "hello"));
        assert!(m("h[a-b]llo", "hbllo") && m("h[b-a]llo", "hbllo"));
        assert!(m("a\\*b", "a*b") && !m("a\\*b", "axb"));
        assert!(m("*a*b*", "xxaxxbxx") && !m("*a*b", "xxaxxbx"));
        assert!(!m("", "a") && m("", ""));
        assert!(matches(b"HeLLo*", b"hello world", true));
    }

    #[test]
    fn patterns_of_too_many_stars_match_nothing() {
        let text = "a".repeat(5000);
        assert!(m(&"*a".repeat(1000), &text) && !m(&"*a".repeat(1001), &text));
        assert!(m(&format!("{}*", "*a".repeat(1000)), &text));
    }

    #[test]
    fn many_stars_are_not_exponential() {
        assert!(!m(&"a*".repeat(200), &"a".repeat(199).replace('a', "b")));
        assert!(!m(&format!("{}b", "*a".repeat(100)), &"a".repeat(5000)));
    }
}
