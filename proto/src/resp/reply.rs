//! Replies: one writer for RESP2 and RESP3, which a connection or a test reads back as bytes.

use std::io::Write;

/// Replies in the order of their commands, encoded for one connection.
#[derive(Default, Clone, Debug)]
pub struct Reply {
    buf: Vec<u8>,
    is_resp3: bool,
}

impl Reply {
    pub fn new(is_resp3: bool) -> Reply {
        Reply { buf: Vec::new(), is_resp3 }
    }
    pub fn is_resp3(&self) -> bool {
        self.is_resp3
    }
    pub fn set_resp3(&mut self, is_resp3: bool) {
        self.is_resp3 = is_resp3;
    }
    pub fn len(&self) -> usize {
        self.buf.len()
    }
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf
    }
    pub fn clear(&mut self) {
        self.buf.clear();
    }
    /// Forgets what was written after the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
    }
    /// Takes what was written from a length on.
    pub fn split_off(&mut self, len: usize) -> Vec<u8> {
        self.buf.split_off(len)
    }
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buf)
    }
    /// Appends bytes that are encoded already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }
    pub fn reserve(&mut self, bytes: usize) {
        self.buf.reserve(bytes);
    }

    pub fn ok(&mut self) {
        self.buf.extend_from_slice(b"+OK\r\n");
    }
    /// A status line. Line breaks in `text` become spaces: they would end the reply early.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }
    /// An error; `text` begins with its code, as `ERR unknown command`. Line breaks become spaces.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }
    fn line(&mut self, kind: u8, text: &str) {
        self.buf.push(kind);
        self.buf.extend(text.bytes().map(|c| if c == b'\r' || c == b'\n' { b' ' } else { c }));
        self.buf.extend_from_slice(b"\r\n");
    }
    #[inline]
    pub fn int(&mut self, value: i64) {
        self.header(b':', value);
    }
    #[inline]
    fn header(&mut self, kind: u8, value: i64) {
        push_header(&mut self.buf, kind, value);
    }
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        push_bulk(&mut self.buf, bytes);
    }
    /// Bulk strings one after the other, for which room is made many at a time.
    pub fn bulks<'a>(&mut self, elements: impl Iterator<Item = &'a [u8]>) {
        /// Bytes of room: at least a frame, at most what is soon made; filling more is begun more slowly.
        const ROOM: (usize, usize) = (FRAME, 1024);
        /// Bytes that a short element takes, or a few more.
        const EACH: usize = 32;
        let room = (elements.size_hint().0.min(ROOM.1) * EACH).clamp(ROOM.0, ROOM.1);
        let buf = &mut self.buf;
        let end = elements.fold(buf.len(), |end, bytes| {
            let frame = buf.get_mut(end..).and_then(|rest| rest.first_chunk_mut());
            match frame {
                Some(frame) if bytes.len() <= FRAMED_MAX => end + write_framed(frame, bytes),
                _ => push_and_make_room(buf, end, bytes, room),
            }
        });
        buf.truncate(end);
    }
    /// An integer as a bulk string.
    pub fn bulk_int(&mut self, value: i64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }
    /// The missing value: `$-1` or `_`.
    pub fn null(&mut self) {
        self.buf.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }
    /// The missing array: `*-1` or `_`.
    pub fn null_array(&mut self) {
        self.buf.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }
    /// `pairs` keys with their values follow; a flat array of twice the length in RESP2.
    pub fn map(&mut self, pairs: usize) {
        if self.is_resp3 { self.header(b'%', pairs as i64) } else { self.header(b'*', pairs as i64 * 2) }
    }
    pub fn set(&mut self, len: usize) {
        self.header(if self.is_resp3 { b'~' } else { b'*' }, len as i64);
    }
    /// An out-of-band message; an array in RESP2.
    pub fn push(&mut self, len: usize) {
        self.header(if self.is_resp3 { b'>' } else { b'*' }, len as i64);
    }
    pub fn bool(&mut self, value: bool) {
        match (self.is_resp3, value) {
            (true, true) => self.buf.extend_from_slice(b"#t\r\n"),
            (true, false) => self.buf.extend_from_slice(b"#f\r\n"),
            (false, value) => self.int(value as i64),
        }
    }
    /// A floating point number: `,` in RESP3, its text as a bulk string in RESP2.
    pub fn double(&mut self, value: f64) {
        let text = format_double(value);
        if self.is_resp3 { self.line(b',', &text) } else { self.bulk(text.as_bytes()) }
    }
    /// A floating point number in decimal digits, at most 17 behind the point and no zeros at the end, as Redis writes
    /// coordinates.
    pub fn decimal(&mut self, value: f64) {
        let text = format!("{value:.17}");
        let text = match trim_zeros(&text) {
            "-0" => "0",
            text => text,
        };
        if self.is_resp3 { self.line(b',', text) } else { self.bulk(text.as_bytes()) }
    }
    /// Text for people; `format` is three letters (`txt`, `mkd`).
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        assert_eq!(format.len(), 3);
        if !self.is_resp3 {
            return self.bulk(text);
        }
        self.header(b'=', text.len() as i64 + 4);
        self.buf.extend_from_slice(format.as_bytes());
        self.buf.push(b':');
        self.buf.extend_from_slice(text);
        self.buf.extend_from_slice(b"\r\n");
    }

    /// Marks a place for the header of an aggregate whose length is known only after its elements.
    /// Close it with [`Reply::array_at`], [`Reply::map_at`] or [`Reply::set_at`].
    pub fn mark(&self) -> usize {
        self.buf.len()
    }
    pub fn array_at(&mut self, mark: usize, len: usize) {
        self.insert_header(mark, b'*', len);
    }
    pub fn map_at(&mut self, mark: usize, pairs: usize) {
        if self.is_resp3 {
            self.insert_header(mark, b'%', pairs)
        } else {
            self.insert_header(mark, b'*', pairs * 2)
        }
    }
    pub fn set_at(&mut self, mark: usize, len: usize) {
        self.insert_header(mark, if self.is_resp3 { b'~' } else { b'*' }, len);
    }
    fn insert_header(&mut self, mark: usize, kind: u8, len: usize) {
        let mut header = Vec::with_capacity(16);
        write!(header, "{}{len}\r\n", kind as char).expect("a Vec takes every write");
        self.buf.splice(mark..mark, header);
    }
}

