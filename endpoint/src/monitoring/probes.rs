//! Answers for load balancers and container platforms, in the same form as the worker's.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::state::Monitoring;

/// When to ask again an endpoint that is not ready.
const RETRY_SECONDS: &str = "1";

#[derive(Debug, Serialize)]
pub(super) struct Probe {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Probe {
    fn of(monitoring: &Monitoring) -> Self {
        if monitoring.drain.is_cancelled() {
            return Self { state: "draining", reason: Some("the endpoint is shutting down".to_owned()) };
        }
        match monitoring.store.ready() {
            Ok(()) => Self { state: "ready", reason: None },
            Err(error) => Self { state: "unavailable", reason: Some(error.to_string()) },
        }
    }

    fn status(&self) -> StatusCode {
        if self.reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }
}

/// 200 when jobs are accepted and kept, 503 with the reason otherwise. `/ping`, RunPod's health check of load-balancing endpoints,
/// answers the same.
pub(super) async fn ready(State(monitoring): State<Monitoring>) -> Response {
    let probe = Probe::of(&monitoring);
    match probe.status() {
        StatusCode::OK => Json(probe).into_response(),
        status => (status, [(RETRY_AFTER, RETRY_SECONDS)], Json(probe)).into_response(),
    }
}

/// 200 while requests are answered. A full disk does not change it: restarting the program would not help.
pub(super) async fn live() -> Json<Probe> {
    Json(Probe { state: "live", reason: None })
}
