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
    cold: Vec<Spare>,
    /// Spans whose memory is still there.
    warm: Vec<Spare>,
}

struct Spare(NonNull<u8>);
// SAFETY: memory that nobody uses.
unsafe impl Send for Spare {}

static POOL: Mutex<Pool> = Mutex::new(Pool { cold: Vec::new(), warm: Vec::new() });

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
    if pool.warm.len() < WARM_MAX {
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
