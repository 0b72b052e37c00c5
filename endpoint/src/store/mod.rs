//! Jobs and workers behind one narrow interface, [`Store`], so that its engine can be replaced.

#[cfg(test)]
mod away;
mod backing;
mod content;
mod inspect;
mod job;
mod limits;
mod queue_store;
mod setup;
mod size;
mod sqlite;
mod state;
mod totals;
mod wakers;
mod watchers;
mod webhooks;
mod worker;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

#[cfg(test)]
pub(crate) use away::Away;
pub use content::{Content, Part};
pub use inspect::{JobFilter, JobRecord, JobRow, MAX_ITEMS, MAX_SEARCHED, Seen, Transition, WorkerState, WorkerView};
pub use job::{Assignment, JobId, JobView, NewJob, Outcome, Payload, Policy, Status, Timestamp};
pub use limits::Limits;
pub use queue_store::{MemoryStore, QueueStore};
pub use setup::Setup;
pub use sqlite::{OpenError, SqliteStore};
pub use state::{Effect, Health, Load, Queue, Webhook};
pub use totals::{BUCKETS, Distribution, Observation, Totals};
pub use webhooks::{WebhookDue, WebhookOutcomes, WebhookQueue};
pub use worker::{ANONYMOUS, Heartbeat, WorkerCounts, WorkerEvent};

/// Why the store refused a request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// No such job, or its record has expired.
    #[error("job not found: the id is wrong or its record has expired; submit the job again")]
    JobNotFound,
    /// A job with this id exists.
    #[error("a job with this id exists already; submit it under another id")]
    DuplicateJob,
    /// Too many jobs or too many payload bytes.
    #[error("the queue is full; wait until jobs finish, start more workers or purge the queue")]
    QueueFull,
    /// Too many endpoint ids in use.
    #[error("too many endpoints are in use; use one of the existing endpoint ids")]
    TooManyEndpoints,
    /// Nobody reads the stream.
    #[error("the stream buffer of this job is full; read it with /stream or send fewer items")]
    StreamFull,
    /// Nobody reads the streams of many jobs.
    #[error("the unread stream items of all jobs fill their memory; read them with /stream or send fewer items")]
    StreamsFull,
    /// The stream of a cancelled job was read to its end.
    #[error("the job was cancelled and its stream has been read to the end")]
    StreamEnded,
    /// `/retry` of a job that did not fail.
    #[error("only FAILED and TIMED_OUT jobs can be retried; this job is {}", .0.name())]
    NotRetryable(Status),
    /// The data file cannot be written or read at the moment.
    #[error("the endpoint cannot use its data file: {0}; send the request again later")]
    Unavailable(Arc<str>),
}

/// The queue and its records, for any number of endpoints.
///
/// `endpoint` is the id in the URL. Waiting happens in here, because only the engine knows what wakes a waiter; each
/// wait has a limit. All methods are cancel-safe: dropping the future of a wait takes nothing. A durable store returns
/// only what survives a crash: a change is acknowledged once it is on disk, and a read shows nothing that is not.
/// Every method fails with [`StoreError::Unavailable`] while the engine is away, so that "unknown" is never read as "none".
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Queues a job.
    async fn submit(&self, endpoint: &str, job: NewJob) -> Result<JobView, StoreError>;
    /// The job; `ttl` shortens the remaining life of a finished one's record.
    async fn view(&self, endpoint: &str, id: &str, ttl: Option<Duration>) -> Result<JobView, StoreError>;
    /// Waits until the job is terminal, at most `wait`, and returns it as it is then. A job whose record expires
    /// meanwhile is reported as [`Status::TimedOut`].
    async fn wait_finished(&self, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError>;
    /// Removes and returns the stream items of a job; waits for the first one, at most `wait`.
    async fn drain(&self, endpoint: &str, id: &str, wait: Duration) -> Result<(Status, Vec<Payload>), StoreError>;
    /// Stops a job.
    async fn cancel(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError>;
    /// Queues a failed job again.
    async fn retry(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError>;
    /// Cancels every job that no worker has taken; returns how many.
    async fn purge(&self, endpoint: &str) -> Result<usize, StoreError>;
    /// Unfinished jobs, at most `max`.
    async fn pending(&self, endpoint: &str, max: usize) -> Result<Vec<JobView>, StoreError>;
    /// The counters of `/health`.
    async fn health(&self, endpoint: &str) -> Result<Health, StoreError>;
    /// What there is to do and who is there to do it.
    async fn load(&self, endpoint: &str) -> Result<Load, StoreError>;
    /// What to deliver for a finished job that asked for a webhook. `None` once its record has expired.
    async fn webhook(&self, endpoint: &str, id: &str) -> Result<Option<Webhook>, StoreError>;
    /// Notes that such a delivery has ended, with or without success. A durable store reports those that have not as due
    /// when it is opened again.
    async fn webhook_told(&self, endpoint: &str, id: &str) -> Result<(), StoreError>;

    /// Gives at most `max` jobs to a worker; waits for the first one, at most `wait`.
    async fn take(
        &self,
        endpoint: &str,
        worker: &str,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Assignment>, StoreError>;
    /// Returns a job whose delivery failed to the head of the queue.
    async fn give_back(&self, endpoint: &str, worker: &str, id: &str, attempt: u32) -> Result<(), StoreError>;
    /// Replaces the output of a running job by a progress update.
    async fn progress(&self, endpoint: &str, worker: &str, id: &str, output: Option<Payload>)
    -> Result<(), StoreError>;
    /// Appends a stream item.
    async fn chunk(&self, endpoint: &str, worker: &str, id: &str, item: Payload) -> Result<(), StoreError>;
    /// Takes a final result. The first one wins; later ones change nothing.
    async fn finish(&self, endpoint: &str, worker: &str, id: &str, outcome: Outcome) -> Result<(), StoreError>;
    /// Notes a heartbeat.
    async fn heartbeat(&self, endpoint: &str, worker: &str, heartbeat: Heartbeat) -> Result<(), StoreError>;
    /// The jobs that a worker must stop; waits for the first one, at most `wait`.
    async fn stops(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<Vec<JobId>, StoreError>;

    /// Notes what happened to a worker's process.
    async fn worker_event(&self, endpoint: &str, worker: &str, event: WorkerEvent) -> Result<(), StoreError>;
    /// Waits until a worker that asks to be replaced holds no other job, at most `wait`; returns whether it does.
    async fn recycled(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<bool, StoreError>;

    /// Whether changes can be kept at the moment.
    ///
    /// # Errors
    /// With what is wrong.
    fn ready(&self) -> Result<(), StoreError>;
    /// What an endpoint has counted.
    async fn observe(&self, endpoint: &str) -> Result<Observation, StoreError>;
    /// What [`Timestamp`]s count from.
    fn origin(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
    /// The endpoint ids in use, sorted.
    async fn endpoints(&self) -> Result<Vec<String>, StoreError>;
    /// The newest jobs that pass a filter, without their outputs.
    async fn list(&self, endpoint: &str, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError>;
    /// One job with its history. Waits until there is more than was `seen`, at most `wait`. Takes nothing from the
    /// readers of the stream.
    async fn inspect(&self, endpoint: &str, id: &str, seen: Seen, wait: Duration) -> Result<JobRecord, StoreError>;
    /// Workers in the order of their ids, at most `max`.
    async fn workers(&self, endpoint: &str, max: usize) -> Result<Vec<WorkerView>, StoreError>;
}
