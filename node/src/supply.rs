//! Huge pages for a large keyspace: a thread clears them ahead, so that no insert waits for it. It begins when the first is
//! wanted.

use crate::env::Env;
use crate::shared::Shared;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use storage::slab;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Keeps the thread: it ends when this is dropped.
pub struct Supply(#[expect(dead_code, reason = "only held")] UnboundedSender<()>);

/// From now on huge pages are made when they are wanted.
pub fn start<E: Env>(shared: &Arc<Shared<E>>) -> Supply {
    let (sender, receiver) = unbounded_channel();
    let (env, calls) = (shared.env.clone(), sender.downgrade());
    let idle = Mutex::new(Some(receiver));
    slab::set_supplier(Box::new(move || {
        if let Some(receiver) = idle.lock().unwrap_or_else(PoisonError::into_inner).take() {
            env.spawn_thread(
                "memory",
                Box::new(move || Box::pin(work(receiver)) as Pin<Box<dyn Future<Output = ()>>>),
            );
        }
        // Without a node nobody comes, and ordinary pages do.
        calls.upgrade().into_iter().for_each(|calls| calls.send(()).unwrap_or_default());
    }));
    Supply(sender)
}

async fn work(mut calls: UnboundedReceiver<()>) {
    while calls.recv().await.is_some() {
        slab::supply();
    }
}
