//! Atomics and locks of what loom checks: std's, or loom's under `--cfg loom`, where only the tests named `loom` run.

#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, fence},
    },
    thread::yield_now,
};

#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, fence},
    },
    thread::yield_now,
};

/// Gives the core away for some ten microseconds, to threads of a lower priority as well.
#[cfg(not(loom))]
pub(crate) fn rest() {
    std::thread::sleep(std::time::Duration::from_micros(20));
}

#[cfg(loom)]
pub(crate) fn rest() {
    yield_now();
}
