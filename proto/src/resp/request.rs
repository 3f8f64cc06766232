//! Requests: arrays of bulk strings, or a line of words. Follows Redis's `processMultibulkBuffer` for what is an
//! error and its text.
//!
//! Invariant: no memory is reserved from a length that a peer claims; what is kept grows as bytes arrive.

use crate::limits;

/// Place of an argument in the buffer it was parsed from, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    #[inline]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.start as usize..self.start as usize + self.len as usize]
    }
}

/// What a client may send at present.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub args_max: usize,
    pub bulk_bytes_max: usize,
    pub is_authenticated: bool,
}

impl Limits {
    pub fn authenticated(bulk_bytes_max: usize) -> Limits {
        Limits { args_max: limits::ARGS_MAX, bulk_bytes_max, is_authenticated: true }
    }
    pub fn unauthenticated() -> Limits {
        Limits {
            args_max: limits::ARGS_MAX_UNAUTHENTICATED,
            bulk_bytes_max: limits::BULK_BYTES_MAX_UNAUTHENTICATED,
            is_authenticated: false,
        }
    }
}

/// A command of which some arguments have arrived, so that a long one is not parsed from its start at each read.
/// Places count from the start of the command.
#[derive(Default, Debug)]
pub struct Partial {
    args_left: usize,
    at: usize,
    /// Where the bytes of the argument begin that has not come whole; as `at` before its length is known.
    begun: usize,
    args: Vec<Span>,
}

impl Partial {
    /// Bytes before the argument that has not come whole.
    pub fn begun(&self) -> usize {
        self.begun
    }
}

/// What stands at the given place of a buffer.
#[derive(PartialEq, Eq, Debug)]
pub enum Request {
    /// The arguments were pushed to the caller's list; the command ends before `end`.
    Command { end: usize },
    /// A line of words (already split); it ends before `end`. May be empty.
    Inline { args: Vec<Vec<u8>>, end: usize },
    /// More bytes are needed.
    Incomplete,
}

/// The peer does not speak RESP. The connection is closed after the error is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProtocolError(pub String);

fn error<T>(text: impl Into<String>) -> Result<T, ProtocolError> {
    Err(ProtocolError(text.into()))
}

/// Parses the request at `at`. On `Command` its arguments stand at the end of `args`; otherwise `args` is as it was.
/// `partial` belongs to the connection: it must be handed back unchanged with a buffer in which the same bytes start
/// at `at`. Buffers are shorter than 4 GiB.
#[inline]
pub fn parse_request(
    buf: &[u8],
    at: usize,
    limits: &Limits,
    args: &mut Vec<Span>,
    partial: &mut Option<Box<Partial>>,
) -> Result<Request, ProtocolError> {
    if partial.is_none()
        && let Some(end) = short_command(buf, at, args)
    {
        return Ok(Request::Command { end });
    }
    let first = args.len();
    let (mut left, mut pos) = match partial.take() {
        Some(p) => {
            args.extend(p.args.iter().map(|s| Span { start: s.start + at as u32, len: s.len }));
            (p.args_left, at + p.at)
        }
        None => match buf.get(at) {
            None => return Ok(Request::Incomplete),
            Some(b'*') => match multibulk_length(buf, at, limits)? {
                None => return Ok(Request::Incomplete),
                Some((count, end)) if count <= 0 => return Ok(Request::Inline { args: Vec::new(), end }),
                Some((count, end)) => (count as usize, end),
            },
            Some(_) => return inline(buf, at),
        },
    };
    while left > 0 {
        match bulk(buf, pos, limits) {
            Ok(Some((span, end))) => {
                args.push(span);
                pos = end;
                left -= 1;
            }
            Ok(None) => {
                let relative = |s: &Span| Span { start: s.start - at as u32, len: s.len };
                let parsed = args[first..].iter().map(relative).collect();
                args.truncate(first);
                let begun = bulk_length(buf, pos, limits).ok().flatten().map_or(pos, |(_, start)| start);
                let (at, begun) = (pos - at, begun - at);
                *partial = Some(Box::new(Partial { args_left: left, at, begun, args: parsed }));
                return Ok(Request::Incomplete);
            }
            Err(e) => {
                args.truncate(first);
                return Err(e);
            }
        }
    }
    Ok(Request::Command { end: pos })
}

/// The usual command: at most 99 arguments of at most 99 bytes, all of it there. `None`, and `args` as it was, for
/// anything else, which is not said to be wrong.
#[inline]
pub fn short_command(buf: &[u8], at: usize, args: &mut Vec<Span>) -> Option<usize> {
    let (count, mut pos) = short_length(buf, at, b'*')?;
    let first = args.len();
    args.reserve(count);
    for _ in 0..count {
        let whole = short_length(buf, pos, b'$').filter(|(len, start)| start + len + 2 <= buf.len());
        let Some((len, start)) = whole else {
            args.truncate(first);
            return None;
        };
        args.push(Span { start: start as u32, len: len as u32 });
        pos = start + len + 2;
    }
    (count > 0).then_some(pos)
}

