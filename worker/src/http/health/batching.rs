//! `batching` of a process in `/health`: the jobs that it runs at once.

#[cfg(test)]
use runpod_handler_protocol::ClosedBy;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use runpod_worker_core::BatchingView;

/// Jobs that the process runs at once, in batches or step by step. Counts begin anew with each start of the process.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(super) struct Batching {
    /// Most jobs that a model runs at once.
    max_jobs: u32,
    /// Most cost of the jobs that run at once, as configured; absent without a limit, or before the first batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_cost: Option<u64>,
    /// As `maxCost`, but less after running out of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<u64>,
    /// How long a job may wait for others although the model is idle; absent if it does not, or before the first batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_wait_ms: Option<u64>,
    /// Jobs in user code.
    running: usize,
    /// Jobs that wait in the process for a batch or for room.
    waiting: usize,
    /// Batches begun.
    batches: u64,
    /// Jobs in a batch on average; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_batch: Option<f64>,
    /// Absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_batch: Option<LastBatch>,
    /// Absent unless the handler runs step by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Steps>,
}

/// The last batch that began.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct LastBatch {
    jobs: u32,
    /// Sum of the costs of its jobs, in the handler's own unit.
    cost: u64,
    /// Why it had no more jobs.
    #[cfg_attr(test, schemars(extend("enum" = ClosedBy::ALL.map(ClosedBy::as_str))))]
    closed_by: &'static str,
}

/// Steps that advance all running jobs at once.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Steps {
    total: u64,
    /// As last reported, about a second ago while jobs run.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<f64>,
    /// Jobs that a step advanced on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_jobs: Option<f64>,
}

impl From<&BatchingView> for Batching {
    fn from(view: &BatchingView) -> Self {
        let BatchingView { max_jobs, limits, running, waiting, batches, steps } = *view;
        let limits = limits.unwrap_or_default();
        let last_batch = batches.last.map(|batch| LastBatch {
            jobs: batch.jobs,
            cost: batch.cost,
            closed_by: batch.closed_by.as_str(),
        });
        let (per_second, mean_jobs) = (steps.per_second(), steps.mean_jobs());
        Self {
            max_jobs,
            max_cost: limits.max_cost,
            budget: limits.budget,
            max_wait_ms: limits.max_wait_ms,
            running,
            waiting,
            batches: batches.count,
            mean_batch: batches.mean_jobs(),
            last_batch,
            steps: steps.last.map(|_| Steps { total: steps.count, per_second, mean_jobs }),
        }
    }
}
