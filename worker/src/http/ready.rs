//! `/live`, `/ready` and `/ping`: yes or no, with the reason.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use super::server::HttpState;
use crate::core::snapshot::WorkerState;

#[derive(Debug, Serialize)]
pub(super) struct Live {
    live: bool,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Ready {
    ready: bool,
    state: &'static str,
    reason: Option<String>,
}

/// 200 while the dispatcher ticks: restart the container otherwise.
pub(super) async fn live(State(state): State<HttpState>) -> (StatusCode, Json<Live>) {
    let silence = state.vitals.since_tick();
    if silence <= state.tick_limit {
        return (StatusCode::OK, Json(Live { live: true, reason: None }));
    }
    let reason = format!("the dispatcher has not moved for {} s: restart this worker", silence.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, Json(Live { live: false, reason: Some(reason) }))
}

/// 200 while jobs can be run here.
pub(super) async fn ready(State(state): State<HttpState>) -> (StatusCode, Json<Ready>) {
    let snapshot = state.snapshot.borrow();
    let default_reason = not_ready_reason(snapshot.state);
    let ready = default_reason.is_none();
    let reason = if ready { None } else { snapshot.reason.clone().or(default_reason.map(str::to_owned)) };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, state: snapshot.state.as_str(), reason }))
}

/// The platform's health probe of load-balancing workers: 200 healthy, 204 initializing, anything else unhealthy.
pub(super) async fn ping(State(state): State<HttpState>) -> StatusCode {
    match state.snapshot.borrow().state {
        WorkerState::Initializing => StatusCode::NO_CONTENT,
        WorkerState::Ready | WorkerState::Idle | WorkerState::Running | WorkerState::Throttled => StatusCode::OK,
        WorkerState::Unhealthy | WorkerState::Draining => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Why a worker in this state cannot run jobs; `None` when it can.
fn not_ready_reason(state: WorkerState) -> Option<&'static str> {
    match state {
        WorkerState::Ready | WorkerState::Idle | WorkerState::Running | WorkerState::Throttled => None,
        WorkerState::Initializing => Some("the model is loading"),
        WorkerState::Unhealthy => Some("the worker is unhealthy and about to exit"),
        WorkerState::Draining => Some("the worker is shutting down"),
    }
}
