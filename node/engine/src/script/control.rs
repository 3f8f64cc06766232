//! Scripts that run now, and what ends them: SCRIPT KILL, FUNCTION KILL, FUNCTION STATS and the BUSY error.
//!
//! Invariant: a script that was killed has written nothing, and one that has written is not killed: both are one
//! transition of one atomic.

use super::debug::Debugger;
use crate::{Args, Error};
use proto::Mono;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const READING: u8 = 0;
const WRITTEN: u8 = 1;
const KILLED: u8 = 2;

/// A script that runs.
#[derive(Debug)]
pub struct Running {
    /// SHA-1 of a script, or a function's name.
    pub name: Arc<str>,
    pub is_eval: bool,
    /// It came with a primary's stream or from the log.
    pub is_replayed: bool,
    pub started: Mono,
    /// The command that runs it.
    pub command: Vec<Vec<u8>>,
    phase: AtomicU8,
    is_stopped: AtomicBool,
}

impl Running {
    pub fn new(name: Arc<str>, is_eval: bool, is_replayed: bool, started: Mono, command: Args) -> Running {
        let command = match is_eval {
            // Only FUNCTION STATS tells it.
            true => Vec::new(),
            false => command.iter().map(|a| a.to_vec()).collect(),
        };
        Running {
            name,
            is_eval,
            is_replayed,
            started,
            command,
            phase: AtomicU8::new(READING),
            is_stopped: AtomicBool::new(false),
        }
    }
    /// It is about to write. False: it has been killed.
    pub fn begin_writing(&self) -> bool {
        match self.phase.compare_exchange(READING, WRITTEN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(phase) => phase == WRITTEN,
        }
    }
    fn kill(&self) -> bool {
        let swap = self.phase.compare_exchange(READING, KILLED, Ordering::AcqRel, Ordering::Acquire);
        !matches!(swap, Err(WRITTEN))
    }
    pub fn is_killed(&self) -> bool {
        self.phase.load(Ordering::Acquire) == KILLED
    }
    /// The node ends it, whatever it has done.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }
    /// Ends it, whatever it has done.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
    fn ms(&self, now: Mono) -> u64 {
        now.as_ms().saturating_sub(self.started.as_ms())
    }
}

/// The scripts that run in all workers of a node, in the order in which they began.
#[derive(Default, Debug)]
pub struct Control {
    running: Mutex<Vec<Arc<Running>>>,
    /// As many as are in the list.
    count: AtomicUsize,
    /// One that is debugged on copies: nobody waits for it.
    aside: Mutex<Option<Arc<Running>>>,
}

impl Control {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn aside(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A script is debugged that makes nobody wait; `None`: it is no more.
    pub fn set_aside(&self, running: Option<Arc<Running>>) {
        *self.aside() = running;
    }
    pub fn begin(&self, running: &Arc<Running>) {
        let mut list = self.list();
        list.push(running.clone());
        self.count.store(list.len(), Ordering::Relaxed);
    }
    pub fn end(&self, running: &Arc<Running>) {
        let mut list = self.list();
        list.retain(|r| !Arc::ptr_eq(r, running));
        self.count.store(list.len(), Ordering::Relaxed);
    }
    /// Whether a script runs; asked once per batch.
    pub fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }
    /// A script has been running for too long. `slow_ms` 0: never.
    pub fn is_slow(&self, now: Mono, slow_ms: u64) -> bool {
        slow_ms > 0 && self.oldest().is_some_and(|oldest| oldest.ms(now) >= slow_ms)
    }
    /// The script that runs longest.
    pub fn oldest(&self) -> Option<Arc<Running>> {
        self.list().first().cloned()
    }

    /// Ends the scripts that are slow, or the oldest if none is. Several workers may run one each: one that has just
    /// begun is not what a user means.
    pub fn kill(&self, is_eval: bool, now: Mono, slow_ms: u64) -> Result<(), Error> {
        let list = self.list();
        let Some(oldest) = list.first() else {
            return match self.aside().as_ref().filter(|_| is_eval) {
                Some(debugged) if debugged.kill() => Ok(()),
                _ => Err(Error::text("NOTBUSY No scripts in execution right now.")),
            };
        };
        if oldest.is_replayed {
            return Err(Error::text(
                "UNKILLABLE The busy script was sent by a master instance in the context of replication and cannot be killed.",
            ));
        }
        let is_meant = |r: &&Arc<Running>| r.is_eval == is_eval && !r.is_replayed;
        let meant: Vec<_> = list.iter().filter(is_meant).collect();
        let Some(first) = meant.first() else { return Err(busy_error(oldest)) };
        let is_any_slow = first.ms(now) >= slow_ms;
        let chosen = meant.iter().enumerate().filter(|(i, r)| *i == 0 || is_any_slow && r.ms(now) >= slow_ms);
        match chosen.filter(|(_, r)| r.kill()).count() {
            0 => Err(Error::text(
                "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
            )),
            _ => Ok(()),
        }
    }

