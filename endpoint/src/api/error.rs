//! Errors as the client sees them: a status and a small JSON document.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::store::StoreError;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The request is not understood.
    #[error("{0}")]
    BadRequest(String),
    /// The body is larger than the route takes. The platform's text.
    #[error("bad request: body: exceeded max body size of {}MiB", .limit >> 20)]
    BodyTooLarge {
        /// Bytes.
        limit: usize,
    },
    /// A worker's body is larger than the server takes.
    #[error("the result is larger than {} MiB; return less, or upload it and return its address", .limit >> 20)]
    ResultTooLarge {
        /// Bytes.
        limit: usize,
    },
    /// The body did not arrive in time, or the connection broke.
    #[error("the request body could not be read; send it again")]
    BodyUnreadable,
    /// No key, or a wrong one.
    #[error("unauthorized: send the key as `Authorization: Bearer <key>`")]
    Unauthorized,
    /// A browser page of another site calls an endpoint without keys.
    #[error("requests from other web sites are refused while no API key is set; start the endpoint with --api-key")]
    ForeignOrigin,
    /// No such route.
    #[error("no such route; the client API is /v2/<endpoint id>/run, /runsync, /status/<job id>, /health ...")]
    NoRoute,
    /// Wrong method on a route.
    #[error("this route does not take that method; submit with POST, read with GET")]
    WrongMethod,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BodyTooLarge { .. } | Self::BodyUnreadable => StatusCode::BAD_REQUEST,
            Self::ResultTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Store(error) => match error {
                StoreError::JobNotFound | StoreError::StreamEnded => StatusCode::NOT_FOUND,
                StoreError::QueueFull | StoreError::TooManyEndpoints => StatusCode::TOO_MANY_REQUESTS,
                StoreError::StreamFull => StatusCode::PAYLOAD_TOO_LARGE,
                StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                StoreError::DuplicateJob | StoreError::NotRetryable(_) => StatusCode::BAD_REQUEST,
            },
        }
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    status: u16,
    title: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let text = self.to_string();
        // The one refusal whose body was captured live has `detail`; the others carry `error`.
        let is_detail = matches!(self, Self::BodyTooLarge { .. });
        let problem = Problem {
            detail: is_detail.then_some(&*text),
            error: (!is_detail).then_some(&*text),
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
        };
        (status, Json(problem)).into_response()
    }
}