/// A length of one or two digits behind `kind`, and the place after its line.
#[inline]
fn short_length(buf: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    if let Some(word) = buf.get(at..at + 8).and_then(|bytes| bytes.first_chunk()) {
        return short_length_of(u64::from_le_bytes(*word), at, kind);
    }
    let &[k, a, b, c, d] = buf.get(at..at + 5)?.first_chunk()?;
    let (tens, ones) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
    if k != kind || tens > 9 {
        None
    } else if b == b'\r' && c == b'\n' {
        Some((tens as usize, at + 4))
    } else if tens > 0 && ones <= 9 && c == b'\r' && d == b'\n' {
        Some((tens as usize * 10 + ones as usize, at + 5))
    } else {
        None
    }
}

/// As [`short_length`] of the eight bytes at `at`, the first one lowest.
#[inline]
fn short_length_of(word: u64, at: usize, kind: u8) -> Option<(usize, usize)> {
    const CRLF: u64 = u16::from_le_bytes(*b"\r\n") as u64;
    let tens = (word >> 8 & 0xFF).wrapping_sub(b'0' as u64);
    let ones = (word >> 16 & 0xFF).wrapping_sub(b'0' as u64);
    if word & 0xFF != kind as u64 || tens > 9 {
        None
    } else if word >> 16 & 0xFFFF == CRLF {
        Some((tens as usize, at + 4))
    } else if tens > 0 && ones <= 9 && word >> 24 & 0xFFFF == CRLF {
        Some((tens as usize * 10 + ones as usize, at + 5))
    } else {
        None
    }
}

fn multibulk_length(buf: &[u8], at: usize, limits: &Limits) -> Result<Option<(i64, usize)>, ProtocolError> {
    let Some((line, end)) = line(buf, at + 1) else {
        return if buf.len() - at > limits::INLINE_BYTES_MAX {
            error("Protocol error: too big mbulk count string")
        } else {
            Ok(None)
        };
    };
    match parse_i64(line) {
        Some(n) if n > limits::ARGS_MAX as i64 => error("Protocol error: invalid multibulk length"),
        Some(n) if n > limits.args_max as i64 => error("Protocol error: unauthenticated multibulk length"),
        Some(n) => Ok(Some((n, end))),
        None => error("Protocol error: invalid multibulk length"),
    }
}

#[inline]
fn bulk(buf: &[u8], at: usize, limits: &Limits) -> Result<Option<(Span, usize)>, ProtocolError> {
    let Some(&kind) = buf.get(at) else { return Ok(None) };
    if kind != b'$' {
        return error(format!("Protocol error: expected '$', got '{}'", printable(kind)));
    }
    let (len, start) = match short_length(buf, at, b'$') {
        Some(found) => found,
        None => match bulk_length(buf, at, limits)? {
            None => return Ok(None),
            Some(found) => found,
        },
    };
    let end = start + len + 2;
    if end > buf.len() {
        return Ok(None);
    }
    Ok(Some((Span { start: start as u32, len: len as u32 }, end)))
}

fn bulk_length(buf: &[u8], at: usize, limits: &Limits) -> Result<Option<(usize, usize)>, ProtocolError> {
    let Some((line, end)) = line(buf, at + 1) else {
        return if buf.len() - at > limits::INLINE_BYTES_MAX {
            error("Protocol error: too big bulk count string")
        } else {
            Ok(None)
        };
    };
    match parse_i64(line) {
        Some(n) if n < 0 => error("Protocol error: invalid bulk length"),
        Some(n) if n as usize > limits.bulk_bytes_max && !limits.is_authenticated => {
            error("Protocol error: unauthenticated bulk length")
        }
        Some(n) if n as usize > limits.bulk_bytes_max => error("Protocol error: invalid bulk length"),
        Some(n) => Ok(Some((n as usize, end))),
        None => error("Protocol error: invalid bulk length"),
    }
}

/// The bytes before the next `\r\n` and the place after it. As in Redis the byte after `\r` is not looked at.
fn line(buf: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = buf.get(at..)?;
    let len = memchr::memchr(b'\r', rest)?;
    (len + 1 < rest.len()).then(|| (&rest[..len], at + len + 2))
}