    /// Ends the scripts that have been running for so long, since the node itself has to go on. Of one that has written
    /// stays what it wrote, as when a script fails.
    pub fn stop(&self, now: Mono, ms: u64) {
        for running in self.list().iter().filter(|r| !r.is_replayed && r.ms(now) >= ms) {
            running.stop();
        }
    }

    /// Ends all scripts of clients, since the node ends. Whether one goes on, because it has written.
    pub fn kill_all(&self) -> bool {
        self.aside().iter().for_each(|debugged| debugged.stop());
        self.list().iter().filter(|r| !r.is_replayed && !r.kill()).count() > 0
    }

    /// Whether a script runs that has written, so that only the end of the node ends it.
    pub fn has_unkillable(&self) -> bool {
        self.list().iter().any(|r| !r.is_replayed && r.phase.load(Ordering::Acquire) == WRITTEN)
    }

    /// What a client is told that would have to wait, if a script has been running for too long. `slow_ms` 0: never.
    pub fn busy(&self, now: Mono, slow_ms: u64) -> Option<Error> {
        let oldest = self.oldest()?;
        (slow_ms > 0 && oldest.ms(now) >= slow_ms).then(|| busy_error(&oldest))
    }

    /// Time that a script has been running, in ms.
    pub fn ms(running: &Running, now: Mono) -> u64 {
        running.ms(now)
    }
}

/// The script that runs must be ended otherwise.
pub fn busy_error(running: &Running) -> Error {
    Error::text(match running.is_eval {
        true => "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        false => "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    })
}

/// Why a script ends before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Killed,
    /// It loads a library and takes too long.
    LoadTimeout,
    /// It must run again with the gate closed.
    NeedsGate,
    /// It takes long: it runs again where it makes nobody wait.
    Moved,
    /// Its debugger ends it, with an error of its own.
    Aborted,
}

/// What an interpreter looks at while it runs.
#[derive(Default, Debug)]
pub struct Watch {
    running: RefCell<Option<Arc<Running>>>,
    /// Looks until a load ends; 0: no bound.
    looks: Cell<u64>,
    /// It ends at the next look, to run elsewhere: it has done nothing yet.
    may_move: Cell<bool>,
    end: Cell<Option<End>>,
    short_looks: Cell<u32>,
    debugger: OnceCell<Rc<Debugger>>,
}

/// Looks at the watch that count as one: what takes long is judged after 100 000 instructions, as by Redis.
const LOOKS: u32 = 100;

/// Long looks at the watch while a library loads, each after 100 000 instructions. Redis allows half a second; this is
/// about as long, and the same everywhere.
const LOAD_LOOKS_MAX: u64 = 500;

