//! The JSON documents of both APIs. Field order is alphabetical, as in the platform's replies.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::ApiError;
use super::json;
use crate::store::{Health, JobView, Policy, Status, TakenJob};

/// A `/run` or `/runsync` request. Other top-level fields are ignored, as on the platform.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SubmitRequest {
    /// The input of the handler.
    #[serde(default, deserialize_with = "json::present")]
    #[schema(value_type = Object, required = true, example = json!({"prompt": "hi"}))]
    pub(crate) input: Option<Box<RawValue>>,
    /// URL that is called when the job ends.
    #[serde(default)]
    pub(crate) webhook: Option<String>,
    /// Limits of this job.
    #[serde(default, deserialize_with = "json::optional_object")]
    pub(crate) policy: Option<PolicyRequest>,
    /// Bucket credentials for the handler, passed through.
    #[serde(default, rename = "s3Config")]
    #[schema(value_type = Option<Object>)]
    pub(crate) s3_config: Option<Box<RawValue>>,
}

/// Whether a request may have this value in this field.
pub(crate) fn check_field(name: &str, value: &RawValue) -> Result<(), serde_json::Error> {
    let alone = serde_json::to_vec(&HashMap::from([(name, value)]))?;
    json::object::<SubmitRequest>(&alone).map(drop)
}

/// Limits of one job, in milliseconds.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Policy)]
pub(crate) struct PolicyRequest {
    /// Longest run time.
    #[serde(default)]
    #[schema(minimum = 5000, maximum = 604_800_000)]
    execution_timeout: Option<u64>,
    /// How long the job may exist, waiting included.
    #[serde(default)]
    #[schema(minimum = 10_000, maximum = 604_800_000)]
    ttl: Option<u64>,
    /// The job runs only when no other job waits.
    #[serde(default)]
    low_priority: Option<bool>,
}

const WEEK_MS: u64 = 604_800_000;

impl PolicyRequest {
    /// Refuses values outside of the documented ranges. Missing values are the endpoint's defaults.
    pub(crate) fn validate(self, default: Policy) -> Result<Policy, ApiError> {
        let within = |name: &str, value: Option<u64>, min: u64| match value {
            None => Ok(None),
            Some(value) if (min..=WEEK_MS).contains(&value) => Ok(Some(Duration::from_millis(value))),
            Some(value) => Err(ApiError::BadRequest(format!(
                "policy.{name} is {value}; give milliseconds from {min} to {WEEK_MS}"
            ))),
        };
        Ok(Policy {
            execution_timeout: within("executionTimeout", self.execution_timeout, 5000)?.or(default.execution_timeout),
            ttl: within("ttl", self.ttl, 10_000)?.unwrap_or(default.ttl),
            low_priority: self.low_priority.unwrap_or(default.low_priority),
        })
    }
}

/// A job as clients see it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job)]
pub(crate) struct JobDocument<'a> {
    /// The cost of the job, if its worker reports it: `gpuSeconds` and `dollars`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    cost: Option<&'a RawValue>,
    /// Milliseconds from submission to the start of the latest attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_time: Option<u64>,
    /// Why the job failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// Length of the latest attempt in milliseconds, once finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time: Option<u64>,
    id: &'a str,
    /// The result, or the latest progress update; any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    output: Option<&'a RawValue>,
    /// Number of automatic retries; absent when 0.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    retries: u32,
    status: Status,
    /// Worker of the latest attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<&'a str>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> From<&'a JobView> for JobDocument<'a> {
    fn from(view: &'a JobView) -> Self {
        let JobView { id, status, attempt, ending } = view;
        Self {
            cost: ending.cost.as_deref().map(AsRef::as_ref),
            delay_time: attempt.delay.map(millis),
            error: ending.error.as_deref(),
            execution_time: attempt.execution.map(millis),
            id,
            output: ending.output.as_deref().map(AsRef::as_ref),
            retries: attempt.retries,
            status: *status,
            worker_id: attempt.worker.as_deref(),
        }
    }
}

