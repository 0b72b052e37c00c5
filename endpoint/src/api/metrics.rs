//! `/v2/<id>/metrics`: the endpoint's workers by state. The only known reader, an official tool, uses `readyWorkers`.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;

use super::app::App;
use super::error::ApiError;
use crate::store::WorkerState;

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/v2/{endpoint}/metrics", get(metrics))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metrics<'a> {
    jobs: Jobs,
    ready_workers: Vec<&'a str>,
    workers: BTreeMap<&'static str, usize>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Jobs {
    in_progress: usize,
    in_queue: usize,
}

async fn metrics(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    let (load, health) = (app.store.load(&endpoint).await?, app.store.health(&endpoint).await?);
    let states = [
        ("idle", WorkerState::Idle),
        ("initializing", WorkerState::Initializing),
        ("lost", WorkerState::Lost),
        ("running", WorkerState::Running),
        ("throttled", WorkerState::Throttled),
        ("unhealthy", WorkerState::Unhealthy),
    ];
    let count = |state| load.workers.iter().filter(|worker| worker.state == state).count();
    let ready = |state| matches!(state, WorkerState::Idle | WorkerState::Running);
    let document = Metrics {
        jobs: Jobs { in_progress: health.in_progress, in_queue: health.in_queue },
        ready_workers: load.workers.iter().filter(|w| ready(w.state)).map(|w| &*w.id).collect(),
        workers: states.into_iter().map(|(name, state)| (name, count(state))).collect(),
    };
    Ok(Json(document).into_response())
}
