//! A sequence of byte strings in one allocation: small hashes, small sorted sets and the nodes of lists.
//!
//! Each entry is `[length][bytes][length, reversed]` with 7-bit variable lengths, so both directions are cheap and an entry
//! below 128 bytes costs two bytes more than itself. Free room may stand before the first entry: taking from and adding
//! to the front of a list then moves nothing.
//! Invariant: `buf[head..]` is exactly `count` well-formed entries.

/// Bytes at which a packed form must give way to a big one, whatever the thresholds say: 1 GiB, as in Redis.
pub const PACKED_BYTES_MAX: usize = 1 << 30;

/// Byte strings in a row, each addressed by its position: the byte offset of its entry.
#[derive(Default, Clone)]
pub struct Packed {
    buf: Vec<u8>,
    head: u32,
    count: u32,
}

impl Packed {
    /// An empty sequence; allocates nothing.
    pub fn new() -> Packed {
        Packed::default()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all entries with their lengths.
    pub fn bytes(&self) -> usize {
        self.buf.len() - self.head as usize
    }

    /// Bytes allocated.
    pub fn heap_bytes(&self) -> usize {
        self.buf.capacity()
    }

    fn body(&self) -> &[u8] {
        &self.buf[self.head as usize..]
    }

    /// All entries in order, from either end.
    pub fn iter(&self) -> Iter<'_> {
        Iter { body: self.body(), at: 0, end: self.bytes() }
    }

