//! The moves that jobs make between states; each keeps all indexes in line.

use std::sync::Arc;

use super::super::content::Content;
use super::super::job::{Job, JobId, Payload, Place, State, Status, Timestamp};
use super::super::worker::ANONYMOUS;
use super::{Effect, Queue};

/// How a job ends.
#[derive(Debug)]
pub(super) struct End<P> {
    pub(super) status: Status,
    pub(super) output: Option<P>,
    pub(super) error: Option<String>,
    pub(super) cost: Option<Payload>,
    /// Its run time was over, whatever the state says.
    pub(super) timed_out: bool,
}

impl<P> End<P> {
    pub(super) fn of(status: Status) -> Self {
        Self { status, output: None, error: None, cost: None, timed_out: false }
    }
}

impl<P: Content> Queue<P> {
    /// The running job `id`, if this worker holds it. A job that was taken under the placeholder name belongs to the
    /// first worker that reports it.
    pub(super) fn held_by(&mut self, now: Timestamp, worker: &str, id: &str) -> Option<JobId> {
        let (id, _) = self.jobs.get_key_value(id)?;
        let id = Arc::clone(id);
        let job = self.jobs.get_mut(&id)?;
        let State::Running(run) = &mut job.state else { return None };
        if *run.worker == *ANONYMOUS && *worker != *ANONYMOUS {
            let limits = self.limits;
            let (name, _) = self.workers.contact(now, worker, &limits);
            self.workers.release(ANONYMOUS, &id);
            self.workers.hold(&name, &id);
            run.worker = Arc::clone(&name);
            job.worker = Some(name);
            self.journal.touched(&id);
        }
        (*run.worker == *worker).then_some(id)
    }

    pub(super) fn new_place(&mut self, low_priority: bool) -> Place {
        self.next_place += 1;
        Place { low_priority, number: self.next_place }
    }

    pub(super) fn enqueue(&mut self, place: Place, id: &JobId) {
        self.waiting.insert(place, Arc::clone(id));
        self.effects.push(Effect::JobWaiting);
    }

    /// Running → queued, at its old place: ahead of everything that was submitted later.
    pub(super) fn requeue(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let place = job.place;
        let State::Running(run) = std::mem::replace(&mut job.state, State::Queued(place)) else { return };
        if job.retries == 0 {
            (job.delay, job.worker) = (None, None);
        }
        self.in_progress -= 1;
        self.workers.release(&run.worker, id);
        self.enqueue(place, id);
        self.changed(id);
    }

    pub(super) fn lease_lost(&mut self, now: Timestamp, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if !matches!(job.state, State::Running(_)) {
            return;
        }
        let max = self.limits.max_retries;
        if job.retries >= max {
            let error = Some(format!("job timed out after {max} retries"));
            self.close(now, id, End { error, ..End::of(Status::Failed) });
            return;
        }
        job.retries += 1;
        job.output = None;
        // The next attempt streams from its beginning.
        self.journal.chunks_gone(job);
        job.clear_stream();
        self.retried += 1;
        self.totals.retried += 1;
        self.requeue(id);
    }

    /// Forgets a worker whose process has ended, and hands its jobs to others.
    pub(super) fn lose_worker(&mut self, now: Timestamp, worker: &str) {
        let Some(record) = self.workers.remove(worker) else { return };
        let mut lost: Vec<_> = record.held.into_iter().collect();
        lost.sort_unstable();
        for id in lost {
            self.lease_lost(now, &id);
        }
    }

    /// Ends a job from this side: whoever runs it is told to stop.
    pub(super) fn close(&mut self, now: Timestamp, id: &JobId, end: End<P>) {
        let poller = match self.jobs.get(id).map(Box::as_ref) {
            Some(Job { state: State::Running(run), .. }) => Some(Arc::clone(&run.poller)),
            _ => None,
        };
        self.end(now, id, end);
        if let Some(poller) = poller {
            self.stop(&poller, id);
        }
    }

    /// The one place where a job becomes terminal.
    pub(super) fn end(&mut self, now: Timestamp, id: &JobId, end: End<P>) {
        let status = end.status;
        let Some(job) = self.jobs.get_mut(id) else { return };
        let finished = State::Finished { status, forget_at: now + job.retention };
        match std::mem::replace(&mut job.state, finished) {
            State::Queued(place) => {
                self.waiting.remove(&place);
                self.totals.ended(status, None);
            }
            State::Running(run) => {
                let execution = now.saturating_sub(run.since);
                job.execution = Some(execution);
                self.totals.ended(status, Some(execution));
                self.in_progress -= 1;
                self.workers.release(&run.worker, id);
            }
            State::Finished { .. } => {}
        }
        (job.output, job.error, job.cost) = (end.output, end.error, end.cost);
        self.totals.execution_timeouts += u64::from(end.timed_out);
        match status {
            Status::Completed => self.completed += 1,
            Status::Failed | Status::TimedOut => self.failed += 1,
            Status::Cancelled | Status::InQueue | Status::InProgress => {}
        }
        let webhook_due = job.webhook.is_some() && status != Status::Cancelled;
        job.webhook_due = webhook_due;
        self.changed(id);
        self.effects.push(Effect::JobFinished(Arc::clone(id), status));
        if webhook_due {
            self.effects.push(Effect::WebhookDue(Arc::clone(id)));
        }
    }

    pub(super) fn stop(&mut self, poller: &Arc<str>, id: &JobId) {
        if self.workers.signal_stop(poller, id) {
            self.effects.push(Effect::StopWaiting(Arc::clone(poller)));
        }
    }

    /// Deletes a record. A worker that still runs the job is told to stop.
    pub(super) fn forget(&mut self, id: &JobId) {
        let Some(job) = self.jobs.remove(id) else { return };
        self.deadlines.remove(&(job.armed, Arc::clone(id)));
        self.by_age.remove(&job.number);
        self.size -= job.counted;
        self.journal.gone(&job);
        if !job.status().is_terminal() {
            self.totals.expired += 1;
        }
        match job.state {
            State::Queued(place) => {
                self.waiting.remove(&place);
            }
            State::Running(run) => {
                self.in_progress -= 1;
                self.workers.release(&run.worker, id);
                self.stop(&run.poller, id);
            }
            State::Finished { .. } => {}
        }
        self.effects.push(Effect::JobChanged(Arc::clone(id)));
    }

    pub(super) fn changed(&mut self, id: &JobId) {
        self.settle(id);
        self.journal.touched(id);
        self.effects.push(Effect::JobChanged(Arc::clone(id)));
    }

    /// Brings the ordered deadlines and the byte account in line with the job.
    pub(super) fn settle(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.note(self.now);
        self.deadlines.remove(&(job.armed, Arc::clone(id)));
        job.armed = job.deadline();
        self.deadlines.insert((job.armed, Arc::clone(id)));
        self.size -= job.counted;
        job.counted = job.size();
        self.size += job.counted;
    }
}
