//! Frees what was removed from the keyspace and is large: a worker does it between its turns, in pieces of some
//! microseconds, so that nobody waits for it.
//!
//! A thread of its own, which this once was, has to be let onto the core by the worker, is stopped in the middle of a piece
//! while it holds the allocator's lock, and wakes the core for each piece. Values free themselves by their `drop`, which
//! cannot be left in the middle and gone on with: so it runs on a stack of its own, which is left after each piece.

use corosensei::{Coroutine, CoroutineResult};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What is to be freed together.
pub type Garbage = Vec<Box<dyn Any + Send>>;

/// Objects freed at a time: five microseconds, of which most is spent on waiting for memory.
const PIECE: u32 = 64;
/// Of a worker's garbage that waits, from which on it frees much more at a time: memory matters more then.
const WAITING_MAX: usize = 64;
/// Pieces at a time where so much waits, or so many commands have run: a third of a millisecond.
const PIECES_MAX: usize = 64;

/// What all workers have to free, for INFO.
#[derive(Default)]
pub struct Disposal {
    /// Calls of [`Freeing::take`] whose values are not freed yet, and letters that will become one.
    pub waiting: AtomicUsize,
    /// Values and tables that were handed over, since statistics were reset.
    pub total: AtomicU64,
}

impl Disposal {
    /// Counts what is handed over.
    pub fn count(&self, garbage: &Garbage) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(garbage.len() as u64, Ordering::Relaxed);
    }
}

/// What one worker has to free.
#[derive(Default)]
pub struct Freeing {
    waiting: VecDeque<Garbage>,
    is_begun: bool,
    /// There once something had to be freed.
    stack: Option<Stack>,
}

impl Freeing {
    pub fn take(&mut self, garbage: Garbage) {
        self.waiting.push_back(garbage);
    }

    /// Frees a piece, or some after many commands. Returns whether there is more.
    #[inline]
    pub fn go_on(&mut self, commands: usize, disposal: &Disposal) -> bool {
        self.has_more() && self.free_some(commands, disposal)
    }

    fn has_more(&self) -> bool {
        self.is_begun || !self.waiting.is_empty()
    }

    #[cold]
    fn free_some(&mut self, commands: usize, disposal: &Disposal) -> bool {
        let is_much = self.waiting.len() >= WAITING_MAX;
        let pieces = if is_much { PIECES_MAX } else { 1 + (commands / PIECE as usize).min(PIECES_MAX) };
        for _ in 0..pieces {
            let next = if self.is_begun { None } else { self.waiting.pop_front() };
            if !self.is_begun && next.is_none() {
                return false;
            }
            self.is_begun = !self.stack.get_or_insert_with(Stack::new).free_piece(next);
            if !self.is_begun {
                disposal.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.has_more()
    }
}

/// Where values free themselves. It takes what to free next, and says whether all of it is freed by now.
struct Stack(Coroutine<Option<Garbage>, bool, ()>);

impl Stack {
    fn new() -> Stack {
        Stack(Coroutine::new(|yielder, mut next: Option<Garbage>| {
            while let Some(garbage) = next {
                storage::free_in_pieces(PIECE, || drop(yielder.suspend(false)), || drop(garbage));
                next = yielder.suspend(true);
            }
        }))
    }

    /// Goes on, with something new if the last is freed. Returns whether all is freed.
    fn free_piece(&mut self, next: Option<Garbage>) -> bool {
        match self.0.resume(next) {
            CoroutineResult::Yield(is_freed) => is_freed,
            CoroutineResult::Return(()) => unreachable!("it ends when it is told to"),
        }
    }
}

impl Drop for Stack {
    /// Comes to the end: what is half freed cannot be dropped otherwise.
    fn drop(&mut self) {
        while !self.0.done() {
            self.0.resume(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::{Set, Thresholds};

    fn big_set() -> Garbage {
        let (mut set, t) = (Set::new(), Thresholds::default());
        (0..5000u32).for_each(|i| assert!(set.insert(format!("member:{i:06}").as_bytes(), &t)));
        vec![Box::new(set)]
    }

    fn turns_to_free(garbage: Vec<Garbage>, commands: usize) -> usize {
        let (mut freeing, disposal) = (Freeing::default(), Disposal::default());
        for one in garbage {
            disposal.count(&one);
            freeing.take(one);
        }
        let turns = (1..).find(|_| !freeing.go_on(commands, &disposal)).unwrap();
        assert_eq!(disposal.waiting.load(Ordering::Relaxed), 0);
        turns
    }

    #[test]
    fn a_large_value_takes_many_turns() {
        let turns = turns_to_free(vec![big_set()], 0);
        assert!((5000 / 64..5000 / 64 + 10).contains(&turns), "{turns}");
    }

    #[test]
    fn who_runs_many_commands_frees_more() {
        let turns = turns_to_free(vec![big_set()], 640);
        assert!((5000 / 64 / 11..5000 / 64 / 8).contains(&turns), "{turns}");
    }

    #[test]
    fn much_that_waits_is_freed_faster() {
        let each = || -> Garbage { vec![Box::new(vec![0u8; 8])] };
        assert_eq!(turns_to_free((0..2).map(|_| each()).collect(), 0), 2);
        assert!(turns_to_free((0..1000).map(|_| each()).collect(), 0) < 100);
    }

    #[test]
    fn what_is_dropped_meanwhile_is_not_counted() {
        let (mut freeing, disposal) = (Freeing::default(), Disposal::default());
        freeing.take(big_set());
        disposal.count(&Vec::new());
        assert!(freeing.go_on(0, &disposal));
        // Would leave the stack that it is on, were it taken for a part of what is freed in pieces.
        drop(big_set());
        assert!(freeing.go_on(0, &disposal));
    }

    #[test]
    fn an_end_in_the_middle_frees_the_rest() {
        struct Last(std::sync::Arc<AtomicUsize>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let freed = std::sync::Arc::new(AtomicUsize::new(0));
        let (mut freeing, disposal) = (Freeing::default(), Disposal::default());
        let mut garbage = big_set();
        garbage.push(Box::new(Last(freed.clone())));
        disposal.count(&garbage);
        freeing.take(garbage);
        assert!(freeing.go_on(0, &disposal));
        assert_eq!(freed.load(Ordering::Relaxed), 0);
        drop(freeing);
        assert_eq!(freed.load(Ordering::Relaxed), 1);
    }
}
