//! A queue rebuilt from what a durable store has written down.

use std::sync::Arc;

use super::waiting::Entry;
use super::{BatchRecord, Counters, Queue};
use crate::store::batch::BatchState;
use crate::store::clock::Timestamp;
use crate::store::job::{Job, Record, Report, Run, State};
use crate::store::payload::{Filed, Payload};
use crate::store::request::JobId;
use crate::store::stream::Stream;

impl Queue<Filed> {
    /// Sets the counters of a queue that is being rebuilt.
    pub(crate) fn restore_counters(&mut self, counters: Counters) {
        self.last_number = counters.last_number;
        self.completed = counters.completed;
        self.failed = counters.failed;
        self.retried = counters.retried;
        self.paused = counters.paused;
    }

    /// Puts a batch back, before its jobs.
    pub(crate) fn restore_batch(&mut self, batch: BatchRecord) {
        self.batches.insert(batch);
    }

    /// Puts a job back to where it was. Bounds are not applied: the job was accepted.
    pub(crate) fn restore(&mut self, now: Timestamp, record: Record<usize>, items: Vec<(u64, Payload)>) {
        let (id, number) = (Arc::clone(&record.id), record.number);
        let mut record = record.map(|part, bytes| Filed::Stored { number, part, bytes });
        let batch = record.request.batch.clone();
        let is_draft = batch.as_ref().and_then(|batch| self.batches.state_of(batch)) == Some(BatchState::Draft);
        match &mut record.state {
            State::Queued if is_draft => {}
            State::Queued => self.waiting.insert(record.position, Entry::new(&record)),
            State::Running(run) => self.restore_run(now, run, &id),
            State::Finished { .. } => {}
        }
        let is_due = matches!(record.notices.report, Report::Due { .. });
        if let Report::GivenUp { at, until, .. } = &mut record.notices.report {
            *until = *at + self.limits.given_up_retention;
        }
        self.keys.note(&record.request, &id);
        let mut job = Job::new(record, Stream::restored(items));
        job.recall();
        if let Some(batch) = &batch {
            job.tallied = Some(job.status());
            self.batches.tally(batch, number, None, job.tallied);
        }
        self.by_age.insert(number, Arc::clone(&id));
        self.jobs.insert(Arc::clone(&id), Box::new(job));
        if is_due {
            self.report(now, &id);
        }
        self.settle(&id);
    }

    /// Gives rounds to the jobs that wait, once all are there.
    pub(crate) fn restored(&mut self) {
        for (position, entry) in self.waiting.take_all() {
            let Some(job) = self.jobs.get_mut(&entry.id) else { continue };
            job.record.position = self.waiting.place(position.low_priority, position.number, &entry.share);
            self.waiting.insert(job.record.position, entry);
        }
    }

    /// No worker could report while the endpoint was away: the lease starts afresh, and a result that was finished in
    /// time gets as long as a lease to arrive.
    fn restore_run(&mut self, now: Timestamp, run: &mut Run, id: &JobId) {
        let fresh = now + self.limits.lease;
        let limits = self.limits;
        for worker in [&run.poller, &run.worker] {
            self.workers.contact(now, worker, &limits);
        }
        if run.lease.is_some() {
            self.workers.expect_heartbeats(&run.worker);
            run.lease = Some(fresh);
        }
        run.execution_deadline = run.execution_deadline.map(|deadline| deadline.max(fresh));
        self.workers.hold(&run.worker, id);
        self.in_progress += 1;
    }
}
