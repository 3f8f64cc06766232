//! A slot's table of one database: the directory's root and its segments, with growth, shrinking and walks.
//!
//! Costs: an insert copies at most 448 bytes, or splits one segment (62 keys hashed again); a removal merges at most
//! as often as the table is deep. Nothing is ever proportional to the table but freeing it.

use crate::directory::Root;
use crate::entry::RawEntry;
use crate::keyhash::KeyHasher;
use crate::segment::{SEGMENT_MAX, Seg};

/// Two halves are merged when both fit in half a segment: far enough from the split at 62 not to swing.
const MERGE_MAX: usize = SEGMENT_MAX / 2;

/// What table operations need besides the root; collects the bytes they allocate and free.
pub(crate) struct Env {
    pub hasher: KeyHasher,
    pub epoch: u32,
    pub bytes: isize,
}

/// What was in a table that is gone.
pub(crate) struct Freed {
    pub bytes: usize,
    /// Hashes of which some fields expired by themselves.
    pub field_expires: i64,
}

impl Root {
    /// Segment and position of a key, and its entry.
    #[inline(always)] // so that what is found stays in registers
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<(Seg, usize, RawEntry)> {
        let seg = self.locate(hash)?;
        let (i, entry) = seg.find(hash, key)?;
        Some((seg, i, entry))
    }

    /// Adds an entry whose key is not in the table. Its segment, if there is one, is already stamped.
    pub(crate) fn insert(&mut self, hash: u64, entry: RawEntry, env: &mut Env) -> (Seg, usize) {
        let mut seg = match self.locate(hash) {
            Some(seg) => seg,
            None => {
                let seg = Seg::new(1, 0, env.epoch);
                self.put_first(seg);
                env.bytes += seg.bytes() as isize;
                seg
            }
        };
        while seg.is_full() {
            seg = if seg.len() < SEGMENT_MAX {
                self.resize(hash, seg, seg.len() + 1, env)
            } else {
                self.split_segment(hash, seg, env)
            };
        }
        seg.push(hash, entry);
        self.count = self.count.checked_add(1).expect("fewer than 2^32 keys in a slot");
        self.expires += entry.expire_ms().is_some() as u32;
        env.bytes += entry.bytes() as isize;
        (seg, seg.len() - 1)
    }

    fn resize(&mut self, hash: u64, seg: Seg, room: usize, env: &mut Env) -> Seg {
        env.bytes -= seg.bytes() as isize;
        let new = seg.resized(room);
        env.bytes += new.bytes() as isize;
        self.replace(hash, new);
        new
    }

    /// Splits a full segment by one more hash bit; returns the half that `hash` belongs to.
    fn split_segment(&mut self, hash: u64, seg: Seg, env: &mut Env) -> Seg {
        let n = seg.len();
        for i in 0..n {
            seg.entry(i).prefetch();
        }
        let depth = seg.depth() + 1;
        let bit = 1u64 << (64 - depth);
        let mut hashes = [0u64; SEGMENT_MAX];
        let mut ones = 0;
        for (i, h) in hashes[..n].iter_mut().enumerate() {
            *h = env.hasher.hash(seg.entry(i).key());
            ones += (*h & bit != 0) as usize;
        }
        // One more than needed on each side: the newcomer goes to one of them.
        let lower = Seg::new((n - ones + 1).min(SEGMENT_MAX), depth as u8, seg.stamp());
        let upper = Seg::new((ones + 1).min(SEGMENT_MAX), depth as u8, seg.stamp());
        for (i, &h) in hashes[..n].iter().enumerate() {
            let side = if h & bit != 0 { upper } else { lower };
            side.push(h, seg.entry(i));
        }
        env.bytes += self.split(hash, lower, upper);
        env.bytes += (lower.bytes() + upper.bytes()) as isize - seg.bytes() as isize;
        // SAFETY: the directory points to the halves now.
        unsafe { seg.free() };
        if hash & bit != 0 { upper } else { lower }
    }

    /// Takes an entry out of its (stamped) segment; `shrink` is to be called next.
    pub(crate) fn take(&mut self, seg: Seg, i: usize, env: &mut Env) -> RawEntry {
        let entry = seg.swap_remove(i);
        self.count -= 1;
        self.expires -= entry.expire_ms().is_some() as u32;
        env.bytes -= entry.bytes() as isize;
        entry
    }

