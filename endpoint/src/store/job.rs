//! One job: its record, its states and the snapshot that readers get.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::content::Content;
use super::inspect::{History, Transition};
use super::size::Size;

/// Job ids, unique within one endpoint.
pub type JobId = Arc<str>;

/// JSON text exactly as it was received; never re-encoded on its way through.
pub type Payload = Arc<RawValue>;

/// A point in time, counted from an origin that the store chooses. The stores of this crate count from 1970 (Unix time),
/// so that a timestamp keeps its meaning on disk.
pub type Timestamp = Duration;

/// The states that RunPod's API reports.
#[derive(utoipa::ToSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Waiting for a worker.
    InQueue,
    /// Held by a worker, or on its way to a second one.
    InProgress,
    /// Finished with a result.
    Completed,
    /// Finished with an error.
    Failed,
    /// Stopped by a client.
    Cancelled,
    /// Not finished within its time.
    TimedOut,
}

impl Status {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InQueue => "IN_QUEUE",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
        }
    }

    /// Whether the job has left the queue for good (apart from `/retry`).
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::InQueue | Self::InProgress)
    }
}

/// Limits that a client may set for one job (`policy` of a request).
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Longest run time, counted from the moment a worker takes the job. `None`: nobody asked for one, and the platform's
    /// default applies; the worker is not told, so that it may have a shorter one of its own.
    pub execution_timeout: Option<Duration>,
    /// Total life of the job record, counted from submission.
    pub ttl: Duration,
    /// Runs only when no other job waits.
    pub low_priority: bool,
}

impl Policy {
    /// The run time of a job that sets none. The platform: 10 minutes.
    pub const EXECUTION_TIMEOUT: Duration = Duration::from_secs(600);

    /// How long the job may run.
    #[must_use]
    pub fn run_time(&self) -> Duration {
        self.execution_timeout.unwrap_or(Self::EXECUTION_TIMEOUT)
    }
}

impl Default for Policy {
    /// The platform's defaults: 10 minutes of run time, 24 hours of life.
    fn default() -> Self {
        Self { execution_timeout: None, ttl: Duration::from_secs(24 * 3600), low_priority: false }
    }
}

/// A job as a client submits it.
#[derive(Debug, Clone)]
pub struct NewJob<P = Payload> {
    /// The id, chosen by the caller.
    pub id: JobId,
    /// What the handler gets.
    pub input: P,
    /// Bucket credentials for the handler, passed through.
    pub s3_config: Option<P>,
    /// Where to report the end of the job.
    pub webhook: Option<String>,
    /// The trace that the job belongs to, passed through.
    pub traceparent: Option<Arc<str>>,
    /// Limits.
    pub policy: Policy,
    /// How long the result stays readable.
    pub retention: Duration,
}

impl NewJob {
    pub(crate) fn map<P>(self, content: impl Fn(Payload) -> P) -> NewJob<P> {
        NewJob {
            id: self.id,
            input: content(self.input),
            s3_config: self.s3_config.map(content),
            webhook: self.webhook,
            traceparent: self.traceparent,
            policy: self.policy,
            retention: self.retention,
        }
    }
}

/// A job on its way to a worker.
#[derive(Debug, Clone)]
pub struct Assignment<P = Payload> {
    /// The job.
    pub id: JobId,
    /// Which attempt this is; tells a stale give-back from a current one.
    pub attempt: u32,
    /// What the handler gets.
    pub input: P,
    /// Bucket credentials for the handler.
    pub s3_config: Option<P>,
    /// The trace that the job belongs to.
    pub traceparent: Option<Arc<str>>,
    /// How long the job has waited.
    pub delay: Duration,
    /// How long it may run, if somebody has said so.
    pub execution_timeout: Option<Duration>,
}

/// The final result that a worker reports.
#[derive(Debug, Clone)]
pub struct Outcome<P = Payload> {
    /// The result, or what there is of it beside an error.
    pub output: Option<P>,
    /// Present: the job failed.
    pub error: Option<String>,
    /// The error is that the job has exceeded its execution timeout.
    pub timed_out: bool,
    /// What the job has used up, in the worker's words. Short.
    pub cost: Option<Payload>,
    /// The worker asks to be replaced (`stopPod`).
    pub recycle: bool,
}

impl<P> Default for Outcome<P> {
    fn default() -> Self {
        Self { output: None, error: None, timed_out: false, cost: None, recycle: false }
    }
}

impl Outcome {
    pub(crate) fn map<P>(self, content: impl Fn(Payload) -> P) -> Outcome<P> {
        Outcome {
            output: self.output.map(content),
            error: self.error,
            timed_out: self.timed_out,
            cost: self.cost,
            recycle: self.recycle,
        }
    }
}

/// What a reader sees of a job.
#[derive(Debug, Clone)]
pub struct JobView<P = Payload> {
    /// The job.
    pub id: JobId,
    /// Its state.
    pub status: Status,
    /// From submission to the start of the latest attempt.
    pub delay: Option<Duration>,
    /// Length of the latest attempt, once finished.
    pub execution: Option<Duration>,
    /// Worker of the latest attempt.
    pub worker: Option<Arc<str>>,
    /// Number of automatic re-dispatches.
    pub retries: u32,
    /// Result, or the latest progress update.
    pub output: Option<P>,
    /// Why the job failed.
    pub error: Option<String>,
    /// What the job has used up, in the worker's words.
    pub cost: Option<Payload>,
}

