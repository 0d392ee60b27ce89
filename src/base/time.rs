//! Time as the sans-IO cores see it: nanoseconds since the owner of the core started its clock.
//! Shells convert from `Instant`; simulations make it up.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A point in time: nanoseconds since an origin that only its owner knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);

    /// The time that lies `d` later; the farthest representable one if that overflows.
    pub fn after(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since the origin.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}
