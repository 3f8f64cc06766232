//! The slots that a command holds, and where its keys are: nearly always one, so that one costs no list.

use crate::turn::Turn;
use crate::{Args, Error, Spec};
use proto::Slot;
use smallvec::SmallVec;
use storage::{GateClosed, KeyAhead, Keyspace, LookAhead, Ownership, SlotGuard};

/// Locked slots, all taken before the first effect: ascending, where one waits for them; with the gate closed they are taken
/// as they are met, since nobody else runs.
pub struct Locks<'g> {
    keyspace: &'g Keyspace,
    first: Option<SlotGuard<'g>>,
    /// The others.
    more: Vec<SlotGuard<'g>>,
    /// Whether those are known to ascend.
    is_ascending: bool,
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
        Ok(Locks { first: Some(guard), more, ..Locks::none(keyspace) })
    }

    /// Locks the slots of keys, when none is held, without waiting for any: so their order does not matter. False: one of
    /// them is not free, or pauses for a hand-over; nothing is locked.
    pub(crate) fn try_take(&mut self, places: &mut Places) -> bool {
        debug_assert!(self.is_empty());
        self.is_ascending = false;
        self.more.reserve(places.more.len());
        let is_taken = places.more.iter_mut().all(|place| self.try_take_one(&mut place.at));
        if !is_taken {
            self.release();
        }
        is_taken
    }
    #[inline]
    fn try_take_one(&mut self, at: &mut At) -> bool {
        if let Some(guard) = self.keyspace.try_lock(at.slot) {
            let is_paused = guard.state().ownership == Ownership::Paused;
            at.guard = self.len() as u32;
            match self.first {
                None => self.first = Some(guard),
                Some(_) => self.more.push(guard),
            }
            return !is_paused;
        }
        // Another holds it, or it is held here, for a key before.
        let number = self.number(at.slot);
        at.guard = number.unwrap_or_default() as u32;
        number.is_some()
    }
    /// Which of all the guards is this slot's.
    fn number(&self, slot: Slot) -> Option<usize> {
        match &self.first {
            Some(first) if first.slot() == slot => Some(0),
            _ => self.place(slot).map(|place| place + 1),
        }
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
                let place = match self.is_ascending {
                    true => self.more.partition_point(|g| g.slot() < *slot),
                    false => self.more.len(),
                };
                self.more.insert(place, guard);
            }
        }
        true
    }

    /// Whether this slot is locked by now.
    pub fn holds(&self, slot: Slot) -> bool {
        self.number(slot).is_some()
    }

    /// Which of the others is this slot's.
    fn place(&self, slot: Slot) -> Option<usize> {
        const FEW: usize = 16; // among which to look at each is quicker
        if self.more.len() <= FEW || !self.is_ascending {
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
        Locks { keyspace, first: None, more: Vec::new(), is_ascending: true, last: 0, exclusive: None }
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

    /// As [`Locks::guard`], of the slot of a key of which is known which guard is its own.
    #[inline]
    pub(crate) fn guard_at(&mut self, at: At) -> &mut SlotGuard<'g> {
        match self.is_hinted(at) {
            true => self.nth_mut(at.guard as usize).expect("looked at just now"),
            false => self.guard(at.slot),
        }
    }
    /// Whether the guard that a place names is its slot's.
    #[inline]
    fn is_hinted(&self, at: At) -> bool {
        self.nth(at.guard as usize).is_some_and(|guard| guard.slot() == at.slot)
    }
    /// A guard by its number among all.
    #[inline]
    fn nth(&self, number: usize) -> Option<&SlotGuard<'g>> {
        if number == 0 { self.first.as_ref() } else { self.more.get(number - 1) }
    }
    #[inline]
    fn nth_mut(&mut self, number: usize) -> Option<&mut SlotGuard<'g>> {
        if number == 0 { self.first.as_mut() } else { self.more.get_mut(number - 1) }
    }

    /// Asks for the memory of keys, in stages, so that their reads overlap. Leaves out what is not locked.
    pub(crate) fn prefetch(&self, db: u16, places: &Places) {
        /// Keys that go from stage to stage together: a choice, about as many as a core reads lines at a time.
        const AHEAD: usize = 16;
        /// Keys whose memory is asked for ahead: what a first-level cache holds.
        const AHEAD_MAX: usize = 128;
        let ahead = &places.more[..places.more.len().min(AHEAD_MAX)];
        for places in ahead.chunks(AHEAD) {
            let mut begun: SmallVec<[LookAhead<'_>; AHEAD]> = SmallVec::new();
            for Place { at, .. } in places {
                if let Some(guard) = self.held(*at)
                    && let Some(one) = guard.db(db).look_ahead(at.hash)
                {
                    begun.push(one);
                }
            }
            LookAhead::go_on(&mut begun);
        }
    }

    /// The guard of a key's slot, if it is locked by now.
    #[inline]
    fn held(&self, at: At) -> Option<&SlotGuard<'g>> {
        if self.is_hinted(at) { self.nth(at.guard as usize) } else { self.nth(self.number(at.slot)?) }
    }

    #[cold]
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

