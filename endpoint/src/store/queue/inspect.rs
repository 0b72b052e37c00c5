//! Looking at the queue without changing it.

use super::Queue;
use crate::store::clock::Timestamp;
use crate::store::counts::{Health, Observation};
use crate::store::job::Position;
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::views::{JobDetails, JobFilter, JobRow, Load, MAX_SEARCHED, Seen, WorkerView};

/// Waiting jobs counted at most: no scaler asks for that many workers.
const MAX_COUNTED: usize = 10_000;

impl<P: Content> Queue<P> {
    /// The counters of `/health`.
    #[must_use]
    pub fn health(&self, now: Timestamp) -> Health {
        Health {
            completed: self.completed,
            failed: self.failed,
            in_progress: self.in_progress,
            in_queue: self.waiting.len(),
            retried: self.retried,
            workers: self.workers.counts(now, &self.limits),
        }
    }

    /// Everything that is counted.
    #[must_use]
    pub fn observe(&self, now: Timestamp) -> Observation {
        let first = self.waiting.values().next();
        let oldest_wait = self.waited(now, first);
        Observation { health: self.health(now), totals: self.totals, oldest_wait, model: self.model.clone() }
    }

    /// The load. Low-priority jobs must not trigger scaling, so they are left out of what waits.
    #[must_use]
    pub fn load(&self, now: Timestamp) -> Load {
        let first_low = Position { low_priority: true, number: 0 };
        let mut urgent = self.waiting.range(..first_low);
        let first = urgent.next().map(|(_, id)| id);
        Load {
            waiting: usize::from(first.is_some()) + urgent.take(MAX_COUNTED).count(),
            oldest: self.waited(now, first),
            in_progress: self.in_progress,
            workers: self.workers(now, usize::MAX),
        }
    }

    fn waited(&self, now: Timestamp, id: Option<&JobId>) -> Option<Timestamp> {
        let job = self.jobs.get(id?)?;
        Some(now.saturating_sub(job.record.submitted))
    }

    /// The newest jobs that pass the filter. Looks at a bounded number of jobs.
    #[must_use]
    pub fn list(&self, filter: &JobFilter) -> Vec<JobRow<P>> {
        let row = |id: &JobId| {
            let job = self.jobs.get(id)?;
            let fits = filter.status.is_none_or(|status| status == job.status()) && id.contains(&filter.id);
            fits.then(|| JobRow { view: job.view(), submitted: job.record.submitted })
        };
        if let Some((id, _)) = self.jobs.get_key_value(&*filter.id) {
            return row(id).into_iter().collect();
        }
        self.by_age.values().rev().take(MAX_SEARCHED).filter_map(row).take(filter.limit).collect()
    }

    /// Everything there is to see of one job, without what was `seen` of its stream.
    #[must_use]
    pub fn inspect(&self, id: &str, seen: Seen) -> Option<JobDetails<P>> {
        let job = self.jobs.get(id)?;
        let (first_item, items) = job.stream.look(seen.items);
        Some(JobDetails {
            view: job.view(),
            revision: job.history.revision,
            input: job.record.request.input.clone(),
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
