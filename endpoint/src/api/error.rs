//! Errors as the client sees them: a status and a small JSON document.

use std::time::Duration;

use axum::Json;
use axum::body::HttpBody as _;
use axum::http::header::{CONTENT_LENGTH, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::limits;
use crate::faults::ScriptError;
use crate::store::StoreError;

/// When to try again while the store cannot be used. Its writer tries once a second.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);
/// When to try again while something is full. Each job that a worker takes makes room in the queue.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The request is invalid.
    #[error("{0}")]
    BadRequest(String),
    /// The body is larger than the route accepts. The text is the platform's.
    #[error("bad request: body: exceeded max body size of {}", platform_size(*.limit))]
    BodyTooLarge {
        /// Bytes.
        limit: usize,
    },
    /// A worker's body is larger than the server accepts.
    #[error(
        "the result{} is larger than the limit of {} MiB; return less, or upload it and return its address",
        of_size(*.size),
        .limit >> 20
    )]
    ResultTooLarge {
        /// Bytes, where the worker has named them.
        size: Option<u64>,
        /// Bytes.
        limit: usize,
    },
    /// An OpenAI client uploads a file as a form.
    #[error(
        "forms are not passed on to handlers; send JSON, and a file as base64 text in a field that the handler reads"
    )]
    FormBody,
    /// The body did not arrive in time, or the connection broke.
    #[error("the request body could not be read; send it again, compressed as its Content-Encoding says")]
    BodyUnreadable,
    /// The body has an encoding that the server cannot decompress.
    #[error("the request body has a Content-Encoding that is not understood; send it with gzip, or without one")]
    UnknownEncoding,
    /// No key, or a wrong one.
    #[error("unauthorized: send the key as `Authorization: Bearer <key>`")]
    Unauthorized,
    /// A browser page of another site called an endpoint without keys.
    #[error(
        "cross-origin browser requests are refused because no key is set; name the page's origin with --cors-allow-origin, or start the endpoint with --api-key and --worker-key"
    )]
    ForeignOrigin,
    /// The request to an endpoint without keys names a host that may be another site's.
    #[error(
        "without keys this endpoint accepts only IP addresses and localhost as host names; use http://127.0.0.1, or start it with --api-key and --worker-key or with --insecure-no-auth"
    )]
    ForeignHost,
    /// Only certain endpoints exist, and this one is not among them.
    #[error("there is no endpoint {id:?} here; {advice}")]
    NoEndpoint {
        /// The id in the path.
        id: String,
        /// Which ids to use instead.
        advice: String,
    },
    /// No endpoint can have this id.
    #[error("there is no endpoint {0:?}: RunPod uses this name for paths of its own; choose another")]
    ReservedId(String),
    /// An id in the path is too long or has other characters.
    #[error("an id in the path is not valid: use 1 to 128 letters, digits, `-`, `_`, `.`, `:` and `$`")]
    InvalidId,
    /// The bodies of all requests together are too large.
    #[error("the endpoint receives too much at once; try again in 1 s")]
    TooManyBodies,
    /// Too many requests.
    #[error("too many requests; try again in {} s", seconds(*.after))]
    RateLimited {
        /// How long to wait before the next try.
        after: Duration,
    },
    /// The headers are too large in all.
    #[error("the request headers are larger than {} KiB; send fewer or shorter ones", .limit >> 10)]
    HeadersTooLarge {
        /// Bytes.
        limit: usize,
    },
    /// The faults that the request brings for its job are invalid.
    #[error("the X-Runpod-Faults header is not usable: {0}")]
    Faults(#[from] ScriptError),
    /// The route does not exist.
    #[error(
        "no such route; the client API is /v2/<endpoint id>/run, /runsync, /status/<job id>, /health, /openai/v1/... and others"
    )]
    NoRoute,
    /// The route exists, but not for this method.
    #[error("this route does not support that method; submit with POST, read with GET")]
    WrongMethod,
    /// The handler's input schema is unknown.
    #[error("the handler's schema is not known; start the endpoint with `dev` to see it")]
    NoManifest,
    /// Too many open event streams.
    #[error("too many console pages are open; close some of them")]
    TooManyViewers,
    /// No failed job could be queued again.
    #[error("no failed job was queued again, and {left} are left: {refusal}")]
    NoneRetried {
        /// The failed jobs.
        left: usize,
        /// Why the first of them was refused.
        #[source]
        refusal: StoreError,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn of_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(" of {:.1} MiB", bytes as f64 / f64::from(1 << 20)))
}

