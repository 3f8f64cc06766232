//! What a worker is woken for: connections that have something to do, and letters.
//!
//! A worker polls its connections itself: a task of the runtime for each would cost a small command a tenth more. Whoever
//! wakes a connection, from whatever thread, puts its place into the worker's queue; the first one in rings the bell.
//!
//! Invariant: whoever wakes a connection or rings the bell after the worker looked, wakes the worker's task.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Wakes a worker's task.
#[derive(Default)]
pub struct Bell {
    is_rung: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel)
            && let Some(waker) = &*lock(&self.waker)
        {
            waker.wake_by_ref();
        }
    }
    pub fn is_rung(&self) -> bool {
        self.is_rung.load(Ordering::Acquire)
    }
    /// `Ready`: it was rung since this was last so.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_rung.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        let mut waker = lock(&self.waker);
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        match self.is_rung.swap(false, Ordering::AcqRel) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// The connections of a worker that have something to do, in the order in which they were woken.
pub(super) struct Calls {
    bell: Arc<Bell>,
    queue: Mutex<Queue>,
}

/// No longer than there are places: each stands in it once.
#[derive(Default)]
struct Queue {
    places: Vec<u32>,
    is_in: Vec<bool>,
}

impl Calls {
    pub fn new(bell: Arc<Bell>) -> Arc<Calls> {
        Arc::new(Calls { bell, queue: Mutex::default() })
    }

    /// Wakes the connection at a place.
    pub fn waker(self: &Arc<Self>, place: u32) -> Waker {
        let is_in = &mut lock(&self.queue).is_in;
        let len = is_in.len().max(place as usize + 1);
        is_in.resize(len, false);
        Arc::new(Caller { calls: self.clone(), place }).into()
    }

    fn call(&self, place: u32) {
        let mut queue = lock(&self.queue);
        if std::mem::replace(&mut queue.is_in[place as usize], true) {
            return;
        }
        queue.places.push(place);
        let is_first = queue.places.len() == 1;
        drop(queue);
        if is_first {
            self.bell.ring();
        }
    }

    /// Moves the queue into `places`, which is empty. A place may have another connection by now.
    pub fn take(&self, places: &mut Vec<u32>) {
        debug_assert!(places.is_empty());
        let queue = &mut *lock(&self.queue);
        std::mem::swap(&mut queue.places, places);
        places.iter().for_each(|&place| queue.is_in[place as usize] = false);
    }
}

/// A connection, to whoever wakes it.
struct Caller {
    calls: Arc<Calls>,
    place: u32,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.calls.call(self.place);
    }
}

/// What is never left half done: who panics with it has done no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn taken(calls: &Calls) -> Vec<u32> {
        let mut places = Vec::new();
        calls.take(&mut places);
        places
    }

    #[test]
    fn each_stands_in_the_queue_once_and_the_first_rings() {
        let (bell, count) = (Arc::new(Bell::default()), Arc::new(Count::default()));
        let calls = Calls::new(bell.clone());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let [a, b] = [1, 0].map(|place| calls.waker(place));
        assert!(bell.poll(&mut cx).is_pending());
        a.wake_by_ref();
        b.wake_by_ref();
        a.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(bell.poll(&mut cx).is_ready() && bell.poll(&mut cx).is_pending());
        assert_eq!(taken(&calls), [1, 0]);
        b.wake();
        assert_eq!(taken(&calls), [0]);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn no_call_from_another_thread_is_lost() {
        const ROUNDS: usize = 2_000;
        let bell = Arc::new(Bell::default());
        let calls = Calls::new(bell.clone());
        let answers = Arc::new(AtomicUsize::new(0));
        let callers = [0, 1].map(|place| {
            let (waker, answers) = (calls.waker(place), answers.clone());
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    waker.wake_by_ref();
                    while answers.load(Ordering::Acquire) >> (32 * place) & 0xffff_ffff <= round {
                        std::thread::yield_now();
                    }
                }
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut left = 2 * ROUNDS;
            while left > 0 {
                std::future::poll_fn(|cx| bell.poll(cx)).await;
                for place in taken(&calls) {
                    answers.fetch_add(1 << (32 * place), Ordering::AcqRel);
                    left -= 1;
                }
            }
        });
        callers.into_iter().for_each(|c| c.join().unwrap());
    }
}
