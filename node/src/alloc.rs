//! The process's allocator: jemalloc with size classes eight bytes apart, as Redis and Valkey build it.
//!
//! The quantum of 8 comes from `JEMALLOC_SYS_WITH_LG_QUANTUM` in `.cargo/config.toml`. A build from elsewhere gets
//! jemalloc's 16: correct all the same, with up to eight bytes more per allocation; [`quantum`] tells which it is.
//! `tikv-jemallocator` is not used because it passes no alignment for layouts of 16 bytes aligned to 16, which a
//! quantum of 8 does not give by itself.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use tikv_jemalloc_sys as je;

/// To be registered as the global allocator by a binary.
pub struct Jemalloc;

/// Freed pages go back to the kernel after a second, by a thread of the allocator's own: resident memory follows what
/// is in use, and no command pays for it. Few arenas: each keeps partly filled pages of its own.
#[repr(transparent)]
pub struct Conf(*const c_char);
// SAFETY: points to a constant.
unsafe impl Sync for Conf {}
// SAFETY: jemalloc reads a symbol of this name and type when it starts; nothing else defines it.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static CONF: Conf =
    Conf(c"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4".as_ptr());

#[inline]
fn flags(layout: &Layout) -> c_int {
    if layout.align() <= 8 { 0 } else { layout.align().trailing_zeros() as c_int }
}

// SAFETY: every function returns what the trait asks for: memory of at least the size, at the alignment (eight bytes by
// the quantum of any build, more by flag), freed with the flags it was allocated with.
unsafe impl GlobalAlloc for Jemalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is not zero by the trait's contract.
        unsafe {
            match flags(&layout) {
                0 => je::malloc(layout.size()).cast(),
                flags => je::mallocx(layout.size(), flags).cast(),
            }
        }
    }
    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match flags(&layout) {
                0 => je::calloc(1, layout.size()).cast(),
                flags => je::mallocx(layout.size(), flags | je::MALLOCX_ZERO).cast(),
            }
        }
    }
    #[inline]
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: allocated here with this layout, hence with these flags.
        unsafe { je::sdallocx(p.cast(), layout.size(), flags(&layout)) }
    }
    #[inline]
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; the new size is not zero by the trait's contract.
        unsafe {
            match flags(&layout) {
                0 => je::realloc(p.cast(), size).cast(),
                flags => je::rallocx(p.cast(), size, flags).cast(),
            }
        }
    }
}

/// Distance of the smallest size classes in bytes: 8, or 16 in a build without this workspace's settings. `None`: the
/// allocator does not answer.
pub fn quantum() -> Option<usize> {
    read(c"arenas.quantum")
}

/// What the allocator has taken from the kernel and handed out.
pub fn memory() -> Option<Memory> {
    let epoch = 1u64;
    // SAFETY: the name ends with a zero; the value is a u64, as the manual says of `epoch`.
    let renewed = unsafe {
        je::mallctl(
            c"epoch".as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            (&raw const epoch).cast_mut().cast::<c_void>(),
            size_of::<u64>(),
        )
    };
    if renewed != 0 {
        return None;
    }
    Some(Memory {
        allocated: read(c"stats.allocated")? as u64,
        active: read(c"stats.active")? as u64,
        resident: read(c"stats.resident")? as u64,
    })
}

/// Gives pages that hold nothing back to the kernel.
pub fn purge() {
    // SAFETY: the name ends with a zero, and is an action without values; 4096 stands for all arenas.
    unsafe {
        je::mallctl(c"arena.4096.purge".as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
    }
}

/// What jemalloc counts.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes handed out.
    pub allocated: u64,
    /// Bytes of pages that hold any of them.
    pub active: u64,
    /// Bytes of pages that are mapped to memory.
    pub resident: u64,
}

/// A number that the allocator shows under a name of its manual, such as `arenas.page`.
pub fn number(name: &str) -> Option<usize> {
    read(&std::ffi::CString::new(name).ok()?)
}

fn read(name: &std::ffi::CStr) -> Option<usize> {
    let (mut value, mut size) = (0usize, size_of::<usize>());
    // SAFETY: the name ends with a zero; the values read here are size_t, as the manual says.
    let failed =
        unsafe { je::mallctl(name.as_ptr(), (&raw mut value).cast(), &mut size, ptr::null_mut(), 0) };
    (failed == 0 && size == size_of::<usize>()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_builds_with_a_quantum_of_eight() {
        assert_eq!(quantum(), Some(8));
        // Other tests allocate between one number and the next.
        assert!(memory().is_some_and(|m| m.resident > 0 && m.active > 0 && m.allocated > 0));
    }

    #[test]
    fn every_size_at_every_alignment_keeps_its_bytes() {
        for align in (0..13).map(|bits| 1usize << bits) {
            for size in 1..600usize {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: allocated, grown and freed with matching layouts.
                unsafe {
                    let p = Jemalloc.alloc(layout);
                    assert_eq!(p.addr() % align, 0, "{size} at {align}");
                    p.write_bytes(7, size);
                    let p = Jemalloc.realloc(p, layout, size + 90);
                    assert_eq!(p.addr() % align, 0, "{size} at {align}, grown");
                    assert!(std::slice::from_raw_parts(p, size).iter().all(|&b| b == 7));
                    Jemalloc.dealloc(p, Layout::from_size_align(size + 90, align).unwrap());
                    let p = Jemalloc.alloc_zeroed(layout);
                    assert_eq!(p.addr() % align, 0, "{size} at {align}, zeroed");
                    assert!(std::slice::from_raw_parts(p, size).iter().all(|&b| b == 0));
                    Jemalloc.dealloc(p, layout);
                }
            }
        }
    }
}