/// Where a key is.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub slot: Slot,
    /// Which of the guards of the command's keys is the slot's. Only a hint: locks are added and released.
    guard: u32,
    /// [`Keyspace::hash`] of the key.
    pub hash: u64,
}

impl From<KeyAhead> for At {
    #[inline]
    fn from(key: KeyAhead) -> At {
        At { slot: key.slot, guard: 0, hash: key.hash }
    }
}

/// Where one of the command's keys is, so that this is worked out once.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Where the key's bytes stand: which argument it is.
    key: (usize, usize),
    pub at: At,
}

impl Place {
    #[inline]
    pub(crate) fn new(key: &[u8], at: KeyAhead) -> Place {
        Place { key: (key.as_ptr().addr(), key.len()), at: at.into() }
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
    /// If there is only one.
    only: Option<Place>,
    more: Vec<Place>,
    /// The one of these that was used last.
    last: usize,
}

impl From<Place> for Places {
    #[inline]
    fn from(only: Place) -> Places {
        Places { only: Some(only), more: Vec::new(), last: 0 }
    }
}

/// Slots of the keys, ascending and each once.
pub(crate) type Slots = SmallVec<[Slot; 16]>;

impl Places {
    /// As [`Places::fill`], into a new list.
    pub(crate) fn of(keyspace: &Keyspace, spec: &Spec, args: Args, ahead: &[KeyAhead]) -> Places {
        let mut places = Places::default();
        places.fill(keyspace, spec, args, ahead);
        places
    }
    /// Makes them the places of a command's keys. None when the arguments do not fit the key specs: the function says what is
    /// wrong with them before it touches any, as in Redis. `ahead`: what is known of the first of them.
    pub(crate) fn fill(&mut self, keyspace: &Keyspace, spec: &Spec, args: Args, ahead: &[KeyAhead]) {
        const USUAL: usize = 16; // keys for which there is room at once
        let Places { only, more, last } = self;
        (*only, *last) = (None, 0);
        more.clear();
        more.reserve(args.len().min(USUAL));
        let mut ahead = ahead.iter();
        let mut push = |i: usize| {
            let at = ahead.next().copied().unwrap_or_else(|| keyspace.key_ahead(args[i]));
            debug_assert_eq!(at, keyspace.key_ahead(args[i]));
            more.push(Place::new(args[i], at));
        };
        if let Some(all) = spec.all_keys_ahead(args.len()) {
            all.each(push);
        } else if spec.each_key_position(args, &mut push).is_none() {
            more.clear();
        }
    }
    /// Makes them the place of a command's only key.
    #[inline]
    pub(crate) fn set_only(&mut self, place: Place) {
        self.only = Some(place);
        if !self.more.is_empty() {
            self.more.clear();
        }
    }

    /// The slot of all of several keys, if there is only one.
    pub(crate) fn common_slot(&self) -> Option<Slot> {
        let (first, others) = self.more.split_first()?;
        others.iter().all(|place| place.at.slot == first.at.slot).then_some(first.at.slot)
    }

