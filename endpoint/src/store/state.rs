//! The job state machine of one endpoint: every transition, without a clock and without I/O.
//!
//! Each method takes the current time and leaves [`Effect`]s behind for whoever owns the machine to perform.

mod journal;
mod load;
mod moves;
mod observe;
mod webhook;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::StoreError;
use super::content::Content;
use super::inspect::History;
use super::job::{Assignment, Job, JobId, JobView, NewJob, Outcome, Payload, Place, Run, State, Status, Timestamp};
use super::limits::Limits;
use super::totals::{Observation, Totals};
use super::worker::{Heartbeat, WorkerCounts, WorkerEvent, Workers};
use journal::Journal;

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
    bytes: usize,
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
            bytes: 0,
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
                    let error = "executionTimeout exceeded".to_owned();
                    self.close(now, &id, self.limits.timeout_status, None, Some(error));
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
        if self.jobs.len() >= self.limits.max_jobs || self.bytes >= self.limits.max_bytes {
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
            chunks: VecDeque::new(),
            chunk_bytes: 0,
            next_chunk: 0,
            cancel_told: false,
            armed: now,
            counted_bytes: 0,
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

    /// Gives the next jobs, at most `max`, to a worker.
    pub fn take(&mut self, now: Timestamp, worker: &str, max: usize) -> Vec<Assignment<P>> {
        let limits = self.limits;
        let (worker, record) = self.workers.contact(now, worker, &limits);
        if !record.is_eligible() {
            return Vec::new();
        }
        let lease = record.heartbeat_seen.then_some(now + limits.lease);
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some((_, id)) = self.waiting.pop_first() else { break };
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.attempt += 1;
            let delay = now.saturating_sub(job.submitted);
            job.delay = Some(delay);
            self.totals.in_progress += 1;
            if job.retries == 0 {
                self.totals.delay.observe(delay);
            }
            job.worker = Some(Arc::clone(&worker));
            job.state = State::Running(Run {
                poller: Arc::clone(&worker),
                worker: Arc::clone(&worker),
                since: now,
                execution_deadline: now + job.policy.execution_timeout,
                lease,
            });
            taken.push(Assignment {
                id: Arc::clone(&id),
                attempt: job.attempt,
                input: job.input.clone(),
                s3_config: job.s3_config.clone(),
            });
            self.workers.hold(&worker, &id);
            self.in_progress += 1;
            self.changed(&id);
        }
        taken
    }

    /// Whether a job waits.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether this worker may get jobs.
    #[must_use]
    pub fn is_eligible(&self, worker: &str) -> bool {
        self.workers.get(worker).is_none_or(|worker| worker.is_eligible())
    }

    /// Puts a job whose delivery failed back to where it was. Not a retry: no worker ever saw the job.
    pub fn give_back(&mut self, worker: &str, id: &str, attempt: u32) {
        let Some((id, job)) = self.jobs.get_key_value(id) else { return };
        let held = matches!(&job.state, State::Running(run) if *run.poller == *worker && job.attempt == attempt);
        if held {
            let id = Arc::clone(id);
            self.requeue(&id);
        }
    }

    /// Replaces the output of a running job by a progress update.
    pub fn progress(&mut self, now: Timestamp, worker: &str, id: &str, output: Option<P>) {
        if let Some(id) = self.held_by(now, worker, id) {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.output = output;
            }
            self.changed(&id);
        }
    }

    /// Appends one stream item. Late items and items of a worker that lost the job are ignored.
    ///
    /// # Errors
    /// When the reader is too far behind.
    pub fn chunk(&mut self, now: Timestamp, worker: &str, id: &str, item: Payload) -> Result<(), StoreError> {
        let Some(id) = self.held_by(now, worker, id) else { return Ok(()) };
        if let Some(job) = self.jobs.get_mut(&id) {
            let size = item.get().len();
            if job.chunk_bytes + size > self.limits.max_stream_bytes {
                return Err(StoreError::StreamFull);
            }
            self.journal.chunk(job, &item);
            job.chunk_bytes += size;
            job.next_chunk += 1;
            job.chunks.push_back(item);
        }
        self.settle(&id);
        self.effects.push(Effect::JobChanged(id));
        Ok(())
    }

    /// Takes the final result of a job. The first one wins; later ones change nothing.
    pub fn finish(&mut self, now: Timestamp, worker: &str, id: &str, outcome: Outcome<P>) {
        let limits = self.limits;
        self.workers.contact(now, worker, &limits);
        self.workers.withdraw_stop(worker, id);
        self.held_by(now, worker, id);
        if let Some((id, job)) = self.jobs.get_key_value(id) {
            // A job that is queued again may still be finished by the worker that was thought lost.
            if job.attempt > 0 && !job.status().is_terminal() {
                let id = Arc::clone(id);
                let holder = match &job.state {
                    State::Running(run) => Some((Arc::clone(&run.worker), Arc::clone(&run.poller))),
                    _ => None,
                };
                let status = if outcome.error.is_some() { Status::Failed } else { Status::Completed };
                self.end(now, &id, status, outcome.output, outcome.error);
                if let Some((_, poller)) = holder.filter(|(holder, _)| **holder != *worker) {
                    self.stop(&poller, &id);
                }
            }
        }
        if outcome.recycle {
            self.workers.recycle(now, worker, &limits);
            self.effects.push(Effect::WorkerRecycled(Arc::from(worker)));
        }
    }

    /// Notes a heartbeat. It extends only jobs that this worker holds.
    pub fn heartbeat(&mut self, now: Timestamp, worker: &str, heartbeat: &Heartbeat) {
        let limits = self.limits;
        let first = self.workers.get(worker).is_none_or(|record| !record.heartbeat_seen);
        let worker = self.workers.heartbeat(now, worker, heartbeat.unhealthy, &limits);
        let mut extended = heartbeat.jobs.clone();
        if first {
            // Until now nobody expected heartbeats for what it holds; from here on they are.
            extended.extend(self.workers.get(&worker).into_iter().flat_map(|record| record.held.iter().cloned()));
        }
        for id in extended {
            if let Some(id) = self.held_by(now, &worker, &id) {
                if let Some(Job { state: State::Running(run), .. }) = self.jobs.get_mut(&id).map(Box::as_mut)
                    && run.lease.replace(now + limits.lease).is_none()
                {
                    self.journal.touched(&id);
                }
                self.settle(&id);
            }
        }
        for id in self.workers.ignored_stops(&worker, &heartbeat.jobs) {
            self.workers.withdraw_stop(&worker, &id);
            self.stop(&worker, &id);
        }
    }

    /// Notes that a worker holds a poll open from now on.
    pub fn poll_started(&mut self, now: Timestamp, worker: &str) {
        self.workers.poll_started(now, worker, &self.limits);
    }

    /// Notes that such a poll has ended.
    pub fn poll_ended(&mut self, now: Timestamp, worker: &str) {
        self.workers.poll_ended(now, worker);
    }

    /// The jobs that this worker must stop; each is named once.
    pub fn take_stops(&mut self, worker: &str) -> Vec<JobId> {
        self.workers.take_stops(worker)
    }

    /// Whether the worker asked to be replaced and no new process has taken its name since.
    #[must_use]
    pub fn is_recycled(&self, worker: &str) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.is_recycled())
    }

    /// Notes what happened to a worker's process.
    pub fn worker_event(&mut self, now: Timestamp, worker: &str, event: WorkerEvent) {
        match event {
            WorkerEvent::Starting => {
                let limits = self.limits;
                self.workers.contact(now, worker, &limits);
            }
            WorkerEvent::Leaving => self.workers.recycle(now, worker, &self.limits),
            WorkerEvent::Failing => {
                self.workers.heartbeat(now, worker, true, &self.limits);
            }
            WorkerEvent::Gone => {
                let mut lost: Vec<_> =
                    self.workers.remove(worker).map(|record| record.held.into_iter().collect()).unwrap_or_default();
                lost.sort_unstable();
                for id in lost {
                    self.lease_lost(now, &id);
                }
            }
        }
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
            self.close(now, &id, Status::Cancelled, None, None);
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
        job.attempt = 0;
        job.retries = 0;
        (job.delay, job.execution, job.worker) = (None, None, None);
        (job.output, job.error) = (None, None);
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
            self.close(now, id, Status::Cancelled, None, None);
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
