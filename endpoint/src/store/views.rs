//! What clients, workers and observers are shown. Nothing in here changes a job.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ending::{EXPIRED, Ending};
use super::error::StoreError;
use super::history::Transition;
use super::payload::Payload;
use super::request::{JobId, Request};
use super::status::Status;

/// Jobs looked at for one list.
pub const MAX_SEARCHED: usize = 20_000;

/// The latest attempt to run a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number since the submission or the last `/retry`; 0 when no worker has taken the job yet.
    pub number: u32,
    /// How many attempts before it were lost.
    pub retries: u32,
    /// From submission to its start.
    pub delay: Option<Duration>,
    /// Its length, once the job has ended.
    pub execution: Option<Duration>,
    /// The worker that took the job.
    pub worker: Option<Arc<str>>,
}

/// What a reader sees of a job.
#[derive(Debug, Clone)]
pub struct JobView<P = Payload> {
    /// The job.
    pub id: JobId,
    /// Its state.
    pub status: Status,
    /// Its latest attempt.
    pub attempt: Attempt,
    /// Its result, or the latest progress update.
    pub ending: Ending<P>,
}

impl<P> JobView<P> {
    /// What whoever still waits for the job sees once its life is over.
    pub(crate) fn expired(self) -> Self {
        Self { status: Status::TimedOut, ending: Ending::failed(EXPIRED), ..self }
    }

    /// The same with its output in another form; without one when that form is `None`.
    pub(crate) fn and_then<Q>(self, form: impl FnOnce(P) -> Option<Q>) -> JobView<Q> {
        JobView { id: self.id, status: self.status, attempt: self.attempt, ending: self.ending.and_then(form) }
    }
}

/// One hand-over of a job to another endpoint. Until that is known not to have the job, all attempts are one hand-over, and are to send
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// How many were before it.
    pub number: u32,
    /// When it was first tried.
    pub since: Timestamp,
}

/// A job on its way to a worker.
#[derive(Debug, Clone)]
pub struct TakenJob<P = Payload> {
    /// The job.
    pub id: JobId,
    /// Which attempt this is; a return of an earlier attempt is ignored.
    pub attempt: u32,
    /// Which hand-over this is, if it goes to another endpoint.
    pub handover: Handover,
    /// When it was submitted, or queued again by `/retry`.
    pub submitted: Timestamp,
    /// How long the job has waited.
    pub delay: Duration,
    /// What is to be done.
    pub request: Request<P>,
}

/// Which jobs have waited for too long.
#[derive(Debug, Clone, Default)]
pub struct Overdue {
    /// They have waited for this long or longer.
    pub after: Duration,
    /// How many to take.
    pub max: usize,
    /// Only those that may run for this long at most.
    pub run_time: Option<Duration>,
    /// Those that must go on waiting.
    pub except: HashSet<JobId>,
}

/// A job that another endpoint runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobElsewhere {
    /// Its id here.
    pub id: JobId,
    /// Its id there; `None` before it was accepted there.
    pub far_id: Option<Arc<str>>,
    /// A worker has begun it there.
    pub has_begun: bool,
    /// How long it may run.
    pub run_time: Duration,
}

/// A job that must not run at another endpoint any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelElsewhere {
    /// Its id here.
    pub id: JobId,
    /// Its id there.
    pub far_id: Arc<str>,
    /// How long it may run.
    pub run_time: Duration,
}

/// A finished job that is to be reported to its webhook.
///
/// The body of a webhook shows the input, which no other document does.
#[derive(Debug, Clone)]
pub struct Webhook<P = Payload> {
    /// Where to send it, as the client gave it.
    pub url: Arc<str>,
    /// The job as `/status` shows it.
    pub job: JobView<P>,
    /// What the client asked for.
    pub request: Request<P>,
    /// Tells apart the ends that a job reaches, one for each `/retry`; the same for as long as the end is this one.
    pub end_number: u64,
}

/// A webhook whose delivery was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The job.
    pub job: JobId,
    /// How it ended.
    pub status: Status,
    /// The URL as the client gave it; it may carry secrets.
    pub url: Arc<str>,
    /// Why no try succeeded.
    pub reason: Arc<str>,
    /// When it was given up.
    pub at: Timestamp,
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries from the offset that was asked for.
    pub entries: Vec<T>,
    /// Length of the whole list.
    pub total: usize,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), total: 0 }
    }
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub status: Option<Status>,
    /// Only jobs whose id contains this text.
    pub id: String,
    /// Longest list.
    pub limit: usize,
}

