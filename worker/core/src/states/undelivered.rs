//! Results of an earlier run that are not delivered yet.

use crate::boundary::{JobId, Time};
use std::collections::BTreeSet;

/// Jobs whose results an earlier run has left, and which keep the worker from polling.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    pub(crate) jobs: BTreeSet<JobId>,
    /// When the worker stops waiting for them.
    pub(crate) until: Time,
}

impl Leftovers {
    /// Whether a poll has to wait.
    pub(crate) fn pending(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// One of them is delivered, or given up.
    pub(crate) fn settled(&mut self, job: &JobId) {
        self.jobs.remove(job);
    }

    /// When the waiting ends, if there is any.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.pending().then_some(self.until)
    }
}