fn inline(buf: &[u8], at: usize) -> Result<Request, ProtocolError> {
    let rest = &buf[at..];
    let Some(len) = memchr::memchr(b'\n', rest) else {
        return if rest.len() > limits::INLINE_BYTES_MAX {
            error("Protocol error: too big inline request")
        } else {
            Ok(Request::Incomplete)
        };
    };
    let text = rest[..len].strip_suffix(b"\r").unwrap_or(&rest[..len]);
    match split_inline(text) {
        Some(args) => Ok(Request::Inline { args, end: at + len + 1 }),
        None => error("Protocol error: unbalanced quotes in request"),
    }
}

/// Splits a line into words as Redis's `sdssplitargs`: `"…"` with escapes, `'…'` with `\'` only.
/// `None`: a quote is not closed, or text follows a closing quote without a space.
pub fn split_inline(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while text.get(at).is_some_and(|c| c.is_ascii_whitespace() || *c == 0x0b) {
            at += 1;
        }
        if at >= text.len() {
            return Some(words);
        }
        let mut word = Vec::new();
        at = split_word(text, at, &mut word)?;
        words.push(word);
    }
}

fn split_word(text: &[u8], mut at: usize, word: &mut Vec<u8>) -> Option<usize> {
    while let Some(&c) = text.get(at) {
        match c {
            b'"' | b'\'' => {
                at = split_quoted(text, at + 1, c, word)?;
                // A closing quote ends the word.
                return text.get(at).is_none_or(|c| c.is_ascii_whitespace() || *c == 0x0b).then_some(at);
            }
            b' ' | b'\n' | b'\r' | b'\t' | 0 => return Some(at + usize::from(c == 0)),
            _ => word.push(c),
        }
        at += 1;
    }
    Some(at)
}

fn split_quoted(text: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        let c = *text.get(at)?;
        let next = text.get(at + 1).copied();
        if c == quote {
            return Some(at + 1);
        } else if c == b'\\' && quote == b'\'' && next == Some(b'\'') {
            word.push(b'\'');
            at += 2;
        } else if c == b'\\' && quote == b'"' && next.is_some() {
            at += unescape(&text[at + 1..], word);
        } else {
            word.push(c);
            at += 1;
        }
    }
}

/// Pushes the byte that the escape stands for; `rest` begins after the backslash. Returns the escape's whole length.
fn unescape(rest: &[u8], word: &mut Vec<u8>) -> usize {
    let hex = |c: u8| (c as char).to_digit(16);
    if let [b'x', a, b, ..] = *rest
        && let (Some(a), Some(b)) = (hex(a), hex(b))
    {
        word.push((a * 16 + b) as u8);
        return 4;
    }
    word.push(match rest[0] {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        c => c,
    });
    2
}

fn printable(c: u8) -> char {
    if c.is_ascii_graphic() || c == b' ' { c as char } else { '?' }
}

fn parse_i64(text: &[u8]) -> Option<i64> {
    // As Redis's string2ll: one spelling for each number.
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_plain = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', ..] => text.len() <= 20,
        _ => false,
    };
    is_plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// Appends a command as an array of bulk strings: how it stands on the wire, in the feed and in the AOF.
