//! One allocation per key: header, expiry when there is one, key, and the value or a pointer to it.
//!
//! ```text
//! 0     flags u8   kind in the low three bits, then EXPIRES, LONG, SPLIT, RAW
//! 1     klen u8    length of the key, unless LONG
//! 2     vlen u16   length of an embedded string
//! 4     clock u24  access clock (LRU or LFU): readers touch it too, under the slot's lock
//! 7     [expiry u40, ms since 2020] when EXPIRES; all ones means none
//!       or, when EXPIRES and LONG, [expiry i64, ms since 1970]; i64::MIN means none
//!       [klen u32] when LONG
//!       key
//!       embedded string | [vlen u32][pointer] when SPLIT | eight bytes of a collection, or a pointer to a boxed stream
//! ```
//! LONG is for keys of 255 bytes and more, and for expiries before 2020 or after 2054. A string leaves the entry (SPLIT)
//! when that takes less memory, by allocator class, or when it is 64 KiB or longer. Everything is unaligned. The unsafe
//! code of an entry is all in this file.

use crate::db::Expiry;
use crate::slab::{self, class_size};
use crate::value::{Kind, Value, ValueMut, ValueRef, str_encoding};
use crate::{Hash, List, Set, Stream, ZSet};
use std::marker::PhantomData;
use std::ptr::NonNull;

const KIND: u8 = 0x07;
const EXPIRES: u8 = 0x08;
const LONG: u8 = 0x10;
const SPLIT: u8 = 0x20;
const RAW: u8 = 0x40;

const HEADER: usize = 7;
/// Key length that stands for a LONG one.
const KEY_LEN_LONG: usize = 255;
const EXPIRY_BYTES: usize = 5;
const EXPIRY_BYTES_LONG: usize = 8;
/// 2020-01-01 in ms since 1970: what short expiries count from.
const EXPIRY_BASE: i64 = 1_577_836_800_000;
const EXPIRY_NONE: u64 = (1 << 40) - 1;
const SPLIT_BODY: usize = 12;
/// Collections are of this size and need no alignment.
const WORD_BODY: usize = 8;
const _: () = {
    assert!(size_of::<List>() == WORD_BODY && align_of::<List>() == 1);
    assert!(size_of::<Set>() == WORD_BODY && align_of::<Set>() == 1);
    assert!(size_of::<Hash>() == WORD_BODY && align_of::<Hash>() == 1);
    assert!(size_of::<ZSet>() == WORD_BODY && align_of::<ZSet>() == 1);
};
/// A string of this length or longer is always split: `vlen` has 16 bits.
const EMBED_LIMIT: usize = 1 << 16;
/// Longest key and longest string, in bytes: `proto-max-bulk-len`'s ceiling, which leaves room for what stands around an
/// element. Callers check before.
pub(crate) const LENGTH_MAX: usize = u32::MAX as usize - (1 << 20);
const NO_EXPIRY: i64 = i64::MIN;

/// A live entry. Whoever holds one holds its slot's lock (or owns the entry alone).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawEntry(NonNull<u8>);

/// What a new entry is made of.
pub(crate) enum Content<'a> {
    Str(&'a [u8]),
    Owned(Value),
}

/// Whether a string of `len` bytes stands apart from an entry whose part before the value has `head` bytes.
fn is_split(head: usize, len: usize) -> bool {
    if len >= EMBED_LIMIT {
        return true;
    }
    let embedded = class_size(head + len);
    embedded > 256 && embedded > class_size(head + SPLIT_BODY) + class_size(len) + 8
}

/// EXPIRES and LONG as an entry with this key length and expiry needs them.
#[inline]
fn shape(key_len: usize, expire: Option<i64>) -> u8 {
    let is_far = |ms: i64| !(0..EXPIRY_NONE as i64).contains(&ms.wrapping_sub(EXPIRY_BASE));
    let is_long = key_len >= KEY_LEN_LONG || expire.is_some_and(is_far);
    (expire.is_some() as u8 * EXPIRES) | (is_long as u8 * LONG)
}

