//! Names of stream entries: a time in milliseconds and a number within it.

use std::fmt;
use std::ops::Deref;

/// The name of an entry: milliseconds (usually since 1970), then a sequence number. Ids order as pairs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct StreamId {
    pub ms: u64,
    pub seq: u64,
}

impl StreamId {
    /// `0-0`, which no entry may have.
    pub const MIN: StreamId = StreamId { ms: 0, seq: 0 };
    pub const MAX: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

    pub const fn new(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    /// The smallest id above this one; `None` above the last.
    pub fn next(self) -> Option<StreamId> {
        match (self.ms, self.seq) {
            (u64::MAX, u64::MAX) => None,
            (ms, u64::MAX) => Some(StreamId::new(ms + 1, 0)),
            (ms, seq) => Some(StreamId::new(ms, seq + 1)),
        }
    }

    /// The largest id below this one; `None` below the first.
    pub fn prev(self) -> Option<StreamId> {
        match (self.ms, self.seq) {
            (0, 0) => None,
            (ms, 0) => Some(StreamId::new(ms - 1, u64::MAX)),
            (ms, seq) => Some(StreamId::new(ms, seq - 1)),
        }
    }

    /// Both halves, the highest byte first, so that bytes order as ids do.
    pub fn to_be_bytes(self) -> [u8; 16] {
        ((self.ms as u128) << 64 | self.seq as u128).to_be_bytes()
    }

    /// The id that [`StreamId::to_be_bytes`] made these of.
    pub fn from_be_bytes(bytes: [u8; 16]) -> StreamId {
        let both = u128::from_be_bytes(bytes);
        StreamId::new((both >> 64) as u64, both as u64)
    }

    /// The text `ms-seq` without an allocation.
    pub fn text(self) -> IdText {
        let mut text = IdText { bytes: [0; TEXT_MAX], from: TEXT_MAX as u8 };
        text.digits(self.seq);
        text.put(b'-');
        text.digits(self.ms);
        text
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Two numbers of at most twenty digits and a dash.
const TEXT_MAX: usize = 41;

/// The text of an id.
#[derive(Clone, Copy)]
pub struct IdText {
    bytes: [u8; TEXT_MAX],
    from: u8,
}

impl IdText {
    fn put(&mut self, byte: u8) {
        self.from -= 1;
        self.bytes[self.from as usize] = byte;
    }
    fn digits(&mut self, mut left: u64) {
        loop {
            self.put(b'0' + (left % 10) as u8);
            left /= 10;
            if left == 0 {
                return;
            }
        }
    }
}

impl Deref for IdText {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.from as usize..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_carry_into_the_milliseconds() {
        let id = StreamId::new;
        assert_eq!(id(5, u64::MAX).next(), Some(id(6, 0)));
        assert_eq!(id(6, 0).prev(), Some(id(5, u64::MAX)));
        assert_eq!((StreamId::MAX.next(), StreamId::MIN.prev()), (None, None));
        assert_eq!(StreamId::MAX.prev().and_then(StreamId::next), Some(StreamId::MAX));
    }

    #[test]
    fn texts_and_bytes() {
        for id in [StreamId::MIN, StreamId::MAX, StreamId::new(1_700_000_000_000, 7)] {
            assert_eq!(&*id.text(), id.to_string().as_bytes());
            assert_eq!(StreamId::from_be_bytes(id.to_be_bytes()), id);
        }
        assert!(StreamId::new(1, 9).to_be_bytes() < StreamId::new(2, 0).to_be_bytes());
    }
}
