//! Spans in no use, and the regions of memory that they are cut from.
//!
//! The first regions are of ordinary pages, so that a small keyspace takes no more than it needs. What a large one needs
//! beyond is of huge pages, where the kernel has them: most of a look-up there is waiting for entries, and part of that is
//! for the translation of their addresses. To clear a huge page takes longer than any insert may, so a supplier does it
//! ahead, on a thread of its own ([`supply`]); while there is none, or it is late, ordinary pages do.

use super::span::SPAN_BYTES;
use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Spans asked of the kernel at a time. Choice: 4 MiB, two huge pages; untouched spans take no memory.
const REGION_SPANS: usize = 64;
const REGION_BYTES: usize = REGION_SPANS * SPAN_BYTES;
/// Spans kept with their memory for whoever needs one next: 2 MiB.
const WARM_MAX: usize = 32;
/// Regions of ordinary pages before the first of huge ones: behind 64 MiB, the huge page that is kept ready is little.
const PLAIN_REGIONS: usize = 16;
const HUGE_PAGE: usize = 2 << 20;
const HUGE_PAGE_SPANS: usize = HUGE_PAGE / SPAN_BYTES;
/// Huge pages mapped at a time. Choice: 32 MiB of addresses, so that the largest keyspace has few mappings.
const HUGE_REGION_PAGES: usize = 16;

struct Pool {
    /// Spans whose memory was given back, or never touched.
    cold: Stack,
    /// Spans whose memory is still there.
    warm: Stack,
    /// The fewest of these since [`give_back_idle`] was last called.
    warm_least: usize,
    /// Spans of huge pages that the supplier has cleared.
    ready: Stack,
    plain_regions: usize,
    /// The supplier was called and has not come yet.
    is_called: bool,
}

/// Where huge pages are cut from.
struct HugeRegion {
    next: Option<NonNull<u8>>,
    left: usize,
}
// SAFETY: memory that nobody uses.
unsafe impl Send for HugeRegion {}

static HUGE: Mutex<HugeRegion> = Mutex::new(HugeRegion { next: None, left: 0 });
/// Calls the supplier.
static CALL: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

struct Spare(NonNull<u8>);
// SAFETY: memory that nobody uses.
unsafe impl Send for Spare {}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    cold: Stack::NEW,
    warm: Stack::NEW,
    warm_least: 0,
    ready: Stack::NEW,
    plain_regions: 0,
    is_called: false,
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

impl Pool {
    /// From the low end upwards.
    fn cut(spans: &mut Stack, memory: NonNull<u8>, count: usize) {
        for i in (0..count).rev() {
            // SAFETY: inside the region.
            spans.push(Spare(unsafe { memory.add(i * SPAN_BYTES) }));
        }
    }

    fn take(&mut self) -> NonNull<u8> {
        // What was given back goes first: else addresses would be used up where keys come and go.
        let spare = self.warm.pop().or_else(|| self.cold.pop()).or_else(|| self.ready.pop());
        self.warm_least = self.warm_least.min(self.warm.len);
        if let Some(spare) = spare {
            return spare.0;
        }
        self.plain_regions += 1;
        Pool::cut(&mut self.cold, map(REGION_BYTES, SPAN_BYTES), REGION_SPANS);
        self.cold.pop().expect("a region has spans").0
    }

