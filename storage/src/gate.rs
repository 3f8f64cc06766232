//! The big-reader gate: entering costs a store and a fence on the worker's own line, once per batch; closing is rare
//! and waits for every worker to be out.
//!
//! Invariant: while a [`GateClosed`] lives, no reader is inside. A reader announces itself before it looks at
//! `closed`, the closer sets `closed` before it looks at the readers, and a SeqCst fence stands between the two
//! steps on both sides, so at least one of them sees the other (Dekker).

use crate::sync::{AtomicBool, AtomicU32, Mutex, MutexGuard, fence, rest, spin_loop, yield_now};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Looks at what one waits for, before one rests between them.
const YIELDS_MAX: u32 = 120;
/// Rests of a closer before it gives up: about a millisecond.
const RESTS_MAX: u32 = 12;

/// See the module's head.
#[derive(Default)]
pub struct Gate {
    shared: Arc<Shared>,
    closing: Mutex<()>,
}

#[derive(Default)]
struct Shared {
    closed: AtomicBool,
    /// Somebody has it closed, and is not only about to.
    is_held: AtomicBool,
    readers: Mutex<Vec<Arc<Line>>>,
}

#[repr(align(128))]
#[derive(Default)]
struct Line {
    inside: AtomicU32,
    /// It may stay inside for as long as it likes: a script.
    is_patient: bool,
}

impl Gate {
    /// A new reader, one per worker; it leaves the gate's list when dropped.
    pub fn register(&self) -> GateReader {
        self.register_line(Line::default())
    }

    /// As [`Gate::register`], for who may stay inside for long, such as a script: [`Gate::settle`] does not wait for it.
    pub fn register_patient(&self) -> GateReader {
        self.register_line(Line { is_patient: true, ..Line::default() })
    }

    fn register_line(&self, line: Line) -> GateReader {
        let line = Arc::new(line);
        lock(&self.shared.readers).push(line.clone());
        GateReader { shared: self.shared.clone(), line }
    }

    /// Closes the gate and waits until every reader is out. The caller must not be inside with a reader of its own:
    /// it would wait for itself. Closers queue behind each other. While a reader stays inside for long, the others are
    /// let in between the attempts.
    pub fn close(&self) -> GateClosed<'_> {
        let turn = lock(&self.closing);
        while !self.shut() {
            (0..RESTS_MAX).for_each(|_| rest());
        }
        self.held(turn)
    }

    /// As [`Gate::close`]; `None` when somebody else closes the gate, or a reader stays inside for longer than about a
    /// millisecond.
    pub fn try_close(&self) -> Option<GateClosed<'_>> {
        let turn = self.closing.try_lock().ok()?;
        self.shut().then(|| self.held(turn))
    }

    fn held<'a>(&'a self, turn: MutexGuard<'a, ()>) -> GateClosed<'a> {
        self.shared.is_held.store(true, Ordering::Relaxed);
        GateClosed { gate: self, _turn: turn }
    }

    /// Waits until every reader that is inside now has been out once, but for patient ones. It waits for nobody who has
    /// the gate closed: then they are out.
    pub fn settle(&self) {
        loop {
            if let Ok(_turn) = self.closing.try_lock()
                && self.shut_for(false)
            {
                return self.shared.closed.store(false, Ordering::Release);
            }
            let is_out = |line: &Arc<Line>| line.is_patient || line.inside.load(Ordering::SeqCst) == 0;
            if self.is_closed() && lock(&self.shared.readers).iter().all(is_out) {
                return;
            }
            rest();
        }
    }

    fn shut(&self) -> bool {
        self.shut_for(true)
    }

    /// Keeps readers out and waits for those inside, patient ones too if so wanted; opens again and answers false if
    /// one stays.
    fn shut_for(&self, is_for_all: bool) -> bool {
        self.shared.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let (mut at, mut rests) = (0, 0);
        loop {
            // The list's lock is not kept while waiting: a reader may come or go meanwhile. One that comes sees
            // `closed`; positions only shift down, so start again when the list has become shorter.
            let line = match lock(&self.shared.readers).get(at) {
                Some(line) => line.clone(),
                None => break,
            };
            let mut spins = 0;
            while (is_for_all || !line.is_patient) && line.inside.load(Ordering::Acquire) != 0 {
                spins += 1;
                match spins {
                    ..100 => spin_loop(),
                    100..YIELDS_MAX => yield_now(),
                    // The reader's thread may have a lower priority than this one, and yielding be nothing to it.
                    _ if rests < RESTS_MAX || cfg!(loom) => {
                        rests += 1;
                        rest();
                    }
                    _ => {
                        self.shared.closed.store(false, Ordering::Release);
                        return false;
                    }
                }
            }
            at = if lock(&self.shared.readers).get(at).is_some_and(|l| Arc::ptr_eq(l, &line)) {
                at + 1
            } else {
                0
            };
        }
        fence(Ordering::SeqCst);
        true
    }

    /// Whether somebody has the gate closed, and is not only about to.
    pub fn is_held(&self) -> bool {
        self.shared.is_held.load(Ordering::Relaxed)
    }

    /// Whether somebody closes the gate or has it closed.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }
}

