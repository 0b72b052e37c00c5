//! Looking at the queue without changing it.

use super::Queue;
use crate::store::content::Content;
use crate::store::inspect::{JobFilter, JobRecord, JobRow, MAX_SEARCHED, Seen, WorkerView, items};
use crate::store::job::{JobId, Timestamp};

impl<P: Content> Queue<P> {
    /// The newest jobs that pass the filter. Looks at a bounded number of jobs.
    #[must_use]
    pub fn list(&self, filter: &JobFilter) -> Vec<JobRow<P>> {
        let row = |id: &JobId| {
            let job = self.jobs.get(id)?;
            let fits = filter.status.is_none_or(|status| status == job.status()) && id.contains(&filter.id);
            fits.then(|| JobRow { view: job.view(id), submitted: job.submitted })
        };
        if let Some((id, _)) = self.jobs.get_key_value(&*filter.id) {
            return row(id).into_iter().collect();
        }
        self.by_age.values().rev().take(MAX_SEARCHED).filter_map(row).take(filter.limit).collect()
    }

    /// Everything there is to see of one job, without what was `seen` of its stream.
    #[must_use]
    pub fn inspect(&self, id: &str, seen: Seen) -> Option<JobRecord<P>> {
        let (id, job) = self.jobs.get_key_value(id)?;
        let (first_item, items) = items(&job.chunks, job.next_chunk, seen.items);
        Some(JobRecord {
            view: job.view(id),
            revision: job.history.revision,
            input: job.input.clone(),
            history: job.history.transitions().to_vec(),
            first_item,
            items,
        })
    }

    /// Whether there is nothing in it: neither jobs nor workers.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.jobs.is_empty() && self.workers.is_empty()
    }

    /// Workers in the order of their ids, at most `max`.
    #[must_use]
    pub fn workers(&self, now: Timestamp, max: usize) -> Vec<WorkerView> {
        self.workers.list(now, &self.limits, max)
    }
}
