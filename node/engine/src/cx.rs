//! What a command's function gets.

use crate::blocking::{Nothing, WaitRequest};
use crate::keys::Keys;
use crate::{Args, Error, Rng, Settings, Turn, number};
use proto::resp::Reply;

/// Whether a command that finds nothing may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    Allowed,
    /// In a transaction, or from a stream of replayed commands.
    Refused,
    /// Refused, and some commands say so where they are asked to.
    InScript,
}

/// One run of a command.
pub struct Cx<'a, 'g> {
    pub args: Args<'a>,
    pub keys: &'a mut Keys<'g>,
    pub out: &'a mut Reply,
    pub rng: &'a mut Rng,
    pub settings: &'g Settings,
    pub waiting: Waiting,
    /// Whether the client waited, and the command runs again since a key it waits for changed.
    pub(crate) is_resumed: bool,
    pub(crate) unfinished: Option<Unfinished>,
    pub(crate) replay: Replay,
}

/// Why a command has no reply yet.
pub(crate) enum Unfinished {
    /// Its client waits.
    Waits(Box<WaitRequest>),
    /// It is to run again with the gate closed, and has changed nothing.
    NeedsGate,
}

/// What replicas and the log get for this command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replay {
    /// The command as it came, if it changed anything.
    AsIs,
    /// What the function pushed instead.
    Rewritten,
}

impl<'a, 'g> Cx<'a, 'g> {
    #[inline]
    pub(crate) fn new(
        args: Args<'a>,
        keys: &'a mut Keys<'g>,
        out: &'a mut Reply,
        rng: &'a mut Rng,
        waiting: Waiting,
    ) -> Cx<'a, 'g> {
        let settings = keys.settings;
        Cx {
            args,
            keys,
            out,
            rng,
            settings,
            waiting,
            is_resumed: false,
            unfinished: None,
            replay: Replay::AsIs,
        }
    }

    /// Replays this command instead of the one that came; several calls: all of them, together.
    pub fn replay<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.replay = Replay::Rewritten;
        self.keys.unit.push(self.keys.db, args);
    }

    /// Replays nothing although something changed: what changed is replayed otherwise.
    pub fn replay_nothing(&mut self) {
        self.replay = Replay::Rewritten;
    }

    /// The command found nothing: its client waits for `keys`, or gets `nothing` where it cannot wait (inside MULTI).
    /// `timeout_ms` 0: for ever. No reply must have been written.
    pub fn block(&mut self, keys: Vec<Vec<u8>>, timeout_ms: u64, nothing: Nothing) {
        self.block_with(WaitRequest { keys, timeout_ms, args: None, ends_on_error: false }, nothing);
    }

    /// As [`Cx::block`], with all that a wait may ask for.
    pub fn block_with(&mut self, request: WaitRequest, nothing: Nothing) {
        assert!(!request.keys.is_empty());
        if self.waiting == Waiting::Allowed {
            self.unfinished = Some(Unfinished::Waits(Box::new(request)));
        } else {
            nothing.write(self.out);
        }
    }

    pub fn arg(&self, index: usize) -> &'a [u8] {
        self.args[index]
    }
    pub fn int(&self, index: usize) -> Result<i64, Error> {
        number::parse_i64(self.args[index]).ok_or(Error::NotInteger)
    }
    pub fn float(&self, index: usize) -> Result<f64, Error> {
        number::parse_f64(self.args[index]).ok_or(Error::NotFloat)
    }
    /// Whether argument `index` is this word, in any case.
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.args.get(index).is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()))
    }
    /// A timeout in seconds (with a fraction) as milliseconds; 0: for ever. Follows Redis's
    /// `getTimeoutFromObjectOrReply`.
    pub fn timeout_ms(&self, index: usize) -> Result<u64, Error> {
        let seconds = number::parse_f64(self.args[index]).ok_or(Error::TimeoutNotFloat)?;
        let ms = (seconds * 1000.0).ceil();
        if ms > i64::MAX as f64 - self.keys.now_ms as f64 {
            return Err(Error::TimeoutOutOfRange);
        }
        if ms < 0.0 {
            return Err(Error::TimeoutNegative);
        }
        Ok(ms as u64)
    }
}

/// One run of a command without keys.
pub struct EngineCx<'a, 't> {
    pub turn: &'a mut Turn<'t>,
    pub args: Args<'a>,
    pub out: &'a mut Reply,
    /// Something changed that is part of the data set: the command is replayed elsewhere.
    pub has_changed: bool,
}

impl EngineCx<'_, '_> {
    /// Whether argument `index` is this word, in any case.
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.args.get(index).is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()))
    }
}