    /// The entries from position `at` on; going back from there yields those before it with `iter_before`.
    pub fn iter_from(&self, at: usize) -> Iter<'_> {
        Iter { body: self.body(), at, end: self.bytes() }
    }

    /// The entries before position `at`, meant to be read from the back.
    pub fn iter_before(&self, at: usize) -> Iter<'_> {
        Iter { body: self.body(), at: 0, end: at }
    }

    /// The entries between two positions.
    pub fn iter_between(&self, from: usize, to: usize) -> Iter<'_> {
        Iter { body: self.body(), at: from, end: to }
    }

    /// Position of entry `index`, found from the nearer end; `index == len()` is the position past the last.
    pub fn position(&self, index: usize) -> usize {
        assert!(index <= self.len());
        if index <= self.len() / 2 {
            let mut iter = self.iter();
            for _ in 0..index {
                iter.next();
            }
            iter.at
        } else {
            let mut iter = self.iter();
            for _ in index..self.len() {
                iter.next_back();
            }
            iter.end
        }
    }

    /// The entry at a position.
    pub fn at(&self, at: usize) -> Option<&[u8]> {
        self.iter_from(at).next()
    }

    /// The entry with number `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        (index < self.len()).then(|| self.at(self.position(index))).flatten()
    }

    /// Adds an entry behind the last.
    pub fn push_back(&mut self, bytes: &[u8]) {
        let need = entry_bytes(bytes.len());
        self.make_room(need);
        let at = self.buf.len();
        self.buf.resize(at + need, 0);
        write_entry(&mut self.buf[at..], bytes);
        self.count += 1;
    }

    /// Adds an entry before the first.
    pub fn push_front(&mut self, bytes: &[u8]) {
        let need = entry_bytes(bytes.len());
        if (self.head as usize) < need {
            let gap = need + (self.bytes() / 4).min(FRONT_GAP_MAX);
            let (old, body) = (self.head as usize, self.bytes());
            self.buf.reserve_exact((gap + body).saturating_sub(self.buf.len()));
            self.buf.resize(gap + body, 0);
            self.buf.copy_within(old..old + body, gap);
            self.head = gap as u32;
        }
        let at = self.head as usize - need;
        write_entry(&mut self.buf[at..at + need], bytes);
        self.head = at as u32;
        self.count += 1;
    }

    /// Puts an entry at a position, before the one that stands there.
    pub fn insert(&mut self, at: usize, bytes: &[u8]) {
        assert!(at <= self.bytes());
        if at == 0 && self.head > 0 {
            return self.push_front(bytes);
        }
        let need = entry_bytes(bytes.len());
        self.make_room(need);
        let (from, old) = (self.head as usize + at, self.buf.len());
        self.buf.resize(old + need, 0);
        self.buf.copy_within(from..old, from + need);
        write_entry(&mut self.buf[from..from + need], bytes);
        self.count += 1;
    }

    /// Removes up to `count` entries from a position on; returns how many there were.
    pub fn remove(&mut self, at: usize, count: usize) -> usize {
        let mut iter = self.iter_from(at);
        let mut gone = 0;
        while gone < count && iter.next().is_some() {
            gone += 1;
        }
        let (from, to) = (self.head as usize + at, self.head as usize + iter.at);
        if at == 0 {
            self.head = to as u32;
        } else {
            self.buf.copy_within(to.., from);
            let left = self.buf.len() - (to - from);
            self.buf.truncate(left);
        }
        self.count -= gone as u32;
        self.give_back();
        gone
    }

    /// Replaces the entry at a position.
    pub fn replace(&mut self, at: usize, bytes: &[u8]) {
        let mut iter = self.iter_from(at);
        let old = iter.next().map(<[u8]>::len).expect("an entry stands at the position");
        let (old_bytes, need) = (iter.at - at, entry_bytes(bytes.len()));
        let from = self.head as usize + at;
        if old == bytes.len() {
            return write_entry(&mut self.buf[from..from + need], bytes);
        }
        if need > old_bytes {
            self.make_room(need - old_bytes);
        }
        let (from, end) = (self.head as usize + at, self.buf.len());
        self.buf.resize(end.max(end - old_bytes + need), 0);
        self.buf.copy_within(from + old_bytes..end, from + need);
        self.buf.truncate(end - old_bytes + need);
        write_entry(&mut self.buf[from..from + need], bytes);
        self.give_back();
    }

    /// Cuts the sequence in two before entry `index` and returns the second part.
    pub fn split_off(&mut self, index: usize) -> Packed {
        let at = self.head as usize + self.position(index);
        let tail = Packed { buf: self.buf[at..].to_vec(), head: 0, count: self.count - index as u32 };
        self.buf.truncate(at);
        self.count = index as u32;
        self.give_back();
        tail
    }

    /// Adds all entries of another sequence behind the last.
    pub fn append(&mut self, other: &Packed) {
        self.make_room(other.bytes());
        self.buf.extend_from_slice(other.body());
        self.count += other.count;
    }

    /// Makes room for `need` bytes at the end: by using the gap in front first, then by growing an eighth.
    fn make_room(&mut self, need: usize) {
        if self.buf.capacity() - self.buf.len() >= need {
            return;
        }
        let head = self.head as usize;
        if head >= need && head >= self.bytes() / 4 {
            self.buf.drain(..head);
            self.head = 0;
            return;
        }
        self.buf.reserve_exact(need + self.bytes() / 8);
    }

    /// Gives memory back once less than half of the allocation is in use.
    fn give_back(&mut self) {
        if self.count == 0 {
            *self = Packed::new();
        } else if self.buf.capacity() > 64 && self.bytes() < self.buf.capacity() / 2 {
            let mut buf = Vec::with_capacity(self.bytes() + self.bytes() / 8);
            buf.extend_from_slice(self.body());
            (self.buf, self.head) = (buf, 0);
        }
    }
}

/// Largest room left in front of the first entry, in bytes: a choice, about a fifth of a list node.
const FRONT_GAP_MAX: usize = 1536;

/// Entries of a `Packed` in order, from either end.
#[derive(Clone)]
pub struct Iter<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
}

impl Iter<'_> {
    /// Position of the entry that `next` would yield.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Position past the entry that `next_back` would yield.
    pub fn position_back(&self) -> usize {
        self.end
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.end {
            return None;
        }
        let (len, width) = read_len(self.body[self.at..self.end].iter());
        let from = self.at + width;
        self.at = from + len + width;
        Some(&self.body[from..from + len])
    }
}

