//! The reasons why a worker asks its queue for no job.

use std::fmt;

/// Why no request for jobs is made. The poll decision, `/health` and the tests all use this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PollBlocker {
    /// The worker is shutting down.
    Draining,
    /// No handler process can run jobs.
    NotServing,
    /// The outbox is over its limit, or its disk does not work.
    OutboxFull,
    /// Results of an earlier run are delivered first.
    UndeliveredResults,
    /// Jobs that may have crashed their process are run again, one at a time.
    SuspectJobs,
    /// A job asked for a fresh worker, and the queue must see this one leave.
    Refreshing,
    /// The queue answered 429; the next request follows after a pause.
    RateLimited,
    /// The last request failed; the next one follows after a pause.
    QueueUnavailable,
    /// Jobs end faster than their results are posted: the results that wait for their turn come first.
    DeliveryBehind,
    /// Every slot is busy or loading, and the prefetch is used up.
    NoFreeSlot,
}

impl PollBlocker {
    /// All of them, in the order in which they are looked at.
    pub const ALL: [Self; 10] = [
        Self::Draining,
        Self::NotServing,
        Self::OutboxFull,
        Self::UndeliveredResults,
        Self::SuspectJobs,
        Self::Refreshing,
        Self::RateLimited,
        Self::QueueUnavailable,
        Self::DeliveryBehind,
        Self::NoFreeSlot,
    ];

    /// The word used in `/health`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::NotServing => "not_serving",
            Self::OutboxFull => "outbox_full",
            Self::UndeliveredResults => "undelivered_results",
            Self::SuspectJobs => "suspect_jobs",
            Self::Refreshing => "refreshing",
            Self::RateLimited => "rate_limited",
            Self::QueueUnavailable => "queue_unavailable",
            Self::DeliveryBehind => "delivery_behind",
            Self::NoFreeSlot => "no_free_slot",
        }
    }

    /// Whether it only delays the next request and says nothing against the one in flight.
    pub fn only_delays(self) -> bool {
        matches!(self, Self::RateLimited | Self::QueueUnavailable | Self::DeliveryBehind | Self::NoFreeSlot)
    }
}

impl fmt::Display for PollBlocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "the worker is shutting down",
            Self::NotServing => "the handler is starting",
            Self::OutboxFull => {
                "undelivered results are over their limit or cannot be kept safe, so no job is taken: see worker.outbox in \
                 /health"
            }
            Self::UndeliveredResults => "results of an earlier run are delivered before any job is taken",
            Self::SuspectJobs => {
                "jobs that may have crashed their handler process are run again one at a time before new jobs are taken"
            }
            Self::Refreshing => "a job asked for a fresh worker, so this one takes no jobs for a few seconds",
            Self::RateLimited => "the queue asked for fewer requests (429)",
            Self::QueueUnavailable => "the last request for jobs failed; the next one follows after a pause",
            Self::DeliveryBehind => "results wait for their turn to be posted, so jobs are taken a moment later",
            Self::NoFreeSlot => "every slot is busy or loading its model",
        })
    }
}
