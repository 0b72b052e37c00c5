//! Jobs and workers behind one narrow interface, [`Store`], so that its engine can be replaced.

#[cfg(test)]
mod away;
mod backing;
mod batch;
mod batches;
mod clock;
mod counts;
mod ending;
mod error;
mod history;
mod job;
mod limits;
mod model;
mod moved;
mod operations;
mod payload;
mod postgres;
mod presence;
mod queue;
mod queue_store;
mod request;
mod setup;
mod size;
mod sqlite;
mod status;
mod stream;
mod task;
mod text;
mod transfer;
mod views;
mod wakers;
mod watchers;
mod webhook_queue;
mod workers;

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

#[cfg(test)]
pub(crate) use away::Away;
pub use batch::{BatchCounts, BatchId, BatchState, BatchView};
pub use batches::{BatchRequest, Batches};
pub use clock::Timestamp;
pub use counts::{
    BUCKETS, BatchRequests, DatabaseFigures, Distribution, Ended, Health, Observation, Totals, WorkerCounts,
};
pub(crate) use ending::EXPIRED;
pub use ending::{CallerMistake, Ending, NotBegun, Outcome};
pub use error::StoreError;
pub use history::Transition;
pub use limits::{Limits, ping_interval};
pub use model::Model;
pub use operations::Operations;
pub use payload::{Content, Part, Payload};
pub use postgres::{DatabaseError, DatabaseUrl, Finding, PostgresStore, Verdict, check_database, migrate_database};
pub use queue::{Effect, Queue};
pub use queue_store::{MemoryStore, QueueStore};
pub use request::{Digest, Idempotency, JobId, NewJob, Policy, Request};
pub use setup::{Overrides, Setup};
pub use sqlite::{OpenError, SqliteStore};
pub use status::Status;
pub use stream::MAX_ITEMS;
pub use task::Task;
pub(crate) use text::storable;
pub use transfer::{MoveError, Moved, export_file, import_file};
pub use views::{
    Attempt, CancelElsewhere, GivenUp, Handover, HistoryPage, HistoryQuery, JobDetails, JobElsewhere, JobFilter,
    JobRow, JobView, Load, MAX_SEARCHED, Overdue, Page, RetriedFailed, Seen, TakenJob, Webhook, WorkerState,
    WorkerView,
};
pub use webhook_queue::{WebhookDue, WebhookEnd, WebhookOutcomes, WebhookQueue};
pub use workers::{ANONYMOUS, Heartbeat, OVERFLOW, WorkerEvent};

