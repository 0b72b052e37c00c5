//! The limits of the outbox.

use std::time::Duration;

use crate::base::limits;

/// The bounds of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Above this many bytes of undelivered payload the worker takes no more jobs.
    pub max_bytes: usize,
    /// Posts in flight at the same time, over all jobs.
    pub max_posts: usize,
    /// A final result is tried for this long: no job lives longer.
    pub max_age: Duration,
    /// Chunks of a job are given up when none was accepted for this long, so that they cannot hold back the final result.
    pub chunk_age: Duration,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            max_bytes: 256 * 1024 * 1024,
            max_posts: 16,
            max_age: Duration::from_secs(24 * 3600),
            chunk_age: Duration::from_secs(60),
        }
    }
}

limits! {
    "outbox";
    /// A final result that is not accepted within this time is overdue, and is written to disk.
    pub(super) const OVERDUE_AFTER: Duration = Duration::from_millis(250);
    /// The same for one that waits for its turn, while the queue accepts those before it.
    pub(super) const OVERDUE_IN_LINE: Duration = Duration::from_secs(2);
    /// First pause between two tries to post.
    pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);
    /// Longest pause between two tries to post.
    pub(super) const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
    /// First pause while the queue refuses the key.
    pub(super) const UNAUTHORIZED_PAUSE: Duration = Duration::from_secs(30);
    /// Longest pause while the queue refuses the key.
    pub(super) const UNAUTHORIZED_PAUSE_MAX: Duration = Duration::from_secs(300);
    /// Bytes counted for each item on top of its payload, so that very many small items count too.
    pub(super) const ITEM_OVERHEAD: usize = 128;
    /// Threads that wait for the disk at the same time: more would only queue up inside it.
    pub(super) const DISK_THREADS: usize = 4;
    /// A disk that takes longer for one file counts as broken; deliveries do not wait for it.
    pub(super) const DISK_TIMEOUT: Duration = Duration::from_secs(10);
    /// First pause before a broken disk is tried again.
    pub(super) const DISK_PAUSE: Duration = Duration::from_secs(1);
    /// Longest pause before a broken disk is tried again.
    pub(super) const DISK_PAUSE_MAX: Duration = Duration::from_secs(30);
    /// Largest file of the spool that is read, in bytes: no result is larger.
    pub(super) const SPOOL_FILE_MAX: u64 = 256 * 1024 * 1024;
    /// How often a spool folder that is removed while it is being locked is made again.
    pub(super) const SPOOL_LOCK_ATTEMPTS: usize = 10;
    /// Pause between two tries to lock a spool folder.
    pub(super) const SPOOL_LOCK_PAUSE: Duration = Duration::from_millis(50);
    /// How long a start waits for a lock: a worker that was killed may need this long to exit.
    pub(super) const SPOOL_LOCK_TIMEOUT: Duration = Duration::from_secs(3);
    /// Dead letters, and files set aside, that are kept. The oldest are removed first.
    pub(super) const KEPT_FILES: usize = 1000;
    /// Bytes of dead letters, and of files set aside, that are kept.
    pub(super) const KEPT_BYTES: u64 = 256 * 1024 * 1024;
    /// After this time a start reads no further file of other workers. It is less than a worker waits for its own lock.
    pub(super) const ADOPTION_TIME: Duration = Duration::from_secs(2);
    /// Results of other workers that one start adopts.
    pub(super) const ADOPTION_RESULTS: usize = 1000;
    /// Bytes of results of other workers that one start adopts, because they are held in memory.
    pub(super) const ADOPTION_BYTES: u64 = 64 * 1024 * 1024;
}
