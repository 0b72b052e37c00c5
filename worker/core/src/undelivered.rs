//! Results that an earlier run of this worker has left on disk: they are delivered before the first job is taken.

use crate::boundary::{JobId, Report, TakenJob, Time};
use crate::states::{Job, JobState};
use crate::worker::Worker;
use bytes::Bytes;

impl Worker {
    /// The outbox holds the results of these jobs; the heartbeat lists them until they are delivered.
    pub(crate) fn take_leftovers(&mut self, now: Time, jobs: Vec<JobId>) {
        self.leftovers.until = now + self.policy.undelivered_grace;
        for id in jobs {
            if self.jobs.contains_key(&id) {
                continue;
            }
            let taken = TakenJob::new(id.clone(), Ok(Bytes::new()));
            let mut job = Job::new(&taken, Bytes::new(), now, self.policy.job_timeout);
            job.state = JobState::Delivering;
            self.jobs.insert(id.clone(), job);
            self.leftovers.jobs.insert(id);
        }
        if self.leftovers.pending() {
            self.report(Report::UndeliveredFound { jobs: self.leftovers.jobs.len() });
        }
    }

    /// A queue that refuses these results for ever must not keep the worker idle for ever.
    pub(crate) fn expire_leftovers(&mut self, now: Time) {
        if self.leftovers.pending() && now >= self.leftovers.until {
            self.report(Report::UndeliveredLate { jobs: self.leftovers.jobs.len() });
            self.leftovers.jobs.clear();
        }
    }
}
