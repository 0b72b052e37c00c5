//! Results of an earlier run that are not delivered yet.

use std::collections::BTreeSet;

use crate::boundary::{JobId, Time};

/// Jobs whose results an earlier run left on disk. They delay the first poll.
#[derive(Debug, Default)]
pub(crate) struct UndeliveredResults {
    jobs: BTreeSet<JobId>,
    /// When the worker polls although some are left.
    until: Time,
}

impl UndeliveredResults {
    /// Starts with these jobs.
    pub(crate) fn new(jobs: BTreeSet<JobId>, until: Time) -> Self {
        Self { jobs, until }
    }

    /// The jobs that are left.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.iter()
    }

    /// How many are left.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether polling has to wait.
    pub(crate) fn delays_polling(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Removes a job whose result was accepted, or refused for good.
    pub(crate) fn settled(&mut self, job: &JobId) {
        self.jobs.remove(job);
    }

    /// Whether polling has waited long enough.
    pub(crate) fn is_overdue(&self, now: Time) -> bool {
        self.delays_polling() && now >= self.until
    }

    /// When polling has waited long enough.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.delays_polling().then_some(self.until)
    }
}
