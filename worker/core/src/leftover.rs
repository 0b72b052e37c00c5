//! Results that an earlier run of this worker has left on disk: they are delivered before the first job is taken.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::effect::Report;
use super::event::TakenJob;
use super::ids::{JobId, Time};
use super::job::{Job, JobState};
use super::worker::Worker;

/// Jobs whose results an earlier run has left, and which keep the worker from polling.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    jobs: BTreeSet<JobId>,
    /// When the worker stops waiting for them.
    until: Time,
}

impl Leftovers {
    /// Whether a poll has to wait.
    pub(super) fn pending(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// One of them is delivered, or given up.
    pub(super) fn settled(&mut self, job: &JobId) {
        self.jobs.remove(job);
    }

    /// When the waiting ends, if there is any.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.pending().then_some(self.until)
    }
}

impl Worker {
    /// The outbox holds the results of these jobs; the heartbeat lists them until they are delivered.
    pub(super) fn take_leftovers(&mut self, now: Time, jobs: Vec<JobId>) {
        self.leftovers.until = now + self.policy.leftover_grace;
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
            self.report(Report::LeftoversFound { jobs: self.leftovers.jobs.len() });
        }
    }

    /// A queue that refuses these results for ever must not keep the worker idle for ever.
    pub(super) fn expire_leftovers(&mut self, now: Time) {
        if self.leftovers.pending() && now >= self.leftovers.until {
            self.report(Report::LeftoversLate { jobs: self.leftovers.jobs.len() });
            self.leftovers.jobs.clear();
        }
    }
}