pub fn encode_command<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(digits.format(args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(b"\r\n$");
        out.extend_from_slice(digits.format(arg.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(arg);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(buf: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let (mut at, mut out, mut partial) = (0, Vec::new(), None);
        loop {
            let mut args = Vec::new();
            match parse_request(buf, at, &Limits::authenticated(1 << 20), &mut args, &mut partial)? {
                Request::Command { end } => {
                    out.push(args.iter().map(|s| s.of(buf).to_vec()).collect());
                    at = end;
                }
                Request::Inline { args, end } => {
                    out.push(args);
                    at = end;
                }
                Request::Incomplete => return Ok(out),
            }
        }
    }

    #[test]
    fn every_split_of_the_input_gives_the_same_commands() {
        let mut stream = b"PING\r\n".to_vec();
        encode_command(&[&b"SET"[..], b"key", &[7u8; 300]], &mut stream);
        stream.extend_from_slice(b"*0\r\nset \"a\\x41\\n\" 'b c'\r\n");
        encode_command(&[&b"MGET"[..], b"", b"a", b"bb"], &mut stream);
        let whole = parse_all(&stream).unwrap();
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[3], [b"set".to_vec(), b"aA\n".to_vec(), b"b c".to_vec()]);
        for cut in 0..stream.len() {
            let (mut at, mut got, mut partial) = (0, Vec::new(), None);
            for end in [cut, stream.len()] {
                let buf = &stream[..end];
                loop {
                    let mut args = Vec::new();
                    match parse_request(buf, at, &Limits::authenticated(1 << 20), &mut args, &mut partial)
                        .unwrap()
                    {
                        Request::Command { end } => {
                            got.push(args.iter().map(|s| s.of(buf).to_vec()).collect::<Vec<_>>());
                            at = end;
                        }
                        Request::Inline { args, end } => {
                            got.push(args);
                            at = end;
                        }
                        Request::Incomplete => break,
                    }
                }
            }
            assert_eq!(got, whole, "cut at {cut}");
        }
    }

    /// Parses as a connection does: what has arrived grows, and `partial` is handed back.
    fn parse_in_pieces(
        stream: &[u8],
        cuts: &[usize],
        limits: &Limits,
    ) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let (mut at, mut got, mut partial) = (0, Vec::new(), None);
        for &cut in cuts {
            let buf = &stream[..cut];
            loop {
                let mut args = Vec::new();
                match parse_request(buf, at, limits, &mut args, &mut partial) {
                    Ok(Request::Command { end }) => {
                        got.push(args.iter().map(|s| s.of(buf).to_vec()).collect());
                        at = end;
                    }
                    Ok(Request::Inline { args, end }) => {
                        assert!(end > at && end <= buf.len());
                        got.push(args);
                        at = end;
                    }
                    Ok(Request::Incomplete) => break,
                    Err(error) => return (got, Some(error)),
                }
            }
            let kept = partial.as_ref().map_or(0, |p| p.args.capacity());
            assert!(kept <= 2 * cut + 8, "memory for {kept} arguments of {cut} bytes");
        }
        (got, None)
    }

    #[test]
    fn rubbish_is_parsed_alike_in_every_piece() {
        const WORDS: [&[u8]; 16] = [
            b"*1\r\n",
            b"*3\r\n",
            b"*1000000\r\n",
            b"*-1\r\n",
            b"$3\r\n",
            b"$0\r\n",
            b"$536870912\r\n",
            b"$-1\r\n",
            b"abc\r\n",
            b"\r\n",
            b"\r",
            b"\n",
            b"\"",
            b"'x\\'",
            b"\0\xff",
            b"PING x\r\n",
        ];
        let mut seed = 0x5eed_u64;
        let mut draw = |bound: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % bound
        };
        for round in 0..3000 {
            let mut stream = Vec::new();
            for _ in 0..1 + draw(10) {
                match draw(8) {
                    0 => (0..draw(9)).for_each(|_| stream.push(draw(256) as u8)),
                    _ => stream.extend_from_slice(WORDS[draw(WORDS.len())]),
                }
            }
            let limits = match draw(4) {
                0 => Limits::unauthenticated(),
                _ => Limits::authenticated(1 << 29),
            };
            let whole = parse_in_pieces(&stream, &[stream.len()], &limits);
            let bytewise: Vec<usize> = (0..=stream.len()).collect();
            assert_eq!(parse_in_pieces(&stream, &bytewise, &limits), whole, "round {round}: {stream:?}");
            let cut = draw(stream.len() + 1);
            let halves = parse_in_pieces(&stream, &[cut, stream.len()], &limits);
            assert_eq!(halves, whole, "round {round}, cut {cut}: {stream:?}");
        }
    }

    fn refuse(text: &[u8]) -> String {
        parse_all(text).unwrap_err().0
    }

    #[test]
    fn what_is_not_resp_is_refused_as_redis_does() {
        assert_eq!(
            refuse(b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n"),
            "Protocol error: expected '$', got 'f'"
        );
        assert_eq!(refuse(b"*3000000000\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(refuse(b"*x\r\n"), "Protocol error: invalid multibulk length");
        for text in [&b"*01\r\n"[..], b"*-0\r\n", b"*+1\r\n", b"*\r\n"] {
            assert_eq!(refuse(text), "Protocol error: invalid multibulk length");
        }
        for text in [&b"*1\r\n$04\r\nPING\r\n"[..], b"*1\r\n$010\r\n", b"*1\r\n$+4\r\n"] {
            assert_eq!(refuse(text), "Protocol error: invalid bulk length");
        }
        assert_eq!(refuse(b"*1\r\n$-10\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(refuse(b"*1\r\n$2000000000\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(refuse(b"set \"a\r\n"), "Protocol error: unbalanced quotes in request");
        assert_eq!(refuse(&vec![b'a'; 70_000]), "Protocol error: too big inline request");
    }

    #[test]
    fn limits_before_authentication() {
        let mut partial = None;
        let many = parse_request(b"*11\r\n", 0, &Limits::unauthenticated(), &mut vec![], &mut partial);
        assert_eq!(many.unwrap_err().0, "Protocol error: unauthenticated multibulk length");
        let long =
            parse_request(b"*1\r\n$16385\r\n", 0, &Limits::unauthenticated(), &mut vec![], &mut partial);
        assert_eq!(long.unwrap_err().0, "Protocol error: unauthenticated bulk length");
    }
}
