//! The documents of the endpoint. Fields that other endpoints do not send are optional.

use runpod_log_line::printable;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::local::{Batching, Gpu};
use crate::store::Status;

/// The endpoint at one moment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Overview {
    pub(super) counters: Counters,
    /// Milliseconds.
    pub(super) oldest_wait: Option<u64>,
    pub(super) jobs: Vec<Job>,
    /// `None` if the endpoint only counts its workers.
    pub(super) workers: Option<Vec<Worker>>,
}

/// Times are milliseconds since 1970.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Counters {
    pub(super) at: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) in_progress: u64,
    pub(super) in_queue: u64,
    pub(super) retried: u64,
    pub(super) idle: u64,
    pub(super) initializing: u64,
    pub(super) running: u64,
    pub(super) unhealthy: u64,
    pub(super) throttled: u64,
    /// Jobs are accepted, and none is given to a worker.
    pub(super) paused: bool,
}

/// A line of the list of jobs. Durations are milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Job {
    #[serde(deserialize_with = "shown")]
    pub(super) id: String,
    pub(super) status: Status,
    #[serde(default)]
    pub(super) submitted_at: Option<u64>,
    #[serde(default, alias = "delayTime")]
    pub(super) delay: Option<u64>,
    #[serde(default, alias = "executionTime")]
    pub(super) execution: Option<u64>,
    #[serde(default, alias = "workerId", deserialize_with = "shown_if_any")]
    pub(super) worker: Option<String>,
    #[serde(default)]
    pub(super) retries: u32,
}

/// A line of the list of workers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Worker {
    #[serde(deserialize_with = "shown")]
    pub(super) id: String,
    #[serde(deserialize_with = "shown")]
    pub(super) state: String,
    pub(super) jobs: u64,
    pub(super) silent_seconds: u64,
    pub(super) cpu_percent: Option<f64>,
    pub(super) memory_percent: Option<f64>,
    pub(super) gpus: Vec<Gpu>,
    pub(super) batching: Vec<Batching>,
}

/// Everything about one job.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Details {
    #[serde(flatten)]
    pub(super) job: Job,
    #[serde(default)]
    pub(super) history: Vec<Step>,
    #[serde(default)]
    pub(super) input: Option<Value>,
    #[serde(default)]
    pub(super) output: Option<Value>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    #[serde(default)]
    pub(super) items: Vec<Value>,
}

/// The job entered a state.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Step {
    pub(super) status: Status,
    pub(super) at: u64,
    #[serde(default, deserialize_with = "shown_if_any")]
    pub(super) worker: Option<String>,
}

/// The reply of `/health`, which every endpoint has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    jobs: JobCounts,
    paused: bool,
    workers: WorkerCounts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobCounts {
    completed: u64,
    failed: u64,
    in_progress: u64,
    in_queue: u64,
    retried: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WorkerCounts {
    idle: u64,
    initializing: u64,
    running: u64,
    throttled: u64,
    unhealthy: u64,
}

impl Health {
    pub(super) fn counters(&self, at: u64) -> Counters {
        let (jobs, workers) = (&self.jobs, &self.workers);
        Counters {
            at,
            completed: jobs.completed,
            failed: jobs.failed,
            in_progress: jobs.in_progress,
            in_queue: jobs.in_queue,
            retried: jobs.retried,
            idle: workers.idle,
            initializing: workers.initializing,
            running: workers.running,
            throttled: workers.throttled,
            paused: self.paused,
            unhealthy: workers.unhealthy,
        }
    }
}

/// The reply of `/requests`: unfinished jobs.
#[derive(Debug, Deserialize)]
pub(super) struct Requests {
    pub(super) requests: Vec<Job>,
}

/// Text that is shown in the terminal.
fn shown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| printable(&text).into_owned())
}

fn shown_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| printable(&text).into_owned()))
}