    /// Another huge page will be needed soon.
    fn is_short(&self) -> bool {
        self.plain_regions >= PLAIN_REGIONS && self.cold.len + self.ready.len < HUGE_PAGE_SPANS
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of a span, aligned to its size. Ends the process when there is none.
pub(super) fn take() -> NonNull<u8> {
    let mut pool = pool();
    let memory = pool.take();
    let is_short = !pool.is_called && pool.is_short();
    if is_short && let Some(call) = CALL.get() {
        pool.is_called = true;
        drop(pool);
        call();
    }
    memory
}

/// Says how the thread that calls [`supply`] is called. The first that says so stays.
pub fn set_supplier(call: Box<dyn Fn() + Send + Sync>) {
    let _ = CALL.set(call);
}

/// Clears a huge page if one will be needed soon: takes the kernel some hundred microseconds, or milliseconds where the
/// machine is virtual and has not had the memory yet. To be called by the supplier, which was called.
pub fn supply() {
    if pool().is_short() {
        // A kernel that has none is not asked again: the supplier is not called any more.
        let Some(page) = clear_huge_page() else { return };
        Pool::cut(&mut pool().ready, page, HUGE_PAGE_SPANS);
    }
    pool().is_called = false;
}

/// `None`: the kernel has none.
fn clear_huge_page() -> Option<NonNull<u8>> {
    let mut region = HUGE.lock().unwrap_or_else(PoisonError::into_inner);
    const REGION: usize = HUGE_REGION_PAGES * HUGE_PAGE;
    if region.left == 0 {
        let memory = map(REGION, REGION);
        // SAFETY: the region was just mapped.
        if unsafe { libc::madvise(memory.as_ptr().cast(), REGION, libc::MADV_HUGEPAGE) } != 0 {
            // SAFETY: as above; nobody knows it.
            unsafe { libc::munmap(memory.as_ptr().cast(), REGION) };
            return None;
        }
        *region = HugeRegion { next: Some(memory), left: HUGE_REGION_PAGES };
    }
    let page = region.next.expect("a region has pages left");
    region.left -= 1;
    // SAFETY: inside the region, or at its end.
    region.next = Some(unsafe { page.add(HUGE_PAGE) });
    let populate = || {
        // SAFETY: mapped above, used by nobody; a kernel that does not know how refuses.
        unsafe { libc::madvise(page.as_ptr().cast(), HUGE_PAGE, libc::MADV_POPULATE_WRITE) == 0 }
    };
    let is_there = populate();
    if region.left == 0 {
        // SAFETY: the whole region. The kernel is not to make up huge pages of what is left when spans went back.
        unsafe {
            let start = page.sub((HUGE_REGION_PAGES - 1) * HUGE_PAGE);
            libc::madvise(start.as_ptr().cast(), REGION, libc::MADV_NOHUGEPAGE);
        }
    }
    is_there.then_some(page)
}

/// Takes a span's memory back.
/// SAFETY: it came from [`take`], and nobody uses it.
pub(super) unsafe fn give(memory: NonNull<u8>) {
    {
        let mut pool = pool();
        if pool.warm.len < WARM_MAX {
            return pool.warm.push(Spare(memory));
        }
    }
    // SAFETY: by contract.
    unsafe { give_back(memory) };
}

/// SAFETY: it came from [`take`], and nobody uses it.
unsafe fn give_back(memory: NonNull<u8>) {
    // SAFETY: whole pages by contract; they read as zeros when next touched. A kernel that refuses keeps them.
    unsafe { libc::madvise(memory.as_ptr().cast(), SPAN_BYTES, libc::MADV_DONTNEED) };
    pool().cold.push(Spare(memory));
}

/// Gives the kernel the memory of spans that nobody has needed since this was last called. To be called now and then.
pub fn give_back_idle() {
    let idle = {
        let pool = &mut *pool();
        std::mem::replace(&mut pool.warm_least, pool.warm.len)
    };
    for _ in 0..idle {
        let Some(spare) = pool().warm.pop() else { return };
        // SAFETY: the pool's spares are nobody's.
        unsafe { give_back(spare.0) };
    }
    let pool = &mut *pool();
    pool.warm_least = pool.warm.len;
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
    fn a_huge_page_is_cleared_and_writable() {
        // The kernel may have none; then it says so.
        let Some(page) = clear_huge_page() else { return };
        assert!(page.addr().get().is_multiple_of(HUGE_PAGE));
        // SAFETY: nobody else has it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(page.as_ptr(), HUGE_PAGE) };
        assert!(bytes.iter().all(|b| *b == 0));
        bytes.fill(1);
    }

    #[test]
    fn what_is_idle_goes_back_and_is_used_again() {
        let spans: Vec<_> = (0..4).map(|_| take()).collect();
        for span in spans {
            // SAFETY: taken above, and used by nobody else.
            unsafe {
                span.write_bytes(7, SPAN_BYTES);
                give(span);
            }
        }
        // Others take and give meanwhile.
        give_back_idle();
        give_back_idle();
        let span = take();
        // SAFETY: it is ours, and all memory of the pool is readable.
        unsafe {
            span.write_bytes(1, SPAN_BYTES);
            assert_eq!(span.add(SPAN_BYTES - 1).read(), 1);
            give(span);
        }
    }

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
