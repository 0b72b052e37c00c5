//! How long to wait before a worker is started again.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// After a run of this length the pauses start over with the shortest one.
const HEALTHY_RUN: Duration = Duration::from_secs(60);

/// After this many exits without such a run in between a worker counts as unhealthy.
const UNHEALTHY_AFTER: u32 = 3;

/// Pauses that grow with each exit, with jitter so that workers do not start in step.
#[derive(Debug)]
pub(crate) struct RestartPauses {
    pauses: ExponentialBackoff,
    /// Exits since the last run of that length, the one that ended it included.
    exits: u32,
}

impl RestartPauses {
    pub(crate) const LONGEST: Duration = Duration::from_secs(30);

    pub(crate) fn new() -> Self {
        let pauses = ExponentialBackoff {
            initial_interval: Duration::from_millis(500),
            current_interval: Duration::from_millis(500),
            randomization_factor: 0.3,
            multiplier: 2.0,
            max_interval: Self::LONGEST,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { pauses, exits: 0 }
    }

    /// The pause after a run of length `run`.
    pub(crate) fn next(&mut self, run: Duration) -> Duration {
        if run >= HEALTHY_RUN {
            self.pauses.reset();
            self.exits = 0;
        }
        self.exits += 1;
        self.pauses.next_backoff().unwrap_or(Self::LONGEST).min(Self::LONGEST)
    }

    /// Whether the worker exits again and again.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.exits >= UNHEALTHY_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over_after_a_healthy_run() {
        let mut pauses = RestartPauses::new();
        let first = pauses.next(Duration::ZERO);
        let tenth = (0..9).map(|_| pauses.next(Duration::ZERO)).last().unwrap();
        assert!(first < Duration::from_secs(1) && tenth > Duration::from_secs(15), "{first:?} {tenth:?}");
        assert!(tenth <= RestartPauses::LONGEST && pauses.is_unhealthy());
        assert!(pauses.next(HEALTHY_RUN) < Duration::from_secs(1) && !pauses.is_unhealthy());
    }
}
