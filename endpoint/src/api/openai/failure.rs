//! Failures as OpenAI clients expect them: a status that tells whether to try again, and an error object with a plain message.

use std::collections::HashMap;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::super::cors::SHOULD_RETRY;
use super::super::error::{ApiError, retry_after};
use super::super::json as wire_json;
use super::super::report::{KnownError, MODEL_NOT_FOUND, TIMEOUT, VALIDATION};
use super::error_object::error_object;
use crate::store::{EXPIRED, JobView, Status, StoreError};

/// How the error of a job begins whose execution timeout has passed.
const TIMED_OUT: &str = "executionTimeout exceeded";
/// What RunPod's vLLM worker writes before the status of its inference server.
const BACKEND_STATUS: &str = "vLLM returned HTTP ";
/// How long a client leaves an endpoint alone that shuts down.
const RESTART_SECONDS: u64 = 5;

/// The body of every error response of an OpenAI route. It is written as it comes from the handler; this type is its schema.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct OpenAiProblem {
    error: OpenAiError,
}

impl OpenAiProblem {
    /// The name of its schema.
    pub(crate) const NAME: &'static str = "OpenAiProblem";
}

/// An OpenAI error object.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct OpenAiError {
    /// The status, or a word of the handler's.
    #[schema(value_type = serde_json::Value)]
    code: Value,
    /// What is wrong and what to do.
    message: String,
    /// The field of the request that is wrong.
    param: Option<String>,
    /// Such as `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[schema(rename = "type")]
    kind: String,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    /// When to try again, where it is known.
    retry_after: Option<u64>,
    /// The error object.
    error: Map<String, Value>,
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
        let error = [
            ("code", json!(status.as_u16())),
            ("message", json!(message)),
            ("param", Value::Null),
            ("type", json!(kind)),
        ];
        let error = error.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { status, retry_after: None, error }
    }

    pub(super) fn shutting_down() -> Self {
        let failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "the endpoint is shutting down; try again");
        Self { retry_after: Some(RESTART_SECONDS), ..failure }
    }

    fn expired() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, EXPIRED)
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
        if known.error_type.is_empty()
            && let Some(object) = error_object(text)
        {
            return Self::of_object(object);
        }
        let status = match &*known.error_type {
            VALIDATION => StatusCode::BAD_REQUEST,
            MODEL_NOT_FOUND => StatusCode::NOT_FOUND,
            TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
            _ if text.starts_with(TIMED_OUT) => StatusCode::GATEWAY_TIMEOUT,
            _ => backend_status(text).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        Self::new(status, known.message(text))
    }

    /// The failure that an output or a stream item is: inference servers return error objects. The status is in `code`, in the message,
    /// or follows from the type.
    pub(super) fn of_output(output: &str) -> Option<Self> {
        // Much of an answer is no error: only its own fields are looked at, and no value is read that does not matter.
        let strict;
        let fields: Option<HashMap<String, &RawValue>> = match serde_json::from_str(output) {
            Ok(fields) => Some(fields),
            Err(_) => {
                strict = wire_json::strict(output);
                serde_json::from_str(&strict).ok()
            }
        };
        let fields = fields?;
        let field =
            |name: &str| fields.get(name).and_then(|raw| wire_json::read(raw.get()).ok()).unwrap_or(Value::Null);
        match fields.get("error") {
            Some(error) if error.get().starts_with('{') => Some(match wire_json::read(error.get()) {
                Ok(object) => Self::of_object(object),
                // Such as with a number that is too large.
                Err(_) => Self::of_error(error.get()),
            }),
            _ if field("object") == "error" => {
                let (code, message, kind) = (field("code"), field("message"), field("type"));
                let message = message.as_str().unwrap_or_default();
                Some(Self::new(status_of(&code, message, &kind), message))
            }
            _ => None,
        }
    }

    /// An error object keeps all that its worker has written. What clients read of every one is added where it is not there.
    fn of_object(mut error: Map<String, Value>) -> Self {
        let of = |name: &str| error.get(name).unwrap_or(&Value::Null);
        let status = status_of(of("code"), of("message").as_str().unwrap_or_default(), of("type"));
        for (name, value) in Self::new(status, "the job has failed without a message").error {
            error.entry(name).or_insert(value);
        }
        Self { status, retry_after: None, error }
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
            StoreError::JobNotFound => Self::expired(),
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
            // Somebody cancelled the job on purpose, or the handler sees a conflict that stays, and the official clients repeat after a 409 otherwise.
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        let retry_after = self.retry_after.or_else(|| Some(retry_after(self.status)?.as_secs()));
        headers.extend(retry_after.map(|after| (RETRY_AFTER, HeaderValue::from(after))));
        response
    }
}

/// The status of an error object: its code, the one in its message, or what its words say.
fn status_of(code: &Value, message: &str, kind: &Value) -> StatusCode {
    // Python may have made a float of it.
    let number = code.as_f64().or_else(|| code.as_str()?.trim().parse().ok());
    let number = number.filter(|number| number.fract() == 0.0).map(|number| number as u64);
    let status = number.and_then(failure_status).or_else(|| backend_status(message));
    let status = status.or_else(|| [code, kind].into_iter().find_map(|word| known_word(word.as_str()?)));
    status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The status of a word in an error object: OpenAI's, which are also the names of its clients' exceptions, as vLLM writes them.
fn known_word(word: &str) -> Option<StatusCode> {
    let word: String =
        word.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase()).collect();
    Some(match word.strip_suffix("error").unwrap_or(&word) {
        "invalidrequest" | "badrequest" | "validation" | "contextlengthexceeded" | "contentpolicyviolation" => {
            StatusCode::BAD_REQUEST
        }
        "authentication" | "invalidapikey" => StatusCode::UNAUTHORIZED,
        "permission" | "permissiondenied" => StatusCode::FORBIDDEN,
        "notfound" | "modelnotfound" => StatusCode::NOT_FOUND,
        "conflict" => StatusCode::CONFLICT,
        "unprocessableentity" => StatusCode::UNPROCESSABLE_ENTITY,
        // The answer was cut or withheld, and would be again.
        "lengthfinishreason" | "contentfilterfinishreason" => StatusCode::UNPROCESSABLE_ENTITY,
        "ratelimit" | "ratelimitexceeded" | "insufficientquota" => StatusCode::TOO_MANY_REQUESTS,
        "overloaded" | "serviceunavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "timeout" | "apitimeout" | "deadline" | "deadlineexceeded" | "executiontimeout" => StatusCode::GATEWAY_TIMEOUT,
        _ => return None,
    })
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