/// The queue and its records, for any number of endpoints.
///
/// `endpoint` is the id in the URL. Waiting is part of the store, because only the engine knows when to wake a waiting
/// request; each wait has a limit. All methods are cancel-safe: dropping the future of a wait takes nothing. A durable store returns
/// only what survives a crash: a change is acknowledged once it is on disk, and a read shows nothing that is not.
/// Every method fails with [`StoreError::Unavailable`] while the engine is away, so that "unknown" is never read as "none".
#[async_trait]
pub trait Store: Operations + Batches + 'static {
    /// Queues a job.
    async fn submit(&self, endpoint: &str, job: NewJob) -> Result<JobView, StoreError>;
    /// The job; `ttl` shortens the remaining life of a finished one's record, from then on.
    async fn view(&self, endpoint: &str, id: &str, ttl: Option<Duration>) -> Result<JobView, StoreError>;
    /// Waits until the job is terminal, at most `wait`, and returns it as it is then. A job whose record expires
    /// meanwhile is reported as [`Status::TimedOut`].
    async fn wait_finished(&self, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError>;
    /// Removes and returns the stream items of a job; waits for the first one, at most `wait`.
    async fn drain(&self, endpoint: &str, id: &str, wait: Duration) -> Result<(Status, Vec<Payload>), StoreError>;
    /// Cancels a job.
    async fn cancel(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError>;
    /// Queues a failed job again.
    async fn retry(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError>;
    /// Cancels every job that no worker has taken; returns how many.
    async fn purge(&self, endpoint: &str) -> Result<usize, StoreError>;
    /// Unfinished jobs, at most `max`.
    async fn pending(&self, endpoint: &str, max: usize) -> Result<Vec<JobView>, StoreError>;
    /// The counters of `/health`.
    async fn health(&self, endpoint: &str) -> Result<Health, StoreError>;
    /// What a scaler decides on.
    async fn load(&self, endpoint: &str) -> Result<Load, StoreError>;
    /// What to deliver for a finished job whose webhook is due. `None` when there is nothing to deliver any more.
    async fn webhook(&self, endpoint: &str, id: &str) -> Result<Option<Webhook>, StoreError>;

    /// Admits a request of the process `instance` of a worker. A worker without such an id is admitted as ever, unless a
    /// process with one serves under its name.
    ///
    /// # Errors
    /// [`StoreError::WorkerIdInUse`] while another process serves under this id.
    async fn admit(&self, endpoint: &str, worker: &str, instance: Option<&str>) -> Result<(), StoreError>;
    /// Gives at most `max` jobs to a worker; waits for the first one, at most `wait`.
    async fn take(&self, endpoint: &str, worker: &str, max: usize, wait: Duration)
    -> Result<Vec<TakenJob>, StoreError>;
    /// The same for the process `instance` of a worker, which is [admitted](Self::admit) first.
    async fn take_as(
        &self,
        endpoint: &str,
        worker: &str,
        instance: Option<&str>,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<TakenJob>, StoreError> {
        self.admit(endpoint, worker, instance).await?;
        self.take(endpoint, worker, max, wait).await
    }
    /// Puts a job that did not reach its worker back to its old position in the queue.
    async fn return_unsent(&self, endpoint: &str, worker: &str, id: &str, attempt: u32) -> Result<(), StoreError>;
    /// Puts unfinished jobs that a worker hands back to their old positions in the queue, without a retry; returns how many.
    /// Jobs that it does not hold are left alone, so that the call may be repeated.
    async fn hand_back(&self, endpoint: &str, worker: &str, ids: &[JobId]) -> Result<usize, StoreError>;
    /// Notes that a worker leaves: it is gone from the counters at once.
    async fn goodbye(&self, endpoint: &str, worker: &str) -> Result<(), StoreError>;
    /// Replaces the output of a running job by a progress update.
    async fn progress(&self, endpoint: &str, worker: &str, id: &str, output: Option<Payload>)
    -> Result<(), StoreError>;
    /// Appends a stream item.
    async fn stream_item(&self, endpoint: &str, worker: &str, id: &str, item: Payload) -> Result<(), StoreError>;
    /// Takes a final result. The first one wins; later ones change nothing.
    async fn finish(&self, endpoint: &str, worker: &str, id: &str, outcome: Outcome) -> Result<(), StoreError>;
    /// Notes a heartbeat; returns the lease of the jobs in it.
    async fn heartbeat(&self, endpoint: &str, worker: &str, heartbeat: Heartbeat) -> Result<Duration, StoreError>;
    /// The same of the process `instance` of a worker, which is [admitted](Self::admit) first.
    async fn heartbeat_as(
        &self,
        endpoint: &str,
        worker: &str,
        instance: Option<&str>,
        heartbeat: Heartbeat,
    ) -> Result<Duration, StoreError> {
        self.admit(endpoint, worker, instance).await?;
        self.heartbeat(endpoint, worker, heartbeat).await
    }
    /// The jobs that a worker must stop; waits for the first one, at most `wait`.
    async fn stops(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<Vec<JobId>, StoreError>;
    /// The same for the process `instance` of a worker, which is [admitted](Self::admit) first.
    async fn stops_as(
        &self,
        endpoint: &str,
        worker: &str,
        instance: Option<&str>,
        wait: Duration,
    ) -> Result<Vec<JobId>, StoreError> {
        self.admit(endpoint, worker, instance).await?;
        self.stops(endpoint, worker, wait).await
    }

    /// Gives jobs that have waited for too long to the worker [`OVERFLOW`], without a wait. It must send heartbeats for them.
    async fn take_overdue(&self, endpoint: &str, overdue: &Overdue) -> Result<Vec<TakenJob>, StoreError>;
    /// Notes the id under which another endpoint has accepted a job of the worker [`OVERFLOW`].
    async fn accepted_elsewhere(&self, endpoint: &str, id: &str, far_id: &str) -> Result<(), StoreError>;
    /// Notes that the other endpoint has begun such a job, and how long ago: its time runs.
    async fn begun_elsewhere(&self, endpoint: &str, id: &str, ago: Duration) -> Result<(), StoreError>;
    /// Whether a job has waited for too long and waits still, however long it may run.
    async fn is_overdue(&self, endpoint: &str, overdue: &Overdue) -> Result<bool, StoreError>;
    /// The jobs that the worker [`OVERFLOW`] holds: after a restart, those of the last process.
    async fn elsewhere(&self, endpoint: &str) -> Result<Vec<JobElsewhere>, StoreError>;
    /// Such a job that no other endpoint is known to have accepted, as it was taken, so that its submission can be repeated. `None`
    /// for any other job.
    async fn taken_elsewhere(&self, endpoint: &str, id: &str) -> Result<Option<TakenJob>, StoreError>;
    /// The jobs that the other endpoint had accepted and that are to be cancelled there: they were cancelled here, or went back to the
    /// queue. Known until [`cancelled_elsewhere`](Self::cancelled_elsewhere), at most as long as they may live there.
    async fn cancels_elsewhere(&self, endpoint: &str) -> Result<Vec<CancelElsewhere>, StoreError>;
    /// Notes that the other endpoint no longer has such a job.
    async fn cancelled_elsewhere(&self, endpoint: &str, id: &str, far_id: &str) -> Result<(), StoreError>;

    /// Notes what happened to a worker's process.
    async fn worker_event(&self, endpoint: &str, worker: &str, event: WorkerEvent) -> Result<(), StoreError>;
    /// Waits until a worker that asks to be replaced holds no other job, at most `wait`; returns whether it does.
    async fn refreshing(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<bool, StoreError>;

    /// Whether changes can be kept at the moment; the error says why not.
    ///
    /// # Errors
    /// When they cannot.
    fn ready(&self) -> Result<(), StoreError>;
    /// Notes that this program has stopped in order, where others would miss it. Nothing else is called after it.
    async fn leave(&self) {}
    /// Whether endpoints on other hosts may use the same queue.
    fn is_shared(&self) -> bool {
        false
    }
    /// The state of the database, for a store that has one.
    fn database(&self) -> Option<DatabaseFigures> {
        None
    }
    /// Whether it is this program's turn: of several that share a queue, one does a task at a time. A turn ends unless it is taken again.
    async fn turn(&self, _endpoint: &str, _task: Task) -> Result<bool, StoreError> {
        Ok(true)
    }
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
    /// Searches all jobs of which a record is kept, a bounded number at a time.
    async fn search(&self, endpoint: &str, query: &HistoryQuery) -> Result<HistoryPage, StoreError>;
    /// One job with its history. Waits until there is more than was `seen`, at most `wait`. Takes nothing from the
    /// readers of the stream.
    async fn inspect(&self, endpoint: &str, id: &str, seen: Seen, wait: Duration) -> Result<JobDetails, StoreError>;
    /// Workers in the order of their ids, at most `max`.
    async fn workers(&self, endpoint: &str, max: usize) -> Result<Vec<WorkerView>, StoreError>;
}
