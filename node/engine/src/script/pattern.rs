//! Patterns of Lua's string library, matched so that it can be ended: Lua's own matcher runs for ages on patterns that make
//! it try everything, and no hook is called meanwhile. The rules, quirks included, are those of `lstrlib.c` of Lua 5.1.
//!
//! The functions that use this stand in `native.rs`: for them nothing here has a destructor, and nothing calls Lua.

use super::control::Watch;
use std::ffi::CStr;

/// Captures of one pattern.
pub const CAPTURES_MAX: usize = 32;
/// Steps between two looks at the watch, as many as instructions of Lua.
const LOOK_STEPS: u32 = 1000;
const ESCAPE: u8 = b'%';

/// Why matching ends without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The pattern is wrong.
    Error(&'static CStr),
    /// The script is to end.
    End,
}

fn wrong<T>(text: &'static CStr) -> Result<T, Stop> {
    Err(Stop::Error(text))
}

/// Part of the subject that a pattern captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capture {
    Unfinished,
    /// A place, which counts from 0.
    Position,
    Text(usize),
}

/// One subject and one pattern.
pub struct Matcher<'a> {
    subject: &'a [u8],
    /// Up to its first zero, where patterns of Lua 5.1 end.
    pattern: &'a [u8],
    /// A match begins where the search does.
    pub is_anchored: bool,
    level: usize,
    captures: [(usize, Capture); CAPTURES_MAX],
    steps: u32,
    watch: &'a Watch,
}

impl<'a> Matcher<'a> {
    /// `has_anchor`: `^` at the pattern's beginning is one.
    pub fn new(subject: &'a [u8], pattern: &'a [u8], has_anchor: bool, watch: &'a Watch) -> Matcher<'a> {
        let pattern = &pattern[..memchr::memchr(0, pattern).unwrap_or(pattern.len())];
        let is_anchored = has_anchor && pattern.first() == Some(&b'^');
        Matcher {
            subject,
            pattern: &pattern[usize::from(is_anchored)..],
            is_anchored,
            level: 0,
            captures: [(0, Capture::Unfinished); CAPTURES_MAX],
            steps: 0,
            watch,
        }
    }

    pub fn subject(&self) -> &'a [u8] {
        self.subject
    }

    /// The end of a match that begins at `start`.
    pub fn match_at(&mut self, start: usize) -> Result<Option<usize>, Stop> {
        self.level = 0;
        self.run(start, 0)
    }
    /// The first match that begins at `start` or, without an anchor, behind it.
    pub fn find(&mut self, start: usize) -> Result<Option<(usize, usize)>, Stop> {
        for at in start..=self.subject.len() {
            if let Some(end) = self.match_at(at)? {
                return Ok(Some((at, end)));
            }
            if self.is_anchored {
                break;
            }
        }
        Ok(None)
    }

    /// Captures of the last match.
    pub fn level(&self) -> usize {
        self.level
    }
    /// Where a capture begins, and what it is; the whole match where the pattern has none.
    pub fn capture(&self, place: usize, (start, end): (usize, usize)) -> Result<(usize, Capture), Stop> {
        if place >= self.level {
            return match place {
                0 => Ok((start, Capture::Text(end - start))),
                _ => wrong(c"invalid capture index"),
            };
        }
        match self.captures[place] {
            (_, Capture::Unfinished) => wrong(c"unfinished capture"),
            capture => Ok(capture),
        }
    }

