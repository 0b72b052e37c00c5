//! `runpod_job*`: jobs and their ends.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use runpod_handler_protocol::{ErrorKind, ErrorReport, records};

use super::labels::{
    Bare, CATEGORIES, Category, Histograms, ItemUnit, Kind, Outcome, Status, Sum, category, count, long_histogram,
    register,
};
use runpod_worker_core::{JobStatus, Report, Snapshot};

/// State of a job that waits for a slot. The states of ended jobs are those of [`JobStatus`].
const IN_QUEUE: &str = "in_queue";
/// State of a job that runs.
const IN_PROGRESS: &str = "in_progress";

/// Dollars; from a fraction of a cent to a day on a machine with eight large GPUs, and beyond.
const COST_BUCKETS: [f64; 14] =
    [0.000_01, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0, 5.0, 10.0, 50.0, 100.0, 1000.0];

#[derive(Debug)]
pub(super) struct JobMetrics {
    jobs: Family<Status, Counter>,
    duration: Histogram,
    queue_time: Histogram,
    errors: Family<Category, Counter>,
    failures: Family<Kind, Counter>,
    items: Family<ItemUnit, Sum>,
    cost: Histograms<Bare>,
    results_delivered: Family<Outcome, Counter>,
    queue_depth: Gauge,
}

impl JobMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let cost: Histograms<Bare> = Family::new_with_constructor(|| Histogram::new(COST_BUCKETS));
        let metrics = Self {
            jobs: register(r, "runpod_jobs", "Jobs that entered a state", Family::default()),
            duration: register(r, "runpod_job_duration_seconds", "Time from start to end of a job", long_histogram()),
            queue_time: register(
                r,
                "runpod_job_queue_seconds",
                "Time from taking a job to starting it",
                long_histogram(),
            ),
            errors: register(r, "runpod_job_errors", "Jobs that failed, by category", Family::default()),
            failures: register(r, "runpod_job_failures", "Jobs that failed, by kind of error", Family::default()),
            items: register(
                r,
                "runpod_job_items",
                "Work done by completed jobs, as recorded by the handler",
                Family::default(),
            ),
            cost: register(r, "runpod_job_cost_dollars", "Price of the GPU time of a job, with --price-per-hour", cost),
            results_delivered: register(
                r,
                "runpod_worker_results_delivered",
                "Results the platform has accepted, or refused for good",
                Family::default(),
            ),
            queue_depth: register(r, "runpod_queue_depth", "Jobs held without a slot", Gauge::default()),
        };
        metrics.create_known_series();
        metrics
    }

    fn create_known_series(&self) {
        for status in [IN_QUEUE, IN_PROGRESS].into_iter().chain(JobStatus::ALL.map(JobStatus::as_str)) {
            drop(self.jobs.get_or_create(&Status { status }));
        }
        for category in CATEGORIES {
            drop(self.errors.get_or_create(&Category { category }));
        }
        for kind in ErrorKind::ALL.map(ErrorKind::as_str) {
            drop(self.failures.get_or_create(&Kind { kind }));
        }
        for unit in records::UNITS {
            drop(self.items.get_or_create(&ItemUnit { unit }));
        }
        for outcome in ["accepted", "refused"] {
            drop(self.results_delivered.get_or_create(&Outcome { outcome }));
        }
    }

    pub(super) fn observe(&self, report: &Report) {
        match report {
            Report::JobTaken { .. } => self.count(IN_QUEUE),
            // A second run of the same job is not a second job.
            Report::JobStarted { attempt: 1, waited, .. } => {
                self.count(IN_PROGRESS);
                self.queue_time.observe(waited.as_secs_f64());
            }
            Report::JobFinished { status, error, run_time, records, cost, .. } => {
                self.finished(*status, error.as_ref(), *run_time);
                for unit in records::UNITS {
                    if let Some(number) = records.get(unit).filter(|number| **number > 0.0) {
                        self.items.get_or_create(&ItemUnit { unit }).inc_by(*number);
                    }
                }
                if let Some(dollars) = cost.dollars.filter(|_| !run_time.is_zero()) {
                    self.cost.get_or_create(&[]).observe(dollars);
                }
            }
            Report::JobDelivered { accepted, .. } => {
                let outcome = if *accepted { "accepted" } else { "refused" };
                self.results_delivered.get_or_create(&Outcome { outcome }).inc();
            }
            _ => {}
        }
    }

    pub(super) fn publish(&self, snapshot: &Snapshot) {
        self.queue_depth.set(count(snapshot.jobs.in_queue));
    }

    fn finished(&self, status: JobStatus, error: Option<&ErrorReport>, run_time: Duration) {
        self.count(status.as_str());
        if !run_time.is_zero() {
            self.duration.observe(run_time.as_secs_f64());
        }
        if let (JobStatus::Failed | JobStatus::TimedOut, Some(ErrorReport { kind, .. })) = (status, error) {
            self.errors.get_or_create(&Category { category: category(*kind) }).inc();
            self.failures.get_or_create(&Kind { kind: kind.as_str() }).inc();
        }
    }

    fn count(&self, status: &'static str) {
        self.jobs.get_or_create(&Status { status }).inc();
    }
}
