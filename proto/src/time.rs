//! Time as the cores see it: handed in, never read.

use rkyv::{Archive, Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// Time since an origin of this process, in microseconds. Never goes back; keeps counting while the machine
/// sleeps (CLOCK_BOOTTIME); may drift against other machines. For leases, timers and intervals.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash,
)]
pub struct Mono(pub u64);

/// Milliseconds since 1970. May jump. For expiry times and what people read, never for intervals.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash,
)]
pub struct WallMs(pub i64);

/// Both clocks at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    pub mono: Mono,
    pub wall: WallMs,
}

impl Mono {
    pub const fn from_ms(ms: u64) -> Mono {
        Mono(ms * 1000)
    }
    pub fn as_ms(self) -> u64 {
        self.0 / 1000
    }
    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(d.as_micros().min(u64::MAX as u128) as u64))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;
    fn sub(self, d: Duration) -> Mono {
        Mono(self.0.saturating_sub(d.as_micros().min(u64::MAX as u128) as u64))
    }
}