/// Where the key begins in an entry of this shape.
#[inline]
fn key_start(flags: u8) -> usize {
    const START: [u8; 4] = {
        let (short, long) = (EXPIRY_BYTES as u8, EXPIRY_BYTES_LONG as u8);
        [HEADER as u8, HEADER as u8 + short, HEADER as u8 + 4, HEADER as u8 + long + 4]
    };
    const _: () = assert!(EXPIRES == 1 << 3 && LONG == 1 << 4);
    START[(flags >> 3 & 3) as usize] as usize
}

impl RawEntry {
    /// A new entry, to be freed with [`RawEntry::free`] or [`RawEntry::into_value`].
    pub(crate) fn create(key: &[u8], content: Content<'_>, expire: Option<i64>, clock: u32) -> RawEntry {
        assert!(key.len() <= LENGTH_MAX);
        let mut flags = shape(key.len(), expire);
        let head = key_start(flags) + key.len();
        let owned;
        let bytes = match content {
            Content::Str(bytes) => bytes,
            Content::Owned(Value::Str(boxed)) => {
                owned = boxed;
                &owned
            }
            Content::Owned(value) => {
                let kind = value.kind() as u8;
                let e = RawEntry::write_head(head + WORD_BODY, flags | kind, key, expire, clock);
                // SAFETY: the body of eight bytes was allocated behind the head.
                unsafe { e.write_word(value) };
                return e;
            }
        };
        assert!(bytes.len() <= LENGTH_MAX);
        if is_split(head, bytes.len()) {
            flags |= SPLIT;
            let e = RawEntry::write_head(head + SPLIT_BODY, flags, key, expire, clock);
            let buffer = slab::allocate(bytes.len());
            // SAFETY: the buffer has room for `bytes`, the body for length and pointer.
            unsafe {
                buffer.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                e.set_split(buffer.as_ptr(), bytes.len());
            }
            e
        } else {
            let e = RawEntry::write_head(head + bytes.len(), flags, key, expire, clock);
            // SAFETY: the body has room for `bytes`.
            unsafe {
                e.body().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                e.set_vlen(bytes.len());
            }
            e
        }
    }

    fn write_head(size: usize, flags: u8, key: &[u8], expire: Option<i64>, clock: u32) -> RawEntry {
        let p = slab::allocate(size);
        let e = RawEntry(p);
        let klen = if flags & LONG != 0 { KEY_LEN_LONG } else { key.len() };
        // Flags, length of the key, no value's length yet, clock: the header's seven bytes at once, and a spare one
        // that the key or the expiry overwrites.
        let header = flags as u64 | (klen as u64) << 8 | (clock as u64) << 32;
        // SAFETY: `size` covers the head of this key with these flags, and a class has at least eight bytes; nobody
        // else knows the allocation yet.
        unsafe {
            p.as_ptr().cast::<[u8; 8]>().write(header.to_le_bytes());
            if flags & EXPIRES != 0 {
                e.write_expiry(expire);
            }
            if flags & LONG != 0 {
                p.as_ptr().add(e.key_start() - 4).cast::<u32>().write_unaligned(key.len() as u32);
            }
            p.as_ptr().add(e.key_start()).copy_from_nonoverlapping(key.as_ptr(), key.len());
        }
        e
    }

