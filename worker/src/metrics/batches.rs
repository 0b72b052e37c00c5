//! Jobs that a handler process runs at once, in batches or step by step.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use runpod_handler_protocol::ClosedBy;

use super::labels::{Reason, count, long_histogram, register};
use runpod_worker_core::{Report, Snapshot};

/// Jobs in a batch; the SDK allows 1,024.
const SIZE_BUCKETS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// A handler process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProcessLabel {
    process: usize,
}

/// Jobs of a handler process in one state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobsLabel {
    process: usize,
    state: &'static str,
}

#[derive(Debug)]
pub(super) struct BatchMetrics {
    size: Histogram,
    wait: Histogram,
    batches: Family<Reason, Counter>,
    steps: Counter,
    advanced: Counter,
    jobs: Family<JobsLabel, Gauge>,
    budget: Family<ProcessLabel, Gauge>,
    max_cost: Family<ProcessLabel, Gauge>,
}

impl BatchMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let metrics = Self {
            size: register(r, "runpod_batch_size", "Jobs in a batch", Histogram::new(SIZE_BUCKETS)),
            wait: register(
                r,
                "runpod_batch_wait_seconds",
                "Time that a job waited in the handler process for its batch, or for room among the jobs that step",
                long_histogram(),
            ),
            batches: register(
                r,
                "runpod_batches",
                "Batches, by the reason why they had no more jobs",
                Family::default(),
            ),
            steps: register(r, "runpod_steps", "Steps of handlers that run step by step", Counter::default()),
            advanced: register(r, "runpod_step_jobs", "Jobs that each step advanced, added up", Counter::default()),
            jobs: register(
                r,
                "runpod_batch_jobs",
                "Jobs in a handler process that runs several at once, by state",
                Family::default(),
            ),
            budget: register(
                r,
                "runpod_batch_cost_budget",
                "Most cost of the jobs that run at once, less after running out of memory; absent without a limit",
                Family::default(),
            ),
            max_cost: register(
                r,
                "runpod_batch_cost_limit",
                "Configured limit of the cost of the jobs that run at once; absent without one",
                Family::default(),
            ),
        };
        for reason in ClosedBy::ALL.map(ClosedBy::as_str) {
            drop(metrics.batches.get_or_create(&Reason { reason }));
        }
        metrics
    }

    pub(super) fn observe(&self, report: &Report) {
        match report {
            Report::JobBegun { waited, .. } => self.wait.observe(waited.as_secs_f64()),
            Report::BatchBegun { batch, .. } => {
                self.size.observe(batch.jobs.into());
                self.batches.get_or_create(&Reason { reason: batch.closed_by.as_str() }).inc();
            }
            Report::StepsTaken { steps, .. } => {
                self.steps.inc_by(steps.steps);
                self.advanced.inc_by(steps.advanced);
            }
            _ => {}
        }
    }

    pub(super) fn publish(&self, snapshot: &Snapshot) {
        for view in &snapshot.processes {
            let Some(batching) = view.batching else { continue };
            let process = view.id.0;
            for (state, jobs) in [("running", batching.running), ("waiting", batching.waiting)] {
                self.jobs.get_or_create(&JobsLabel { process, state }).set(count(jobs));
            }
            let limits = batching.limits.unwrap_or_default();
            for (family, value) in [(&self.budget, limits.budget), (&self.max_cost, limits.max_cost)] {
                let label = ProcessLabel { process };
                match value {
                    Some(value) => drop(family.get_or_create(&label).set(count(value))),
                    None => drop(family.remove(&label)),
                }
            }
        }
    }
}