impl JobDocument<'_> {
    /// The document's text before and after the field `output`, so that a large one need not be copied. The fields stand in the same
    /// order.
    pub(crate) fn around_output(&self) -> [String; 2] {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Before<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            cost: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            delay_time: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            execution_time: Option<u64>,
            id: &'a str,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct After<'a> {
            #[serde(skip_serializing_if = "is_zero")]
            retries: u32,
            status: Status,
            #[serde(skip_serializing_if = "Option::is_none")]
            worker_id: Option<&'a str>,
        }
        let Self { cost, delay_time, error, execution_time, id, retries, status, worker_id, .. } = *self;
        let before = Before { cost, delay_time, error, execution_time, id };
        let after = After { retries, status, worker_id };
        // Strings, numbers and JSON that was parsed before: nothing in it can fail.
        let before = serde_json::to_string(&before).unwrap_or_default();
        let after = serde_json::to_string(&after).unwrap_or_default();
        [
            before.strip_suffix('}').unwrap_or_default().to_owned(),
            format!(",{}", after.strip_prefix('{').unwrap_or_default()),
        ]
    }
}

/// Only id and state: the reply of `/run`, `/cancel`, `/retry` and an unfinished `/runsync`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobStatus<'a> {
    pub(crate) id: &'a str,
    pub(crate) status: Status,
}

impl<'a> From<&'a JobView> for JobStatus<'a> {
    fn from(view: &'a JobView) -> Self {
        Self { id: &view.id, status: view.status }
    }
}

/// `/requests` reply. The document is written in parts; this type is its schema.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Requests<'a> {
    requests: Vec<JobDocument<'a>>,
}

/// `/purge-queue` reply; the platform writes this one status in lower case.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Purged {
    pub(crate) removed: usize,
    pub(crate) status: &'static str,
}

/// `/stream` reply. The document is written in parts; this type is its schema.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamReply<'a> {
    pub(crate) status: Status,
    pub(crate) stream: Vec<StreamItem<'a>>,
}

/// One item of a generator.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamItem<'a> {
    #[schema(value_type = serde_json::Value)]
    pub(crate) output: &'a RawValue,
}

/// `/health` reply: eleven counters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthReply {
    jobs: JobCounts,
    /// `true` while the endpoint gives out no jobs; otherwise absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    paused: bool,
    workers: WorkerCounts,
}

/// Jobs by state.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct JobCounts {
    completed: u64,
    failed: u64,
    in_progress: usize,
    in_queue: usize,
    retried: u64,
}

/// Workers by state.
#[derive(Debug, Serialize, ToSchema)]
struct WorkerCounts {
    idle: usize,
    initializing: usize,
    /// Equal to `idle` in every reply captured from the platform.
    ready: usize,
    running: usize,
    /// The worker's host has no capacity for it.
    throttled: usize,
    unhealthy: usize,
}

impl From<Health> for HealthReply {
    fn from(health: Health) -> Self {
        let workers = health.workers;
        Self {
            jobs: JobCounts {
                completed: health.completed,
                failed: health.failed,
                in_progress: health.in_progress,
                in_queue: health.in_queue,
                retried: health.retried,
            },
            paused: health.paused,
            workers: WorkerCounts {
                idle: workers.idle,
                initializing: workers.initializing,
                ready: workers.idle,
                running: workers.running,
                throttled: workers.throttled,
                unhealthy: workers.unhealthy,
            },
        }
    }
}

/// A job as a worker gets it. `id` and `input` are always present; `delayTime`, the time in the queue in milliseconds, only if the
/// job belongs to a trace; `batchId` only if it belongs to a batch; `policy` only if the client or the operator has set an execution timeout.
#[derive(Debug, Serialize)]
pub(crate) struct JobMessage<'a> {
    #[serde(rename = "batchId", skip_serializing_if = "Option::is_none")]
    batch_id: Option<&'a str>,
    #[serde(rename = "delayTime", skip_serializing_if = "Option::is_none")]
    delay_time: Option<u128>,
    id: &'a str,
    input: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyMessage>,
    #[serde(rename = "s3Config", skip_serializing_if = "Option::is_none")]
    s3_config: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

/// The part of a job's policy that a worker enforces.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyMessage {
    execution_timeout: u128,
}

impl<'a> From<&'a TakenJob> for JobMessage<'a> {
    fn from(job: &'a TakenJob) -> Self {
        let request = &job.request;
        let timeout = request.policy.execution_timeout;
        Self {
            batch_id: request.batch.as_deref(),
            policy: timeout.map(|time| PolicyMessage { execution_timeout: time.as_millis() }),
            delay_time: request.traceparent.as_ref().map(|_| job.delay.as_millis()),
            id: &job.id,
            input: &request.input,
            s3_config: request.s3_config.as_deref().map(AsRef::as_ref),
            traceparent: request.traceparent.as_deref(),
        }
    }
}

/// job-stop reply.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StopReply<'a> {
    pub(crate) jobs_to_stop: Vec<&'a str>,
}
