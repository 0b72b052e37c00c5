//! The job state machine of one endpoint: every transition, without a clock and without I/O.
//!
//! Each method takes the current time and leaves [`Effect`]s behind for whoever owns the machine to perform.

mod journal;
mod load;
mod moves;
mod observe;
mod webhook;
mod workers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::StoreError;
use super::content::Content;
use super::inspect::History;
use super::job::{Job, JobId, JobView, NewJob, Payload, Place, State, Status, Timestamp};
use super::limits::Limits;
use super::size::Size;
use super::totals::{Observation, Totals};
use super::worker::{WorkerCounts, Workers};
use journal::Journal;
use moves::End;

pub(crate) use journal::{Change, Changes, Counters, Row};

/// Deadlines served in one go. A million records may expire at once; requests must not wait for all of them.
const MAX_DUE: usize = 1000;

pub use load::Load;
pub use webhook::Webhook;

/// Something to tell the outside about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// One more job waits for a worker.
    JobWaiting,
    /// A reader of this job may see something new.
    JobChanged(JobId),
    /// A stop signal waits for this worker.
    StopWaiting(Arc<str>),
    /// This worker asked to be replaced.
    WorkerRecycled(Arc<str>),
    /// The job reached its end.
    JobFinished(JobId, Status),
    /// The job reached an end that its webhook wants to hear of.
    WebhookDue(JobId),
}

