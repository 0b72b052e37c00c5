//! Why a request has no answer from a worker, and what its client is told.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::exchange::ExchangeError;
use super::limits::{BODY, REQUEST_TIME};

/// The texts are RunPod's, where it has any.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("timed out waiting for worker")]
    NoWorker,
    #[error("affinity_worker_gone")]
    WorkerGone,
    #[error("the endpoint is paused: it accepts requests again once it is resumed")]
    Paused,
    #[error("the endpoint is shutting down")]
    ShuttingDown,
    #[error("the body has more than {BODY} bytes: pass large data by URL")]
    TooLarge,
    #[error("the body cannot be read: it ends early, or its chunks are not what HTTP says")]
    BrokenBody,
    #[error("the body did not come in time")]
    SlowBody,
    #[error("the worker's answer has more than {BODY} bytes: return a link to large data")]
    AnswerTooLarge,
    #[error("the worker did not answer within {} s", REQUEST_TIME.as_secs())]
    TooSlow,
    #[error("{0}; the worker may have begun the request, so it was not sent to another one")]
    Broken(#[from] ExchangeError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoWorker | Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::WorkerGone => StatusCode::NOT_FOUND,
            Self::Paused | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::AnswerTooLarge | Self::Broken(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// Seconds after which to try again, where that can help.
    fn retry_after(&self) -> Option<&'static str> {
        match self {
            Self::NoWorker | Self::ShuttingDown => Some("1"),
            Self::Paused => Some("10"),
            _ => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let body = Json(json!({ "detail": self.to_string(), "status": status.as_u16(), "title": title }));
        let retry_after = self.retry_after().map(|seconds| [(RETRY_AFTER, seconds)]);
        // The next request on this connection would find nobody.
        let close = matches!(self, Self::ShuttingDown).then_some([(CONNECTION, "close")]);
        (status, retry_after, close, body).into_response()
    }
}
