//! One allocation per key: header, expiry when there is one, key, and the value or a pointer to it.
//!
//! ```text
//! 0     flags u8   kind in the low three bits, then EXPIRES, LONG_KEY, SPLIT, RAW
//! 1     klen u8    length of the key, unless LONG_KEY
//! 2     vlen u16   length of an embedded string
//! 4     clock u32  access clock (LRU or LFU), atomic: readers touch it
//! 8     [expiry i64, ms since 1970]  when EXPIRES; i64::MIN means none
//!       [klen u32]                   when LONG_KEY
//!       key
//!       embedded string | [vlen u32][pointer] when SPLIT | [pointer] to a boxed collection
//! ```
//! A string leaves the entry (SPLIT) when that takes less memory, by allocator class, or when it is 64 KiB or longer.
//! Everything behind the header is unaligned. The unsafe code of an entry is all in this file.

use crate::size::{class_layout, class_size};
use crate::value::{Kind, Value, ValueMut, ValueRef, str_encoding};
use crate::{Hash, List, Set, Stream, ZSet};
use std::alloc::{alloc, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

const KIND: u8 = 0x07;
const EXPIRES: u8 = 0x08;
const LONG_KEY: u8 = 0x10;
const SPLIT: u8 = 0x20;
const RAW: u8 = 0x40;

const HEADER: usize = 8;
const SPLIT_BODY: usize = 12;
const POINTER_BODY: usize = 8;
/// A string of this length or longer is always split: `vlen` has 16 bits.
const EMBED_LIMIT: usize = 1 << 16;
/// Longest key and longest string, in bytes: `proto-max-bulk-len`'s ceiling. Callers check before.
pub(crate) const LENGTH_MAX: usize = u32::MAX as usize;
const NO_EXPIRY: i64 = i64::MIN;

/// A live entry. Whoever holds one holds its slot's lock (or owns the entry alone).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawEntry(NonNull<u8>);

/// What a new entry is made of.
pub(crate) enum Content<'a> {
    Str(&'a [u8]),
    Owned(Value),
}

/// Where a string of some length goes in an entry whose part before the value has `head` bytes.
fn is_split(head: usize, len: usize) -> bool {
    if len >= EMBED_LIMIT {
        return true;
    }
    let embedded = class_size(head + len);
    embedded > 256 && embedded > class_size(head + SPLIT_BODY) + class_size(len) + 8
}

fn head_len(key: &[u8], expires: bool) -> usize {
    HEADER + if expires { 8 } else { 0 } + if key.len() > 254 { 4 } else { 0 } + key.len()
}

fn allocate(size: usize) -> NonNull<u8> {
    let layout = class_layout(size);
    // SAFETY: a class is never of size zero.
    let p = unsafe { alloc(layout) };
    NonNull::new(p).unwrap_or_else(|| handle_alloc_error(layout))
}

impl RawEntry {
    /// A new entry, to be freed with [`RawEntry::free`] or [`RawEntry::into_value`].
    pub(crate) fn create(key: &[u8], content: Content<'_>, expire: Option<i64>, clock: u32) -> RawEntry {
        assert!(key.len() <= LENGTH_MAX);
        let head = head_len(key, expire.is_some());
        let mut flags =
            if expire.is_some() { EXPIRES } else { 0 } | if key.len() > 254 { LONG_KEY } else { 0 };
        let owned;
        let bytes = match content {
            Content::Str(bytes) => bytes,
            Content::Owned(Value::Str(boxed)) => {
                owned = boxed;
                &owned
            }
            Content::Owned(value) => {
                let (kind, pointer) = into_pointer(value);
                let e = RawEntry::write_head(head + POINTER_BODY, flags | kind as u8, key, expire, clock);
                // SAFETY: the body of eight bytes was allocated behind the head.
                unsafe { e.body().cast::<*mut u8>().write_unaligned(pointer) };
                return e;
            }
        };
        assert!(bytes.len() <= LENGTH_MAX);
        if is_split(head, bytes.len()) {
            flags |= SPLIT;
            let e = RawEntry::write_head(head + SPLIT_BODY, flags, key, expire, clock);
            let buffer = allocate(bytes.len());
            // SAFETY: the buffer has room for `bytes`, the body for length and pointer.
            unsafe {
                buffer.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                e.set_split(buffer.as_ptr(), bytes.len());
            }
            e
        } else {
            let e = RawEntry::write_head(head + bytes.len(), flags, key, expire, clock);
            // SAFETY: the body has room for `bytes`; `vlen` lies at offset 2, aligned to 2.
            unsafe {
                e.body().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                e.set_vlen(bytes.len());
            }
            e
        }
    }

    fn write_head(size: usize, flags: u8, key: &[u8], expire: Option<i64>, clock: u32) -> RawEntry {
        let p = allocate(size);
        let e = RawEntry(p);
        // SAFETY: `size` covers the head of this key with these flags; nobody else knows the allocation yet.
        unsafe {
            let p = p.as_ptr();
            p.write(flags);
            p.add(1).write(if flags & LONG_KEY != 0 { 255 } else { key.len() as u8 });
            e.set_vlen(0);
            p.add(4).cast::<u32>().write(clock);
            if let Some(at) = expire {
                p.add(HEADER).cast::<i64>().write_unaligned(at);
            }
            if flags & LONG_KEY != 0 {
                p.add(e.key_start() - 4).cast::<u32>().write_unaligned(key.len() as u32);
            }
            p.add(e.key_start()).copy_from_nonoverlapping(key.as_ptr(), key.len());
        }
        e
    }

    /// The address as an integer, to be stored in a segment.
    #[inline]
    pub(crate) fn expose(self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
    /// SAFETY: `address` came from [`RawEntry::expose`] of an entry that is still live.
    #[inline]
    pub(crate) unsafe fn from_exposed(address: u64) -> RawEntry {
        // SAFETY: by contract the address is that of an entry, hence not null.
        RawEntry(unsafe { NonNull::new_unchecked(std::ptr::with_exposed_provenance_mut(address as usize)) })
    }

    #[inline]
    fn flags(self) -> u8 {
        // SAFETY: the header is initialised for the entry's whole life; so in the functions below.
        unsafe { self.0.read() }
    }
    fn set_flags(self, flags: u8) {
        // SAFETY: as in `flags`; writers hold the slot's lock.
        unsafe { self.0.write(flags) }
    }
    #[inline]
    pub(crate) fn kind(self) -> Kind {
        match self.flags() & KIND {
            0 => Kind::Str,
            1 => Kind::List,
            2 => Kind::Set,
            3 => Kind::Hash,
            4 => Kind::ZSet,
            5 => Kind::Stream,
            other => unreachable!("kind {other}"),
        }
    }
    #[inline]
    fn key_start(self) -> usize {
        let flags = self.flags();
        HEADER + ((flags & EXPIRES) as usize) + if flags & LONG_KEY != 0 { 4 } else { 0 }
    }
    #[inline]
    fn key_len(self) -> usize {
        // SAFETY: the long length stands right before the key.
        unsafe {
            if self.flags() & LONG_KEY != 0 {
                self.0.as_ptr().add(self.key_start() - 4).cast::<u32>().read_unaligned() as usize
            } else {
                self.0.as_ptr().add(1).read() as usize
            }
        }
    }
    #[inline]
    pub(crate) fn key<'a>(self) -> &'a [u8] {
        // SAFETY: the key's bytes live as long as the entry; `'a` is bounded by the public wrappers.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(self.key_start()), self.key_len()) }
    }
    #[inline]
    fn head(self) -> usize {
        self.key_start() + self.key_len()
    }
    #[inline]
    fn body(self) -> *mut u8 {
        // SAFETY: the body begins inside the allocation, or at its end for an empty string.
        unsafe { self.0.as_ptr().add(self.head()) }
    }
    fn set_vlen(self, len: usize) {
        // SAFETY: offset 2 of an allocation aligned to 8.
        unsafe { self.0.as_ptr().add(2).cast::<u16>().write(len as u16) }
    }
    /// SAFETY: the entry was laid out with SPLIT; `buffer` is an allocation for `len` bytes.
    unsafe fn set_split(self, buffer: *mut u8, len: usize) {
        // SAFETY: by contract the body has twelve bytes.
        unsafe {
            self.body().cast::<u32>().write_unaligned(len as u32);
            self.body().add(4).cast::<*mut u8>().write_unaligned(buffer);
        }
    }
    #[inline]
    fn is_split_str(self) -> bool {
        self.flags() & SPLIT != 0
    }
    fn str_len(self) -> usize {
        // SAFETY: the length of a split string stands at the body's begin.
        unsafe {
            if self.is_split_str() {
                self.body().cast::<u32>().read_unaligned() as usize
            } else {
                self.0.as_ptr().add(2).cast::<u16>().read() as usize
            }
        }
    }
    #[inline]
    fn str_ptr(self) -> *mut u8 {
        // SAFETY: the pointer of a split string stands behind its length.
        unsafe {
            if self.is_split_str() {
                self.body().add(4).cast::<*mut u8>().read_unaligned()
            } else {
                self.body()
            }
        }
    }
    fn boxed(self) -> *mut u8 {
        // SAFETY: only called for collections, whose body is a pointer.
        unsafe { self.body().cast::<*mut u8>().read_unaligned() }
    }
    fn size(self) -> usize {
        self.head()
            + match (self.kind(), self.is_split_str()) {
                (Kind::Str, false) => self.str_len(),
                (Kind::Str, true) => SPLIT_BODY,
                _ => POINTER_BODY,
            }
    }

    /// Bytes of memory the entry and its value take.
    pub(crate) fn bytes(self) -> usize {
        let outside =
            if self.is_split_str() { class_size(self.str_len()) } else { self.value().outside_bytes() };
        class_size(self.size()) + outside
    }

    #[inline]
    pub(crate) fn value<'a>(self) -> ValueRef<'a> {
        let p = match self.kind() {
            // SAFETY: pointer and length describe the string's initialised bytes.
            Kind::Str => unsafe {
                return ValueRef::Str(std::slice::from_raw_parts(self.str_ptr(), self.str_len()));
            },
            _ => self.boxed(),
        };
        // SAFETY: the pointer came from Box::into_raw of the type that `kind` names.
        unsafe {
            match self.kind() {
                Kind::Str => unreachable!(),
                Kind::List => ValueRef::List(&*p.cast()),
                Kind::Set => ValueRef::Set(&*p.cast()),
                Kind::Hash => ValueRef::Hash(&*p.cast()),
                Kind::ZSet => ValueRef::ZSet(&*p.cast()),
                Kind::Stream => ValueRef::Stream(&*p.cast()),
            }
        }
    }
    /// SAFETY: no other reference into the entry's value lives.
    pub(crate) unsafe fn value_mut<'a>(self) -> ValueMut<'a> {
        // SAFETY: as in `value`, and unique by contract.
        unsafe {
            match self.kind() {
                Kind::Str => ValueMut::Str(std::slice::from_raw_parts_mut(self.str_ptr(), self.str_len())),
                Kind::List => ValueMut::List(&mut *self.boxed().cast()),
                Kind::Set => ValueMut::Set(&mut *self.boxed().cast()),
                Kind::Hash => ValueMut::Hash(&mut *self.boxed().cast()),
                Kind::ZSet => ValueMut::ZSet(&mut *self.boxed().cast()),
                Kind::Stream => ValueMut::Stream(&mut *self.boxed().cast()),
            }
        }
    }

    #[inline]
    pub(crate) fn expire_ms(self) -> Option<i64> {
        if self.flags() & EXPIRES == 0 {
            return None;
        }
        // SAFETY: the field exists by its flag.
        let at = unsafe { self.0.as_ptr().add(HEADER).cast::<i64>().read_unaligned() };
        (at != NO_EXPIRY).then_some(at)
    }
    #[inline]
    pub(crate) fn clock(self) -> &'static AtomicU32 {
        // SAFETY: offset 4 of an allocation aligned to 8; all access to it is atomic once the entry is published.
        // The lifetime is the entry's; only this crate's wrappers see the reference and none keeps it.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(4).cast()) }
    }
    pub(crate) fn is_raw(self) -> bool {
        self.flags() & RAW != 0
    }
    pub(crate) fn mark_raw(self) {
        self.set_flags(self.flags() | RAW);
    }

    /// Replaces the value by a string and the expiry by `expire`; the key stays. Returns the entry's new place.
    /// SAFETY: the caller owns the entry (slot lock) and uses only the returned one from now on.
    pub(crate) unsafe fn set_str(self, bytes: &[u8], expire: Option<i64>) -> RawEntry {
        let (key_len, flags) = (self.key_len(), self.flags());
        let old_head = self.head();
        let head = old_head - (flags & EXPIRES) as usize + if expire.is_some() { 8 } else { 0 };
        let split = is_split(head, bytes.len());
        if self.kind() == Kind::Str && split == self.is_split_str() {
            if !split && class_size(head + bytes.len()) == class_size(self.size()) {
                // SAFETY: the class covers the new head and value; the key moves before its old place is reused.
                unsafe {
                    let from = self.0.as_ptr().add(self.key_start());
                    self.set_flags((flags & !(EXPIRES | RAW)) | if expire.is_some() { EXPIRES } else { 0 });
                    if head != old_head {
                        from.copy_to(self.0.as_ptr().add(head - key_len), key_len);
                        if flags & LONG_KEY != 0 {
                            let at = self.0.as_ptr().add(head - key_len - 4);
                            at.cast::<u32>().write_unaligned(key_len as u32);
                        }
                    }
                    if let Some(at) = expire {
                        self.0.as_ptr().add(HEADER).cast::<i64>().write_unaligned(at);
                    }
                    self.set_vlen(bytes.len());
                    self.body().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                }
                return self;
            }
            if split && head == old_head && class_size(bytes.len()) == class_size(self.str_len()) {
                // SAFETY: the buffer's class covers the new length.
                unsafe {
                    let buffer = self.str_ptr();
                    buffer.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                    self.set_split(buffer, bytes.len());
                    if let Some(at) = expire {
                        self.0.as_ptr().add(HEADER).cast::<i64>().write_unaligned(at);
                    }
                    self.set_flags(flags & !RAW);
                }
                return self;
            }
        }
        let clock = self.clock().load(Ordering::Relaxed);
        let new = RawEntry::create(self.key(), Content::Str(bytes), expire, clock);
        // SAFETY: the caller gives up the old entry.
        unsafe { self.free() };
        new
    }

    /// Changes the length of a string; new bytes are zero. Returns the entry's new place.
    /// SAFETY: as [`RawEntry::set_str`]; the entry holds a string.
    pub(crate) unsafe fn resize_str(self, len: usize) -> RawEntry {
        assert!(self.kind() == Kind::Str && len <= LENGTH_MAX);
        let old = self.str_len();
        let (head, split) = (self.head(), is_split(self.head(), len));
        // SAFETY: each branch writes only inside the class of what it allocated or found allocated.
        unsafe {
            if split && self.is_split_str() {
                let mut buffer = self.str_ptr();
                if class_size(len) != class_size(old) {
                    let layout = class_layout(old);
                    buffer = realloc(buffer, layout, class_size(len));
                    if buffer.is_null() {
                        handle_alloc_error(class_layout(len));
                    }
                }
                if len > old {
                    buffer.add(old).write_bytes(0, len - old);
                }
                self.set_split(buffer, len);
                return self;
            }
            if !split && !self.is_split_str() && class_size(head + len) == class_size(head + old) {
                if len > old {
                    self.body().add(old).write_bytes(0, len - old);
                }
                self.set_vlen(len);
                return self;
            }
            let ValueRef::Str(bytes) = self.value() else { unreachable!() };
            let clock = self.clock().load(Ordering::Relaxed);
            let keep = &bytes[..old.min(len)];
            let new = RawEntry::create_sized(self.key(), keep, len, self.expire_ms(), clock);
            new.set_flags(new.flags() | self.flags() & RAW);
            self.free();
            new
        }
    }

    /// An entry with a string of `len` bytes: `bytes`, then zeros.
    fn create_sized(key: &[u8], bytes: &[u8], len: usize, expire: Option<i64>, clock: u32) -> RawEntry {
        let head = head_len(key, expire.is_some());
        let base = if expire.is_some() { EXPIRES } else { 0 } | if key.len() > 254 { LONG_KEY } else { 0 };
        let split = is_split(head, len);
        let (body, flags) = if split { (SPLIT_BODY, base | SPLIT) } else { (len, base) };
        let e = RawEntry::write_head(head + body, flags, key, expire, clock);
        // SAFETY: body or buffer have room for `len` bytes.
        unsafe {
            let to = if split {
                let buffer = allocate(len).as_ptr();
                e.set_split(buffer, len);
                buffer
            } else {
                e.set_vlen(len);
                e.body()
            };
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            to.add(bytes.len()).write_bytes(0, len - bytes.len());
        }
        e
    }

    /// Sets or takes away the expiry. Returns the entry's new place.
    /// SAFETY: as [`RawEntry::set_str`].
    pub(crate) unsafe fn set_expire(self, expire: Option<i64>) -> RawEntry {
        if self.flags() & EXPIRES != 0 {
            // SAFETY: the field exists; it stays when the expiry goes, until the value is next rewritten.
            unsafe { self.0.as_ptr().add(HEADER).cast::<i64>().write_unaligned(expire.unwrap_or(NO_EXPIRY)) };
            return self;
        }
        let Some(at) = expire else { return self };
        let size = self.size();
        // SAFETY: all behind the header moves up by eight bytes, in place if the class has room, else to a new
        // allocation; a boxed or split value goes along as its pointer.
        unsafe {
            let from = self.0.as_ptr();
            let to =
                if class_size(size + 8) == class_size(size) { from } else { allocate(size + 8).as_ptr() };
            from.add(HEADER).copy_to(to.add(HEADER + 8), size - HEADER);
            if to != from {
                to.copy_from_nonoverlapping(from, HEADER);
                dealloc(from, class_layout(size));
            }
            to.write(to.read() | EXPIRES);
            to.add(HEADER).cast::<i64>().write_unaligned(at);
            RawEntry(NonNull::new_unchecked(to))
        }
    }

    /// Replaces the value, keeping key and clock. Returns the entry's new place.
    /// SAFETY: as [`RawEntry::set_str`].
    pub(crate) unsafe fn replace(self, value: Value, expire: Option<i64>) -> RawEntry {
        let clock = self.clock().load(Ordering::Relaxed);
        let new = RawEntry::create(self.key(), Content::Owned(value), expire, clock);
        // SAFETY: the caller gives up the old entry.
        unsafe { self.free() };
        new
    }

    /// Frees the entry and its value.
    /// SAFETY: nobody uses the entry any more.
    pub(crate) unsafe fn free(self) {
        // SAFETY: each pointer is freed with the layout it was allocated with.
        unsafe {
            match self.kind() {
                Kind::Str if self.is_split_str() => dealloc(self.str_ptr(), class_layout(self.str_len())),
                Kind::Str => {}
                _ => drop(self.value_of_box()),
            }
            dealloc(self.0.as_ptr(), class_layout(self.size()));
        }
    }

    /// Frees the entry and hands out its value.
    /// SAFETY: nobody uses the entry any more.
    pub(crate) unsafe fn into_value(self) -> Value {
        match self.value() {
            ValueRef::Str(bytes) => {
                let value = Value::Str(bytes.into());
                // SAFETY: by contract.
                unsafe { self.free() };
                value
            }
            // SAFETY: by contract; the box is not freed with the entry here.
            _ => unsafe {
                let value = self.value_of_box();
                dealloc(self.0.as_ptr(), class_layout(self.size()));
                value
            },
        }
    }

    /// SAFETY: the entry's pointer is not used again.
    unsafe fn value_of_box(self) -> Value {
        let p = self.boxed();
        // SAFETY: the pointer came from Box::into_raw of the type that `kind` names.
        unsafe {
            match self.kind() {
                Kind::Str => unreachable!("strings are not boxed"),
                Kind::List => Value::List(Box::from_raw(p.cast::<List>())),
                Kind::Set => Value::Set(Box::from_raw(p.cast::<Set>())),
                Kind::Hash => Value::Hash(Box::from_raw(p.cast::<Hash>())),
                Kind::ZSet => Value::ZSet(Box::from_raw(p.cast::<ZSet>())),
                Kind::Stream => Value::Stream(Box::from_raw(p.cast::<Stream>())),
            }
        }
    }

    /// Asks the CPU for the entry's first two lines.
    #[inline]
    pub(crate) fn prefetch(self) {
        crate::segment::prefetch(self.0.as_ptr());
        crate::segment::prefetch(self.0.as_ptr().wrapping_add(64));
    }
}

fn into_pointer(value: Value) -> (Kind, *mut u8) {
    match value {
        Value::Str(_) => unreachable!("strings are not boxed"),
        Value::List(v) => (Kind::List, Box::into_raw(v).cast()),
        Value::Set(v) => (Kind::Set, Box::into_raw(v).cast()),
        Value::Hash(v) => (Kind::Hash, Box::into_raw(v).cast()),
        Value::ZSet(v) => (Kind::ZSet, Box::into_raw(v).cast()),
        Value::Stream(v) => (Kind::Stream, Box::into_raw(v).cast()),
    }
}

/// A key and its value, read under the slot's lock.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    raw: RawEntry,
    lock: PhantomData<&'a ()>,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(raw: RawEntry) -> Entry<'a> {
        Entry { raw, lock: PhantomData }
    }
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        self.raw.key()
    }
    #[inline]
    pub fn value(&self) -> ValueRef<'a> {
        self.raw.value()
    }
    #[inline]
    pub fn kind(&self) -> Kind {
        self.raw.kind()
    }
    /// When the key expires, in ms since 1970.
    #[inline]
    pub fn expire_ms(&self) -> Option<i64> {
        self.raw.expire_ms()
    }
    /// Access clock: whatever the eviction policy keeps there (LRU or LFU); 0 for a new key.
    #[inline]
    pub fn clock(&self) -> u32 {
        self.raw.clock().load(Ordering::Relaxed)
    }
    /// Sets the access clock; allowed to readers.
    #[inline]
    pub fn set_clock(&self, clock: u32) {
        self.raw.clock().store(clock, Ordering::Relaxed);
    }
    /// Bytes of memory that the key and its value take, without the share of the table.
    pub fn bytes(&self) -> usize {
        self.raw.bytes()
    }
    /// The name OBJECT ENCODING prints.
    pub fn encoding(&self) -> &'static str {
        match self.value() {
            ValueRef::Str(_) if self.raw.is_raw() => "raw",
            ValueRef::Str(bytes) => str_encoding(bytes),
            ValueRef::List(v) => v.encoding(),
            ValueRef::Set(v) => v.encoding(),
            ValueRef::Hash(v) => v.encoding(),
            ValueRef::ZSet(v) => v.encoding(),
            ValueRef::Stream(v) => v.encoding(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(e: RawEntry) -> Vec<u8> {
        match e.value() {
            ValueRef::Str(bytes) => bytes.to_vec(),
            _ => panic!("not a string"),
        }
    }

    #[test]
    fn every_layout_keeps_key_value_expiry_and_clock() {
        for key_len in [0, 1, 16, 254, 255, 300, 70_000] {
            for len in [0, 1, 44, 1000, 1024, 5000, 65_535, 65_536, 200_000] {
                for expire in [None, Some(77)] {
                    let (key, value) = (vec![b'k'; key_len], vec![b'v'; len]);
                    let e = RawEntry::create(&key, Content::Str(&value), expire, 9);
                    assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value.clone(), expire));
                    assert!(e.bytes() >= key_len + len + 8);
                    // SAFETY: the test owns the entry.
                    unsafe {
                        let e = e.set_expire(Some(-5));
                        assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value.clone(), Some(-5)));
                        let e = e.set_expire(None);
                        assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value, None));
                        assert_eq!(e.clock().load(Ordering::Relaxed), 9);
                        e.free();
                    }
                }
            }
        }
    }

    #[test]
    fn overwrite_and_resize_go_through_all_forms() {
        let sizes = [3, 4, 40, 1000, 1030, 3, 66_000, 66_010, 100_000, 0, 1025, 1024, 9];
        for key_len in [5, 255] {
            let key = vec![b'k'; key_len];
            let mut e = RawEntry::create(&key, Content::Str(b""), None, 1);
            for (i, &len) in sizes.iter().enumerate() {
                let value = vec![i as u8 + 1; len];
                let expire = (i % 3 == 0).then_some(i as i64);
                // SAFETY: the test owns the entry.
                e = unsafe { e.set_str(&value, expire) };
                assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value.clone(), expire));
                for &other in &sizes {
                    let old = text(e);
                    // SAFETY: the test owns the entry.
                    e = unsafe { e.resize_str(other) };
                    let mut expect = old;
                    expect.resize(other, 0);
                    assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], expect, expire));
                }
            }
            // SAFETY: the test owns the entry.
            unsafe { e.free() };
        }
    }

    #[test]
    fn sizes_are_those_of_the_design() {
        let bytes = |key: usize, value: usize, expire| {
            let e = RawEntry::create(&vec![1; key], Content::Str(&vec![2; value]), expire, 0);
            let n = e.bytes();
            // SAFETY: the test owns the entry.
            unsafe { e.free() };
            n
        };
        assert_eq!(bytes(16, 16, None), 40);
        assert_eq!(bytes(16, 16, Some(1)), 48);
        assert_eq!(bytes(16, 64, None), 96);
        assert_eq!(bytes(16, 1000, None), 1024);
        // Split: 40 for the head, 1024 for the value, instead of a class of 1280.
        assert_eq!(bytes(16, 1024, None), 40 + 1024);
    }

    #[test]
    fn equal_classes_are_overwritten_in_place() {
        let e = RawEntry::create(b"0123456789abcdef", Content::Str(b"0123456789abcdef"), None, 0);
        // SAFETY: the test owns the entry.
        unsafe {
            assert!(e.set_str(b"fedcba987654321", None) == e);
            e.free();
        }
    }
}