    /// Tells each place which of the slots is its own: their number among all, ascending and each once, which are returned.
    pub(crate) fn number(&mut self) -> Slots {
        let places = &mut self.more;
        let mut order: SmallVec<[u64; 16]> = SmallVec::with_capacity(places.len());
        // The slot, then which place it is.
        let word = |(i, place): (usize, &Place)| (place.at.slot.number() as u64) << 32 | i as u64;
        order.extend(places.iter().enumerate().map(word));
        order.sort_unstable();
        let mut slots = Slots::with_capacity(order.len());
        let mut last = None;
        for word in &order {
            let at = &mut places[*word as u32 as usize].at;
            if last != Some(at.slot) {
                slots.push(at.slot);
                last = Some(at.slot);
            }
            at.guard = slots.len() as u32 - 1;
        }
        slots
    }

    pub(crate) fn len(&self) -> usize {
        self.only.is_some() as usize + self.more.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is more than one, so that reads of them can overlap.
    pub(crate) fn is_many(&self) -> bool {
        self.more.len() > 1
    }

    /// Slot and hash of a key that is one of the command's arguments.
    #[inline]
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<At> {
        match &self.only {
            Some(place) if place.is_of(key) => Some(place.at),
            _ => self.find_among(key),
        }
    }
    #[inline]
    fn find_among(&mut self, key: &[u8]) -> Option<At> {
        // Some go through their keys twice: to look first.
        for number in [self.last, self.last + 1, 0] {
            if let Some(place) = self.more.get(number)
                && place.is_of(key)
            {
                self.last = number;
                return Some(place.at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Handler;

    const MANY: &crate::spec::Command =
        &crate::spec::Command { name: "many", ..crate::commands::string::MGET };

    fn places(keyspace: &Keyspace, args: Args) -> (Places, Slots) {
        let spec = crate::Table::new([MANY]).by_name(b"many").expect("just declared");
        assert!(matches!(spec.command.run, Handler::Keys(_)) && spec.is_plain_of_many);
        let mut places = Places::of(keyspace, spec, args, &[keyspace.key_ahead(args[1])]);
        let slots = places.number();
        (places, slots)
    }

    #[test]
    fn each_key_knows_the_guard_of_its_slot() {
        let keyspace = Keyspace::new(2, [1, 2]);
        let text: Vec<String> = (0..40).map(|i| format!("{{{}}}{i}", i % 17)).collect();
        let mut args: Vec<&[u8]> = vec![b"many"];
        args.extend(text.iter().map(|key| key.as_bytes()));
        let twice = [b"{3}twice".to_vec(), b"{3}twice".to_vec()];
        args.extend([twice[0].as_slice(), &twice[1], b""]);
        let (mut places, slots) = places(&keyspace, &args);
        assert!(slots.is_sorted_by(|a, b| a < b) && slots.len() == 18);
        let mut locks = Locks::take(&keyspace, &slots).expect("free");
        // Through them twice, as MSETNX goes.
        for key in args[1..].iter().chain(&args[1..]) {
            let at = places.find(key).expect("an argument");
            assert_eq!((at.slot, at.hash), (Slot::of_key(key), keyspace.hash(key)));
            assert_eq!(slots[at.guard as usize], at.slot);
            assert_eq!(locks.guard_at(at).slot(), at.slot);
            assert_eq!(locks.held(at).map(SlotGuard::slot), Some(at.slot));
        }
        assert!(places.find(b"other").is_none());
    }

    #[test]
    fn a_hint_that_is_wrong_misleads_nobody() {
        let keyspace = Keyspace::new(2, [1, 2]);
        let args: [&[u8]; 4] = [b"many", b"a", b"b", b"c"];
        let (mut found, slots) = places(&keyspace, &args);
        // Another slot is locked before theirs, so that all stand one further behind.
        let first = Slot::default();
        assert!(!slots.contains(&first));
        let mut locks = Locks::take(&keyspace, &[first]).expect("free");
        locks.prefetch(0, &found);
        assert!(locks.try_extend(&slots));
        locks.prefetch(1, &found);
        for key in &args[1..] {
            let at = found.find(key).expect("an argument");
            assert_eq!(locks.guard_at(at).slot(), Slot::of_key(key));
        }
        drop(locks);
        let closed = keyspace.gate().try_close().expect("nobody is inside");
        let mut locks = Locks::exclusive(&keyspace, &closed);
        locks.prefetch(0, &found);
        for key in &args[1..] {
            let at = found.find(key).expect("an argument");
            assert_eq!(locks.guard_at(at).slot(), at.slot);
            assert_eq!(locks.len(), 1);
        }
    }

    #[test]
    fn who_cannot_have_all_slots_has_none() {
        let keyspace = Keyspace::new(1, [1, 2]);
        let args: [&[u8]; 5] = [b"many", b"c", b"a", b"b", b"a"];
        let (mut places, slots) = places(&keyspace, &args);
        let mut locks = Locks::none(&keyspace);
        for slot in &slots {
            let mut held = keyspace.lock(*slot).expect("free");
            assert!(!locks.try_take(&mut places) && locks.is_empty());
            held.state_mut().ownership = Ownership::Paused;
            drop(held);
            assert!(!locks.try_take(&mut places) && locks.is_empty());
            keyspace.lock(*slot).expect("free").state_mut().ownership = Ownership::Serving;
        }
        assert!(locks.try_take(&mut places));
        assert_eq!(locks.len(), slots.len());
        locks.release();
        assert!(Locks::take(&keyspace, &slots).is_ok());
    }

    #[test]
    fn keys_know_their_guards_in_whatever_order_they_were_locked() {
        let keyspace = Keyspace::new(2, [1, 2]);
        let text: Vec<String> = (0..60).map(|i| format!("{{{}}}{i}", i % 23)).collect();
        let mut args: Vec<&[u8]> = vec![b"many"];
        args.extend(text.iter().map(|key| key.as_bytes()));
        let (mut places, slots) = places(&keyspace, &args);
        assert_eq!(places.common_slot(), None);
        let mut locks = Locks::none(&keyspace);
        assert!(locks.try_take(&mut places));
        // One more behind them, wherever it belongs.
        let other = Slot::default();
        assert!(!slots.contains(&other) && !locks.holds(other) && locks.try_extend(&[other]));
        locks.prefetch(0, &places);
        for key in &args[1..] {
            let at = places.find(key).expect("an argument");
            assert_eq!(locks.number(at.slot), Some(at.guard as usize));
            assert_eq!(locks.guard_at(at).slot(), Slot::of_key(key));
            assert_eq!(locks.guard(at.slot).slot(), at.slot);
        }
        assert_eq!((locks.len(), locks.guard(other).slot()), (slots.len() + 1, other));
    }

    #[test]
    fn a_common_slot_is_that_of_all_keys() {
        let keyspace = Keyspace::new(1, [1, 2]);
        let slot_of = |args: Args| places(&keyspace, args).0.common_slot();
        assert_eq!(slot_of(&[b"many", b"{a}1", b"a", b"{a}2"]), Some(Slot::of_key(b"a")));
        assert_eq!(slot_of(&[b"many", b"a", b"{a}2", b"b"]), None);
    }

    #[test]
    fn memory_is_asked_for_under_locks_whatever_is_there() {
        let keyspace = Keyspace::new(2, [1, 2]);
        let text: Vec<String> = (0..300).map(|i| format!("{{{}}}{i}", i % 7)).collect();
        let mut args: Vec<&[u8]> = vec![b"many"];
        args.extend(text.iter().map(|key| key.as_bytes()));
        let (found, slots) = places(&keyspace, &args);
        let mut locks = Locks::take(&keyspace, &slots).expect("free");
        for key in args[1..].iter().step_by(2) {
            let mut db = locks.guard(Slot::of_key(key)).db_mut(0);
            db.set_str(key, keyspace.hash(key), b"v", storage::Expiry::None);
        }
        locks.prefetch(0, &found);
        locks.prefetch(1, &found);
        for (i, key) in args[1..].iter().enumerate() {
            let is_there = locks.guard(Slot::of_key(key)).db(0).get(key, keyspace.hash(key)).is_some();
            assert_eq!(is_there, i % 2 == 0);
        }
    }
}