impl Watch {
    pub fn begin(&self, running: Option<Arc<Running>>) {
        self.looks.set(if running.is_none() { LOAD_LOOKS_MAX } else { 0 });
        self.short_looks.set(0);
        *self.running.borrow_mut() = running;
        self.end.set(None);
    }
    /// Whether the script is given up when it takes long, since it can run again elsewhere.
    pub fn set_may_move(&self, may_move: bool) {
        self.may_move.set(may_move);
    }
    /// Why the script ended, if it did before its end.
    pub fn finish(&self) -> Option<End> {
        *self.running.borrow_mut() = None;
        self.looks.set(0);
        self.may_move.set(false);
        self.end.take()
    }
    /// All scripts of the interpreter are debugged.
    pub fn set_debugger(&self, debugger: Rc<Debugger>) {
        self.debugger.set(debugger).expect("an interpreter has one debugger");
    }
    pub fn debugger(&self) -> Option<&Rc<Debugger>> {
        self.debugger.get()
    }
    pub fn set_end(&self, end: End) {
        self.end.set(Some(end));
    }
    pub fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }
    /// A look, each 1000 instructions: whether the script is to end.
    pub fn is_to_end(&self) -> bool {
        if self.running.borrow().as_ref().is_some_and(|r| r.is_killed() || r.is_stopped()) {
            self.end.set(Some(End::Killed));
            return true;
        }
        self.short_looks.set((self.short_looks.get() + 1) % LOOKS);
        match self.short_looks.get() {
            0 => self.is_too_long(),
            _ => self.has_ended(),
        }
    }
    /// A long look: whether it has taken too long for what it is.
    fn is_too_long(&self) -> bool {
        if self.may_move.get() {
            self.end.set(Some(End::Moved));
        }
        match self.looks.get() {
            0 => {}
            1 => self.end.set(Some(End::LoadTimeout)),
            left => self.looks.set(left - 1),
        }
        self.has_ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(is_eval: bool, started: u64) -> Arc<Running> {
        Arc::new(Running::new("x".into(), is_eval, false, Mono(started), &[]))
    }

    #[test]
    fn a_script_that_has_written_is_not_killed() {
        let control = Control::default();
        let text = |r: Result<(), Error>| r.unwrap_err().code();
        assert_eq!(text(control.kill(true, Mono(0), 0)), "NOTBUSY");
        let script = running(true, 0);
        control.begin(&script);
        assert_eq!(text(control.kill(false, Mono(0), 0)), "BUSY");
        assert!(script.begin_writing());
        assert_eq!(text(control.kill(true, Mono(0), 0)), "UNKILLABLE");
        assert!(!script.is_killed());
        control.end(&script);
        assert_eq!(text(control.kill(true, Mono(0), 0)), "NOTBUSY");
    }

    #[test]
    fn at_the_end_all_are_killed_that_may_be() {
        let control = Control::default();
        let (reads, writes) = (running(true, 0), running(true, 0));
        control.begin(&reads);
        assert!(!control.kill_all() && !control.has_unkillable());
        control.begin(&writes);
        assert!(writes.begin_writing() && control.has_unkillable() && control.kill_all());
        assert!(reads.is_killed() && !writes.is_killed());
    }

    #[test]
    fn a_script_that_was_killed_does_not_write() {
        let control = Control::default();
        let script = running(true, 0);
        control.begin(&script);
        assert_eq!(control.kill(true, Mono(0), 0), Ok(()));
        assert!(!script.begin_writing());
    }

    #[test]
    fn only_slow_scripts_are_killed_if_there_are_any() {
        let control = Control::default();
        let ms = |n: u64| Mono(n * 1000);
        let scripts = [running(true, 0), running(true, 3_000_000), running(true, 5_900_000)];
        scripts.iter().for_each(|s| control.begin(s));
        assert_eq!(control.kill(true, ms(6000), 1000), Ok(()));
        assert_eq!(scripts.each_ref().map(|s| s.is_killed()), [true, true, false]);
    }

    #[test]
    fn the_node_ends_a_script_that_has_written() {
        let mut r = crate::testing::Runner::default();
        let scripts = r.engine.scripts.clone();
        let node = std::thread::spawn(move || {
            while !scripts.control.has_unkillable() {
                std::thread::yield_now();
            }
            assert!(scripts.control.kill(true, Mono(0), 0).is_err());
            scripts.control.stop(Mono(0), 0);
        });
        let reply = r.eval("redis.call('set', 'k', 'v') while true do pcall(redis.call, 'get', 'k') end");
        node.join().unwrap();
        assert!(reply.starts_with("-ERR Script ended by the node"), "{reply}");
        assert_eq!(r.run("get k"), "$1\r\nv\r\n");
    }

    #[test]
    fn scripts_are_killed_from_another_thread() {
        for script in [
            "while true do end",
            "while true do pcall(function() while true do end end) end",
            "while true do xpcall(function() while true do end end, function() while true do end end) end",
            "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
            "while true do redis.pcall('get', 'k') end",
            "local s = string.rep('a', 100) while true do s:gsub('.', function() while true do end end) end",
            "while true do string.rep('x', 1e6):upper():reverse() end",
            "return ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(41))",
            "return ('a'):rep(40):match(('a?'):rep(40) .. ('a'):rep(41))",
            "return ('a'):rep(40):gsub(('a?'):rep(40) .. ('a'):rep(41), '')",
            "return ('a'):rep(40):gmatch(('a?'):rep(40) .. ('a'):rep(41))()",
            "return ('a'):rep(1e6):gsub('.-b', '')",
            "return ('('):rep(1e6):gsub('%b()', '')",
        ] {
            let mut r = crate::testing::Runner::default();
            let scripts = r.engine.scripts.clone();
            let killer = std::thread::spawn(move || {
                while scripts.control.kill(true, proto::Mono(0), 0).is_err() {
                    std::thread::yield_now();
                }
            });
            let reply = r.eval(script);
            killer.join().unwrap();
            assert!(reply.starts_with("-ERR Script killed by user with SCRIPT KILL... script: "), "{reply}");
            assert_eq!(r.eval("return 1"), ":1\r\n");
        }
    }
}
