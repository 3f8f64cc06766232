//! Commands of one key that follow one another, of one client about which nothing is special: nearly all. What holds for
//! all of them is looked at once, when their lane opens.
//!
//! Invariant: a lane does nothing that [`crate::execute`] would not do, and leaves to it whatever it does not take.

use crate::admission::{self, Route};
use crate::cx::Waiting;
use crate::execute::{self, Outcome};
use crate::keys::Keys;
use crate::locks::{Locks, Place};
use crate::spec::flag;
use crate::{Args, Session, Spec, Turn};
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

    /// Runs a command whose only key is argument 1 and at `key`. `None`: nothing was done; it is for [`crate::execute`].
    #[inline]
    pub fn run(
        &mut self,
        turn: &mut Turn<'g>,
        session: &mut Session,
        spec: &'static Spec,
        key: KeyAhead,
        args: Args,
        raw: &[u8],
        out: &mut Reply,
    ) -> Option<Outcome> {
        if !spec.is_plain || spec.command.flags & self.left_out != 0 {
            return None;
        }
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
        let keys = &mut self.keys;
        keys.locks.set_only(guard);
        keys.set_places(Place::new(args[1], key).into());
        let unfinished = execute::run_one(turn, spec, args, Some(raw), out, keys, Waiting::Allowed);
        let outcome = execute::outcome(turn, session, keys, spec, args, unfinished);
        execute::settle(turn, session, keys, &slots);
        Some(outcome)
    }
}
