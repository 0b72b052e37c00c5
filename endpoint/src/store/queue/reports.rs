//! What workers report of the jobs that they hold.

use std::sync::Arc;

use super::transitions::End;
use super::{Effect, Queue};
use crate::store::clock::Timestamp;
use crate::store::ending::Outcome;
use crate::store::error::StoreError;
use crate::store::job::State;
use crate::store::payload::{Content, Payload};
use crate::store::status::Status;

/// A timeout that a worker reports counts as the execution timeout only after this share of it; before, it is a limit of
/// the handler's own. Less than the whole, because the worker measures with another clock.
const LEAST_OF_TIMEOUT: f64 = 0.9;

impl<P: Content> Queue<P> {
    /// Replaces the output of a running job by a progress update.
    pub fn progress(&mut self, now: Timestamp, worker: &str, id: &str, output: Option<P>) {
        if let Some(id) = self.held_by(now, worker, id) {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.record.ending.output = output;
            }
            self.changed(&id);
        }
    }

    /// Appends one stream item. Late items and items of a worker that lost the job are ignored.
    ///
    /// # Errors
    /// When the readers are too far behind.
    pub fn stream_item(&mut self, now: Timestamp, worker: &str, id: &str, item: Payload) -> Result<(), StoreError> {
        let Some(id) = self.held_by(now, worker, id) else { return Ok(()) };
        if let Some(job) = self.jobs.get_mut(&id) {
            let size = item.get().len();
            if job.stream.bytes() + size > self.limits.max_stream_bytes {
                return Err(StoreError::StreamFull);
            }
            if self.size.streamed + self.elsewhere.streamed + size > self.limits.max_total_stream_bytes {
                return Err(StoreError::StreamsFull);
            }
            self.journal.stream_item(job, &item);
            job.stream.push(item);
        }
        self.settle(&id);
        self.effects.push(Effect::JobChanged(id));
        Ok(())
    }

    /// Takes the final result of a job. The first one wins; later ones change nothing.
    pub fn finish(&mut self, now: Timestamp, worker: &str, id: &str, outcome: Outcome<P>) {
        let limits = self.limits;
        // A result may arrive after its worker has left; that does not bring the worker back.
        self.workers.touch(now, worker, &limits);
        self.workers.withdraw_stop(worker, id);
        let held = self.held_by(now, worker, id);
        let refresh = outcome.refresh;
        match outcome.not_begun {
            Some(reason) if self.was_not_begun(now, worker, held.as_ref(), reason) => {}
            _ => self.end_as_reported(now, worker, id, outcome),
        }
        if refresh {
            self.workers.refresh(now, worker, &limits);
        }
        if self.is_refreshing(worker) {
            self.effects.push(Effect::WorkerRefreshing(Arc::from(worker)));
        }
    }

    fn end_as_reported(&mut self, now: Timestamp, worker: &str, id: &str, outcome: Outcome<P>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let record = &mut job.record;
        // A job that is queued again may still be finished by the worker that was thought lost.
        if record.attempt.number == 0 || record.status().is_terminal() {
            return;
        }
        let id = Arc::clone(&record.id);
        let (holder, over_time) = match &mut record.state {
            State::Running(run) => {
                // It has ended where it ran: there is nothing to cancel.
                run.far_id = run.far_id.take().filter(|_| *run.worker != *worker);
                let least = record.request.policy.run_time().mul_f64(LEAST_OF_TIMEOUT);
                (Some((Arc::clone(&run.worker), Arc::clone(&run.poller))), now >= run.since + least)
            }
            State::Queued | State::Finished { .. } => (None, false),
        };
        let Outcome { ending, timed_out, mistake, .. } = outcome;
        let timed_out = timed_out && ending.error.is_some() && over_time;
        let status = match &ending.error {
            None => Status::Completed,
            Some(_) if timed_out => self.limits.timeout_status,
            Some(_) => Status::Failed,
        };
        let mistake = mistake.filter(|_| status == Status::Failed);
        self.end(now, &id, End { status, ending, timed_out, expired: false, mistake });
        if let Some((holder, poller)) = &holder {
            // Whoever finds the mistake in a job's input works.
            self.note_end(now, holder, poller, status == Status::Completed || mistake.is_some());
        }
        if let Some((_, poller)) = holder.filter(|(holder, _)| **holder != *worker) {
            self.stop(&poller, &id);
        }
    }

    /// Whether the worker asked to be replaced, its other jobs are over, and no new process has taken its name since.
    #[must_use]
    pub fn is_refreshing(&self, worker: &str) -> bool {
        self.workers.get(worker).is_some_and(|worker| worker.is_refreshing() && worker.held.is_empty())
    }
}
