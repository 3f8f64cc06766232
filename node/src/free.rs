//! Frees what was removed from the keyspace and is large, on a thread of its own, in pieces.
//!
//! The thread has the priority of the others: one that stepped back would be stopped by them in the middle of a piece,
//! while it holds the allocator's lock, and they would wait until it is let on. It rests after each piece instead.

use crate::env::Env;
use crate::shared::Shared;
use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// Objects freed at a time: some ten microseconds.
const PIECE: u32 = 256;
/// Rest after each piece; the kernel makes some 70 us of it, so that the core is free for three quarters of the time.
const REST: Duration = Duration::from_micros(20);
/// Values and flushes that wait, from which on the thread does not rest: memory matters more then.
const WAITING_MAX: usize = 64;

/// What is to be freed together.
pub type Garbage = Vec<Box<dyn Any + Send>>;

/// Starts the thread. It ends with the node.
pub fn start<E: Env>(shared: &Arc<Shared<E>>, mut garbage: UnboundedReceiver<Garbage>) {
    // Not the whole of what is shared: the thread ends when that goes, and with it the way here.
    let (env, waiting) = (shared.env.clone(), shared.persist.waiting_garbage.clone());
    let main = move || -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let count = waiting.clone();
            let rest = move || match count.load(Ordering::Relaxed) {
                ..WAITING_MAX => env.stall(REST),
                _ => std::thread::yield_now(),
            };
            storage::set_pace(PIECE, Box::new(rest));
            while let Some(values) = garbage.recv().await {
                drop(values);
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
        })
    };
    shared.env.spawn_thread("free", Box::new(main));
}
