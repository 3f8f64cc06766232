//! Spans in no use, and the regions of memory that they are cut from.

use super::span::SPAN_BYTES;
use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

/// Spans asked of the kernel at a time. Choice: 4 MiB, two huge pages; untouched spans take no memory.
const REGION_SPANS: usize = 64;
const REGION_BYTES: usize = REGION_SPANS * SPAN_BYTES;
/// Spans kept with their memory for whoever needs one next: 2 MiB.
const WARM_MAX: usize = 32;

struct Pool {
    /// Spans whose memory was given back, or never touched.
    cold: Stack,
    /// Spans whose memory is still there.
    warm: Stack,
}

struct Spare(NonNull<u8>);
// SAFETY: memory that nobody uses.
unsafe impl Send for Spare {}

static POOL: Mutex<Pool> = Mutex::new(Pool { cold: Stack::NEW, warm: Stack::NEW });

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
    let region = map_region();
    // From the low end upwards.
    for i in (1..REGION_SPANS).rev() {
        // SAFETY: inside the region.
        pool.cold.push(Spare(unsafe { region.add(i * SPAN_BYTES) }));
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
    drop(pool);
    // SAFETY: whole pages that nobody uses; they read as zeros when next touched. A kernel that refuses keeps them.
    unsafe { libc::madvise(memory.as_ptr().cast(), SPAN_BYTES, libc::MADV_DONTNEED) };
    POOL.lock().unwrap_or_else(PoisonError::into_inner).cold.push(Spare(memory));
}

/// A region aligned to a span: the kernel aligns to pages only, so a span more is mapped and the ends are cut off.
fn map_region() -> NonNull<u8> {
    let length = REGION_BYTES + SPAN_BYTES;
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
            handle_alloc_error(Layout::from_size_align(REGION_BYTES, SPAN_BYTES).expect("a constant layout"));
        }
        let before = p.addr().next_multiple_of(SPAN_BYTES) - p.addr();
        if before > 0 {
            libc::munmap(p, before);
        }
        let start = p.byte_add(before);
        let after = length - before - REGION_BYTES;
        if after > 0 {
            libc::munmap(start.byte_add(REGION_BYTES), after);
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
