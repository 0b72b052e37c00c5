//! Failures as OpenAI clients expect them: a status that tells whether to try again, and an error object with a plain message.

use axum::http::StatusCode;
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

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
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
        Self { status, error: json!({"code": status.as_u16(), "message": message, "param": null, "type": kind}) }
    }

    pub(super) fn shutting_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the endpoint is shutting down; try again")
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
        Some(if is_nested { Self { status, error: answer.error } } else { Self::new(status, message) })
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
                Self::new(error.status(), &error.to_string())
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error }));
        match self.status {
            // Somebody cancelled the job on purpose.
            StatusCode::CONFLICT => (self.status, [(SHOULD_RETRY, "false")], body).into_response(),
            status => (status, body).into_response(),
        }
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