#[inline]
fn push_header(buf: &mut Vec<u8>, kind: u8, value: i64) {
    // One and two digits are nearly all lengths, and many integers.
    match usize::try_from(value).ok().and_then(|value| SHORT_HEADERS.get(value)) {
        Some(header) => {
            let (bytes, len) = short_header(*header, kind);
            let end = buf.len() + len;
            buf.extend_from_slice(&bytes);
            buf.truncate(end);
        }
        None => push_long_header(buf, kind, value),
    }
}

fn push_long_header(buf: &mut Vec<u8>, kind: u8, value: i64) {
    buf.push(kind);
    buf.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    buf.extend_from_slice(b"\r\n");
}

#[inline]
fn push_bulk(buf: &mut Vec<u8>, bytes: &[u8]) {
    buf.reserve(bytes.len() + 24);
    push_header(buf, b'$', bytes.len() as i64);
    buf.extend_from_slice(bytes);
    buf.extend_from_slice(b"\r\n");
}

/// Lines of a number of one or two digits, each as one word whose lowest byte is for the kind and whose highest byte is
/// the number of bytes, with the kind.
const SHORT_HEADERS: [u64; 100] = {
    let mut headers = [0; 100];
    let mut n = 0;
    while n < 100 {
        let (tens, ones) = (b'0' + n as u8 / 10, b'0' + n as u8 % 10);
        headers[n] = u64::from_le_bytes(match n {
            ..10 => [0, ones, b'\r', b'\n', 0, 0, 0, 4],
            _ => [0, tens, ones, b'\r', b'\n', 0, 0, 5],
        });
        n += 1;
    }
    headers
};

/// A header of a kind, and how many of its bytes are to be written.
#[inline]
fn short_header(header: u64, kind: u8) -> ([u8; 8], usize) {
    // The length is less than eight, which saves those checks that follow from it.
    ((header | kind as u64).to_le_bytes(), (header >> 56) as usize % 8)
}

/// The longest string that a frame holds.
const FRAMED_MAX: usize = 32;
/// Bytes of a frame: header, string, line break.
const FRAME: usize = 8 + FRAMED_MAX + 8;

/// Ends the buffer at `end`, where a bulk string is pushed; room is made behind a short one. Returns where that begins.
#[inline(never)]
fn push_and_make_room(buf: &mut Vec<u8>, end: usize, bytes: &[u8], room: usize) -> usize {
    buf.truncate(end);
    push_bulk(buf, bytes);
    let end = buf.len();
    if bytes.len() <= FRAMED_MAX {
        buf.resize(end + room, 0);
    }
    end
}

/// Writes a bulk string of at most [`FRAMED_MAX`] bytes to the begin of `frame`; returns how many bytes it takes. What stands
/// behind them is of no value.
#[inline]
fn write_framed(frame: &mut [u8; FRAME], bytes: &[u8]) -> usize {
    assert!(bytes.len() <= FRAMED_MAX);
    /// The first and the last `N` bytes, which overlap or meet: no loop, and no call to copy them.
    #[inline]
    fn ends<const N: usize>(to: &mut [u8], from: &[u8]) {
        if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
            to[..N].copy_from_slice(first);
            to[from.len() - N..from.len()].copy_from_slice(last);
        }
    }
    let (header, at) = short_header(SHORT_HEADERS[bytes.len()], b'$');
    frame[..8].copy_from_slice(&header);
    let to = &mut frame[at..];
    match bytes.len() {
        16.. => ends::<16>(to, bytes),
        8.. => ends::<8>(to, bytes),
        4.. => ends::<4>(to, bytes),
        2.. => ends::<2>(to, bytes),
        _ => ends::<1>(to, bytes),
    }
    to[bytes.len()..bytes.len() + 2].copy_from_slice(b"\r\n");
    at + bytes.len() + 2
}

