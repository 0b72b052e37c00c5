//! The rate limit of log lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::Level;

/// A bucket of tokens: as many lines at once as in a second, and that many more each second.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, now: Instant, rate: u32) -> bool {
        let rate = f64::from(rate);
        self.tokens = match self.filled {
            None => rate,
            Some(filled) => (self.tokens + now.saturating_duration_since(filled).as_secs_f64() * rate).min(rate),
        };
        self.filled = Some(now);
        let pass = self.tokens >= 1.0;
        if pass {
            self.tokens -= 1.0;
        }
        pass
    }
}

/// One bucket for each level, so that a flood of one cannot hide an error.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// Lines a second of each level; 0 for no limit.
    rate: u32,
    buckets: [Mutex<Bucket>; 5],
    dropped: AtomicU64,
}

impl RateLimit {
    pub(super) fn new(rate: u32) -> Self {
        let bucket = || Mutex::new(Bucket { tokens: 0.0, filled: None });
        Self { rate, buckets: std::array::from_fn(|_| bucket()), dropped: AtomicU64::new(0) }
    }

    /// Whether a line of this level may be written now. One that may not is counted.
    pub(super) fn take(&self, level: Level, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let index = match level {
            Level::ERROR => 0,
            Level::WARN => 1,
            Level::INFO => 2,
            Level::DEBUG => 3,
            Level::TRACE => 4,
        };
        let pass = self.buckets[index].lock().take(now, self.rate);
        if !pass {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        pass
    }

    /// How many lines were dropped since the last call.
    pub(super) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_one_level_is_cut_and_counted_and_others_pass() {
        let (limit, start) = (RateLimit::new(100), Instant::now());
        let passed = (0..250).filter(|_| limit.take(Level::INFO, start)).count();
        assert_eq!((passed, limit.take_dropped(), limit.take_dropped()), (100, 150, 0));
        assert!(limit.take(Level::ERROR, start), "an error passes");
        let later = start + Duration::from_millis(500);
        assert_eq!((0..250).filter(|_| limit.take(Level::INFO, later)).count(), 50);
        let much_later = start + Duration::from_secs(60);
        assert_eq!((0..250).filter(|_| limit.take(Level::INFO, much_later)).count(), 100, "a bucket holds one second");
    }

    #[test]
    fn zero_is_no_limit() {
        let (limit, now) = (RateLimit::new(0), Instant::now());
        assert!((0..10_000).all(|_| limit.take(Level::INFO, now)));
        assert_eq!(limit.take_dropped(), 0);
    }
}
