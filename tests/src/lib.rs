//! Black-box tests: real processes, reached through sockets and files alone.

pub mod client;
pub mod differential;
pub mod server;

pub use client::{Client, Value};
pub use server::Server;

use std::time::{Duration, Instant};

/// How long a test waits for what must come. Generous: it is only reached when the test fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `probe` gives something. Panics with `what` at the deadline.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
