//! A block of entries: the field names of its first entry once, then each entry as its difference from the one before.
//!
//! ```text
//! block   count of names, names, entries
//! entry   head, [rest of the milliseconds], [sequence], [count of fields], values or names and values
//! head    bit 0: the sequence is written      bit 1: the entry has field names of its own
//!         bits 2 to 6: low bits of the milliseconds since the entry before; bit 7: the rest follows
//! ```
//! A sequence that is not written is 0 in another millisecond than the entry before and one more in the same. The entry
//! before the first is the block's base: the id of the entry it was made with, which may be gone since.
//! Deleted entries are taken out at once; only their count stays, since a block is full by what was put into it.

use super::id::StreamId;
use super::part::{self, Part, put_varint, varint};

const SEQ: u8 = 1;
const OWN: u8 = 2;
const MS_BITS: u32 = 5;
const MORE: u8 = 0x80;

#[derive(Clone, Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    live: u32,
    deleted: u32,
}

impl Drop for Block {
    fn drop(&mut self) {
        crate::pace::freed(4);
    }
}

impl Block {
    /// An empty block for entries with these fields.
    pub(super) fn for_fields<P: AsRef<[u8]>>(pairs: &[P]) -> Block {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, pairs.len() as u64 / 2);
        pairs.iter().step_by(2).for_each(|name| part::put(&mut bytes, name.as_ref()));
        Block { bytes, live: 0, deleted: 0 }
    }

    /// Entries that are there.
    pub(super) fn live(&self) -> usize {
        self.live as usize
    }
    /// Entries that were ever put in.
    pub(super) fn used(&self) -> usize {
        self.live as usize + self.deleted as usize
    }
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }
    pub(super) fn heap_bytes(&self) -> usize {
        super::malloc_size(self.bytes.capacity())
    }

    /// Adds an entry behind the last; `before`: the id of the last, or the base.
    pub(super) fn push<P: AsRef<[u8]>>(&mut self, before: StreamId, id: StreamId, pairs: &[P]) {
        let need = pairs.iter().map(|p| p.as_ref().len() + 2).sum::<usize>() + 6;
        if self.bytes.capacity() - self.bytes.len() < need {
            // By a quarter: a block that is full gives back what is left over.
            self.bytes.reserve_exact(need.max(self.bytes.len() / 4));
        }
        let is_own = !self.has_names(pairs);
        put_head(&mut self.bytes, before, id, is_own);
        if is_own {
            put_varint(&mut self.bytes, pairs.len() as u64 / 2);
        }
        for pair in pairs.chunks_exact(2) {
            if is_own {
                part::put(&mut self.bytes, pair[0].as_ref());
            }
            part::put(&mut self.bytes, pair[1].as_ref());
        }
        self.live += 1;
    }

    fn has_names<P: AsRef<[u8]>>(&self, pairs: &[P]) -> bool {
        let mut at = 0;
        varint(&self.bytes, &mut at) == pairs.len() as u64 / 2
            && pairs
                .iter()
                .step_by(2)
                .all(|name| part::read(&self.bytes, &mut at).with(|held| held == name.as_ref()))
    }

    /// Gives back the room for further entries.
    pub(super) fn seal(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// The entries in order; `base` is the block's.
    pub(super) fn cursor(&self, base: StreamId) -> Cursor<'_> {
        let mut at = 0;
        if self.live == 0 {
            return Cursor { bytes: &[], names: 0, names_at: 0, at: 0, before: base };
        }
        let names = varint(&self.bytes, &mut at) as usize;
        let names_at = at;
        (0..names).for_each(|_| part::skip(&self.bytes, &mut at));
        Cursor { bytes: &self.bytes, names, names_at, at, before: base }
    }

    /// The id of the last entry, or the base where there is none.
    pub(super) fn last(&self, base: StreamId) -> StreamId {
        self.cursor(base).last().map_or(base, |item| item.id)
    }

    /// Removes an entry. False: it is not there.
    pub(super) fn remove(&mut self, base: StreamId, id: StreamId) -> bool {
        let mut cursor = self.cursor(base);
        let mut before = base;
        let found = loop {
            match cursor.next() {
                Some(item) if item.id < id => before = item.id,
                Some(item) if item.id == id => break (item.at, cursor.next().map(|next| next.place())),
                _ => return false,
            }
        };
        self.close_gap(before, found.0, found.1);
        self.live -= 1;
        self.deleted += 1;
        true
    }

    /// Removes the first `count` entries, which are fewer than there are.
    pub(super) fn remove_front(&mut self, base: StreamId, count: usize) {
        assert!(count < self.live());
        if count == 0 {
            return;
        }
        let mut cursor = self.cursor(base);
        let from = cursor.at;
        let first_kept = cursor.nth(count).map(|item| item.place());
        self.close_gap(base, from, first_kept);
        self.live -= count as u32;
        self.deleted += count as u32;
    }

    /// Joins the entry behind a gap to the one before it; `after`: `None` where the gap reaches the end.
    fn close_gap(&mut self, before: StreamId, from: usize, after: Option<Place>) {
        match after {
            None => self.bytes.truncate(from),
            Some(next) => {
                let mut head = Vec::with_capacity(24);
                put_head(&mut head, before, next.id, next.is_own);
                self.bytes.splice(from..next.body, head);
            }
        }
        if self.bytes.capacity() > 64 && self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
    }
}

