//! Rule: results that an earlier run left on disk are delivered before the first job is taken, within a limit.

use bytes::Bytes;

use crate::boundary::{JobId, Report, TakenJob, Time};
use crate::states::{Job, UndeliveredResults};
use crate::worker::Worker;

impl Worker {
    /// The outbox holds the results of these jobs. Heartbeats list the jobs until their results are delivered.
    pub(crate) fn undelivered_found(&mut self, now: Time, jobs: Vec<JobId>) {
        let jobs = jobs.into_iter().filter(|id| !self.jobs.contains(id)).collect();
        self.undelivered = UndeliveredResults::new(jobs, now + self.policy.undelivered_grace);
        for id in self.undelivered.jobs().cloned().collect::<Vec<_>>() {
            let taken = TakenJob::new(id, Ok(Bytes::new()));
            self.jobs.insert(Job::delivering(&taken, now, self.policy.job_timeout));
        }
        if self.undelivered.delays_polling() {
            self.report(Report::UndeliveredFound { jobs: self.undelivered.len() });
        }
    }

    /// Polls although some results are left: a queue that never accepts them must not keep the worker idle.
    pub(crate) fn expire_undelivered(&mut self, now: Time) {
        if self.undelivered.is_overdue(now) {
            self.report(Report::UndeliveredLate { jobs: self.undelivered.len() });
            self.undelivered = UndeliveredResults::default();
        }
    }
}