/// The `/health` counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Jobs completed since start.
    pub completed: u64,
    /// Jobs failed since start.
    pub failed: u64,
    /// Jobs held by workers.
    pub in_progress: usize,
    /// Jobs waiting.
    pub in_queue: usize,
    /// Automatic re-dispatches since start.
    pub retried: u64,
    /// Workers by what they do.
    pub workers: WorkerCounts,
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
    waiting: BTreeMap<Place, JobId>,
    /// One entry for each job: its next deadline.
    deadlines: BTreeSet<(Timestamp, JobId)>,
    workers: Workers,
    effects: Vec<Effect>,
    journal: Journal,
    next_place: u64,
    size: Size,
    in_progress: usize,
    completed: u64,
    failed: u64,
    retried: u64,
    totals: Totals,
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
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            workers: Workers::default(),
            effects: Vec::new(),
            journal: Journal::default(),
            next_place: 0,
            size: Size::default(),
            in_progress: 0,
            completed: 0,
            failed: 0,
            retried: 0,
            totals: Totals::default(),
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
        [job, self.workers.next_deadline()].into_iter().flatten().min()
    }

    /// Does what is due, up to a bound: [`next_deadline`](Self::next_deadline) stays in the past while more is left. Call it before each
    /// operation.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = now;
        for _ in 0..MAX_DUE {
            let Some((_, id)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() else { break };
            let Some(job) = self.jobs.get(&id) else { return };
            match &job.state {
                _ if job.expires <= now => self.forget(&id),
                State::Running(run) if run.execution_deadline <= now => {
                    let error = Some("executionTimeout exceeded".to_owned());
                    let status = self.limits.timeout_status;
                    self.close(now, &id, End { error, timed_out: true, ..End::of(status) });
                }
                State::Running(_) => self.lease_lost(now, &id),
                State::Queued(_) | State::Finished { .. } => self.forget(&id),
            }
        }
        self.workers.expire(now, &self.limits);
    }

    /// Adds a job to the end of the queue.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn submit(&mut self, now: Timestamp, new: NewJob<P>) -> Result<JobView<P>, StoreError> {
        let Limits { max_jobs, max_bytes, max_memory_bytes, .. } = self.limits;
        if self.jobs.len() >= max_jobs || self.size.bytes >= max_bytes || self.size.memory >= max_memory_bytes {
            return Err(StoreError::QueueFull);
        }
        if self.jobs.contains_key(&new.id) {
            return Err(StoreError::DuplicateJob);
        }
        let place = self.new_place(new.policy.low_priority);
        let job = Job {
            number: place.number,
            input: new.input,
            s3_config: new.s3_config,
            webhook: new.webhook,
            webhook_due: false,
            traceparent: new.traceparent,
            policy: new.policy,
            retention: new.retention,
            submitted: now,
            expires: now + new.policy.ttl,
            place,
            state: State::Queued(place),
            attempt: 0,
            retries: 0,
            delay: None,
            execution: None,
            worker: None,
            output: None,
            error: None,
            cost: None,
            chunks: VecDeque::new(),
            chunk_bytes: 0,
            next_chunk: 0,
            cancel_told: false,
            armed: now,
            counted: Size::default(),
            history: History::default(),
        };
        let view = job.view(&new.id);
        self.jobs.insert(Arc::clone(&new.id), Box::new(job));
        self.by_age.insert(place.number, Arc::clone(&new.id));
        self.settle(&new.id);
        self.journal.touched(&new.id);
        self.enqueue(place, &new.id);
        self.totals.in_queue += 1;
        Ok(view)
    }

    /// The job as readers see it.
    #[must_use]
    pub fn view(&self, id: &str) -> Option<JobView<P>> {
        self.jobs.get_key_value(id).map(|(id, job)| job.view(id))
    }

    /// Shortens the remaining life of a finished job's record.
    pub fn shorten(&mut self, now: Timestamp, id: &str, ttl: Timestamp) {
        let Some((id, _)) = self.jobs.get_key_value(id) else { return };
        let id = Arc::clone(id);
        if let Some(Job { state: State::Finished { forget_at, .. }, .. }) = self.jobs.get_mut(&id).map(Box::as_mut) {
            *forget_at = (*forget_at).min(now + ttl);
            self.journal.touched(&id);
        }
        self.settle(&id);
    }

    /// Whether [`drain`](Self::drain) has something to say.
    #[must_use]
    pub fn has_stream_news(&self, id: &str) -> bool {
        self.jobs.get(id).is_none_or(|job| !job.chunks.is_empty() || job.status().is_terminal())
    }

    /// Removes and returns the stream items that nobody has read.
    ///
    /// # Errors
    /// When the job is unknown, or was cancelled and its reader has been told so: the official Python client does
    /// not count CANCELLED as an end and would ask for ever.
    pub fn drain(&mut self, id: &str) -> Result<(Status, Vec<Payload>), StoreError> {
        let Some((id, _)) = self.jobs.get_key_value(id) else { return Err(StoreError::JobNotFound) };
        let id = Arc::clone(id);
        let Some(job) = self.jobs.get_mut(&id) else { return Err(StoreError::JobNotFound) };
        let status = job.status();
        let items: Vec<_> = job.chunks.drain(..).collect();
        job.chunk_bytes = 0;
        if !items.is_empty() {
            self.journal.chunks_gone(job);
        }
        if status == Status::Cancelled && items.is_empty() {
            if job.cancel_told {
                return Err(StoreError::StreamEnded);
            }
            job.cancel_told = true;
            self.journal.touched(&id);
        }
        self.settle(&id);
        Ok((status, items))
    }

    /// Stops a job. A finished one stays as it is.
    ///
    /// # Errors
    /// When the job is unknown.
    pub fn cancel(&mut self, now: Timestamp, id: &str) -> Result<JobView<P>, StoreError> {
        let Some((id, job)) = self.jobs.get_key_value(id) else { return Err(StoreError::JobNotFound) };
        let id = Arc::clone(id);
        if !job.status().is_terminal() {
            self.close(now, &id, End::of(Status::Cancelled));
        }
        self.view(&id).ok_or(StoreError::JobNotFound)
    }

    /// Queues a failed job again, with the same id and input.
    ///
    /// # Errors
    /// When the job is unknown, or neither FAILED nor TIMED_OUT.
    pub fn retry(&mut self, now: Timestamp, id: &str) -> Result<JobView<P>, StoreError> {
        let Some((id, job)) = self.jobs.get_key_value(id) else { return Err(StoreError::JobNotFound) };
        let (id, status, low_priority) = (Arc::clone(id), job.status(), job.policy.low_priority);
        if !matches!(status, Status::Failed | Status::TimedOut) {
            return Err(StoreError::NotRetryable(status));
        }
        let place = self.new_place(low_priority);
        let Some(job) = self.jobs.get_mut(&id) else { return Err(StoreError::JobNotFound) };
        job.place = place;
        job.state = State::Queued(place);
        job.submitted = now;
        job.webhook_due = false;
        job.attempt = 0;
        job.retries = 0;
        (job.delay, job.execution, job.worker) = (None, None, None);
        (job.output, job.error, job.cost) = (None, None, None);
        self.journal.chunks_gone(job);
        job.clear_stream();
        self.enqueue(place, &id);
        self.totals.in_queue += 1;
        self.changed(&id);
        self.view(&id).ok_or(StoreError::JobNotFound)
    }

    /// Cancels jobs that no worker has taken yet, at most `max`; returns how many.
    pub fn purge(&mut self, now: Timestamp, max: usize) -> usize {
        let untouched: Vec<_> = self
            .waiting
            .values()
            .filter(|id| self.jobs.get(*id).is_some_and(|job| job.retries == 0))
            .take(max)
            .cloned()
            .collect();
        for id in &untouched {
            self.close(now, id, End::of(Status::Cancelled));
        }
        untouched.len()
    }

    /// Unfinished jobs, the waiting ones first and in order; at most `max`.
    #[must_use]
    pub fn pending(&self, max: usize) -> Vec<JobView<P>> {
        let held = self.workers.held();
        self.waiting.values().chain(held).filter_map(|id| self.view(id)).take(max).collect()
    }

    /// The counters.
    #[must_use]
    pub fn health(&self, now: Timestamp) -> Health {
        Health {
            completed: self.completed,
            failed: self.failed,
            in_progress: self.in_progress,
            in_queue: self.waiting.len(),
            retried: self.retried,
            workers: self.workers.counts(now, &self.limits),
        }
    }

    /// Everything that is counted.
    #[must_use]
    pub fn observe(&self, now: Timestamp) -> Observation {
        let first = self.waiting.values().next().and_then(|id| self.jobs.get(id));
        let oldest_wait = first.map(|job| now.saturating_sub(job.submitted));
        Observation { health: self.health(now), totals: self.totals, oldest_wait }
    }
}

#[cfg(test)]
mod tests;
