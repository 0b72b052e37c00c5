//! Limits of the measurements.

use std::time::Duration;

use crate::base::limits;

limits! {
    "sensors";
    /// Time between two samples of the container, which a CPU figure is the mean of.
    pub(super) const HOST_INTERVAL: Duration = Duration::from_secs(5);
    /// A sample of the GPUs is shown for this many intervals; when it is older, the driver has stopped answering.
    pub(super) const GPU_FRESH_INTERVALS: u32 = 3;
    /// A sample of the GPUs is shown for at least this long.
    pub(super) const GPU_FRESH_AT_LEAST: Duration = Duration::from_secs(5);
    /// How long the end of the worker waits for a call to the driver.
    pub(super) const GPU_STOP_TIMEOUT: Duration = Duration::from_secs(1);
    /// Events of a GPU that are read per sample; the rest is read with the next one.
    pub(super) const GPU_EVENTS: usize = 64;
    /// Samples in a row after which a reason for a slow GPU counts, or counts no more.
    pub(super) const SLOWDOWN_SAMPLES: u32 = 3;
}