/// Proof that no reader is inside; dropping it opens the gate.
pub struct GateClosed<'a> {
    gate: &'a Gate,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for GateClosed<'_> {
    fn drop(&mut self) {
        self.gate.shared.is_held.store(false, Ordering::Relaxed);
        self.gate.shared.closed.store(false, Ordering::Release);
    }
}

/// One worker's way through the gate.
pub struct GateReader {
    shared: Arc<Shared>,
    line: Arc<Line>,
}

impl GateReader {
    /// Enters, or `None` while the gate is closed. Dropping the result leaves.
    #[inline]
    pub fn enter(&mut self) -> Option<GateInside<'_>> {
        self.line.inside.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.shared.closed.load(Ordering::Acquire) {
            self.line.inside.store(0, Ordering::Release);
            return None;
        }
        Some(GateInside { reader: self, is_inside: true })
    }

    /// As [`GateReader::enter_wait`], for about a millisecond at most.
    pub fn enter_soon(&mut self) -> Option<GateInside<'_>> {
        let mut inside = self.stand_before();
        inside.return_soon().then_some(inside)
    }
    /// Stands outside: [`GateInside::return_soon`] goes in.
    pub fn stand_before(&mut self) -> GateInside<'_> {
        GateInside { reader: self, is_inside: false }
    }

    /// Enters, yielding the thread while the gate is closed.
    pub fn enter_wait(&mut self) -> GateInside<'_> {
        self.step_inside();
        GateInside { reader: self, is_inside: true }
    }

    fn step_inside(&self) {
        while !self.try_step_inside(YIELDS_MAX + RESTS_MAX) {}
    }

    /// False: the gate stayed closed for so many looks.
    fn try_step_inside(&self, looks_max: u32) -> bool {
        let mut looks = 0;
        loop {
            self.line.inside.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !self.shared.closed.load(Ordering::Acquire) {
                return true;
            }
            self.step_outside();
            looks += 1;
            match looks {
                _ if looks > looks_max => return false,
                ..YIELDS_MAX => yield_now(),
                _ => rest(),
            }
        }
    }
    #[inline]
    fn step_outside(&self) {
        self.line.inside.store(0, Ordering::Release);
    }
}

impl Drop for GateReader {
    fn drop(&mut self) {
        lock(&self.shared.readers).retain(|line| !Arc::ptr_eq(line, &self.line));
    }
}

/// Being inside the gate, or on the way there.
pub struct GateInside<'a> {
    reader: &'a GateReader,
    is_inside: bool,
}

impl GateInside<'_> {
    /// Runs `f` outside, where it may close the gate, and comes back in.
    pub fn outside<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.reader.step_outside();
        let result = f();
        self.reader.step_inside();
        result
    }
    /// Lets a closer have its turn if one waits. Returns whether it did: what was true before may have changed.
    #[inline]
    pub fn give_way(&mut self) -> bool {
        let is_awaited = self.reader.shared.closed.load(Ordering::Relaxed);
        if is_awaited {
            self.outside(|| ());
        }
        is_awaited
    }
    /// As [`GateInside::give_way`], and stays outside when the gate does not open for about a millisecond.
    #[inline]
    pub fn give_way_soon(&mut self) -> bool {
        let is_awaited = self.is_inside && self.reader.shared.closed.load(Ordering::Relaxed);
        if is_awaited {
            self.leave();
            self.return_soon();
        }
        is_awaited
    }
    /// False: it stands outside, and must not touch what the gate guards.
    #[inline]
    pub fn is_inside(&self) -> bool {
        self.is_inside
    }
    pub fn leave(&mut self) {
        self.is_inside = false;
        self.reader.step_outside();
    }
    /// Goes in, unless the gate stays closed for about a millisecond.
    pub fn return_soon(&mut self) -> bool {
        self.is_inside = self.is_inside || self.reader.try_step_inside(YIELDS_MAX + RESTS_MAX);
        self.is_inside
    }
}

