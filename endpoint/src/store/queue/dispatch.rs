//! How jobs get to workers, and back to the queue.

use std::sync::Arc;

use super::Queue;
use crate::store::clock::Timestamp;
use crate::store::job::{Run, State};
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::views::TakenJob;
use crate::store::workers::OVERFLOW;

impl<P: Content> Queue<P> {
    /// Gives the next jobs, at most `max`, to a worker.
    pub fn take(&mut self, now: Timestamp, worker: &str, max: usize) -> Vec<TakenJob<P>> {
        let limits = self.limits;
        let (worker, known) = self.workers.contact(now, worker, &limits);
        if !known.is_eligible() || self.paused {
            return Vec::new();
        }
        let lease = known.heartbeat_seen.then_some(now + limits.lease);
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(id) = self.waiting.pop_first() else { break };
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let record = &mut job.record;
            let delay = now.saturating_sub(record.submitted);
            record.attempt.delay = Some(delay);
            if record.attempt.retries == 0 && record.request.batch.is_none() {
                self.totals.delay.observe(delay);
            }
            let execution_deadline = Some(now + record.request.policy.run_time() + limits.timeout_grace);
            let (poller, worker) = (Arc::clone(&worker), Arc::clone(&worker));
            let run = Run { poller, worker, since: now, execution_deadline, lease, far_id: None };
            taken.extend(self.give(now, &id, run));
        }
        taken
    }

    /// Queued → running. The job is no longer among those that wait.
    pub(super) fn give(&mut self, now: Timestamp, id: &JobId, run: Run) -> Option<TakenJob<P>> {
        let record = &mut self.jobs.get_mut(id)?.record;
        let worker = Arc::clone(&run.worker);
        if record.request.batch.is_some() {
            // A batch may wait for longer than a job may live.
            record.expires = now + record.request.policy.ttl;
        }
        record.attempt.number += 1;
        record.attempt.worker = Some(Arc::clone(&worker));
        if *worker == *OVERFLOW {
            record.handovers.since.get_or_insert(now);
        }
        record.state = State::Running(run);
        let (attempt, delay) = (record.attempt.number, now.saturating_sub(record.submitted));
        let (handover, submitted, request) = (record.handovers.present(now), record.submitted, record.request.clone());
        let taken = TakenJob { id: Arc::clone(id), attempt, handover, submitted, delay, request };
        self.totals.in_progress += 1;
        self.in_progress += 1;
        self.workers.hold(&worker, id);
        self.changed(id);
        Some(taken)
    }

    /// Whether a job waits to be given out.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() && !self.paused
    }

    /// Whether this worker may get jobs.
    #[must_use]
    pub fn is_eligible(&self, worker: &str) -> bool {
        self.workers.get(worker).is_none_or(|worker| worker.is_eligible())
    }

    /// Puts unfinished jobs that this worker hands back to their old positions; returns how many. Those that it does not hold
    /// are left alone. That is no retry: the worker stopped them of its own accord.
    pub fn hand_back<I: AsRef<str>>(&mut self, now: Timestamp, worker: &str, ids: &[I]) -> usize {
        let mut handed_back = 0;
        for id in ids {
            let Some(id) = self.held_by(now, worker, id.as_ref()) else { continue };
            self.drop_partial_output(&id);
            self.requeue(&id);
            self.workers.withdraw_stop(worker, &id);
            handed_back += 1;
        }
        self.totals.handed_back += handed_back as u64;
        handed_back
    }

    /// Puts a job that did not reach its worker back to its old position. That is no retry: no worker ever saw the job.
    pub fn return_unsent(&mut self, worker: &str, id: &str, attempt: u32) {
        let Some(job) = self.jobs.get(id) else { return };
        let held = matches!(&job.record.state, State::Running(run) if *run.poller == *worker);
        if held && job.record.attempt.number == attempt {
            let id = Arc::clone(&job.record.id);
            self.requeue(&id);
        }
    }
}
