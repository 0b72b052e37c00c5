//! The JSON documents of both APIs. Field order is alphabetical, as in the platform's replies.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::ApiError;
use super::json;
use crate::store::{Assignment, Health, JobView, Outcome, Payload, Policy, Status};

/// `/run` and `/runsync` request. Other top-level fields are dropped, as on the platform.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SubmitRequest {
    /// What the handler gets.
    #[serde(default, deserialize_with = "json::present")]
    #[schema(value_type = Object, required = true, example = json!({"prompt": "hi"}))]
    pub(crate) input: Option<Box<RawValue>>,
    /// Where to report the end of the job.
    #[serde(default)]
    pub(crate) webhook: Option<String>,
    /// Limits of this job.
    #[serde(default)]
    pub(crate) policy: Option<PolicyRequest>,
    /// Bucket credentials for the handler, passed through.
    #[serde(default, rename = "s3Config")]
    #[schema(value_type = Option<Object>)]
    pub(crate) s3_config: Option<Box<RawValue>>,
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
    /// Longest life of the job, waiting included.
    #[serde(default)]
    #[schema(minimum = 10_000, maximum = 604_800_000)]
    ttl: Option<u64>,
    /// Runs only when no other job waits.
    #[serde(default)]
    low_priority: Option<bool>,
}

const WEEK_MS: u64 = 604_800_000;

impl PolicyRequest {
    /// Values outside of the documented ranges are refused; those left out are the endpoint's.
    pub(crate) fn validate(self, default: Policy) -> Result<Policy, ApiError> {
        let within = |name: &str, value: Option<u64>, min: u64, default: Duration| match value {
            None => Ok(default),
            Some(value) if (min..=WEEK_MS).contains(&value) => Ok(Duration::from_millis(value)),
            Some(value) => Err(ApiError::BadRequest(format!(
                "policy.{name} is {value}; give milliseconds from {min} to {WEEK_MS}"
            ))),
        };
        Ok(Policy {
            execution_timeout: within("executionTimeout", self.execution_timeout, 5000, default.execution_timeout)?,
            ttl: within("ttl", self.ttl, 10_000, default.ttl)?,
            low_priority: self.low_priority.unwrap_or(default.low_priority),
        })
    }
}

/// A job as clients see it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job)]
pub(crate) struct JobDocument<'a> {
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
    /// Result, or the latest progress update: any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    output: Option<&'a RawValue>,
    /// Number of automatic re-dispatches, absent when 0.
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
        Self {
            delay_time: view.delay.map(millis),
            error: view.error.as_deref(),
            execution_time: view.execution.map(millis),
            id: &view.id,
            output: view.output.as_deref(),
            retries: view.retries,
            status: view.status,
            worker_id: view.worker.as_deref(),
        }
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

/// `/requests` reply.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Requests<'a> {
    pub(crate) requests: Vec<JobDocument<'a>>,
}

/// `/purge-queue` reply; the platform writes this one status in lower case.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Purged {
    pub(crate) removed: usize,
    pub(crate) status: &'static str,
}

/// `/stream` reply.
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
    /// Equal to `idle` in every live sample.
    ready: usize,
    running: usize,
    /// Lack of host capacity.
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

/// A job as a worker gets it. `id` and `input` are always there. One that belongs to a trace also says how long it has
/// waited, in milliseconds, so that the trace can show it. One that may run for longer than a worker lets it by itself says so.
#[derive(Debug, Serialize)]
pub(crate) struct JobMessage<'a> {
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

/// What a worker needs to know of a job's policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyMessage {
    execution_timeout: u128,
}

impl<'a> From<&'a Assignment> for JobMessage<'a> {
    fn from(job: &'a Assignment) -> Self {
        let long = job.execution_timeout > Policy::default().execution_timeout;
        Self {
            policy: long.then_some(PolicyMessage { execution_timeout: job.execution_timeout.as_millis() }),
            delay_time: job.traceparent.as_ref().map(|_| job.delay.as_millis()),
            id: &job.id,
            input: &job.input,
            s3_config: job.s3_config.as_deref(),
            traceparent: job.traceparent.as_deref(),
        }
    }
}

/// job-stop reply.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StopReply<'a> {
    pub(crate) jobs_to_stop: Vec<&'a str>,
}

/// What a job-done body means.
#[derive(Debug)]
pub(crate) enum Report {
    Progress(Option<Payload>),
    Final(Outcome),
}

/// job-done and job-stream body.
#[derive(Debug, Deserialize)]
struct ResultBody {
    #[serde(default, deserialize_with = "json::present")]
    output: Option<Box<RawValue>>,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    status: Value,
    #[serde(default, rename = "stopPod")]
    stop_pod: Value,
}

impl ResultBody {
    fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        json::object(body).or_else(|error| match std::str::from_utf8(body) {
            Ok(text) => json::object(json::without_non_finite(text).as_bytes()),
            Err(_) => Err(error),
        })
    }
}

impl Report {
    /// Reads a job-done body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let body = ResultBody::parse(body)?;
        let output = body.output.map(Arc::from);
        if body.status == "IN_PROGRESS" {
            return Ok(Self::Progress(output));
        }
        let error = json::is_truthy(&body.error).then(|| match body.error {
            Value::String(text) => text,
            other => other.to_string(),
        });
        Ok(Self::Final(Outcome { output, error, recycle: json::is_truthy(&body.stop_pod) }))
    }
}

/// Reads a job-stream body: the item, `null` when there is none.
pub(crate) fn parse_chunk(body: &[u8]) -> Result<Payload, serde_json::Error> {
    let output = ResultBody::parse(body)?.output;
    Ok(Arc::from(output.unwrap_or_else(|| RawValue::NULL.to_owned())))
}
