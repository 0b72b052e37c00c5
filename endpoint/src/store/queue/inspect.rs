//! Looking at the queue without changing it.

use super::Queue;
use crate::store::clock::Timestamp;
use crate::store::counts::{Health, Observation};
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::views::{JobDetails, JobFilter, JobRow, Load, MAX_SEARCHED, Seen, WorkerView};
use crate::store::workers::OVERFLOW;

/// Waiting jobs counted at most: no scaler asks for that many workers.
const MAX_COUNTED: usize = 10_000;

impl<P: Content> Queue<P> {
    /// The counters of `/health`.
    #[must_use]
    pub fn health(&self, now: Timestamp) -> Health {
        let elsewhere = self.waiting_elsewhere().count();
        Health {
            completed: self.completed,
            failed: self.failed,
            in_progress: self.in_progress.saturating_sub(elsewhere),
            in_queue: self.waiting.len() + elsewhere,
            elsewhere,
            retried: self.retried,
            paused: self.paused,
            workers: self.workers.counts(now, &self.limits),
        }
    }

    /// Everything that is counted.
    #[must_use]
    pub fn observe(&self, now: Timestamp) -> Observation {
        Observation {
            health: self.health(now),
            totals: self.totals,
            ended: self.totals.ends(),
            batch_requests: self.batches.requests(),
            oldest_wait: self.longest_wait(now, self.waiting.urgent()),
            model: self.model.clone(),
        }
    }

    /// The load that workers are scaled by. Jobs of low priority start no worker, whether they wait or run, except that batches need one. It
    /// stays one, however many jobs a worker runs at once. While the endpoint is paused nothing counts as waiting.
    #[must_use]
    pub fn load(&self, now: Timestamp) -> Load {
        let urgent = || self.waiting.urgent().filter(|_| !self.paused);
        let elsewhere = self.workers.get(OVERFLOW).map_or(0, |worker| worker.held.len());
        let is_low = |id: &&JobId| self.jobs.get(*id).is_some_and(|job| job.record.request.policy.low_priority);
        let low = self.workers.held().filter(is_low).count();
        let batches_wait = !self.paused && self.batches.requests().waiting > 0;
        Load {
            waiting: urgent().take(MAX_COUNTED).count(),
            oldest: self.longest_wait(now, urgent()),
            in_progress: self.in_progress.saturating_sub(elsewhere + low),
            background: batches_wait || low > 0,
            workers: self.workers(now, usize::MAX),
        }
    }

    /// How long the oldest of these jobs has waited. They are in the order in which workers get them.
    fn longest_wait<'a>(&self, now: Timestamp, waiting: impl Iterator<Item = &'a JobId>) -> Option<Timestamp> {
        let jobs = waiting.take(self.waiting.front()).filter_map(|id| self.jobs.get(id));
        jobs.map(|job| now.saturating_sub(job.record.submitted)).max()
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

    /// Whether there is nothing in it: neither jobs nor workers, nor that it was paused.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.jobs.is_empty() && self.workers.is_empty() && self.batches.is_empty() && !self.paused
    }

    /// Workers in the order of their ids, at most `max`.
    #[must_use]
    pub fn workers(&self, now: Timestamp, max: usize) -> Vec<WorkerView> {
        self.workers.list(now, &self.limits, max)
    }
}
