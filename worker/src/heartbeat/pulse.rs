//! The dispatcher's pulse, and the watch over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::sleep;

use super::limits::{MAX_MISSED_BEATS, WATCH_INTERVAL};

/// The dispatcher's sign of life. It must beat at least every few seconds, also when nothing happens.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Records that the dispatcher runs.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of beats so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns when the pulse has not beaten for [`MAX_MISSED_BEATS`] looks in a row.
pub(super) async fn until_stuck(pulse: &Pulse) {
    let mut last = pulse.count();
    let mut missed = 0;
    while missed < MAX_MISSED_BEATS {
        sleep(WATCH_INTERVAL).await;
        let now = pulse.count();
        missed = if now == last { missed + 1 } else { 0 };
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_dispatcher_counts_as_stuck_after_a_minute_without_a_beat() {
        let pulse = Pulse::default();
        let watch = until_stuck(&pulse);
        tokio::pin!(watch);
        // Every gap between two beats is just short enough.
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(59_500), &mut watch).await.is_err());
            pulse.beat();
        }
        let before = Instant::now();
        timeout(Duration::from_secs(3600), &mut watch).await.expect("the watch ends");
        let silence = before.elapsed();
        assert!(silence >= Duration::from_secs(59) && silence <= Duration::from_secs(62), "{silence:?}");
    }
}
