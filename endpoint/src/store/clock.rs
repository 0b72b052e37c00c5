//! The time of a store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A point in time, counted from an origin that the store chooses. The stores of this crate count from 1970 (Unix time),
/// so that a timestamp keeps its meaning on disk.
pub type Timestamp = Duration;

/// Unix time at the start, counted on by the monotonic clock, so that neither a step of the wall clock nor a restart
/// confuses deadlines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    unix: Timestamp,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), unix }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.unix + self.start.elapsed()
    }

    /// The moment of the monotonic clock at which `at` is reached.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.start + at.saturating_sub(self.unix)
    }
}
