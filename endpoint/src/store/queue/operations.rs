//! What operators do: pause and resume, and repeat what failed.

use std::ops::RangeInclusive;

use super::{Effect, Queue};
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::payload::Content;
use crate::store::views::{JobRow, Page, RetriedFailed};

impl<P: Content> Queue<P> {
    /// Stops or resumes giving out jobs. Everything else goes on: jobs are accepted, and running ones end.
    pub fn set_paused(&mut self, paused: bool) {
        if std::mem::replace(&mut self.paused, paused) == paused {
            return;
        }
        self.journal.endpoint_touched();
        if !paused {
            self.effects.push(Effect::DispatchResumed);
        }
    }

    /// The FAILED and TIMED_OUT jobs, newest first.
    #[must_use]
    pub fn failed(&self, offset: usize, limit: usize) -> Page<JobRow<P>> {
        let row = |number: &u64| {
            let job = self.jobs.get(self.by_age.get(number)?)?;
            Some(JobRow { view: job.view(), submitted: job.record.submitted })
        };
        let entries = self.failed_jobs.iter().rev().skip(offset).take(limit).filter_map(row).collect();
        Page { entries, total: self.failed_jobs.len() }
    }

    /// The number of the failed job that was submitted last.
    #[must_use]
    pub fn newest_failed(&self) -> Option<u64> {
        self.failed_jobs.last().copied()
    }

    /// Queues failed jobs with these numbers again, oldest first, at most `max` and until one is refused. Returns what became of them,
    /// and where to go on.
    pub fn retry_failed(
        &mut self,
        now: Timestamp,
        numbers: RangeInclusive<u64>,
        max: usize,
    ) -> (RetriedFailed, Option<u64>) {
        let some: Vec<_> = self.failed_jobs.range(numbers.clone()).take(max).copied().collect();
        let rest = some.last().filter(|_| some.len() == max).map(|last| last + 1);
        let mut outcome = RetriedFailed::default();
        for number in some {
            let Some(id) = self.by_age.get(&number).cloned() else { continue };
            match self.retry(now, &id) {
                Ok(_) => outcome.retried += 1,
                // Nobody wants it to run; the others go on.
                Err(refusal @ StoreError::BatchCancelled) => {
                    outcome.left += 1;
                    outcome.refusal = Some(refusal);
                }
                Err(refusal) => {
                    outcome.left += self.failed_jobs.range(number..=*numbers.end()).count();
                    outcome.refusal = Some(refusal);
                    return (outcome, None);
                }
            }
        }
        (outcome, rest.filter(|from| from <= numbers.end()))
    }
}
