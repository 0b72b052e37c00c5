//! The moves that jobs make between states; each keeps all indexes in line.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::waiting::Entry;
use super::{Effect, Queue};
use crate::store::batch::{BatchId, BatchState};
use crate::store::clock::Timestamp;
use crate::store::ending::{CallerMistake, EXPIRED, Ending};
use crate::store::job::{Position, Record, State};
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::status::Status;
use crate::store::workers::ANONYMOUS;

/// How a job ends.
#[derive(Debug)]
pub(super) struct End<P> {
    pub(super) status: Status,
    pub(super) ending: Ending<P>,
    /// Its run time was over, whatever the status is.
    pub(super) timed_out: bool,
    /// Its `ttl` was over. Such a job is counted as expired only.
    pub(super) expired: bool,
    /// The caller's mistake that it failed by.
    pub(super) mistake: Option<CallerMistake>,
}

impl<P> End<P> {
    pub(super) fn of(status: Status) -> Self {
        Self { status, ending: Ending::default(), timed_out: false, expired: false, mistake: None }
    }
}

impl<P: Content> Queue<P> {
    /// The running job `id`, if this worker holds it. A job that was taken under the placeholder name belongs to the
    /// first worker that reports it.
    pub(super) fn held_by(&mut self, now: Timestamp, worker: &str, id: &str) -> Option<JobId> {
        let record = &mut self.jobs.get_mut(id)?.record;
        let id = Arc::clone(&record.id);
        let State::Running(run) = &mut record.state else { return None };
        if *run.worker == *ANONYMOUS && *worker != *ANONYMOUS {
            let limits = self.limits;
            let (name, _) = self.workers.contact(now, worker, &limits);
            self.workers.release(ANONYMOUS, &id);
            self.workers.hold(&name, &id);
            run.worker = Arc::clone(&name);
            record.attempt.worker = Some(name);
            self.journal.touched(&id);
            return Some(id);
        }
        (*run.worker == *worker).then_some(id)
    }

    pub(super) fn new_position(&mut self, low_priority: bool, share: &Option<Arc<str>>) -> Position {
        let number = self.new_number();
        self.waiting.place(low_priority, number, share)
    }

    /// The next number of a job, a position or a batch.
    pub(super) fn new_number(&mut self) -> u64 {
        self.last_number = self.given_numbers.pop_front().unwrap_or(self.last_number + 1);
        self.last_number
    }

    pub(super) fn enqueue(&mut self, position: Position, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        self.waiting.insert(position, Entry::new(&job.record));
        self.effects.push(Effect::JobWaiting);
    }

    /// Running → queued, at its old position: ahead of everything that was submitted later.
    pub(super) fn requeue(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let record = &mut job.record;
        let State::Running(run) = std::mem::replace(&mut record.state, State::Queued) else { return };
        record.handovers.leave(&run);
        let position = record.position;
        if record.attempt.retries == 0 {
            (record.attempt.delay, record.attempt.worker) = (None, None);
        }
        self.in_progress -= 1;
        let batch = record.request.batch.clone();
        self.workers.release(&run.worker, id);
        self.enqueue(position, id);
        self.changed(id);
        let is_cancelled = |batch: BatchId| self.batches.state_of(&batch) == Some(BatchState::Cancelling);
        if batch.is_some_and(is_cancelled) {
            self.close(self.now, id, End::of(Status::Cancelled));
        }
    }

    /// Drops what the attempt that is over has sent: the next one sends it all again.
    pub(super) fn drop_partial_output(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.record.ending.output = None;
        self.journal.stream_items_gone(job);
        job.stream.drain();
    }

    /// Retries a job whose worker was lost, or fails it after the last retry.
    pub(super) fn lease_lost(&mut self, now: Timestamp, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if !matches!(job.record.state, State::Running(_)) {
            return;
        }
        let max = self.limits.max_retries;
        if job.record.attempt.retries >= max {
            let ending = Ending::failed(format!("job timed out after {max} retries"));
            self.close(now, id, End { ending, ..End::of(Status::Failed) });
            return;
        }
        job.record.attempt.retries += 1;
        self.drop_partial_output(id);
        self.retried += 1;
        self.totals.retried += 1;
        self.requeue(id);
    }

    /// Forgets a worker whose process has ended; its jobs are retried.
    pub(super) fn lose_worker(&mut self, now: Timestamp, worker: &str) {
        let Some(removed) = self.workers.remove(worker) else { return };
        let mut lost: Vec<_> = removed.held.into_iter().collect();
        lost.sort_unstable();
        for id in lost {
            self.lease_lost(now, &id);
        }
    }

    /// Ends a job from this side and sends its worker a stop signal.
    pub(super) fn close(&mut self, now: Timestamp, id: &JobId, end: End<P>) {
        let poller = match self.jobs.get(id).map(|job| &job.record.state) {
            Some(State::Running(run)) => Some(Arc::clone(&run.poller)),
            _ => None,
        };
        self.end(now, id, end);
        if let Some(poller) = poller {
            self.stop(&poller, id);
        }
    }

