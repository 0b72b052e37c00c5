//! Searching all jobs of which a record is kept.

use super::Queue;
use crate::store::job::Job;
use crate::store::payload::Content;
use crate::store::views::{HistoryPage, HistoryQuery, JobRow, MAX_SEARCHED};

impl<P: Content> Queue<P> {
    /// The newest jobs that fit, and where to go on. Looks at a bounded number of jobs.
    #[must_use]
    pub fn search(&self, query: &HistoryQuery) -> HistoryPage<P> {
        let text = query.text.to_lowercase();
        let older = self.by_age.range(..query.before.unwrap_or(u64::MAX)).rev();
        let mut page = HistoryPage { rows: Vec::new(), next: None };
        for (looked_at, (number, id)) in older.enumerate() {
            if page.rows.len() == query.limit || looked_at == MAX_SEARCHED {
                page.next = Some(number + 1);
                break;
            }
            if let Some(job) = self.jobs.get(id).filter(|job| fits(job, query, &text)) {
                page.rows.push(JobRow { view: job.view(), submitted: job.record.submitted });
            }
        }
        page
    }
}

fn fits<P: Content>(job: &Job<P>, query: &HistoryQuery, text: &str) -> bool {
    let record = &job.record;
    let is_in_time = query.from.is_none_or(|from| record.submitted >= from)
        && query.until.is_none_or(|until| record.submitted < until);
    let contains = |part: &str| part.to_lowercase().contains(text);
    is_in_time
        && query.status.is_none_or(|status| status == job.status())
        && (text.is_empty()
            || contains(&record.id)
            || record.attempt.worker.as_deref().is_some_and(contains)
            || record.ending.error.as_deref().is_some_and(contains))
}
