//! Failures as OpenAI clients expect them: a status that tells whether to try again, and an error object with a plain message.

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::report::{KnownError, MODEL_NOT_FOUND, TIMEOUT, VALIDATION};
use crate::store::{JobView, Status, StoreError};

/// How the error of a job begins whose execution timeout has passed.
const TIMED_OUT: &str = "executionTimeout exceeded";
/// What RunPod's vLLM worker writes before the status of its inference server.
const BACKEND_STATUS: &str = "vLLM returned HTTP ";
/// The official clients repeat a request that was answered with 409 unless this header says `false`.
const SHOULD_RETRY: &str = "x-should-retry";
/// How long a client leaves an endpoint alone that shuts down.
const RESTART_SECONDS: u64 = 5;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    /// When to try again.
    retry_after: Option<u64>,
    /// The error object.
    error: Value,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: &str) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        let error = json!({"code": status.as_u16(), "message": message, "param": null, "type": kind});
        Self { status, retry_after: None, error }
    }

    pub(super) fn shutting_down() -> Self {
        let failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "the endpoint is shutting down; try again");
        Self { retry_after: Some(RESTART_SECONDS), ..failure }
    }

    /// Why a job has no output; `None` when it has one.
    pub(super) fn of_job(job: &JobView) -> Option<Self> {
        let error = job.ending.error.as_deref().unwrap_or_default();
        Some(match job.status {
            Status::Completed => return None,
            Status::Failed => Self::of_error(error),
            Status::TimedOut => Self::new(StatusCode::GATEWAY_TIMEOUT, KnownError::of(error).message(error)),
            Status::Cancelled => Self::new(StatusCode::CONFLICT, "the job was cancelled"),
            Status::InQueue | Status::InProgress => Self::shutting_down(),
        })
    }

    fn of_error(text: &str) -> Self {
        let known = KnownError::of(text);
        let status = match &*known.error_type {
            VALIDATION => StatusCode::BAD_REQUEST,
            MODEL_NOT_FOUND => StatusCode::NOT_FOUND,
            TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
            _ if text.starts_with(TIMED_OUT) => StatusCode::GATEWAY_TIMEOUT,
            _ => backend_status(text).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        Self::new(status, known.message(text))
    }

    /// The failure that an output or a stream item is: inference servers return error objects. The status is in `code`.
    pub(super) fn of_output(output: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            object: Option<String>,
            #[serde(default)]
            error: Value,
            #[serde(default)]
            code: Value,
            #[serde(default)]
            message: Value,
        }
        let answer: Answer = serde_json::from_str(output).ok()?;
        let is_nested = answer.error.is_object();
        if !is_nested && answer.object.as_deref() != Some("error") {
            return None;
        }
        let (code, message) =
            if is_nested { (&answer.error["code"], &answer.error["message"]) } else { (&answer.code, &answer.message) };
        let message = message.as_str().unwrap_or_default();
        let status = code.as_u64().and_then(failure_status).or_else(|| backend_status(message));
        let status = status.unwrap_or(StatusCode::BAD_REQUEST);
        Some(if is_nested {
            Self { status, retry_after: None, error: answer.error }
        } else {
            Self::new(status, message)
        })
    }

    /// The event that ends a stream.
    pub(super) fn event(&self) -> String {
        format!("data: {}\n\n", json!({ "error": self.error }))
    }
}

impl From<StoreError> for Failure {
    /// Of a job that was accepted.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::JobNotFound => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "the job was not done before its `ttl` ended, and has expired")
            }
            other => {
                let error = ApiError::from(other);
                let retry_after = error.retry_after().map(|after| after.as_secs());
                Self { retry_after, ..Self::new(error.status(), &error.to_string()) }
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.error }))).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::CONFLICT {
            // Somebody cancelled the job on purpose.
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        headers.extend(self.retry_after.map(|after| (RETRY_AFTER, HeaderValue::from(after))));
        response
    }
}

fn failure_status(code: u64) -> Option<StatusCode> {
    let code = u16::try_from(code).ok().filter(|code| (400..600).contains(code))?;
    StatusCode::from_u16(code).ok()
}

/// The status of the inference server behind RunPod's vLLM worker.
fn backend_status(text: &str) -> Option<StatusCode> {
    let (_, after) = text.split_once(BACKEND_STATUS)?;
    failure_status(after.get(..3)?.parse().ok()?)
}