    /// The one place where a job becomes terminal.
    pub(super) fn end(&mut self, now: Timestamp, id: &JobId, end: End<P>) {
        let End { status, ending, timed_out, expired, mistake } = end;
        let Some(job) = self.jobs.get_mut(id) else { return };
        let record = &mut job.record;
        let forget_at = now + record.request.retention;
        if self.limits.retention.is_some() {
            // Its own `ttl` is for the time until its end.
            record.expires = record.expires.max(forget_at);
        }
        let finished = State::Finished { status, forget_at };
        match std::mem::replace(&mut record.state, finished) {
            State::Queued => {
                self.waiting.remove(&record.position);
                self.totals.ended(status, None, expired);
            }
            State::Running(run) => {
                record.handovers.leave(&run);
                let execution = now.saturating_sub(run.since);
                record.attempt.execution = Some(execution);
                self.totals.ended(status, Some(execution), expired);
                self.in_progress -= 1;
                self.workers.release(&run.worker, id);
            }
            State::Finished { .. } => {}
        }
        record.ending = ending;
        self.totals.execution_timeouts += u64::from(timed_out);
        self.totals.mistaken(mistake);
        match status {
            _ if expired => {}
            Status::Completed => self.completed += 1,
            Status::Failed | Status::TimedOut => self.failed += 1,
            Status::Cancelled | Status::InQueue | Status::InProgress => {}
        }
        self.effects.push(Effect::JobFinished(Arc::clone(id), status));
        if self.jobs.get(id).is_some_and(|job| self.is_reported(job, status)) {
            self.report(now, id);
        }
        self.changed(id);
    }

    /// The life of an unfinished job is over. Its record goes at once, as on the platform, unless its end is to be reported or is part
    /// of a batch.
    pub(super) fn expire(&mut self, now: Timestamp, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.record.request.batch.is_none() && !self.is_reported(job, Status::TimedOut) {
            self.totals.expired += 1;
            return self.forget(id);
        }
        let ending = Ending::failed(EXPIRED);
        self.close(now, id, End { ending, expired: true, ..End::of(Status::TimedOut) });
    }

    pub(super) fn stop(&mut self, poller: &Arc<str>, id: &JobId) {
        if self.workers.signal_stop(poller, id) {
            self.effects.push(Effect::StopWaiting(Arc::clone(poller)));
        }
    }

    /// Deletes a record. A worker that still runs the job is sent a stop signal.
    pub(super) fn forget(&mut self, id: &JobId) {
        let Some(job) = self.jobs.remove(id) else { return };
        self.deadlines.remove(&(job.armed, Arc::clone(id)));
        self.by_age.remove(&job.record.number);
        self.failed_jobs.remove(&job.record.number);
        self.given_up.remove(&job.record.number);
        self.cancelled_elsewhere.remove(&job.record.number);
        self.keys.forget(&job.record.request);
        self.size -= job.counted;
        self.journal.gone(&job);
        if let Some(batch) = &job.record.request.batch {
            self.batches.tally(batch, job.record.number, job.tallied, None);
        }
        match job.record.state {
            State::Queued => {
                self.waiting.remove(&job.record.position);
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

    /// Brings the indexes and the byte account in line with the job.
    pub(super) fn settle(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.note(self.now);
        self.deadlines.remove(&(job.armed, Arc::clone(id)));
        job.armed = job.deadline();
        self.deadlines.insert((job.armed, Arc::clone(id)));
        self.size -= job.counted;
        job.counted = job.size();
        self.size += job.counted;
        let number = job.record.number;
        let lists = Lists::of(&job.record);
        self.list_in(number, lists);
        self.tally(id);
    }

    /// Puts a job into the lists that it belongs to, and takes it out of the others.
    pub(super) fn list_in(&mut self, number: u64, lists: Lists) {
        list(&mut self.failed_jobs, number, lists.failed);
        list(&mut self.given_up, number, lists.given_up);
        list(&mut self.cancelled_elsewhere, number, lists.cancelled_elsewhere);
    }
}

/// The lists that a job belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lists {
    failed: bool,
    given_up: bool,
    cancelled_elsewhere: bool,
}

impl Lists {
    pub(super) fn of<P: Content>(record: &Record<P>) -> Self {
        Self {
            failed: matches!(record.status(), Status::Failed | Status::TimedOut),
            given_up: record.is_given_up(),
            cancelled_elsewhere: record.is_cancelled_elsewhere(),
        }
    }
}

fn list(numbers: &mut BTreeSet<u64>, number: u64, is_listed: bool) {
    if is_listed {
        numbers.insert(number);
    } else {
        numbers.remove(&number);
    }
}