impl<'a> DoubleEndedIterator for Iter<'a> {
    fn next_back(&mut self) -> Option<&'a [u8]> {
        if self.at >= self.end {
            return None;
        }
        let (len, width) = read_len(self.body[self.at..self.end].iter().rev());
        let to = self.end - width;
        self.end = to - len - width;
        Some(&self.body[to - len..to])
    }
}

/// Bytes an entry of `len` bytes occupies.
pub fn entry_bytes(len: usize) -> usize {
    len + 2 * len_width(len)
}

fn len_width(len: usize) -> usize {
    match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

fn write_entry(to: &mut [u8], bytes: &[u8]) {
    let width = len_width(bytes.len());
    let (head, rest) = to.split_at_mut(width);
    let (body, tail) = rest.split_at_mut(bytes.len());
    let mut left = bytes.len();
    for i in 0..width {
        let more = if i + 1 < width { 0x80 } else { 0 };
        head[i] = (left & 0x7f) as u8 | more;
        tail[width - 1 - i] = head[i];
        left >>= 7;
    }
    body.copy_from_slice(bytes);
}

/// Reads a length and its width; the bytes were written by this module.
fn read_len<'a>(bytes: impl Iterator<Item = &'a u8>) -> (usize, usize) {
    let (mut len, mut width) = (0, 0);
    for byte in bytes.take(5) {
        len |= ((byte & 0x7f) as usize) << (7 * width);
        width += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (len, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Back(usize),
        Front(usize),
        Insert(usize, usize),
        Remove(usize, usize),
        Replace(usize, usize),
        SplitJoin(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let size = prop_oneof![0..10usize, 120..135usize, Just(20_000usize)];
        let op = prop_oneof![
            size.clone().prop_map(Op::Back),
            size.clone().prop_map(Op::Front),
            (any::<usize>(), size.clone()).prop_map(|(i, s)| Op::Insert(i, s)),
            (any::<usize>(), 0..3usize).prop_map(|(i, n)| Op::Remove(i, n)),
            (any::<usize>(), size).prop_map(|(i, s)| Op::Replace(i, s)),
            any::<usize>().prop_map(Op::SplitJoin),
        ];
        prop::collection::vec(op, 1..60)
    }

    proptest! {
        #[test]
        fn behaves_as_a_vec(ops in ops()) {
            let mut packed = Packed::new();
            let mut model: Vec<Vec<u8>> = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                let text = |size: usize| vec![n as u8; size];
                match op {
                    Op::Back(s) => { packed.push_back(&text(s)); model.push(text(s)); }
                    Op::Front(s) => { packed.push_front(&text(s)); model.insert(0, text(s)); }
                    Op::Insert(i, s) => {
                        let i = i % (model.len() + 1);
                        packed.insert(packed.position(i), &text(s));
                        model.insert(i, text(s));
                    }
                    Op::Remove(i, count) => {
                        let i = i % (model.len() + 1);
                        let gone = packed.remove(packed.position(i), count);
                        prop_assert_eq!(gone, count.min(model.len() - i));
                        model.drain(i..i + gone);
                    }
                    Op::Replace(i, s) if !model.is_empty() => {
                        let i = i % model.len();
                        packed.replace(packed.position(i), &text(s));
                        model[i] = text(s);
                    }
                    Op::Replace(..) => {}
                    Op::SplitJoin(i) => {
                        let tail = packed.split_off(i % (model.len() + 1));
                        packed.append(&tail);
                    }
                }
                prop_assert_eq!(packed.len(), model.len());
                prop_assert!(packed.iter().eq(model.iter()));
                prop_assert!(packed.iter().rev().eq(model.iter().rev()));
                prop_assert_eq!(packed.bytes(), model.iter().map(|m| entry_bytes(m.len())).sum::<usize>());
            }
        }
    }

    #[test]
    fn memory_comes_back() {
        let mut packed = Packed::new();
        for _ in 0..100 {
            packed.push_front(&[7; 100]);
        }
        while packed.len() > 1 {
            packed.remove(0, 1);
        }
        assert!(packed.heap_bytes() < 300, "{}", packed.heap_bytes());
        packed.remove(0, 1);
        assert_eq!(packed.heap_bytes(), 0);
    }
}
