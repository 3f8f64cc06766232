//! Commands of one key or several that follow one another, of one client about which nothing is special: nearly all. What
//! holds for all of them is looked at once, when their lane opens.
//!
//! Invariant: a lane does nothing that [`crate::execute`] would not do, and leaves to it whatever it does not take.

use crate::admission::{self, Route};
use crate::cx::Waiting;
use crate::execute::{self, Outcome};
use crate::keys::Keys;
use crate::locks::{Locks, Place};
use crate::spec::flag;
use crate::{Args, Session, Spec, Turn};
use proto::Slot;
use proto::resp::Reply;
use storage::{KeyAhead, Ownership};

/// See the module's head. Holds what the thread lends to whoever runs: it is to be closed.
pub struct Lane<'g> {
    keys: Keys<'g>,
    /// Flags of commands that it leaves to others.
    left_out: u32,
}

impl<'g> Lane<'g> {
    /// `None`: there is something special about the session, or some gate has something to say about every command.
    #[inline]
    pub fn open(turn: &mut Turn<'g>, session: &Session, out: &mut Reply) -> Option<Lane<'g>> {
        let left_out = turn.watched | flag::EXCLUSIVE | flag::LONG;
        let is_special = left_out & flag::ANY != 0 || turn.exclusive.is_some() || session.importing.is_some();
        if is_special || !session.is_plain() {
            return None;
        }
        out.set_resp3(session.is_resp3);
        let locks = Locks::none(&turn.engine.keyspace);
        Some(Lane { keys: execute::keys(turn, session, locks), left_out })
    }

    /// Hands back what was lent.
    #[inline]
    pub fn close(mut self, turn: &mut Turn<'g>) {
        self.keys.give_back(turn);
    }

    /// Runs a command whose first keys, those of [`Spec::keys_ahead`], are `ahead`. `None`: nothing was done; it is for
    /// [`crate::execute`].
    #[inline]
    pub fn run(
        &mut self,
        turn: &mut Turn<'g>,
        session: &mut Session,
        spec: &'static Spec,
        ahead: &[KeyAhead],
        args: Args,
        raw: &[u8],
        out: &mut Reply,
    ) -> Option<Outcome> {
        if !spec.is_plain || spec.command.flags & self.left_out != 0 {
            return self.run_many(turn, session, spec, ahead, args, raw, out);
        }
        let key = *ahead.first()?;
        let slots = [key.slot];
        if turn.cluster.is_some()
            && !matches!(admission::route(turn, session, &slots, spec.command.flags), Ok(Route::Here))
        {
            return None;
        }
        let guard = turn.engine.keyspace.try_lock(key.slot)?;
        if guard.state().ownership == Ownership::Paused {
            return None;
        }
        self.keys.locks.set_only(guard);
        self.keys.set_only_place(Place::new(args[1], key));
        Some(self.run_locked(turn, session, spec, args, raw, out, &slots))
    }

    /// Runs a command whose slots are locked, and unlocks them.
    #[inline(always)] // nearly all commands pass here: not called, it costs them nothing
    fn run_locked(
        &mut self,
        turn: &mut Turn<'g>,
        session: &mut Session,
        spec: &'static Spec,
        args: Args,
        raw: &[u8],
        out: &mut Reply,
        slots: &[Slot],
    ) -> Outcome {
        let keys = &mut self.keys;
        let unfinished = execute::run_one(turn, spec, args, Some(raw), out, keys, Waiting::Allowed);
        let outcome = execute::outcome(turn, session, keys, spec, args, unfinished);
        execute::settle(turn, session, keys, slots);
        outcome
    }

    /// As [`Lane::run`], a command of several keys.
    #[inline(never)]
    fn run_many(
        &mut self,
        turn: &mut Turn<'g>,
        session: &mut Session,
        spec: &'static Spec,
        ahead: &[KeyAhead],
        args: Args,
        raw: &[u8],
        out: &mut Reply,
    ) -> Option<Outcome> {
        /// A choice: with more, guards are found sooner among slots that ascend.
        const ARGS_MAX: usize = 256;
        if !spec.is_plain_of_many || spec.command.flags & self.left_out != 0 || args.len() > ARGS_MAX {
            return None;
        }
        let mut places = self.keys.lend_places();
        places.fill(&turn.engine.keyspace, spec, args, ahead);
        if turn.cluster.is_some() {
            let slots = [places.common_slot()?];
            if !matches!(admission::route(turn, session, &slots, spec.command.flags), Ok(Route::Here)) {
                return None;
            }
        }
        let keys = &mut self.keys;
        if places.is_empty() || !keys.locks.try_take(&mut places) {
            return None;
        }
        // In database 0 their memory was asked for with that of the batch.
        match keys.db == 0 && places.len() == ahead.len() {
            true => keys.set_places(places),
            false => keys.take_places(places),
        }
        // Whoever needs the slots asks the locks.
        Some(self.run_locked(turn, session, spec, args, raw, out, &[]))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Runner;
    use proto::Slot;
    use storage::Ownership;

    const LINES: &[&str] = &[
        "MSET a 1 b 2 a 3 {a}c 4 b 5",
        "MGET a b x {a}c a",
        "MSET a 1 b",
        "MSETNX a 1 d 2",
        "MSETNX d 1 e 2 {d}f 3",
        "MGET d",
        "MSET only 1",
        "EXISTS a a b x",
        "PEXPIRE a 5",
        "RPUSH list 1 2 3",
        "MGET list a",
        "LMOVE list b LEFT LEFT",
        "LMOVE list other LEFT RIGHT",
        "SADD {s}1 a b c",
        "SADD {s}2 b c d",
        "SINTERSTORE {s}3 {s}1 {s}2",
        "DEL a b x {s}3 a",
        "RENAME d e",
        "MGET a b d e",
    ];

    #[test]
    fn several_keys_go_as_they_go_without_a_lane() {
        let (mut lane, mut plain) = (Runner::default(), Runner::default());
        let mut taken = 0;
        for line in LINES {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let reply = match lane.answer_in_lane(&args) {
                Some(reply) => {
                    taken += 1;
                    reply
                }
                None => lane.answer(&args).1,
            };
            assert_eq!(String::from_utf8_lossy(&reply), plain.run(line), "{line}");
            assert_eq!(lane.replayed(), plain.replayed(), "{line}");
            assert_eq!(lane.looked_up(), plain.looked_up(), "{line}");
        }
        assert_eq!(taken, LINES.len());
        assert_eq!(lane.engine.keyspace.used_bytes(), plain.engine.keyspace.used_bytes());
    }

    #[test]
    fn nothing_is_done_unless_all_slots_are_free() {
        let mut runner = Runner::default();
        let keyspace = runner.engine.keyspace.clone();
        let mset: &[&[u8]] = &[b"MSET", b"a", b"1", b"b", b"2"];
        for key in [b"a", b"b"] {
            let slot = Slot::of_key(key);
            let held = keyspace.lock(slot).expect("free");
            assert_eq!(runner.answer_in_lane(mset), None);
            drop(held);
            keyspace.lock(slot).expect("free").state_mut().ownership = Ownership::Paused;
            assert_eq!(runner.answer_in_lane(mset), None);
            keyspace.lock(slot).expect("free").state_mut().ownership = Ownership::Serving;
        }
        assert_eq!(runner.run("EXISTS a b"), ":0\r\n");
        assert_eq!(runner.answer_in_lane(mset).as_deref(), Some(b"+OK\r\n".as_slice()));
        assert_eq!(runner.answer_in_lane(&[b"BLPOP", b"x", b"y", b"0"]), None);
    }

    #[test]
    fn commands_of_very_many_keys_are_left_to_others() {
        let mut runner = Runner::default();
        let mut args = vec![b"a".as_slice(); 257];
        args[0] = b"EXISTS";
        assert_eq!(runner.answer_in_lane(&args), None);
        assert_eq!(runner.answer_in_lane(&args[..256]).as_deref(), Some(b":0\r\n".as_slice()));
    }
}
