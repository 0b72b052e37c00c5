//! What the server has refused, for metrics and the log.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Shortest time between two log lines about refusals.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a connection was refused or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No connection could be spared: the new one got status 503, or none if many were refused at once.
    Full,
    /// The connection was idle, or its request did not arrive, and made room for a new one.
    Evicted,
    /// No header in time.
    HeaderTimeout,
    /// The header was too large.
    HeaderTooLarge,
    /// The request body made no progress.
    BodyStalled,
    /// The reader of the response made no progress.
    WriteStalled,
    /// The connection was closed because the process had no descriptor for a new one.
    Descriptors,
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::Full,
        Self::Evicted,
        Self::HeaderTimeout,
        Self::HeaderTooLarge,
        Self::BodyStalled,
        Self::WriteStalled,
        Self::Descriptors,
    ];

    /// The value of a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Evicted => "evicted",
            Self::HeaderTimeout => "header_timeout",
            Self::HeaderTooLarge => "header_too_large",
            Self::BodyStalled => "body_stalled",
            Self::WriteStalled => "write_stalled",
            Self::Descriptors => "descriptors",
        }
    }
}

/// The counters of one server.
#[derive(Debug, Default)]
pub struct ServerCounts {
    open: AtomicUsize,
    refused: [AtomicU64; Refusal::ALL.len()],
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Logged {
    at: Option<Instant>,
    counts: [u64; Refusal::ALL.len()],
}

impl ServerCounts {
    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections refused or closed since the start, by reason.
    #[must_use]
    pub fn refused(&self) -> [(&'static str, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|reason| (reason.as_str(), self.refused[reason as usize].load(Ordering::Relaxed)))
    }

    pub(crate) fn set_open(&self, open: usize) {
        self.open.store(open, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, reason: Refusal) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Logs what was refused since the last line, unless that was a moment ago.
    pub(crate) fn log(&self, server: &'static str) {
        let counts = self.refused().map(|(_, count)| count);
        let mut logged = self.logged.lock();
        let is_due = logged.at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if counts == logged.counts || !is_due {
            return;
        }
        let since_last: Vec<_> = Refusal::ALL
            .into_iter()
            .zip(counts.iter().zip(logged.counts))
            .filter(|(_, (now, before))| **now > *before)
            .map(|(reason, (now, before))| format!("{}: {}", reason.as_str(), now - before))
            .collect();
        let (reasons, open) = (since_last.join(", "), self.open());
        tracing::warn!(
            server,
            open,
            reasons,
            "Connections were refused or closed to keep the server within its limits."
        );
        *logged = Logged { at: Some(Instant::now()), counts };
    }
}
