//! Ids of the last jobs that have ended here.

use std::collections::{BTreeSet, VecDeque};

use crate::boundary::JobId;

/// A bounded set of job ids, oldest first.
#[derive(Debug)]
pub(crate) struct EndedJobs {
    order: VecDeque<JobId>,
    ids: BTreeSet<JobId>,
    limit: usize,
}

impl EndedJobs {
    /// An empty set of at most `limit` ids.
    pub(crate) fn new(limit: usize) -> Self {
        Self { order: VecDeque::new(), ids: BTreeSet::new(), limit }
    }

    /// Adds a job; the oldest one makes room.
    pub(crate) fn insert(&mut self, job: &JobId) {
        if !self.ids.insert(job.clone()) {
            return;
        }
        self.order.push_back(job.clone());
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// Whether the job has ended here lately.
    pub(crate) fn contains(&self, job: &JobId) -> bool {
        self.ids.contains(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_job_is_forgotten_first() {
        let mut ended = EndedJobs::new(2);
        for job in ["a", "b", "a", "c"] {
            ended.insert(&job.into());
        }
        let kept = ["a", "b", "c"].map(|job| ended.contains(&job.into()));
        assert_eq!((kept, ended.order.len(), ended.ids.len()), ([false, true, true], 2, 2));
    }
}