impl ApiError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyUnreadable
            | Self::Faults(_)
            | Self::InvalidId => StatusCode::BAD_REQUEST,
            Self::TooManyBodies => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited { .. } | Self::TooManyViewers => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadersTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ResultTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::FormBody | Self::UnknownEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ForeignOrigin | Self::ForeignHost => StatusCode::FORBIDDEN,
            Self::NoRoute | Self::NoEndpoint { .. } | Self::ReservedId(_) | Self::NoManifest => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Store(error) | Self::NoneRetried { refusal: error, .. } => match error {
                StoreError::JobNotFound | StoreError::BatchNotFound | StoreError::StreamEnded => StatusCode::NOT_FOUND,
                StoreError::QueueFull
                | StoreError::TooManyQueued(_)
                | StoreError::TooManyEndpoints
                | StoreError::TooManyBatches(_) => StatusCode::TOO_MANY_REQUESTS,
                StoreError::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
                StoreError::StreamFull | StoreError::StreamsFull => StatusCode::PAYLOAD_TOO_LARGE,
                StoreError::Refused(_) => StatusCode::INTERNAL_SERVER_ERROR,
                StoreError::Unavailable(_) | StoreError::ReadMemoryFull => StatusCode::SERVICE_UNAVAILABLE,
                StoreError::WorkerIdInUse(_)
                | StoreError::BatchState(_)
                | StoreError::BatchEnded
                | StoreError::BatchCancelled => StatusCode::CONFLICT,
                StoreError::DuplicateJob
                | StoreError::NotRetryable(_)
                | StoreError::NothingToResend
                | StoreError::EmptyBatch
                | StoreError::BatchTooLarge(_) => StatusCode::BAD_REQUEST,
            },
        }
    }

    /// When to try again, for every error that passes by itself.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match (self.status(), self) {
            (_, Self::RateLimited { after }) => Some(*after),
            (status, _) => retry_after(status),
        }
    }
}

/// When to try again after an answer with this status, unless it is known better.
pub(crate) fn retry_after(status: StatusCode) -> Option<Duration> {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(FULL_RETRY),
        StatusCode::SERVICE_UNAVAILABLE => Some(UNAVAILABLE_RETRY),
        _ => None,
    }
}

/// A size as the platform writes it: `10MiB`.
fn platform_size(bytes: usize) -> String {
    limits::bytes(bytes).replace(' ', "")
}

/// Whole seconds, rounded up: never zero.
fn seconds(after: Duration) -> u64 {
    after.as_secs() + u64::from(after.subsec_nanos() > 0)
}

/// The text of an error, for routes that answer in another format.
#[derive(Debug, Clone)]
pub(crate) struct ErrorText(pub(crate) String);

/// The body of every error response, but those of OpenAI routes. Of the platform's errors some have `detail`, others `error`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Problem<'a> {
    /// What is wrong and what to do.
    detail: &'a str,
    /// The same.
    error: &'a str,
    /// The HTTP status.
    status: u16,
    /// Its name.
    title: &'a str,
}

impl Problem<'_> {
    /// The name of its schema.
    pub(crate) const NAME: &'static str = "Problem";
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let text = self.to_string();
        let problem = Problem {
            detail: &text,
            error: &text,
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
        };
        let mut response = (status, Json(problem)).into_response();
        if let Some(after) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        response.extensions_mut().insert(ErrorText(text));
        response
    }
}

/// Gives refusals of the router itself, which have no body, the form of all others.
pub(super) fn with_reason(response: Response) -> Response {
    let error = match response.status() {
        StatusCode::NOT_FOUND => ApiError::NoRoute,
        StatusCode::METHOD_NOT_ALLOWED => ApiError::WrongMethod,
        _ => return response,
    };
    if response.body().size_hint().exact() != Some(0) {
        return response;
    }
    let mut refusal = error.into_response();
    // Such as the methods that there are.
    let others = response.headers().iter().filter(|(name, _)| **name != CONTENT_LENGTH);
    for (name, value) in others {
        refusal.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_that_passes_says_when_to_try_again() {
        for (error, seconds) in [
            (ApiError::RateLimited { after: Duration::from_millis(2500) }, "3"),
            (ApiError::TooManyViewers, "5"),
            (ApiError::TooManyBodies, "1"),
            (StoreError::QueueFull.into(), "5"),
            (StoreError::TooManyEndpoints.into(), "5"),
            (StoreError::TooManyQueued(3).into(), "5"),
            (ApiError::NoneRetried { left: 2, refusal: StoreError::TooManyQueued(3) }, "5"),
            (StoreError::ReadMemoryFull.into(), "1"),
            (StoreError::Unavailable("full".into()).into(), "1"),
        ] {
            let text = error.to_string();
            assert_eq!(error.into_response().headers()[RETRY_AFTER], seconds, "{text}");
        }
        assert!(!ApiError::NoRoute.into_response().headers().contains_key(RETRY_AFTER));
        let refused = ApiError::from(StoreError::Refused("a reason".into())).into_response();
        assert_eq!((refused.status(), refused.headers().get(RETRY_AFTER)), (StatusCode::INTERNAL_SERVER_ERROR, None));
    }
}