impl Drop for GateInside<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_inside {
            self.reader.step_outside();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn a_closed_gate_lets_nobody_in() {
        let gate = Gate::default();
        let mut reader = gate.register();
        assert!(reader.enter().is_some());
        let closed = gate.close();
        assert!(reader.enter().is_none());
        drop(closed);
        assert!(reader.enter().is_some());
    }

    #[test]
    fn a_closer_gives_up_on_a_reader_that_stays() {
        let gate = Gate::default();
        let (mut stays, mut other) = (gate.register(), gate.register());
        let inside = stays.enter().unwrap();
        assert!(gate.try_close().is_none());
        assert!(other.enter().is_some());
        drop(inside);
        let closed = gate.try_close();
        assert!(closed.is_some() && other.enter().is_none());
        assert!(gate.try_close().is_none());
    }

    #[test]
    fn who_finds_the_gate_closed_for_long_stays_outside() {
        let gate = Gate::default();
        let (mut reader, mut other) = (gate.register(), gate.register());
        let closed = gate.close();
        let mut inside = reader.stand_before();
        assert!(!inside.return_soon() && !inside.is_inside() && other.enter_soon().is_none());
        gate.settle();
        drop(closed);
        assert!(inside.return_soon() && inside.is_inside() && !inside.give_way_soon());
        assert!(gate.try_close().is_none());
        inside.leave();
        assert!(gate.try_close().is_some());
    }

    #[test]
    fn settling_waits_for_all_but_patient_readers() {
        let gate = Gate::default();
        let (mut script, mut worker) = (gate.register_patient(), gate.register());
        let patient = script.enter().unwrap();
        gate.settle();
        let inside = worker.enter().unwrap();
        std::thread::scope(|s| {
            let settled = s.spawn(|| gate.settle());
            while !gate.is_closed() {
                std::hint::spin_loop();
            }
            assert!(!settled.is_finished());
            drop(inside);
        });
        drop(patient);
        assert!(worker.enter().is_some());
    }

    #[test]
    fn the_closer_excludes_all_readers() {
        let gate = Gate::default();
        // Two halves that a reader always changes together; the closer must never see them differ.
        let (a, b) = (AtomicU64::new(0), AtomicU64::new(0));
        let (turns, closes) = if cfg!(miri) { (50, 5) } else { (20_000, 200) };
        std::thread::scope(|s| {
            for _ in 0..2 {
                let mut reader = gate.register();
                let (a, b) = (&a, &b);
                s.spawn(move || {
                    for _ in 0..turns {
                        let _inside = reader.enter_wait();
                        a.fetch_add(1, Ordering::Relaxed);
                        b.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..closes {
                let _closed = gate.close();
                assert_eq!(a.load(Ordering::Relaxed), b.load(Ordering::Relaxed));
            }
        });
        assert_eq!(a.into_inner(), 2 * turns);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;

    /// What the closer changes and readers look at; loom fails on any access that the gate does not order.
    struct World(UnsafeCell<u32>);

    // SAFETY: touched inside the gate, or with the gate closed; loom fails the test where that is not so.
    unsafe impl Sync for World {}
    // SAFETY: as above.
    unsafe impl Send for World {}

    fn look(reader: &mut GateReader, world: &World) -> Option<u32> {
        let _inside = reader.enter()?;
        // SAFETY: inside the gate nobody changes the world.
        Some(world.0.with(|p| unsafe { *p }))
    }

    /// Readers that pass `looks` times each, and a closer that changes the world `closes` times. `preemptions` bounds
    /// the schedules: what goes wrong between three threads nearly always does with two forced switches.
    fn model(readers: usize, looks: usize, closes: usize, preemptions: Option<usize>) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.check(move || {
            let gate = Gate::default();
            let world = Arc::new(World(UnsafeCell::new(0)));
            let threads: Vec<_> = (0..readers)
                .map(|_| {
                    let (mut reader, world) = (gate.register(), world.clone());
                    loom::thread::spawn(move || {
                        for _ in 0..looks {
                            look(&mut reader, &world);
                        }
                    })
                })
                .collect();
            for _ in 0..closes {
                let _closed = gate.close();
                // SAFETY: the gate is closed: no reader is inside.
                world.0.with_mut(|p| unsafe { *p += 1 });
            }
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }

    #[test]
    fn loom_nobody_is_inside_a_closed_gate() {
        model(1, 2, 1, None);
    }
    #[test]
    fn loom_a_gate_closes_again() {
        model(1, 1, 2, None);
    }
    #[test]
    fn loom_a_gate_waits_for_every_reader() {
        model(2, 1, 1, Some(2));
    }
}
