//! What workers ask and tell.

use std::sync::Arc;

use super::moves::End;
use super::{Effect, Queue};
use crate::store::StoreError;
use crate::store::content::Content;
use crate::store::job::{Assignment, Job, JobId, Outcome, Payload, Run, State, Status, Timestamp};
use crate::store::worker::{Heartbeat, WorkerEvent};

/// The part of its execution timeout that a job must have run before a timeout is taken for that one, and not for a limit
/// that its handler keeps. The worker's clock is another.
const LEAST_OF_TIMEOUT: f64 = 0.9;

impl<P: Content> Queue<P> {
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
                execution_deadline: now + job.policy.run_time() + limits.timeout_grace,
                lease,
            });
            taken.push(Assignment {
                id: Arc::clone(&id),
                attempt: job.attempt,
                input: job.input.clone(),
                s3_config: job.s3_config.clone(),
                traceparent: job.traceparent.clone(),
                delay,
                execution_timeout: job.policy.execution_timeout,
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
    /// When the readers are too far behind.
    pub fn chunk(&mut self, now: Timestamp, worker: &str, id: &str, item: Payload) -> Result<(), StoreError> {
        let Some(id) = self.held_by(now, worker, id) else { return Ok(()) };
        if let Some(job) = self.jobs.get_mut(&id) {
            let size = item.get().len();
            if job.chunk_bytes + size > self.limits.max_stream_bytes {
                return Err(StoreError::StreamFull);
            }
            if self.size.streamed + size > self.limits.max_total_stream_bytes {
                return Err(StoreError::StreamsFull);
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
                let (holder, over_time) = match &job.state {
                    State::Running(run) => {
                        let least = job.policy.run_time().mul_f64(LEAST_OF_TIMEOUT);
                        (Some((Arc::clone(&run.worker), Arc::clone(&run.poller))), now >= run.since + least)
                    }
                    _ => (None, false),
                };
                let timed_out = outcome.timed_out && outcome.error.is_some() && over_time;
                let status = match &outcome.error {
                    None => Status::Completed,
                    Some(_) if timed_out => limits.timeout_status,
                    Some(_) => Status::Failed,
                };
                let Outcome { output, error, cost, .. } = outcome;
                self.end(now, &id, End { status, output, error, cost, timed_out });
                if let Some((_, poller)) = holder.filter(|(holder, _)| **holder != *worker) {
                    self.stop(&poller, &id);
                }
            }
        }
        if outcome.recycle {
            self.workers.recycle(now, worker, &limits);
        }
        if self.is_recycled(worker) {
            self.effects.push(Effect::WorkerRecycled(Arc::from(worker)));
        }
    }

    /// Notes a heartbeat. It extends only jobs that this worker holds.
    pub fn heartbeat(&mut self, now: Timestamp, worker: &str, heartbeat: &Heartbeat) {
        let limits = self.limits;
        let first = self.workers.get(worker).is_none_or(|record| !record.heartbeat_seen);
        let worker = self.workers.heartbeat(now, worker, heartbeat, &limits);
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

    /// Whether the worker asked to be replaced, its other jobs are over, and no new process has taken its name since.
    #[must_use]
    pub fn is_recycled(&self, worker: &str) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.is_recycled() && worker.held.is_empty())
    }

    /// Notes what happened to a worker's process.
    pub fn worker_event(&mut self, now: Timestamp, worker: &str, event: WorkerEvent) {
        match event {
            WorkerEvent::Starting => {
                self.lose_worker(now, worker);
                self.workers.contact(now, worker, &self.limits);
            }
            WorkerEvent::Leaving => self.workers.recycle(now, worker, &self.limits),
            WorkerEvent::Failing => self.workers.fail(now, worker, &self.limits),
            WorkerEvent::Throttled => self.workers.throttle(now, worker, &self.limits),
            WorkerEvent::Gone => self.lose_worker(now, worker),
        }
    }
}
