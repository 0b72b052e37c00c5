//! How long to wait before a worker is started again.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// A worker that lived this long starts over with the shortest pause.
const HEALTHY_LIFE: Duration = Duration::from_secs(60);

/// After this many early ends in a row a worker counts as unhealthy.
const UNHEALTHY_AFTER: u32 = 3;

/// Pauses that grow with each early end, with jitter so that workers do not start in step.
#[derive(Debug)]
pub(crate) struct RestartPauses {
    pauses: ExponentialBackoff,
    early_ends: u32,
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
        Self { pauses, early_ends: 0 }
    }

    /// The pause after a worker that lived for `life`.
    pub(crate) fn next(&mut self, life: Duration) -> Duration {
        if life >= HEALTHY_LIFE {
            self.pauses.reset();
            self.early_ends = 0;
        }
        self.early_ends += 1;
        self.pauses.next_backoff().unwrap_or(Self::LONGEST).min(Self::LONGEST)
    }

    /// Whether the worker keeps dying.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.early_ends >= UNHEALTHY_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over_after_a_healthy_life() {
        let mut pauses = RestartPauses::new();
        let first = pauses.next(Duration::ZERO);
        let tenth = (0..9).map(|_| pauses.next(Duration::ZERO)).last().unwrap();
        assert!(first < Duration::from_secs(1) && tenth > Duration::from_secs(15), "{first:?} {tenth:?}");
        assert!(tenth <= RestartPauses::LONGEST && pauses.is_unhealthy());
        assert!(pauses.next(HEALTHY_LIFE) < Duration::from_secs(1) && !pauses.is_unhealthy());
    }
}
