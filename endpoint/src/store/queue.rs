//! The job state machine of one endpoint: every transition, without a clock and without I/O.
//!
//! Each method takes the current time and leaves [`Effect`]s behind for the owner of the machine to perform.

mod batch_table;
mod batches;
mod clients;
mod dispatch;
mod elsewhere;
mod idempotency;
mod inspect;
mod journal;
mod liveness;
mod not_begun;
mod operations;
mod reporting;
mod reports;
mod restore;
mod search;
mod shared;
mod snapshot;
mod transitions;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::clock::Timestamp;
use super::counts::Totals;
use super::ending::Ending;
use super::job::{Job, State};
use super::limits::Limits;
use super::model::Model;
use super::payload::{Content, Payload};
use super::request::JobId;
use super::size::Size;
use super::status::Status;
use super::workers::Workers;
use batch_table::BatchTable;
use idempotency::Keys;
use journal::Journal;
use transitions::End;
use waiting::Waiting;

pub(crate) use batch_table::{BatchRecord, KeptBatch};
pub(crate) use journal::{Change, Changes, Counters, Mark};
pub(crate) use shared::{Elsewhere, KeptJob, Tally, read_record};
pub(crate) use snapshot::Snapshot;
pub(crate) use waiting::{MAX_FRONT, Turn};

/// Deadlines served in one go. A million records may expire at once; requests must not wait for all of them.
const MAX_DUE: usize = 1000;

/// Something that the owner of a queue has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// One more job waits for a worker.
    JobWaiting,
    /// A reader of this job may see something new.
    JobChanged(JobId),
    /// A stop signal waits for this worker.
    StopWaiting(Arc<str>),
    /// This worker asked to be replaced.
    WorkerRefreshing(Arc<str>),
    /// The job reached its end.
    JobFinished(JobId, Status),
    /// The job reached an end that is to be reported to its webhook.
    WebhookDue {
        /// The job.
        job: JobId,
        /// The URL that the client gave.
        url: Arc<str>,
        /// Which of its ends.
        end_number: u64,
    },
    /// Jobs that wait may be given out again.
    DispatchResumed,
    /// A second process uses the id of this worker.
    DuplicateWorker(Arc<str>),
    /// This worker gets no more jobs: it cannot start, or has only failed.
    WorkerUnfit(Arc<str>),
}

/// All jobs and workers of one endpoint.
#[derive(Debug)]
pub struct Queue<P = Payload> {
    limits: Limits,
    /// The time of the last [`tick`](Self::tick).
    now: Timestamp,
    /// Boxed: a growing table moves its entries, and jobs are large.
    jobs: HashMap<JobId, Box<Job<P>>>,
    /// All jobs in the order of their submission.
    by_age: BTreeMap<u64, JobId>,
    waiting: Waiting,
    keys: Keys,
    /// One entry for each job: its next deadline.
    deadlines: BTreeSet<(Timestamp, JobId)>,
    /// The numbers of the jobs that have failed.
    failed_jobs: BTreeSet<u64>,
    /// The numbers of the jobs whose webhook was given up.
    given_up: BTreeSet<u64>,
    /// The numbers of the jobs that still have to be cancelled at another endpoint.
    cancelled_elsewhere: BTreeSet<u64>,
    batches: BatchTable,
    /// No job is given out.
    paused: bool,
    workers: Workers,
    effects: Vec<Effect>,
    journal: Journal,
    /// The last number given to a job or to a position.
    last_number: u64,
    /// The next numbers, where others give some too.
    given_numbers: VecDeque<u64>,
    size: Size,
    /// What counts against the bounds and is not in here.
    elsewhere: Elsewhere,
    in_progress: usize,
    completed: u64,
    failed: u64,
    retried: u64,
    totals: Totals,
    /// What runs the jobs, as the last worker said that had something new to say. Jobs that wait belong to no worker.
    model: Option<Arc<Model>>,
}

impl<P: Content> Queue<P> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now: Timestamp::ZERO,
            jobs: HashMap::new(),
            by_age: BTreeMap::new(),
            waiting: Waiting::default(),
            keys: Keys::default(),
            deadlines: BTreeSet::new(),
            failed_jobs: BTreeSet::new(),
            given_up: BTreeSet::new(),
            cancelled_elsewhere: BTreeSet::new(),
            batches: BatchTable::default(),
            paused: false,
            workers: Workers::default(),
            effects: Vec::new(),
            journal: Journal::default(),
            last_number: 0,
            given_numbers: VecDeque::new(),
            size: Size::default(),
            elsewhere: Elsewhere::default(),
            in_progress: 0,
            completed: 0,
            failed: 0,
            retried: 0,
            totals: Totals::default(),
            model: None,
        }
    }

    /// What happened since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`tick`](Self::tick) is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let job = self.deadlines.first().map(|(at, _)| *at);
        [job, self.workers.next_deadline(), self.batches.next_deadline()].into_iter().flatten().min()
    }

    /// Does what is due, up to a bound: [`next_deadline`](Self::next_deadline) stays in the past while more is left. Call it
    /// before each operation.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = now;
        for _ in 0..MAX_DUE {
            let Some((_, id)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() else { break };
            let Some(job) = self.jobs.get(&id) else {
                // Left first in the set, it would keep every later deadline from being served.
                self.deadlines.pop_first();
                continue;
            };
            match &job.record.state {
                State::Finished { .. } => self.forget(&id),
                _ if job.record.expires <= now => self.expire(now, &id),
                State::Running(run) if run.execution_deadline.is_some_and(|deadline| deadline <= now) => {
                    let ending = Ending::failed("executionTimeout exceeded");
                    self.close(now, &id, End { ending, timed_out: true, ..End::of(self.limits.timeout_status) });
                }
                State::Running(_) => self.lease_lost(now, &id),
                State::Queued => self.expire(now, &id),
            }
        }
        self.expire_batches(now);
        self.workers.expire(now, &self.limits);
    }
}

#[cfg(test)]
mod tests;
