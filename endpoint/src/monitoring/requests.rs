//! Counts HTTP requests by operation. Operations are a closed set, so that clients cannot create metric labels.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::collector::Requests;
use super::labels::STATUS_CLASSES;
use super::metrics::Metrics;

/// The operations of `/v2/{endpoint}/…`.
const OPERATIONS: [&str; 26] = [
    "run",
    "runsync",
    "status",
    "status-sync",
    "stream",
    "cancel",
    "retry",
    "purge-queue",
    "requests",
    "health",
    "metrics",
    "openai",
    "batch",
    "failed",
    "retry-failed",
    "pause",
    "resume",
    "webhooks",
    "job-take",
    "job-take-batch",
    "job-stop",
    "job-done",
    "job-stream",
    "ping",
    "hand-back",
    "goodbye",
];

/// A request to an unknown route.
const UNKNOWN: &str = "unknown";

/// The operations that are no part of `/v2/`.
const OTHERS: [&str; 6] = ["console", "docs", "graphql", "scrape", "probe", UNKNOWN];

/// Classes of status that are shown before the first request, so that rates have a first value.
const USUAL: [&str; 3] = ["2xx", "4xx", "5xx"];

/// No request yet.
pub(super) fn none() -> Requests {
    let operations = OPERATIONS.into_iter().chain(OTHERS);
    operations.flat_map(|operation| USUAL.map(|class| ((operation, class), 0))).collect()
}

/// Counts a request when its answer begins. If the client disconnects before that, it is not counted.
pub(super) async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let operation = operation(request.extensions().get::<MatchedPath>());
    let response = next.run(request).await;
    metrics.count_request(operation, class(response.status()));
    response
}

fn operation(route: Option<&MatchedPath>) -> &'static str {
    let Some(route) = route else { return UNKNOWN };
    let mut segments = route.as_str().split('/').skip(1);
    match segments.next() {
        Some("v2") => {
            let operation = segments.nth(1).unwrap_or_default();
            OPERATIONS.into_iter().find(|known| *known == operation).unwrap_or(UNKNOWN)
        }
        Some("" | "console") => "console",
        Some("docs" | "openapi.json") => "docs",
        Some("graphql") => "graphql",
        Some("metrics") => "scrape",
        Some("ready" | "live" | "ping") => "probe",
        _ => UNKNOWN,
    }
}

fn class(status: StatusCode) -> &'static str {
    STATUS_CLASSES[usize::from(status.as_u16() / 100).clamp(1, STATUS_CLASSES.len()) - 1]
}
