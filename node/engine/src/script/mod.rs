//! Lua: EVAL and its kin, and functions.
//!
//! A script runs in its caller's thread with a [`crate::Turn`] and a [`crate::Session`], under the locks of the keys
//! that it declares; what it needs beside them is in [`LocalScripts`], one for each thread that runs scripts, and in
//! [`Scripts`], one for the node.
//!
//! What locks a script runs under. Declared keys are locked from the start. A key that was not declared is locked when
//! it is met, if nobody holds it: whoever does not wait for a lock cannot be in a deadlock. If it is held, or a command
//! needs every slot (FLUSHALL, SCAN ...), the script is given up and runs again with the gate closed, provided it has
//! written nothing; from then on it always does. One that has written gets an error instead. Commands for the whole
//! database that stand in a script's text between quotes close the gate from the start. In cluster mode all keys of a
//! script are in one slot.
//!
//! Invariant: a script that answers has run once, under one set of locks that only grew.

mod api;
mod args;
mod bit;
pub mod cache;
mod cjson;
mod cmsgpack;
pub mod control;
mod convert;
pub mod debug;
mod format;
mod interpreter;
pub mod library;
mod native;
mod pack;
mod pattern;
pub mod run;
mod sandbox;
mod search;
#[cfg(test)]
mod tests;

pub use api::LogLine;
use cache::Cache;
use control::Control;
use interpreter::{Interpreter, Kind};
use library::Libraries;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// What all workers share of scripts.
#[derive(Default, Debug)]
pub struct Scripts {
    pub cache: Cache,
    pub libraries: Libraries,
    pub control: Control,
    /// Scripts may call commands of administration that they are denied otherwise: for tests.
    pub denies_nothing: AtomicBool,
    /// Watched keys that nobody watches any more, in slots that scripts held when they were to be forgotten.
    pub(crate) left: std::sync::Mutex<Vec<crate::multi::WatchedKey>>,
    /// Bytes in the interpreters of all threads, for scripts and for functions.
    vm_bytes: [AtomicI64; 2],
}

impl Scripts {
    /// Bytes in the interpreters for scripts.
    pub fn eval_vm_bytes(&self) -> u64 {
        self.vm_bytes[0].load(Ordering::Relaxed).max(0) as u64
    }
    /// Bytes in the interpreters for functions.
    pub fn function_vm_bytes(&self) -> u64 {
        self.vm_bytes[1].load(Ordering::Relaxed).max(0) as u64
    }
}

/// What a thread that runs scripts keeps between them.
pub struct LocalScripts {
    /// Seeds of the interpreters' random numbers.
    rng: crate::Rng,
    eval: Slot,
    function: Slot,
    /// What the last script did.
    pub last: LastRun,
    /// Debugs the scripts of this thread, which runs no others.
    pub debugger: Option<Rc<debug::Debugger>>,
}

/// What may be said of a run of a script.
#[derive(Clone, Copy, Default, Debug)]
pub struct LastRun {
    /// It changed something, or told somebody.
    pub has_acted: bool,
    /// Its text has a loop.
    pub may_loop: bool,
}

#[derive(Default)]
struct Slot {
    vm: Option<Box<Interpreter>>,
    /// Flushes or changes that the interpreter has seen.
    seen: u64,
    /// Bytes as they were added up last.
    bytes: i64,
}

impl LocalScripts {
    pub fn new(seed: u64) -> LocalScripts {
        LocalScripts {
            rng: crate::Rng::new(seed),
            eval: Slot::default(),
            function: Slot::default(),
            last: LastRun::default(),
            debugger: None,
        }
    }

    fn slot(&mut self, kind: Kind) -> &mut Slot {
        match kind {
            Kind::Eval => &mut self.eval,
            Kind::Function => &mut self.function,
        }
    }

    /// The interpreter, made or brought up to date.
    fn vm(&mut self, kind: Kind, shared: &Scripts) -> &mut Interpreter {
        let now = match kind {
            Kind::Eval => shared.cache.flushes(),
            Kind::Function => shared.libraries.changes(),
        };
        let seed = self.rng.next_u64();
        let debugger = self.debugger.clone();
        let slot = self.slot(kind);
        if slot.seen != now {
            match kind {
                Kind::Eval => slot.vm = None,
                Kind::Function => {
                    let set = shared.libraries.set();
                    slot.vm.iter_mut().for_each(|vm| vm.keep_libraries(|l| set.has(l)));
                }
            }
            slot.seen = now;
        }
        slot.vm.get_or_insert_with(|| {
            let vm = Box::new(Interpreter::new(kind));
            vm.state().seed(seed as i64);
            debugger.into_iter().for_each(|debugger| vm.debug(debugger));
            vm
        })
    }

    /// Takes the interpreter out while a script runs; [`LocalScripts::put_back`] returns it.
    fn take(&mut self, kind: Kind) -> Box<Interpreter> {
        self.slot(kind).vm.take().expect("it was asked for before")
    }

    fn put_back(&mut self, kind: Kind, vm: Box<Interpreter>, shared: &Scripts) {
        if self.debugger.is_some() {
            return;
        }
        let slot = self.slot(kind);
        let bytes = vm.used_bytes() as i64;
        let total = &shared.vm_bytes[usize::from(kind == Kind::Function)];
        total.fetch_add(bytes - slot.bytes, Ordering::Relaxed);
        slot.bytes = bytes;
        slot.vm = Some(vm);
    }
}