fn put_head(out: &mut Vec<u8>, before: StreamId, id: StreamId, is_own: bool) {
    let ms = id.ms.wrapping_sub(before.ms);
    let implied = if ms == 0 { before.seq.wrapping_add(1) } else { 0 };
    let (low, rest) = (ms & ((1 << MS_BITS) - 1), ms >> MS_BITS);
    let mut head = (low as u8) << 2;
    head |= if id.seq != implied { SEQ } else { 0 } | if is_own { OWN } else { 0 };
    head |= if rest != 0 { MORE } else { 0 };
    out.push(head);
    if rest != 0 {
        put_varint(out, rest);
    }
    if id.seq != implied {
        put_varint(out, if ms == 0 { id.seq.wrapping_sub(before.seq) } else { id.seq });
    }
}

/// Where an entry stands and how it is named.
struct Place {
    id: StreamId,
    body: usize,
    is_own: bool,
}

/// Entries of a block in order.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    names: usize,
    names_at: usize,
    at: usize,
    before: StreamId,
}

/// An entry as it stands in a block.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) id: StreamId,
    /// Where its head begins and, behind the head, its body.
    at: usize,
    body: usize,
    is_own: bool,
    bytes: &'a [u8],
    names: usize,
    names_at: usize,
}

impl<'a> Item<'a> {
    fn place(&self) -> Place {
        Place { id: self.id, body: self.body, is_own: self.is_own }
    }
    pub(super) fn fields(&self) -> Fields<'a> {
        let mut at = self.body;
        let (left, names_at) = if self.is_own {
            (varint(self.bytes, &mut at) as usize, None)
        } else {
            (self.names, Some(self.names_at))
        };
        Fields { bytes: self.bytes, names_at, at, left }
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = Item<'a>;

    #[inline]
    fn next(&mut self) -> Option<Item<'a>> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let from = self.at;
        let mut at = from;
        let head = self.bytes[at];
        at += 1;
        let mut ms = ((head >> 2) & ((1 << MS_BITS) - 1)) as u64;
        if head & MORE != 0 {
            ms |= varint(self.bytes, &mut at) << MS_BITS;
        }
        let seq = match (head & SEQ != 0, ms) {
            (true, 0) => self.before.seq.wrapping_add(varint(self.bytes, &mut at)),
            (true, _) => varint(self.bytes, &mut at),
            (false, 0) => self.before.seq.wrapping_add(1),
            (false, _) => 0,
        };
        let id = StreamId::new(self.before.ms.wrapping_add(ms), seq);
        let (body, is_own) = (at, head & OWN != 0);
        let parts = if is_own { 2 * varint(self.bytes, &mut at) as usize } else { self.names };
        (0..parts).for_each(|_| part::skip(self.bytes, &mut at));
        (self.at, self.before) = (at, id);
        let (bytes, names, names_at) = (self.bytes, self.names, self.names_at);
        Some(Item { id, at: from, body, is_own, bytes, names, names_at })
    }
}

/// The fields of an entry in order: name and value.
#[derive(Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    /// Where the next name stands; `None`: before its value.
    names_at: Option<usize>,
    at: usize,
    left: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Part<'a>, Part<'a>);

    #[inline]
    fn next(&mut self) -> Option<(Part<'a>, Part<'a>)> {
        self.left = self.left.checked_sub(1)?;
        let name = match &mut self.names_at {
            Some(at) => part::read(self.bytes, at),
            None => part::read(self.bytes, &mut self.at),
        };
        Some((name, part::read(self.bytes, &mut self.at)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}
