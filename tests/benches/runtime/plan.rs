//! How long and how often is measured.

use std::time::Duration;

/// The sizes of one run of the benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Each program has its turn this often, one after the other, so that a slow moment of the machine does not hit one alone.
    pub(crate) rounds: usize,
    /// How long one turn is measured.
    pub(crate) window: Duration,
    /// The same for the official worker, which takes a second between two requests for jobs.
    pub(crate) official_window: Duration,
    /// Rounds in which the official worker takes part.
    pub(crate) official_rounds: usize,
    /// Jobs one at a time in each round; large ones, and those of the official worker, are fewer.
    pub(crate) singles: usize,
    /// How long nothing happens while that is measured.
    pub(crate) idle: Duration,
    /// How long many jobs stream at the same time.
    pub(crate) streams: Duration,
}

impl Plan {
    /// About three minutes.
    pub(crate) const FULL: Self = Self {
        rounds: 5,
        window: Duration::from_millis(600),
        official_window: Duration::from_secs(4),
        official_rounds: 3,
        singles: 60,
        idle: Duration::from_secs(10),
        streams: Duration::from_secs(8),
    };
    /// Less than a minute.
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        window: Duration::from_millis(300),
        official_window: Duration::from_secs(1),
        official_rounds: 1,
        singles: 30,
        idle: Duration::from_secs(2),
        streams: Duration::from_secs(4),
    };
    /// Not measured: the beginning of each turn.
    pub(crate) const WARM_UP: Duration = Duration::from_millis(150);
    /// Time between two jobs that are to find an idle worker.
    pub(crate) const REST: Duration = Duration::from_millis(5);
}
