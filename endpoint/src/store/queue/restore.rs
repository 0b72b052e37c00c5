//! A queue rebuilt from what a durable store has written down.

use std::sync::Arc;

use super::{Counters, Effect, Queue};
use crate::store::clock::Timestamp;
use crate::store::job::{Job, Record, Run, State};
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
    }

    /// Puts a job back to where it was. Bounds are not applied: the job was accepted.
    pub(crate) fn restore(&mut self, now: Timestamp, record: Record<usize>, items: Vec<(u64, Payload)>) {
        let (id, number) = (Arc::clone(&record.id), record.number);
        let mut record = record.map(|part, bytes| Filed::Stored { number, part, bytes });
        match &mut record.state {
            State::Queued => {
                self.waiting.insert(record.position, Arc::clone(&id), record.request.share.clone());
            }
            State::Running(run) => self.restore_run(now, run, &id),
            State::Finished { .. } => {}
        }
        if record.notices.webhook_due {
            self.effects.push(Effect::WebhookDue(Arc::clone(&id)));
        }
        self.keys.note(&record.request, &id);
        let mut job = Job::new(record, Stream::restored(items));
        job.recall();
        self.by_age.insert(number, Arc::clone(&id));
        self.jobs.insert(Arc::clone(&id), Box::new(job));
        self.settle(&id);
    }

    /// Gives rounds to the jobs that wait, once all are there.
    pub(crate) fn restored(&mut self) {
        for (position, id, share) in self.waiting.take_all() {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.record.position = self.waiting.place(position.low_priority, position.number, &share);
            self.waiting.insert(job.record.position, id, share);
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
        run.execution_deadline = run.execution_deadline.max(fresh);
        self.workers.hold(&run.worker, id);
        self.in_progress += 1;
    }
}
