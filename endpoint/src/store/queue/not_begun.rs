//! Jobs that a worker reports as failed although it never began them, and workers that cannot begin any.

use std::sync::Arc;

use super::{Effect, Queue};
use crate::store::clock::Timestamp;
use crate::store::ending::NotBegun;
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::workers::Worker;

impl<P: Content> Queue<P> {
    /// Decides about a job that its worker never began; `held` is the job if this worker holds it. Returns whether nothing is to be
    /// reported of it.
    ///
    /// - A worker that was told to stop hands its job back: a scale-down must not fail a job.
    /// - A worker that cannot start gets no more jobs. The job that it reports is tried on another worker, as if this one had been
    ///   lost. If there is none, the job fails, so that its caller reads the reason. The other jobs of this worker wait for a better one.
    pub(super) fn was_not_begun(
        &mut self,
        now: Timestamp,
        worker: &str,
        held: Option<&JobId>,
        reason: NotBegun,
    ) -> bool {
        // Another worker has the job meanwhile, or it waits for one.
        let Some(id) = held else { return true };
        // An error can have any text. A worker that has ended a job has started.
        if self.workers.get(worker).is_some_and(Worker::has_started) {
            return false;
        }
        let limits = self.limits;
        let Some(attempt) = self.jobs.get(id).map(|job| job.record.attempt.clone()) else { return true };
        match reason {
            NotBegun::Stopped => {
                // Its process still has a poll open, which must not get the job again.
                self.workers.refresh(now, worker, &limits);
                if attempt.number >= limits.max_takes_not_begun {
                    return false;
                }
                self.hand_back(now, worker, &[id]);
                true
            }
            NotBegun::StartFailed => {
                self.unfit(now, worker);
                let mut others = self.workers.get(worker).map(|known| known.held.clone()).unwrap_or_default();
                others.remove(id);
                let mut others: Vec<_> = others.into_iter().collect();
                others.sort_unstable();
                self.hand_back(now, worker, &others);
                if attempt.retries >= limits.max_retries || !self.workers.has_other_fit(now, worker, &limits) {
                    return false;
                }
                self.lease_lost(now, id);
                true
            }
        }
    }

    /// Notes the end of a job for the worker that held it, and for the name under which it was taken; `well` unless the worker
    /// failed.
    pub(super) fn note_end(&mut self, now: Timestamp, holder: &Arc<str>, poller: &Arc<str>, well: bool) {
        if well {
            self.workers.note_completed(now, holder);
            self.workers.note_completed(now, poller);
        } else if self.workers.note_failed(now, holder, &self.limits) {
            self.effects.push(Effect::WorkerUnfit(Arc::clone(holder)));
        }
    }

    fn unfit(&mut self, now: Timestamp, worker: &str) {
        let was_fit = self.is_eligible(worker);
        self.workers.fail(now, worker, &self.limits);
        if was_fit {
            self.effects.push(Effect::WorkerUnfit(Arc::from(worker)));
        }
    }
}