    #[inline]
    fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps < LOOK_STEPS {
            return Ok(());
        }
        self.steps = 0;
        if self.watch.is_to_end() { Err(Stop::End) } else { Ok(()) }
    }

    /// A byte of the pattern; zero behind its end.
    #[inline]
    fn pat(&self, p: usize) -> u8 {
        self.pattern.get(p).copied().unwrap_or(0)
    }

    /// Matches the pattern from `p` on at `s`.
    fn run(&mut self, mut s: usize, mut p: usize) -> Result<Option<usize>, Stop> {
        loop {
            self.step()?;
            match self.pat(p) {
                0 => return Ok(Some(s)),
                b'(' if self.pat(p + 1) == b')' => return self.open_capture(s, p + 2, Capture::Position),
                b'(' => return self.open_capture(s, p + 1, Capture::Unfinished),
                b')' => return self.close_capture(s, p + 1),
                b'$' if p + 1 >= self.pattern.len() => return Ok((s == self.subject.len()).then_some(s)),
                ESCAPE if self.pat(p + 1) == b'b' => match self.balance(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                ESCAPE if self.pat(p + 1) == b'f' => {
                    p += 2;
                    if self.pat(p) != b'[' {
                        return wrong(c"missing '[' after '%f' in pattern");
                    }
                    let end = self.class_end(p)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let after = self.subject.get(s).copied().unwrap_or(0);
                    if self.is_in_set(before, p, end - 1) || !self.is_in_set(after, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                }
                ESCAPE if self.pat(p + 1).is_ascii_digit() => match self.again(s, self.pat(p + 1))? {
                    Some(end) => (s, p) = (end, p + 2),
                    None => return Ok(None),
                },
                _ => {
                    let end = self.class_end(p)?;
                    let is_match = self.is_single(s, p, end);
                    match self.pat(end) {
                        b'?' => {
                            if is_match && let Some(found) = self.run(s + 1, end + 1)? {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        b'*' => return self.expand_most(s, p, end),
                        b'+' if is_match => return self.expand_most(s + 1, p, end),
                        b'+' => return Ok(None),
                        b'-' => return self.expand_least(s, p, end),
                        _ if is_match => (s, p) = (s + 1, end),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    /// Where the item at `p` ends.
    fn class_end(&self, mut p: usize) -> Result<usize, Stop> {
        let first = self.pat(p);
        p += 1;
        match first {
            ESCAPE if p >= self.pattern.len() => wrong(c"malformed pattern (ends with '%')"),
            ESCAPE => Ok(p + 1),
            b'[' => {
                p += usize::from(self.pat(p) == b'^');
                loop {
                    if p >= self.pattern.len() {
                        return wrong(c"malformed pattern (missing ']')");
                    }
                    p += 1;
                    if self.pattern[p - 1] == ESCAPE && p < self.pattern.len() {
                        p += 1;
                    }
                    if self.pat(p) == b']' {
                        return Ok(p + 1);
                    }
                }
            }
            _ => Ok(p),
        }
    }

    /// Whether the item from `p` to `end` matches the byte at `s`.
    #[inline]
    fn is_single(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&c) = self.subject.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            ESCAPE => is_of_class(c, self.pat(p + 1)),
            b'[' => self.is_in_set(c, p, end - 1),
            own => own == c,
        }
    }

    /// Whether the set from `p` to its bracket at `end` has a byte.
    fn is_in_set(&self, c: u8, mut p: usize, end: usize) -> bool {
        let is_plain = self.pat(p + 1) != b'^';
        p += usize::from(!is_plain) + 1;
        while p < end {
            if self.pat(p) == ESCAPE {
                p += 1;
                if is_of_class(c, self.pat(p)) {
                    return is_plain;
                }
            } else if self.pat(p + 1) == b'-' && p + 2 < end {
                if (self.pat(p)..=self.pat(p + 2)).contains(&c) {
                    return is_plain;
                }
                p += 2;
            } else if self.pat(p) == c {
                return is_plain;
            }
            p += 1;
        }
        !is_plain
    }

    fn balance(&mut self, s: usize, p: usize) -> Result<Option<usize>, Stop> {
        let (open, close) = (self.pat(p), self.pat(p + 1));
        if open == 0 || close == 0 {
            return wrong(c"unbalanced pattern");
        }
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.subject.len() {
            self.step()?;
            let c = self.subject[at];
            if c == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if c == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    fn expand_most(&mut self, s: usize, p: usize, end: usize) -> Result<Option<usize>, Stop> {
        let mut count = 0;
        while self.is_single(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.run(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn expand_least(&mut self, mut s: usize, p: usize, end: usize) -> Result<Option<usize>, Stop> {
        loop {
            if let Some(found) = self.run(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.is_single(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open_capture(&mut self, s: usize, p: usize, what: Capture) -> Result<Option<usize>, Stop> {
        if self.level >= CAPTURES_MAX {
            return wrong(c"too many captures");
        }
        self.captures[self.level] = (s, what);
        self.level += 1;
        let found = self.run(s, p)?;
        self.level -= usize::from(found.is_none());
        Ok(found)
    }

    fn close_capture(&mut self, s: usize, p: usize) -> Result<Option<usize>, Stop> {
        let open = self.captures[..self.level].iter().rposition(|(_, what)| *what == Capture::Unfinished);
        let Some(place) = open else { return wrong(c"invalid pattern capture") };
        self.captures[place].1 = Capture::Text(s - self.captures[place].0);
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures[place].1 = Capture::Unfinished;
        }
        Ok(found)
    }

    /// Matches what was captured before. `digit`: the capture's number.
    fn again(&mut self, s: usize, digit: u8) -> Result<Option<usize>, Stop> {
        let place = usize::from(digit).wrapping_sub(usize::from(b'1'));
        if place >= self.level {
            return wrong(c"invalid capture index");
        }
        match self.captures[place] {
            (_, Capture::Unfinished) => wrong(c"invalid capture index"),
            // Its length is so large, as Lua has it, that no subject is as long.
            (_, Capture::Position) => Ok(None),
            (start, Capture::Text(len)) => {
                let is_same = self.subject[s..].starts_with(&self.subject[start..start + len]);
                Ok(is_same.then_some(s + len))
            }
        }
    }
}

/// A class such as `%a`, or the byte itself.
fn is_of_class(c: u8, class: u8) -> bool {
    let is_in = match class.to_ascii_lowercase() {
        b'a' => c.is_ascii_alphabetic(),
        b'c' => c.is_ascii_control(),
        b'd' => c.is_ascii_digit(),
        b'l' => c.is_ascii_lowercase(),
        b'p' => c.is_ascii_punctuation(),
        b's' => c.is_ascii_whitespace() || c == 0x0b,
        b'u' => c.is_ascii_uppercase(),
        b'w' => c.is_ascii_alphanumeric(),
        b'x' => c.is_ascii_hexdigit(),
        b'z' => c == 0,
        _ => return class == c,
    };
    is_in == class.is_ascii_lowercase()
}
