//! The slots that a command holds, and where its keys are: nearly always one, so that one costs no list.

use crate::turn::Turn;
use crate::{Args, Error, Spec};
use proto::Slot;
use smallvec::SmallVec;
use storage::{GateClosed, KeyAhead, Keyspace, SlotGuard};

/// Locked slots. Ascending, all taken before the first effect; with the gate closed they are taken as they are met,
/// since nobody else runs.
pub struct Locks<'g> {
    keyspace: &'g Keyspace,
    first: Option<SlotGuard<'g>>,
    /// The others, ascending.
    more: Vec<SlotGuard<'g>>,
    /// Which of these was used last.
    last: usize,
    exclusive: Option<&'g GateClosed<'g>>,
}

impl<'g> Locks<'g> {
    /// Locks `slots`, which ascend. `Err`: this slot is held by another for longer than one spins; nothing is locked.
    #[inline(always)] // returned through memory it costs a stall
    pub fn take(keyspace: &'g Keyspace, slots: &[Slot]) -> Result<Locks<'g>, Slot> {
        let [first, more @ ..] = slots else {
            return Ok(Locks::none(keyspace));
        };
        let Some(guard) = keyspace.lock(*first) else { return Err(*first) };
        let more = if more.is_empty() { Vec::new() } else { Locks::take_more(keyspace, more)? };
        Ok(Locks { keyspace, first: Some(guard), more, last: 0, exclusive: None })
    }
    fn take_more(keyspace: &'g Keyspace, slots: &[Slot]) -> Result<Vec<SlotGuard<'g>>, Slot> {
        let mut guards = Vec::with_capacity(slots.len());
        for slot in slots {
            guards.push(keyspace.lock(*slot).ok_or(*slot)?);
        }
        Ok(guards)
    }

    /// With the gate closed: every slot may be used.
    pub fn exclusive(keyspace: &'g Keyspace, closed: &'g GateClosed<'g>) -> Locks<'g> {
        Locks { exclusive: Some(closed), ..Locks::none(keyspace) }
    }

    /// Locks the slots, or none where the gate is closed.
    #[inline(always)]
    pub fn take_for(turn: &Turn<'g>, slots: &[Slot]) -> Result<Locks<'g>, Slot> {
        match turn.exclusive {
            Some(closed) => Ok(Locks::exclusive(&turn.engine.keyspace, closed)),
            None => Locks::take(&turn.engine.keyspace, slots),
        }
    }

    /// Also locks `slots` if none of them has to be waited for. Order does not matter for a lock that is not waited for.
    pub fn try_extend(&mut self, slots: &[Slot]) -> bool {
        for slot in slots.iter().filter(|slot| !self.holds(**slot)).collect::<SmallVec<[_; 4]>>() {
            let Some(guard) = self.keyspace.try_lock(*slot) else { return false };
            if self.first.is_none() {
                self.first = Some(guard);
            } else {
                let place = self.more.partition_point(|g| g.slot() < *slot);
                self.more.insert(place, guard);
            }
        }
        true
    }

    /// Whether this slot is locked by now.
    pub fn holds(&self, slot: Slot) -> bool {
        self.first.as_ref().is_some_and(|g| g.slot() == slot) || self.place(slot).is_some()
    }

    /// Which of the others is this slot's.
    fn place(&self, slot: Slot) -> Option<usize> {
        const FEW: usize = 16; // among which to look at each is quicker
        if self.more.len() <= FEW {
            return self.more.iter().position(|g| g.slot() == slot);
        }
        self.more.binary_search_by_key(&slot, |g| g.slot()).ok()
    }

    /// Number of slots that are held at present.
    pub fn len(&self) -> usize {
        self.first.is_some() as usize + self.more.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots that are held at present.
    pub fn slots(&self) -> SmallVec<[Slot; 4]> {
        self.first.iter().chain(&self.more).map(|g| g.slot()).collect()
    }

    /// Proof that the gate is closed, if it is.
    pub fn closed(&self) -> Option<&'g GateClosed<'g>> {
        self.exclusive
    }

    /// No locks.
    #[inline]
    pub(crate) fn none(keyspace: &'g Keyspace) -> Locks<'g> {
        Locks { keyspace, first: None, more: Vec::new(), last: 0, exclusive: None }
    }
    /// Takes the lock that a command of one key needs, when none is held.
    #[inline]
    pub(crate) fn set_only(&mut self, guard: SlotGuard<'g>) {
        self.first = Some(guard);
    }

    /// Unlocks all.
    #[inline]
    pub fn release(&mut self) {
        self.first = None;
        if !self.more.is_empty() {
            self.more.clear();
        }
    }

    /// The guard of a slot. Panics when the slot is not among the locked: the key specs of the command are wrong.
    #[inline]
    pub fn guard(&mut self, slot: Slot) -> &mut SlotGuard<'g> {
        if !matches!(&self.first, Some(first) if first.slot() == slot) {
            return self.other_guard(slot);
        }
        self.first.as_mut().expect("looked at just now")
    }

    fn other_guard(&mut self, slot: Slot) -> &mut SlotGuard<'g> {
        // A command looks several times at a key before it comes to the next.
        if self.more.get(self.last).is_some_and(|g| g.slot() == slot) {
            return &mut self.more[self.last];
        }
        if let Some(place) = self.place(slot) {
            self.last = place;
            return &mut self.more[place];
        }
        assert!(self.exclusive.is_some(), "slot {slot} is not locked: a key outside the declared key specs");
        // A long exclusive command must not hold all slots that it passed.
        self.release();
        self.first.insert(self.keyspace.lock_wait(slot))
    }

    /// Runs `f` on any slot, for commands that go through the keyspace. They hold no other lock: with others they
    /// run with the gate closed.
    /// `Err(NeedsGate)`: the slot is held for long, by a script.
    pub fn visit<R>(&mut self, slot: Slot, f: impl FnOnce(&mut SlotGuard<'g>) -> R) -> Result<R, Error> {
        if self.exclusive.is_some() || self.holds(slot) {
            return Ok(f(self.guard(slot)));
        }
        assert!(self.first.is_none(), "waiting for a slot while another is held");
        Ok(f(&mut self.keyspace.lock_soon(slot).ok_or(Error::NeedsGate)?))
    }
}

/// Slot and hash of one of the command's keys, so that they are computed once.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Where the key's bytes stand: which argument it is.
    key: (usize, usize),
    pub at: KeyAhead,
}

impl Place {
    #[inline]
    pub(crate) fn new(key: &[u8], at: KeyAhead) -> Place {
        Place { key: (key.as_ptr().addr(), key.len()), at }
    }
    /// The place of the only key of a command.
    #[inline]
    pub(crate) fn of_only(turn: &Turn, key: &[u8]) -> Place {
        Place::new(key, turn.first_key.unwrap_or_else(|| turn.engine.keyspace.key_ahead(key)))
    }
    #[inline]
    fn is_of(&self, key: &[u8]) -> bool {
        self.key == (key.as_ptr().addr(), key.len())
    }
}

/// Places of the keys of a command, in order. Commands use their keys mostly in order, and each several times.
#[derive(Default)]
pub(crate) struct Places {
    /// The one that was used last.
    at: Option<Place>,
    more: Vec<Place>,
    next: usize,
}

impl From<Place> for Places {
    #[inline]
    fn from(only: Place) -> Places {
        Places { at: Some(only), more: Vec::new(), next: 0 }
    }
}

/// Slots of the keys, ascending and each once.
pub(crate) type Slots = SmallVec<[Slot; 16]>;

impl Places {
    /// The places of a command's keys, whose memory is asked for meanwhile, and their slots. Both are empty when the
    /// arguments do not fit the key specs: the function says what is wrong with them before it touches any, as in Redis.
    pub(crate) fn of(turn: &Turn, spec: &Spec, args: Args, db: u16) -> (Places, Slots) {
        /// Keys whose memory is asked for ahead: what a first-level cache holds.
        const AHEAD_MAX: usize = 128;
        let keyspace = &turn.engine.keyspace;
        let Some(numbers) = spec.key_positions(args) else { return Default::default() };
        let mut slots = Slots::with_capacity(numbers.len());
        let mut places = Vec::with_capacity(numbers.len());
        for i in &numbers {
            let at = keyspace.key_ahead(args[*i]);
            slots.push(at.slot);
            places.push(Place::new(args[*i], at));
        }
        if places.len() > 1 && turn.exclusive.is_none() {
            let ahead: SmallVec<[KeyAhead; 16]> = places.iter().take(AHEAD_MAX).map(|p| p.at).collect();
            keyspace.prefetch(db, &ahead);
        }
        slots.sort_unstable();
        slots.dedup();
        (Places { at: None, more: places, next: 0 }, slots)
    }

    /// Slot and hash of a key that is one of the command's arguments.
    #[inline]
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<KeyAhead> {
        match &self.at {
            Some(place) if place.is_of(key) => Some(place.at),
            _ => self.find_next(key),
        }
    }
    fn find_next(&mut self, key: &[u8]) -> Option<KeyAhead> {
        let place = self.more.get(self.next).filter(|place| place.is_of(key))?;
        self.next += 1;
        self.at = Some(*place);
        Some(place.at)
    }
}