    /// SAFETY: the entry has EXPIRES, and LONG if `expire` needs it; the caller may write to it.
    unsafe fn write_expiry(self, expire: Option<i64>) {
        // SAFETY: the field's bytes exist by contract.
        unsafe {
            let at = self.0.as_ptr().add(HEADER);
            if self.flags() & LONG != 0 {
                return at.cast::<i64>().write_unaligned(expire.unwrap_or(NO_EXPIRY));
            }
            let ms = expire.map_or(EXPIRY_NONE, |ms| (ms - EXPIRY_BASE) as u64);
            at.cast::<[u8; EXPIRY_BYTES]>().write(*ms.to_le_bytes().first_chunk().expect("five of eight"));
        }
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
        key_start(self.flags())
    }
    #[inline]
    fn key_len(self) -> usize {
        // SAFETY: the long length stands right before the key.
        unsafe {
            if self.flags() & LONG != 0 {
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
        // SAFETY: inside the header.
        unsafe { self.0.as_ptr().add(2).cast::<u16>().write_unaligned(len as u16) }
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
                self.0.as_ptr().add(2).cast::<u16>().read_unaligned() as usize
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
    /// SAFETY: the entry was laid out for a value of this kind, and its body holds none yet.
    unsafe fn write_word(self, value: Value) {
        // SAFETY: by contract the body has eight bytes; collections need no alignment.
        unsafe {
            match value {
                Value::Str(_) => unreachable!("strings have bodies of their own"),
                Value::List(v) => self.body().cast::<List>().write(v),
                Value::Set(v) => self.body().cast::<Set>().write(v),
                Value::Hash(v) => self.body().cast::<Hash>().write(v),
                Value::ZSet(v) => self.body().cast::<ZSet>().write(v),
                Value::Stream(v) => self.body().cast::<*mut Stream>().write_unaligned(Box::into_raw(v)),
            }
        }
    }
    fn stream(self) -> *mut Stream {
        // SAFETY: only called for streams, whose body is a pointer.
        unsafe { self.body().cast::<*mut Stream>().read_unaligned() }
    }
    fn size(self) -> usize {
        self.head()
            + match (self.kind(), self.is_split_str()) {
                (Kind::Str, false) => self.str_len(),
                (Kind::Str, true) => SPLIT_BODY,
                _ => WORD_BODY,
            }
    }

    /// Bytes of memory the entry and its value take.
    pub(crate) fn bytes(self) -> usize {
        let outside =
            if self.is_split_str() { class_size(self.str_len()) } else { self.value().outside_bytes() };
        class_size(self.size()) + outside
    }

    #[inline(always)] // as `value_mut`
    pub(crate) fn value<'a>(self) -> ValueRef<'a> {
        // SAFETY: the body holds what `kind` names: a string's initialised bytes, a collection, a stream's box.
        unsafe {
            match self.kind() {
                Kind::Str => ValueRef::Str(std::slice::from_raw_parts(self.str_ptr(), self.str_len())),
                Kind::List => ValueRef::List(&*self.body().cast()),
                Kind::Set => ValueRef::Set(&*self.body().cast()),
                Kind::Hash => ValueRef::Hash(&*self.body().cast()),
                Kind::ZSet => ValueRef::ZSet(&*self.body().cast()),
                Kind::Stream => ValueRef::Stream(&*self.stream()),
            }
        }
    }
    /// SAFETY: no other reference into the entry's value lives.
    #[inline(always)] // who asks for one kind gets one comparison
    pub(crate) unsafe fn value_mut<'a>(self) -> ValueMut<'a> {
        // SAFETY: as in `value`, and unique by contract.
        unsafe {
            match self.kind() {
                Kind::Str => ValueMut::Str(std::slice::from_raw_parts_mut(self.str_ptr(), self.str_len())),
                Kind::List => ValueMut::List(&mut *self.body().cast()),
                Kind::Set => ValueMut::Set(&mut *self.body().cast()),
                Kind::Hash => ValueMut::Hash(&mut *self.body().cast()),
                Kind::ZSet => ValueMut::ZSet(&mut *self.body().cast()),
                Kind::Stream => ValueMut::Stream(&mut *self.stream()),
            }
        }
    }

    #[inline]
    pub(crate) fn expire_ms(self) -> Option<i64> {
        if self.flags() & EXPIRES == 0 {
            return None;
        }
        // SAFETY: the field exists by its flag.
        unsafe {
            let at = self.0.as_ptr().add(HEADER);
            if self.flags() & LONG != 0 {
                let ms = at.cast::<i64>().read_unaligned();
                return (ms != NO_EXPIRY).then_some(ms);
            }
            let mut bytes = [0; 8];
            bytes[..EXPIRY_BYTES].copy_from_slice(&at.cast::<[u8; EXPIRY_BYTES]>().read());
            let ms = u64::from_le_bytes(bytes);
            (ms != EXPIRY_NONE).then_some(EXPIRY_BASE + ms as i64)
        }
    }
    /// The soonest time at which a field of a hash expires.
    #[inline]
    pub(crate) fn field_expire_ms(self) -> Option<i64> {
        if self.flags() & KIND != Kind::Hash as u8 {
            return None;
        }
        let ValueRef::Hash(hash) = self.value() else { unreachable!("its kind was looked at") };
        hash.next_expiry()
    }
    #[inline]
    pub(crate) fn clock(self) -> u32 {
        // SAFETY: inside the header: the 24 bits from byte 4 on, read with the byte before them.
        unsafe { self.0.as_ptr().add(3).cast::<u32>().read_unaligned() >> 8 }
    }
    /// Readers do this too: the slot's lock keeps others out.
    #[inline]
    pub(crate) fn set_clock(self, clock: u32) {
        let [a, b, c, _] = clock.to_le_bytes();
        // SAFETY: inside the header.
        unsafe { self.0.as_ptr().add(4).cast::<[u8; 3]>().write([a, b, c]) }
    }
    pub(crate) fn is_raw(self) -> bool {
        self.flags() & RAW != 0
    }
    pub(crate) fn mark_raw(self) {
        self.set_flags(self.flags() | RAW);
    }

    /// Replaces a string by one that takes as much memory, with all that stands before it, where nothing but the value
    /// changes. False: it is more than that, and nothing was done.
    /// SAFETY: the caller may write to the entry (slot lock), and no reference into its value lives.
    #[inline]
    pub(crate) unsafe fn overwrite_str(self, bytes: &[u8], expiry: Expiry) -> bool {
        /// Strings are embedded in entries up to this class; see [`is_split`].
        const EMBEDDED_MAX: usize = 256;
        let flags = self.flags();
        let keeps_expiry = match expiry {
            Expiry::None => flags & EXPIRES == 0,
            Expiry::Keep => flags & EXPIRES == 0 || self.expire_ms().is_some(),
            Expiry::At(_) => false,
        };
        if flags & (KIND | LONG | SPLIT) != Kind::Str as u8 || !keeps_expiry || bytes.len() > EMBEDDED_MAX {
            return false;
        }
        let head = self.head();
        let class = class_size(head + bytes.len());
        if class > EMBEDDED_MAX || class != class_size(head + self.str_len()) {
            return false;
        }
        self.set_flags(flags & !RAW);
        self.set_vlen(bytes.len());
        // SAFETY: the class covers the new value; the argument is no part of the entry by contract.
        unsafe { self.body().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        true
    }

    /// Replaces the value by a string and the expiry by `expire`; the key stays. Returns the entry's new place, and a
    /// collection that was there.
    /// SAFETY: the caller owns the entry (slot lock) and uses only the returned one from now on.
    pub(crate) unsafe fn set_str(self, bytes: &[u8], expire: Option<i64>) -> (RawEntry, Option<Value>) {
        let (key_len, flags) = (self.key_len(), self.flags());
        let shape = shape(key_len, expire);
        let (old_head, head) = (self.head(), key_start(shape) + key_len);
        let split = is_split(head, bytes.len());
        let is_as_long = (flags ^ shape) & LONG == 0;
        if self.kind() == Kind::Str && split == self.is_split_str() && is_as_long {
            if !split && class_size(head + bytes.len()) == class_size(self.size()) {
                // SAFETY: the class covers the new head and value; the key moves before its old place is reused.
                unsafe {
                    let from = self.0.as_ptr().add(self.key_start());
                    self.set_flags((flags & !(EXPIRES | RAW)) | shape);
                    if head != old_head {
                        from.copy_to(self.0.as_ptr().add(head - key_len), key_len);
                        if flags & LONG != 0 {
                            let at = self.0.as_ptr().add(head - key_len - 4);
                            at.cast::<u32>().write_unaligned(key_len as u32);
                        }
                    }
                    if shape & EXPIRES != 0 {
                        self.write_expiry(expire);
                    }
                    self.set_vlen(bytes.len());
                    self.body().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                }
                return (self, None);
            }
            if split && head == old_head && class_size(bytes.len()) == class_size(self.str_len()) {
                // SAFETY: the buffer's class covers the new length.
                unsafe {
                    let buffer = self.str_ptr();
                    buffer.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                    self.set_split(buffer, bytes.len());
                    if shape & EXPIRES != 0 {
                        self.write_expiry(expire);
                    }
                    self.set_flags(flags & !RAW);
                }
                return (self, None);
            }
        }
        // SAFETY: by contract.
        unsafe { self.remade(Content::Str(bytes), expire) }
    }

    /// A new entry in place of this one, with the same key and clock; and the collection that was there.
    /// SAFETY: as [`RawEntry::set_str`].
    unsafe fn remade(self, content: Content<'_>, expire: Option<i64>) -> (RawEntry, Option<Value>) {
        let new = RawEntry::create(self.key(), content, expire, self.clock());
        let is_str = self.kind() == Kind::Str;
        // SAFETY: the caller gives up the old entry.
        unsafe {
            if is_str {
                self.free();
                (new, None)
            } else {
                (new, Some(self.into_value()))
            }
        }
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
                    let to = slab::allocate(len).as_ptr();
                    to.copy_from_nonoverlapping(buffer, old.min(len));
                    slab::release(NonNull::new_unchecked(buffer), old);
                    buffer = to;
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
            let clock = self.clock();
            let keep = &bytes[..old.min(len)];
            let new = RawEntry::create_sized(self.key(), keep, len, self.expire_ms(), clock);
            new.set_flags(new.flags() | self.flags() & RAW);
            self.free();
            new
        }
    }

    /// An entry with a string of `len` bytes: `bytes`, then zeros.
    fn create_sized(key: &[u8], bytes: &[u8], len: usize, expire: Option<i64>, clock: u32) -> RawEntry {
        let base = shape(key.len(), expire);
        let head = key_start(base) + key.len();
        let split = is_split(head, len);
        let (body, flags) = if split { (SPLIT_BODY, base | SPLIT) } else { (len, base) };
        let e = RawEntry::write_head(head + body, flags, key, expire, clock);
        // SAFETY: body or buffer have room for `len` bytes.
        unsafe {
            let to = if split {
                let buffer = slab::allocate(len).as_ptr();
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
        let (old, shape) = (self.flags(), shape(self.key_len(), expire));
        if old & EXPIRES != 0 && (old & LONG != 0 || shape & LONG == 0) {
            // SAFETY: the field exists; it stays when the expiry goes, until the value is next rewritten.
            unsafe { self.write_expiry(expire) };
            return self;
        }
        if expire.is_none() {
            return self;
        }
        let (size, key_len) = (self.size(), self.key_len());
        let (from_key, flags) = (self.key_start(), old & !(EXPIRES | LONG) | EXPIRES | (old | shape) & LONG);
        let to_key = key_start(flags);
        let to_size = size - from_key + to_key;
        // SAFETY: all from the key on moves up, in place if the class has room, else to a new allocation; a collection or split
        // string goes along as its pointer.
        unsafe {
            let from = self.0;
            let to = if class_size(to_size) == class_size(size) { from } else { slab::allocate(to_size) };
            from.add(from_key).copy_to(to.add(to_key), size - from_key);
            if to != from {
                to.copy_from_nonoverlapping(from, HEADER);
                slab::release(from, size);
            }
            let entry = RawEntry(to);
            entry.set_flags(flags);
            entry.write_expiry(expire);
            if flags & LONG != 0 {
                to.add(1).write(KEY_LEN_LONG as u8);
                to.add(to_key - 4).cast::<u32>().write_unaligned(key_len as u32);
            }
            entry
        }
    }

    /// Replaces the value, keeping key and clock. Returns the entry's new place, and a collection that was there.
    /// SAFETY: as [`RawEntry::set_str`].
    pub(crate) unsafe fn replace(self, value: Value, expire: Option<i64>) -> (RawEntry, Option<Value>) {
        // SAFETY: by contract.
        unsafe { self.remade(Content::Owned(value), expire) }
    }

    /// Frees the entry and its value.
    /// SAFETY: nobody uses the entry any more.
    pub(crate) unsafe fn free(self) {
        // SAFETY: each pointer is freed with the layout it was allocated with.
        unsafe {
            match self.kind() {
                Kind::Str if self.is_split_str() => {
                    slab::release(NonNull::new_unchecked(self.str_ptr()), self.str_len());
                }
                Kind::Str => {}
                _ => drop(self.take_word()),
            }
            slab::release(self.0, self.size());
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
            // SAFETY: by contract; the collection is not freed with the entry here.
            _ => unsafe {
                let value = self.take_word();
                slab::release(self.0, self.size());
                value
            },
        }
    }

    /// SAFETY: the entry's body is not used again.
    unsafe fn take_word(self) -> Value {
        // SAFETY: the body holds what `kind` names; it is read once.
        unsafe {
            match self.kind() {
                Kind::Str => unreachable!("strings have bodies of their own"),
                Kind::List => Value::List(self.body().cast::<List>().read()),
                Kind::Set => Value::Set(self.body().cast::<Set>().read()),
                Kind::Hash => Value::Hash(self.body().cast::<Hash>().read()),
                Kind::ZSet => Value::ZSet(self.body().cast::<ZSet>().read()),
                Kind::Stream => Value::Stream(Box::from_raw(self.stream())),
            }
        }
    }

    /// Moves the entry, and a string or a small collection that it points to, out of spans that are being emptied. Returns its place.
    /// SAFETY: as [`RawEntry::set_str`].
    pub(crate) unsafe fn leave_spans(self) -> RawEntry {
        // SAFETY: entry and buffer were allocated with these sizes and have one pointer each, which is replaced.
        unsafe {
            if self.is_split_str() {
                let (buffer, len) = (NonNull::new_unchecked(self.str_ptr()), self.str_len());
                if slab::is_leaving(buffer, len) {
                    self.set_split(slab::relocate(buffer, len).as_ptr(), len);
                }
            }
            match self.value_mut() {
                ValueMut::List(v) => v.leave_span(),
                ValueMut::Set(v) => v.leave_span(),
                ValueMut::Hash(v) => v.leave_span(),
                ValueMut::ZSet(v) => v.leave_span(),
                ValueMut::Str(_) | ValueMut::Stream(_) => {}
            }
            let size = self.size();
            if slab::is_leaving(self.0, size) { RawEntry(slab::relocate(self.0, size)) } else { self }
        }
    }

    /// Asks the CPU for the entry's first lines: as many as a key and a value of 64 bytes may straddle.
    #[inline]
    pub(crate) fn prefetch(self) {
        crate::segment::prefetch(self.0.as_ptr());
        crate::segment::prefetch(self.0.as_ptr().wrapping_add(64));
        crate::segment::prefetch(self.0.as_ptr().wrapping_add(120));
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
    #[inline(always)]
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
    /// Access clock, 24 bits: whatever the eviction policy keeps there (LRU or LFU); 0 for a new key.
    #[inline]
    pub fn clock(&self) -> u32 {
        self.raw.clock()
    }
    /// Sets the access clock; allowed to readers.
    #[inline]
    pub fn set_clock(&self, clock: u32) {
        self.raw.set_clock(clock);
    }
    /// Bytes of memory that the key and its value take, without the share of the table.
    pub fn bytes(&self) -> usize {
        self.raw.bytes()
    }
    /// Where it stands, for DEBUG OBJECT; true until the entry changes or is moved.
    pub fn address(&self) -> *const u8 {
        self.raw.0.as_ptr()
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
                for expire in
                    [None, Some(77), Some(EXPIRY_BASE), Some(EXPIRY_BASE + (1 << 40) - 2), Some(i64::MAX)]
                {
                    let (key, value) = (vec![b'k'; key_len], vec![b'v'; len]);
                    let e = RawEntry::create(&key, Content::Str(&value), expire, 9);
                    assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value.clone(), expire));
                    assert!(e.bytes() >= key_len + len + HEADER);
                    // SAFETY: the test owns the entry.
                    unsafe {
                        let near = Some(EXPIRY_BASE + 99);
                        let e = e.set_expire(near);
                        assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value.clone(), near));
                        let e = e.set_expire(Some(-5));
                        assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value.clone(), Some(-5)));
                        let e = e.set_expire(None);
                        assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], value, None));
                        assert_eq!(e.clock(), 9);
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
                let expire = [None, Some(i as i64), Some(EXPIRY_BASE + i as i64)][i % 3];
                // SAFETY: the test owns the entry.
                e = unsafe { e.set_str(&value, expire) }.0;
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
        let soon = EXPIRY_BASE + 1;
        assert_eq!(bytes(16, 16, None), 40);
        assert_eq!(bytes(16, 16, Some(soon)), 44);
        assert_eq!(bytes(16, 64, None), 88);
        assert_eq!(bytes(16, 64, Some(soon)), 96);
        assert_eq!(bytes(16, 1000, None), 1024);
        // Split: 36 for the head, 4096 for the value, instead of a class of 5120.
        assert_eq!(bytes(16, 4096, None), 36 + 4096);
    }

    #[test]
    fn what_is_overwritten_is_as_if_it_were_set() {
        let lens = [0, 1, 4, 15, 16, 17, 60, 64, 200, 232, 233, 240, 241, 300, 5000];
        let expiries = [None, Some(EXPIRY_BASE + 7), Some(7)];
        let mut overwritten = 0;
        for key_len in [0, 5, 16, 254, 255] {
            let key = vec![b'k'; key_len];
            for (from, to, expire) in
                lens.iter().flat_map(|from| lens.iter().flat_map(move |to| expiries.map(|e| (*from, *to, e))))
            {
                for expiry in [Expiry::None, Expiry::Keep, Expiry::At(EXPIRY_BASE + 9)] {
                    let (old, new) = (vec![1; from], vec![2; to]);
                    let wanted = expiry.over(expire);
                    // SAFETY: the test owns the entries.
                    unsafe {
                        let e = RawEntry::create(&key, Content::Str(&old), expire, 3);
                        e.mark_raw();
                        let set =
                            RawEntry::create(&key, Content::Str(&old), expire, 3).set_str(&new, wanted).0;
                        if e.overwrite_str(&new, expiry) {
                            overwritten += 1;
                            assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], new, wanted));
                            assert_eq!((e.bytes(), e.is_raw(), e.clock()), (set.bytes(), false, 3));
                        } else {
                            assert_eq!((e.key(), text(e), e.expire_ms()), (&key[..], old, expire));
                            assert!(e.is_raw());
                        }
                        e.free();
                        set.free();
                    }
                }
            }
        }
        assert!(overwritten > 100);
    }

    #[test]
    fn equal_classes_are_overwritten_in_place() {
        let e = RawEntry::create(b"0123456789abcdef", Content::Str(b"0123456789abcdef"), None, 0);
        // SAFETY: the test owns the entry.
        unsafe {
            assert!(e.set_str(b"fedcba987654321", None).0 == e);
            e.free();
        }
    }
}
