//! What a scrape shows of one value of the label `endpoint`.

use std::sync::Arc;
use std::time::Duration;

use super::labels::OTHER;
use crate::balancer::RequestFigures;
use crate::overflow::OverflowTotals;
use crate::store::{BatchRequests, Health, Model, Observation, Totals, WorkerCounts};

/// One value of the label `endpoint`: one endpoint, or all those that share a label.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) endpoint: String,
    pub(super) totals: Totals,
    pub(super) in_queue: usize,
    pub(super) in_progress: usize,
    pub(super) batch_requests: BatchRequests,
    /// One of them at least.
    pub(super) paused: bool,
    pub(super) oldest_wait: Duration,
    pub(super) workers: [(&'static str, usize); 6],
    /// Absent where no endpoint has an overflow.
    pub(super) overflow: Option<OverflowTotals>,
    /// Absent where no endpoint is a load-balancing one.
    pub(super) balanced: Option<RequestFigures>,
    /// What runs the jobs; `None` where it is not known, and where several endpoints share the label.
    pub(super) model: Option<Arc<Model>>,
}

impl Series {
    pub(super) fn new(endpoint: String) -> Self {
        Self {
            endpoint,
            totals: Totals::default(),
            in_queue: 0,
            in_progress: 0,
            batch_requests: BatchRequests::default(),
            paused: false,
            oldest_wait: Duration::ZERO,
            workers: by_state(WorkerCounts::default()),
            overflow: None,
            balanced: None,
            model: None,
        }
    }

    pub(super) fn add_balanced(&mut self, more: RequestFigures) {
        *self.balanced.get_or_insert_default() += more;
    }

    pub(super) fn add_overflow(&mut self, more: &OverflowTotals) {
        let sum = self.overflow.get_or_insert_default();
        sum.completed += more.completed;
        sum.failed += more.failed;
        sum.returned += more.returned;
        sum.stopped += more.stopped;
        sum.dollars += more.dollars;
        sum.is_away |= more.is_away;
        sum.held_back = sum.held_back.or(more.held_back);
    }

    pub(super) fn add(&mut self, observation: &Observation) {
        let Health { in_progress, paused, workers, .. } = observation.health;
        self.totals += observation.totals;
        self.in_queue += observation.waiting();
        self.batch_requests.waiting += observation.batch_requests.waiting;
        self.batch_requests.in_progress += observation.batch_requests.in_progress;
        self.in_progress += in_progress;
        self.paused |= paused;
        self.oldest_wait = self.oldest_wait.max(observation.oldest_wait.unwrap_or_default());
        self.model = observation.model.clone().filter(|_| self.endpoint != OTHER);
        self.workers.iter_mut().zip(by_state(workers)).for_each(|((_, sum), (_, count))| *sum += count);
    }

    pub(super) fn jobs(&self) -> [(&'static str, u64); 7] {
        let totals = &self.totals;
        [
            ("in_queue", totals.in_queue),
            ("in_progress", totals.in_progress),
            ("completed", totals.completed),
            ("failed", totals.failed),
            ("timed_out", totals.timed_out),
            ("cancelled", totals.cancelled),
            ("expired", totals.expired),
        ]
    }

    /// The label `endpoint` and, unless its name is empty, a second one.
    pub(super) fn labels<'a>(&'a self, label: &'static str, value: &'a str) -> Vec<(&'static str, &'a str)> {
        let second = (!label.is_empty()).then_some((label, value));
        [("endpoint", &*self.endpoint)].into_iter().chain(second).collect()
    }
}

/// The workers in each state, by the value of the label `state`.
fn by_state(workers: WorkerCounts) -> [(&'static str, usize); 6] {
    [
        ("idle", workers.idle),
        ("initializing", workers.initializing),
        ("lost", workers.lost),
        ("running", workers.running),
        ("throttled", workers.throttled),
        ("unhealthy", workers.unhealthy),
    ]
}
