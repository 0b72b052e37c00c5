//! When the parts of the worker last moved.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Marks set by the dispatcher, the poller and the heartbeat, read by the HTTP server. Plain atomics: marking never waits.
#[derive(Debug)]
pub struct Vitals {
    started: Instant,
    started_at: SystemTime,
    tick: Mark,
    poll: Mark,
    ping: Mark,
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

impl Vitals {
    /// The worker starts now.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            tick: Mark::default(),
            poll: Mark::default(),
            ping: Mark::default(),
        }
    }

    /// The dispatcher has gone through its loop. It has to call this every few seconds even when nothing happens.
    pub fn ticked(&self) {
        self.tick.set(self.uptime());
    }

    /// The queue has answered a poll.
    pub fn polled(&self) {
        self.poll.set(self.uptime());
    }

    /// The platform has answered a heartbeat.
    pub fn pinged(&self) {
        self.ping.set(self.uptime());
    }

    /// Time since the worker started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time since the dispatcher last ticked, or since the start if it never has.
    pub fn since_tick(&self) -> Duration {
        self.uptime().saturating_sub(self.tick.get().unwrap_or_default())
    }

    /// When the queue last answered.
    pub fn last_poll(&self) -> Option<SystemTime> {
        self.poll.get().map(|at| self.started_at + at)
    }

    /// When the platform last answered a heartbeat.
    pub fn last_ping(&self) -> Option<SystemTime> {
        self.ping.get().map(|at| self.started_at + at)
    }
}

/// A moment in milliseconds since the start, plus one; 0 is never.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

impl Mark {
    fn set(&self, at: Duration) {
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX - 1);
        self.0.store(millis + 1, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn marks_are_moments_since_the_start() {
        let vitals = Vitals::new();
        assert_eq!((vitals.last_poll(), vitals.last_ping()), (None, None));
        // Even a mark in the very first millisecond is one.
        vitals.polled();
        assert_eq!(vitals.last_poll(), Some(vitals.started_at));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(vitals.since_tick(), Duration::from_secs(5));
        vitals.ticked();
        vitals.pinged();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(vitals.since_tick(), Duration::from_secs(2));
        assert_eq!(vitals.last_ping(), Some(vitals.started_at + Duration::from_secs(5)));
        assert_eq!(vitals.uptime(), Duration::from_secs(7));
    }
}
