//! Spans in no use, and the regions of memory that they are cut from.
//!
//! The first regions are of ordinary pages, so that a small keyspace takes no more than it needs. Those behind are of huge
//! pages where the kernel has them: most of a look-up in a large keyspace is waiting for entries, and part of that is for
//! the translation of their addresses. A region of which a span goes back to the kernel gets no more huge pages, lest the
//! kernel makes up one from what is left and the hole is resident again.

use super::span::SPAN_BYTES;
use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

/// Bytes of a region of ordinary pages. Untouched spans take no memory.
const PLAIN_BYTES: usize = 4 << 20;
/// Bytes of a region of huge pages, and its alignment. As many as keep the number of mappings small in the largest
/// keyspace, as regions end up of two kinds.
const HUGE_BYTES: usize = 32 << 20;
/// Regions of ordinary pages before the first of huge ones: behind 48 MiB, the half-filled huge page at the end of what is
/// used is little.
const PLAIN_REGIONS: usize = 12;
/// Spans kept with their memory for whoever needs one next: 2 MiB.
const WARM_MAX: usize = 32;

struct Pool {
    /// Spans whose memory was given back, or never touched.
    cold: Stack,
    /// Spans whose memory is still there.
    warm: Stack,
    regions: Regions,
}

/// What was mapped so far.
struct Regions {
    plain: usize,
    /// Addresses of those that may get huge pages.
    huge: BTreeMap<usize, MayGetHuge>,
}

/// Cleared when the first span goes back to the kernel.
struct MayGetHuge(bool);

struct Spare(NonNull<u8>);
// SAFETY: memory that nobody uses.
unsafe impl Send for Spare {}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    cold: Stack::NEW,
    warm: Stack::NEW,
    regions: Regions { plain: 0, huge: BTreeMap::new() },
});

/// Spares in blocks: one more never copies those that are there, as a `Vec` that doubles would.
struct Stack {
    top: Option<Box<Block>>,
    len: usize,
}

struct Block {
    spares: [Option<Spare>; Block::SPARES],
    below: Option<Box<Block>>,
}

impl Block {
    const SPARES: usize = 63;
}

impl Stack {
    const NEW: Stack = Stack { top: None, len: 0 };

    fn push(&mut self, spare: Spare) {
        let at = self.len % Block::SPARES;
        if at == 0 {
            let below = self.top.take();
            self.top = Some(Box::new(Block { spares: [const { None }; Block::SPARES], below }));
        }
        self.top.as_mut().expect("made where there was none").spares[at] = Some(spare);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Spare> {
        self.len = self.len.checked_sub(1)?;
        let at = self.len % Block::SPARES;
        let top = self.top.as_mut().expect("a block for every spare");
        let spare = top.spares[at].take();
        if at == 0 {
            self.top = top.below.take();
        }
        spare
    }
}

/// Memory of a span, aligned to its size. Ends the process when there is none.
pub(super) fn take() -> NonNull<u8> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spare) = pool.warm.pop().or_else(|| pool.cold.pop()) {
        return spare.0;
    }
    let (region, bytes) = pool.regions.map_next();
    // From the low end upwards.
    for at in (SPAN_BYTES..bytes).step_by(SPAN_BYTES).rev() {
        // SAFETY: inside the region.
        pool.cold.push(Spare(unsafe { region.add(at) }));
    }
    region
}

/// Takes a span's memory back.
/// SAFETY: it came from [`take`], and nobody uses it.
pub(super) unsafe fn give(memory: NonNull<u8>) {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if pool.warm.len < WARM_MAX {
        return pool.warm.push(Spare(memory));
    }
    pool.regions.end_huge(memory);
    drop(pool);
    // SAFETY: whole pages that nobody uses; they read as zeros when next touched. A kernel that refuses keeps them.
    unsafe { libc::madvise(memory.as_ptr().cast(), SPAN_BYTES, libc::MADV_DONTNEED) };
    POOL.lock().unwrap_or_else(PoisonError::into_inner).cold.push(Spare(memory));
}

impl Regions {
    /// Maps one more region. Returns its bytes as well.
    fn map_next(&mut self) -> (NonNull<u8>, usize) {
        if self.plain < PLAIN_REGIONS {
            self.plain += 1;
            return (map(PLAIN_BYTES, SPAN_BYTES), PLAIN_BYTES);
        }
        let region = map(HUGE_BYTES, HUGE_BYTES);
        // SAFETY: the region was just mapped. A kernel without huge pages refuses, and nothing else changes.
        unsafe { libc::madvise(region.as_ptr().cast(), HUGE_BYTES, libc::MADV_HUGEPAGE) };
        self.huge.insert(region.addr().get(), MayGetHuge(true));
        (region, HUGE_BYTES)
    }

    /// No huge page is made any more in the region that a span is of. Those that are there stay.
    fn end_huge(&mut self, memory: NonNull<u8>) {
        let start = memory.addr().get() & !(HUGE_BYTES - 1);
        if let Some(region) = self.huge.get_mut(&start)
            && std::mem::replace(&mut region.0, false)
        {
            let region = memory.as_ptr().with_addr(start);
            // SAFETY: mapped by `map_next` and never unmapped.
            unsafe { libc::madvise(region.cast(), HUGE_BYTES, libc::MADV_NOHUGEPAGE) };
        }
    }
}

/// Maps memory with an alignment: the kernel aligns to pages only, so more is mapped and the ends are cut off.
fn map(bytes: usize, align: usize) -> NonNull<u8> {
    let length = bytes + align;
    // SAFETY: a new private mapping; what is cut off was just mapped and is nobody's.
    unsafe {
        let p = libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if p == libc::MAP_FAILED {
            handle_alloc_error(Layout::from_size_align(bytes, align).expect("a constant layout"));
        }
        let before = p.addr().next_multiple_of(align) - p.addr();
        if before > 0 {
            libc::munmap(p, before);
        }
        let start = p.byte_add(before);
        let after = length - before - bytes;
        if after > 0 {
            libc::munmap(start.byte_add(bytes), after);
        }
        NonNull::new(start.cast()).expect("a mapping is not at zero")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_gives_back_in_reverse() {
        let mut stack = Stack::NEW;
        let spare = |i: usize| Spare(NonNull::new(std::ptr::without_provenance_mut(i + 1)).unwrap());
        for round in [1, Block::SPARES - 1, Block::SPARES, Block::SPARES + 1, 5 * Block::SPARES] {
            (0..round).for_each(|i| stack.push(spare(i)));
            assert!((0..round).rev().all(|i| stack.pop().is_some_and(|s| s.0.as_ptr().addr() == i + 1)));
            assert!(stack.pop().is_none() && stack.top.is_none());
        }
    }
}