impl<P> JobView<P> {
    /// The output, and the rest for a view that holds it in another form.
    pub(crate) fn take_output<Q>(self) -> (JobView<Q>, Option<P>) {
        let rest = JobView {
            id: self.id,
            status: self.status,
            delay: self.delay,
            execution: self.execution,
            worker: self.worker,
            retries: self.retries,
            output: None,
            error: self.error,
            cost: self.cost,
        };
        (rest, self.output)
    }
}

/// Where a job stands. Exactly one at any time.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Queued(Place),
    Running(Run),
    Finished { status: Status, forget_at: Timestamp },
}

/// Order in the queue: low priority last, then first in, first out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) low_priority: bool,
    pub(crate) number: u64,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The name under which the job was taken; stop signals go there.
    pub(crate) poller: Arc<str>,
    /// The worker itself: differs from `poller` when that one polls under an unexpanded placeholder.
    pub(crate) worker: Arc<str>,
    pub(crate) since: Timestamp,
    pub(crate) execution_deadline: Timestamp,
    /// `None` while the worker has never sent a heartbeat.
    pub(crate) lease: Option<Timestamp>,
}

#[derive(Debug)]
pub(crate) struct Job<P> {
    /// Order of submission, unique within the endpoint and never used again.
    pub(crate) number: u64,
    pub(crate) input: P,
    pub(crate) s3_config: Option<P>,
    pub(crate) webhook: Option<String>,
    /// The job has ended and its webhook has not been told.
    pub(crate) webhook_due: bool,
    pub(crate) traceparent: Option<Arc<str>>,
    pub(crate) policy: Policy,
    pub(crate) retention: Duration,
    pub(crate) submitted: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) place: Place,
    pub(crate) state: State,
    /// Dispatches since the submission or the last `/retry`.
    pub(crate) attempt: u32,
    pub(crate) retries: u32,
    pub(crate) delay: Option<Duration>,
    pub(crate) execution: Option<Duration>,
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) output: Option<P>,
    pub(crate) error: Option<String>,
    pub(crate) cost: Option<Payload>,
    pub(crate) chunks: VecDeque<Payload>,
    pub(crate) chunk_bytes: usize,
    /// Number of the next stream item; counts on when items are removed.
    pub(crate) next_chunk: u64,
    /// A stream reader has been told of the cancellation.
    pub(crate) cancel_told: bool,
    /// The entry of this job in the ordered deadlines.
    pub(crate) armed: Timestamp,
    /// This job in the store's account.
    pub(crate) counted: Size,
    pub(crate) history: History,
}

impl<P: Content> Job<P> {
    pub(crate) fn status(&self) -> Status {
        match &self.state {
            // Clients keep seeing IN_PROGRESS while a lost job waits for its second worker.
            State::Queued(_) if self.retries > 0 => Status::InProgress,
            State::Queued(_) => Status::InQueue,
            State::Running(_) => Status::InProgress,
            State::Finished { status, .. } => *status,
        }
    }

    /// The next moment at which something must happen to this job without any request.
    pub(crate) fn deadline(&self) -> Timestamp {
        match &self.state {
            State::Queued(_) => self.expires,
            State::Running(run) => {
                let run_end = run.lease.map_or(run.execution_deadline, |lease| lease.min(run.execution_deadline));
                run_end.min(self.expires)
            }
            State::Finished { forget_at, .. } => (*forget_at).min(self.expires),
        }
    }

    pub(crate) fn size(&self) -> Size {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let cost = self.cost.as_ref().map_or(0, Content::bytes);
        // These stay in memory, with a data file too.
        let kept = length(&self.error) + length(&self.webhook) + cost + self.chunk_bytes;
        let payloads = [Some(&self.input), self.s3_config.as_ref(), self.output.as_ref()].into_iter().flatten();
        let (bytes, memory) = payloads.fold((kept, kept), |(bytes, memory), payload| {
            (bytes + payload.bytes(), memory + payload.bytes_in_memory())
        });
        Size { bytes, memory, streamed: self.chunk_bytes }
    }

    /// Adds where the job stands now to its history.
    pub(crate) fn note(&mut self, at: Timestamp) {
        let (status, worker) = match &self.state {
            State::Queued(_) => (Status::InQueue, None),
            State::Running(run) => (Status::InProgress, Some(Arc::clone(&run.worker))),
            State::Finished { status, .. } => (*status, None),
        };
        self.history.note(Transition { status, at, worker });
    }

    /// Rebuilds the history of a job that was read from disk, where only its last attempt is kept.
    pub(crate) fn recall(&mut self) {
        let ended = match &self.state {
            State::Finished { forget_at, .. } => Some(forget_at.saturating_sub(self.retention)),
            State::Queued(_) | State::Running(_) => None,
        };
        self.history.note(Transition { status: Status::InQueue, at: self.submitted, worker: None });
        if let (Some(ended), Some(execution)) = (ended, self.execution) {
            let (at, worker) = (ended.saturating_sub(execution), self.worker.clone());
            self.history.note(Transition { status: Status::InProgress, at, worker });
        }
        let at = match &self.state {
            State::Queued(_) => self.submitted,
            State::Running(run) => run.since,
            State::Finished { .. } => ended.unwrap_or(self.submitted),
        };
        self.note(at);
    }

    pub(crate) fn clear_stream(&mut self) {
        self.chunks.clear();
        self.chunk_bytes = 0;
    }

    pub(crate) fn view(&self, id: &JobId) -> JobView<P> {
        JobView {
            id: Arc::clone(id),
            status: self.status(),
            delay: self.delay,
            execution: self.execution,
            worker: self.worker.clone(),
            retries: self.retries,
            output: self.output.clone(),
            error: self.error.clone(),
            cost: self.cost.clone(),
        }
    }
}
