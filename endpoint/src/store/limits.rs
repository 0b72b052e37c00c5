//! Bounds and times of one endpoint's queue.

use std::time::Duration;

use super::status::Status;

/// Bounds and timings of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A job that is missing from its worker's heartbeats for this long is lost. The platform: about 40 s.
    pub lease: Duration,
    /// How often a lost job is retried before it fails. The platform: once.
    pub max_retries: u32,
    /// The endpoint ends a job this long after its execution timeout, if its worker has not reported an end by then. Longer
    /// than a worker takes to stop a handler; the platform is 3 to 10 s late too.
    pub timeout_grace: Duration,
    /// The state of a job whose run time is over. Live captures show FAILED, the documentation TIMED_OUT.
    pub timeout_status: Status,
    /// Jobs kept at once, finished ones included.
    pub max_jobs: usize,
    /// Jobs that may wait at once, if there is a limit of its own for them.
    pub max_queued: Option<usize>,
    /// How long the records of ended jobs are kept, whatever their requests say. They make room for new jobs when
    /// one of the other limits is reached.
    pub retention: Option<Duration>,
    /// Bytes of payloads, errors and webhooks kept at once.
    pub max_bytes: usize,
    /// Bytes of the same that are in memory, where the rest is in a file.
    pub max_memory_bytes: usize,
    /// Bytes of large results that requests have read from the file and not yet sent.
    pub max_read_bytes: usize,
    /// Bytes of stream items kept for one job until a client reads them.
    pub max_stream_bytes: usize,
    /// Bytes of stream items kept for all jobs until clients read them.
    pub max_total_stream_bytes: usize,
    /// Workers remembered at once; the one silent for longest makes room.
    pub max_workers: usize,
    /// A worker that has been silent for this long is forgotten.
    pub worker_retention: Duration,
    /// A job that was taken this often is no longer queued again when its worker was told to stop before it began the job.
    pub max_takes_not_begun: u32,
    /// A worker that sends no heartbeats and has failed this many jobs without completing one gets no more.
    pub max_first_failures: u32,
    /// The record of a job whose webhook is being delivered is kept at least this long after its end, whatever its retention is.
    pub report_hold: Duration,
    /// How long a job whose webhook was given up is kept, so that it can be sent again.
    pub given_up_retention: Duration,
    /// Jobs with a webhook that was given up which are kept at once; the oldest makes room.
    pub max_given_up: usize,
    /// Whether cancelled jobs are reported to their webhooks too. The platform does not report them.
    pub report_cancelled: bool,
    /// Batches of an endpoint that are drafts or have not ended. The platform: 10.
    pub max_batches: usize,
    /// Requests in one batch. The platform: 5000.
    pub max_batch_requests: usize,
    /// How long a batch and its results are kept after its last request has ended, and a draft after its last change.
    pub batch_retention: Duration,
    /// A refreshing worker that held no poll for this long is taken for a new process.
    pub refresh_gap: Duration,
    /// A refreshing worker that has polled without getting a job for this long is taken for a new process too: whoever was to
    /// replace it has had the time, and the new process may have begun to poll within the gap.
    pub refresh_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(40),
            max_retries: 1,
            timeout_grace: Duration::from_secs(10),
            timeout_status: Status::Failed,
            max_jobs: 2_000_000,
            max_queued: None,
            retention: None,
            max_bytes: 2 << 30,
            max_memory_bytes: 2 << 30,
            max_read_bytes: 512 << 20,
            max_stream_bytes: 64 << 20,
            max_total_stream_bytes: 512 << 20,
            max_workers: 10_000,
            worker_retention: Duration::from_secs(300),
            max_takes_not_begun: 10,
            max_first_failures: 3,
            report_hold: Duration::from_secs(70 * 60),
            given_up_retention: Duration::from_secs(24 * 3600),
            max_given_up: 10_000,
            report_cancelled: false,
            max_batches: 10,
            max_batch_requests: 5000,
            batch_retention: Duration::from_secs(7 * 24 * 3600),
            refresh_gap: Duration::from_secs(3),
            refresh_patience: Duration::from_secs(10),
        }
    }
}

/// The heartbeat interval of workers under this lease: several heartbeats may be lost before a job counts as lost.
#[must_use]
pub fn ping_interval(lease: Duration) -> Duration {
    (lease / 4).clamp(Duration::from_secs(1), Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_heartbeats_fit_into_every_lease() {
        for (lease, interval) in [(5, 1250), (20, 5000), (40, 10_000), (3600, 10_000)] {
            assert_eq!(ping_interval(Duration::from_secs(lease)), Duration::from_millis(interval), "{lease} s");
        }
    }
}