/// A line of the list of jobs.
#[derive(Debug, Clone)]
pub struct JobRow<P = Payload> {
    /// The job.
    pub view: JobView<P>,
    /// When it was submitted, or queued again by `/retry`.
    pub submitted: Timestamp,
}

/// What to search for among all jobs of which a record is kept.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// Only jobs in this state.
    pub status: Option<Status>,
    /// Only jobs whose id, worker or error contains this text, in small or capital letters.
    pub text: String,
    /// Only jobs that were submitted at this time or later.
    pub from: Option<Timestamp>,
    /// Only jobs that were submitted before this time.
    pub until: Option<Timestamp>,
    /// [`HistoryPage::next`] of the page before.
    pub before: Option<u64>,
    /// Most jobs on one page.
    pub limit: usize,
}

/// Jobs that were found, newest first.
#[derive(Debug, Clone)]
pub struct HistoryPage<P = Payload> {
    /// The jobs, without their outputs.
    pub rows: Vec<JobRow<P>>,
    /// Where to go on, unless all jobs were searched. A page may have no jobs and not be the last one.
    pub next: Option<u64>,
}

/// How much of a job an observer has seen; the default is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// [`JobDetails::revision`] of the last document.
    pub revision: u64,
    /// Number of the next stream item.
    pub items: u64,
}

/// Everything there is to see of one job.
#[derive(Debug, Clone)]
pub struct JobDetails<P = Payload> {
    /// The job as clients see it.
    pub view: JobView<P>,
    /// Grows with every change.
    pub revision: u64,
    /// What the handler gets.
    pub input: P,
    /// The states it went through, in order.
    pub history: Vec<Transition>,
    /// Number of the first one of `items`. Greater than what was asked for when a client has read items meanwhile.
    pub first_item: u64,
    /// Stream items that no client has read, from [`Seen::items`] on; bounded, ask again for the rest.
    pub items: Vec<Payload>,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Started, has not asked for a job yet.
    Initializing,
    /// Available.
    Idle,
    /// Waits for jobs that nobody else takes in time: it runs them at another endpoint.
    Standby,
    /// Holds a job.
    Running,
    /// Cannot be started for lack of room on this machine.
    Throttled,
    /// Reported a failed fitness check, or crashes again and again.
    Unhealthy,
    /// Fell silent without a goodbye. Forgotten after [`Limits::worker_retention`](super::limits::Limits::worker_retention).
    Lost,
    /// Asked to be replaced, or said goodbye while a result of it is still expected.
    Leaving,
}

/// A line of the list of workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its id.
    pub id: Arc<str>,
    /// What it does.
    pub state: WorkerState,
    /// Number of jobs it holds.
    pub jobs: usize,
    /// Jobs that it has taken so far.
    pub taken: u64,
    /// Since its last request.
    pub silent_for: Duration,
    /// A second process has used its id lately.
    pub has_duplicate: bool,
}

/// The work of one endpoint at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait, without those of low priority. Counted up to a bound.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub oldest: Option<Timestamp>,
    /// Jobs held by workers, without those of low priority and those that another endpoint runs.
    pub in_progress: usize,
    /// Whether there is work for one worker beside these jobs: requests of batches wait, or jobs of low priority run.
    pub background: bool,
    /// The workers, sorted by id.
    pub workers: Vec<WorkerView>,
}

/// What became of the failed jobs of an endpoint that were to be queued again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RetriedFailed {
    /// Those that are queued again.
    pub retried: usize,
    /// Those that are not, because of `refusal`.
    pub left: usize,
    /// Why they are not: if for several reasons, the one that kept the later ones from being tried.
    pub refusal: Option<StoreError>,
}

impl RetriedFailed {
    /// Adds what became of later ones.
    pub(crate) fn add(&mut self, later: Self) {
        self.retried += later.retried;
        self.left += later.left;
        self.refusal = later.refusal.or(self.refusal.take());
    }
}
