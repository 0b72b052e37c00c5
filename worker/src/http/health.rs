//! `/health`: RunPod's eleven counters for this one worker, and details for operators. `docs/health.schema.json` is generated
//! from these types.

mod batching;
mod worker;

use axum::Json;
use axum::extract::State;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use self::worker::Worker;
use super::HttpState;
use super::runtime::{Runtime, runtime};
use runpod_worker_core::{JobCounts, WorkerState};

/// Health of one worker.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) struct Health {
    /// Jobs since the worker started, as the platform's own health document counts them.
    jobs: Jobs,
    /// Workers by state, as on the platform; here each is 0 or 1.
    workers: Workers,
    /// This worker in detail.
    worker: Worker,
    /// The machine.
    runtime: Runtime,
}

/// As on the platform.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Jobs {
    /// Ended with an output.
    completed: u64,
    /// Ended with an error, timeouts included.
    failed: u64,
    /// With a slot now.
    in_progress: usize,
    /// Held without a slot now.
    in_queue: usize,
    /// Runs repeated because a process died.
    retried: u64,
}

/// As on the platform; here each is 0 or 1. `ready` always equals `idle`, as it does there.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct Workers {
    /// Waiting for a job.
    idle: u8,
    /// Starting, or starting again.
    initializing: u8,
    /// Equal to `idle`.
    ready: u8,
    /// With a job.
    running: u8,
    /// Asked by the queue for fewer requests.
    throttled: u8,
    /// Unable to work, and about to exit.
    unhealthy: u8,
}

/// The document, made from the latest snapshot and counters without waiting.
pub(super) async fn health(State(state): State<HttpState>) -> Json<Health> {
    let snapshot = state.snapshots.borrow().clone();
    Json(Health {
        jobs: jobs(snapshot.jobs),
        workers: workers(snapshot.state),
        worker: Worker::new(&state, &snapshot),
        runtime: runtime(&state.sensors, state.started.elapsed(), &snapshot),
    })
}

fn jobs(counts: JobCounts) -> Jobs {
    Jobs {
        completed: counts.completed,
        failed: counts.failed,
        in_progress: counts.in_progress,
        in_queue: counts.in_queue,
        retried: counts.retried,
    }
}

fn workers(state: WorkerState) -> Workers {
    let none = Workers::default();
    match state {
        WorkerState::Initializing => Workers { initializing: 1, ..none },
        WorkerState::Ready | WorkerState::Idle => Workers { idle: 1, ready: 1, ..none },
        WorkerState::Running => Workers { running: 1, ..none },
        WorkerState::Throttled => Workers { throttled: 1, ..none },
        WorkerState::Unhealthy => Workers { unhealthy: 1, ..none },
        WorkerState::Draining => none,
    }
}
