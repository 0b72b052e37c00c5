//! What the outbox counts, for health and metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the outbox holds, and what it has done since the worker started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Jobs with something undelivered, or that may still send something.
    pub lanes: usize,
    /// Undelivered bytes.
    pub held_bytes: usize,
    /// Final results that the queue refused for good or that grew too old.
    pub dead_letters: u64,
    /// Chunks given up.
    pub lost_chunks: u64,
    /// Tries after which another one was needed.
    pub retries: u64,
    /// Final results that were not accepted at once.
    pub overdue: u64,
    /// Messages that came after the final one of their job.
    pub late: u64,
    /// The last answer was 401 or 403: the key is wrong.
    pub unauthorized: bool,
    /// The disk spool; `None` when there is none.
    pub spool: Option<SpoolStats>,
}

/// State of the spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Results on disk now.
    pub results: u64,
    /// Undelivered results of an earlier run. Each may have reached the queue before, so it may have been posted twice.
    pub recovered: u64,
    /// Files that were not results of this worker.
    pub set_aside: u64,
    /// Results that could not be written.
    pub failures: u64,
    /// Dead letters written to disk.
    pub dead_letters: u64,
    /// Why the disk cannot be used now; `None` while it works.
    pub trouble: Option<String>,
}

/// Counters of the delivery tasks.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) dead_letters: AtomicU64,
    pub(super) lost_chunks: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) overdue: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) unauthorized: AtomicBool,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