    /// The segment that the one of `hash` should be merged with. It must be stamped before [`Root::merge_segments`].
    pub(crate) fn merge_candidate(&self, hash: u64) -> Option<Seg> {
        let seg = self.locate(hash)?;
        if seg.len() > MERGE_MAX {
            return None;
        }
        self.buddy(hash).filter(|buddy| buddy.len() + seg.len() <= MERGE_MAX)
    }

    /// Merges the segment of `hash` with its buddy, as [`Root::merge_candidate`] proposed.
    pub(crate) fn merge_segments(&mut self, hash: u64, env: &mut Env) {
        let seg = self.locate(hash).expect("a candidate was found");
        let buddy = self.buddy(hash).expect("a candidate was found");
        assert!(seg.stamp() == buddy.stamp(), "merging may not mix epochs");
        let merged = Seg::new(seg.len() + buddy.len(), seg.depth() as u8 - 1, seg.stamp());
        merged.append(seg);
        merged.append(buddy);
        env.bytes += merged.bytes() as isize - (seg.bytes() + buddy.bytes()) as isize;
        env.bytes -= self.merge(hash, merged);
        // SAFETY: the directory points to the merged one now.
        unsafe {
            seg.free();
            buddy.free();
        }
    }

    /// Gives memory back after a removal: a smaller segment, or none at all.
    pub(crate) fn shrink(&mut self, hash: u64, env: &mut Env) {
        let Some(seg) = self.locate(hash) else { return };
        if self.count == 0 {
            self.clear_first();
            env.bytes -= seg.bytes() as isize;
            // SAFETY: the directory forgot it.
            unsafe { seg.free() };
        } else if let Some(room) = seg.smaller_room() {
            self.resize(hash, seg, room, env);
        }
    }

    /// Calls `each` for the entries of the segment at `cursor` and returns the next cursor, 0 at the end.
    ///
    /// A cursor is the top 48 bits of the hash where the next interval begins. Splits only subdivide intervals and
    /// merges only repeat, so every entry that is present from the first call to the last is seen at least once.
    pub(crate) fn scan(&self, cursor: u64, each: &mut dyn FnMut(RawEntry)) -> u64 {
        let Some((seg, next)) = self.segment_from(cursor << 16) else { return 0 };
        for i in 0..seg.len() {
            seg.entry(i).prefetch();
        }
        for i in 0..seg.len() {
            each(seg.entry(i));
        }
        next.map_or(0, |hash| hash >> 16)
    }

    /// Moves what the segment at `cursor` holds, and itself, out of spans that are being emptied. Returns the next cursor,
    /// 0 at the end.
    pub(crate) fn leave_spans(&mut self, cursor: u64) -> u64 {
        let at = cursor << 16;
        let Some((seg, next)) = self.segment_from(at) else { return 0 };
        for i in 0..seg.len() {
            let entry = seg.entry(i);
            // SAFETY: the table owns its entries, and the segment gets the new place.
            let moved = unsafe { entry.leave_spans() };
            if moved != entry {
                seg.set_entry(i, moved);
            }
        }
        if let Some(moved) = seg.left_span() {
            self.replace(at, moved);
        }
        next.map_or(0, |hash| hash >> 16)
    }

    /// An entry chosen by `rand`: a point in hash space, then one of the entries of its segment, or of the next
    /// segment that has any.
    pub(crate) fn sample(&self, rand: u64) -> Option<RawEntry> {
        if self.count == 0 {
            return None;
        }
        let mut at = rand;
        loop {
            let (seg, next) = self.segment_from(at)?;
            if seg.len() > 0 {
                // The low bits are independent of the high ones that chose the segment.
                return Some(seg.entry((rand as u32 as usize) % seg.len()));
            }
            at = next.unwrap_or(0);
        }
    }

    /// Frees every entry, segment and node. Returns the bytes freed.
    pub(crate) fn free_all(&mut self) -> Freed {
        let (mut bytes, mut field_expires) = (0, 0);
        let nodes = self.take_segments(&mut |seg| {
            bytes += seg.bytes();
            crate::pace::freed(seg.len() as u32 + 1);
            for i in 0..seg.len() {
                seg.entry(i).prefetch();
            }
            for i in 0..seg.len() {
                let entry = seg.entry(i);
                bytes += entry.bytes();
                field_expires += entry.field_expire_ms().is_some() as i64;
                // SAFETY: the table is being taken apart; nobody sees the entry again.
                unsafe { entry.free() };
            }
            // SAFETY: as above.
            unsafe { seg.free() };
        });
        Freed { bytes: bytes + nodes, field_expires }
    }
}