/// The text of a double as Redis 7.0 writes it: an integer without a point where it is exact, else `%.17g`.
pub fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    const EXACT: f64 = 4503599627370496.0; // 2^52
    if value.abs() < EXACT && value.fract() == 0.0 {
        return (value as i64).to_string();
    }
    percent_17g(value)
}

/// C's `%.17g`.
fn percent_17g(value: f64) -> String {
    let scientific = format!("{value:.16e}");
    let (digits, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes a number");
    if !(-4..17).contains(&exponent) {
        let digits = trim_zeros(digits);
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    trim_zeros(&format!("{value:.*}", (16 - exponent) as usize)).to_string()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_as_redis_7_writes_them() {
        for (value, text) in [
            (3.0, "3"),
            (-17.0, "-17"),
            (0.1, "0.10000000000000001"),
            (3.5, "3.5"),
            (1e100, "1e+100"),
            (1.5e-7, "1.4999999999999999e-07"),
            (1e17, "1e+17"),
            (4503599627370497.0, "4503599627370497"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (0.0001, "0.0001"),
        ] {
            assert_eq!(format_double(value), text);
        }
    }

    #[test]
    fn aggregates_differ_between_protocols() {
        let write = |is_resp3| {
            let mut r = Reply::new(is_resp3);
            r.map(1);
            r.set(2);
            r.null();
            r.bool(true);
            r.double(1.5);
            String::from_utf8(r.take()).unwrap()
        };
        assert_eq!(write(false), "*2\r\n*2\r\n$-1\r\n:1\r\n$3\r\n1.5\r\n");
        assert_eq!(write(true), "%1\r\n~2\r\n_\r\n#t\r\n,1.5\r\n");
    }

    #[test]
    fn decimals_have_no_exponent() {
        let mut r = Reply::new(false);
        r.decimal(13.361389338970184);
        r.decimal(-0.0);
        r.decimal(1e-9);
        r.set_resp3(true);
        r.decimal(180.0);
        assert_eq!(r.as_bytes(), b"$20\r\n13.36138933897018433\r\n$1\r\n0\r\n$11\r\n0.000000001\r\n,180\r\n");
    }

    #[test]
    fn an_error_is_one_line() {
        let mut r = Reply::new(false);
        r.error("ERR bad\r\n+OK");
        assert_eq!(r.as_bytes(), b"-ERR bad  +OK\r\n");
    }

    #[test]
    fn many_bulks_are_written_as_each_alone() {
        let whole: Vec<u8> = (0..200).collect();
        // All lengths around those of frames and headers, so that each follows each kind of other somewhere.
        let lens: Vec<usize> = (0..130).chain((0..110).rev()).chain((0..40).cycle().take(1000)).collect();
        let elements = || lens.iter().map(|len| &whole[200 - len..]);
        for is_resp3 in [false, true] {
            let (mut many, mut each) = (Reply::new(is_resp3), Reply::new(is_resp3));
            many.array(lens.len());
            each.array(lens.len());
            many.bulks(elements());
            elements().for_each(|bytes| each.bulk(bytes));
            many.ok();
            each.ok();
            assert!(many.as_bytes() == each.as_bytes());
        }
        let mut expected = b"*1240\r\n".to_vec();
        for bytes in elements() {
            expected.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
            expected.extend_from_slice(bytes);
            expected.extend_from_slice(b"\r\n");
        }
        let mut many = Reply::new(false);
        many.array(lens.len());
        many.bulks(elements());
        assert!(many.as_bytes() == expected);
    }

    #[test]
    fn integers_of_all_lengths() {
        let mut r = Reply::new(false);
        [0, 9, 10, 99, 100, -1, -10, i64::MIN, i64::MAX].into_iter().for_each(|n| r.int(n));
        assert_eq!(
            r.as_bytes(),
            b":0\r\n:9\r\n:10\r\n:99\r\n:100\r\n:-1\r\n:-10\r\n:-9223372036854775808\r\n:9223372036854775807\r\n"
        );
    }

    #[test]
    fn a_header_can_follow_its_elements() {
        let mut r = Reply::new(false);
        let mark = r.mark();
        r.int(1);
        r.int(2);
        r.array_at(mark, 2);
        assert_eq!(r.as_bytes(), b"*2\r\n:1\r\n:2\r\n");
    }
}
