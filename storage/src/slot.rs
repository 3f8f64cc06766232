//! A slot: one 64-byte line with the lock, the root of database 0's table, and what the layers above keep per slot.

use crate::db::{Db, DbMut};
use crate::directory::Root;
use crate::keyspace::Keyspace;
use crate::lock::SlotLock;
use proto::Slot;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;

/// How this node stands to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Ownership {
    /// Commands are executed here. The state of every slot outside cluster mode.
    #[default]
    Serving = 0,
    /// Held still for the moment of an atomic hand-over: commands wait.
    Paused = 1,
    /// Being filled from another shard; clients do not see it yet.
    Importing = 2,
    /// Belongs to another shard.
    Foreign = 3,
}

/// What is kept per slot besides keys; guarded by the slot's lock.
#[derive(Default)]
#[repr(C)]
pub struct SlotState {
    /// Waiters, watchers and the like: the engine's, allocated on demand.
    pub side: Option<Box<dyn Any + Send>>,
    /// Writes to the slot, counted by the engine; wraps.
    pub writes: u32,
    pub ownership: Ownership,
    /// Free for the engine.
    pub flags: u8,
}

#[repr(C, align(64))]
pub(crate) struct SlotLine {
    state: UnsafeCell<SlotState>,
    lock: SlotLock,
    root: UnsafeCell<Root>,
}

// Loom's atomics are larger.
const _: () = assert!(cfg!(loom) || size_of::<SlotLine>() == 64);

// SAFETY: the cells are only touched while `lock` is held (SlotGuard), and what they hold is Send.
unsafe impl Sync for SlotLine {}
// SAFETY: as above; the raw pointers inside are owned.
unsafe impl Send for SlotLine {}

impl SlotLine {
    #[cfg(any(test, loom))]
    pub(crate) fn new() -> SlotLine {
        SlotLine {
            state: UnsafeCell::new(SlotState::default()),
            lock: SlotLock::new(),
            root: UnsafeCell::new(Root::EMPTY),
        }
    }

    /// A line for each slot. What is not touched takes no memory.
    #[cfg(not(loom))]
    pub(crate) fn all_new() -> Box<[SlotLine; Slot::COUNT]> {
        // SAFETY: a new line is all zeros: no side, serving, unlocked, an empty root. A test holds that.
        unsafe { Box::new_zeroed().assume_init() }
    }
    #[cfg(loom)]
    pub(crate) fn all_new() -> Box<[SlotLine; Slot::COUNT]> {
        let lines: Box<[SlotLine]> = (0..Slot::COUNT).map(|_| SlotLine::new()).collect();
        lines.try_into().ok().expect("one line for each slot")
    }

    #[inline]
    pub(crate) fn lock(&self) -> &SlotLock {
        &self.lock
    }
    pub(crate) fn root(&self) -> &UnsafeCell<Root> {
        &self.root
    }
}

/// A locked slot; dropping it unlocks.
pub struct SlotGuard<'a> {
    keyspace: &'a Keyspace,
    line: &'a SlotLine,
    slot: Slot,
    /// Holds back Sync: readers through one guard are on one thread.
    not_sync: PhantomData<Cell<()>>,
}

impl<'a> SlotGuard<'a> {
    /// The caller has just taken the lock of `line`.
    pub(crate) fn new(keyspace: &'a Keyspace, line: &'a SlotLine, slot: Slot) -> SlotGuard<'a> {
        SlotGuard { keyspace, line, slot, not_sync: PhantomData }
    }
    #[inline]
    pub fn slot(&self) -> Slot {
        self.slot
    }
    #[inline]
    pub fn state(&self) -> &SlotState {
        // SAFETY: the lock is held by this guard, and `&self` excludes `state_mut`.
        unsafe { &*self.line.state.get() }
    }
    #[inline]
    pub fn state_mut(&mut self) -> &mut SlotState {
        // SAFETY: the lock is held by this guard, which is borrowed mutably.
        unsafe { &mut *self.line.state.get() }
    }
    /// The slot's part of a database, for reading. Panics if there is no such database.
    #[inline]
    pub fn db(&self, db: u16) -> Db<'_> {
        Db::new(self.keyspace, self.slot, db)
    }
    /// The slot's part of a database, for writing. Panics if there is no such database.
    #[inline]
    pub fn db_mut(&mut self, db: u16) -> DbMut<'_> {
        DbMut::new(self.keyspace, self.slot, db)
    }
}

impl Drop for SlotGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.line.lock.unlock();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_new_line_is_all_zeros() {
        let new = SlotLine::new();
        // SAFETY: as in `SlotLine::all_new`, which this is to hold.
        let zeroed: Box<SlotLine> = unsafe { Box::new_zeroed().assume_init() };
        let state = |line: &SlotLine| {
            // SAFETY: nobody else has the line.
            let (state, root) = unsafe { (&*line.state.get(), &*line.root.get()) };
            (
                state.side.is_none(),
                state.writes,
                state.ownership,
                state.flags,
                root.count as u64,
                root.locate(1).is_none(),
            )
        };
        assert_eq!(state(&new), state(&zeroed));
        assert_eq!(state(&zeroed), (true, 0, Ownership::Serving, 0, 0, true));
        assert!(zeroed.lock().try_lock());
    }
}
