//! The web console: one page, embedded in the program, and the event streams that feed it.
//!
//! The page submits, cancels and retries through the client API, as any other client would.

mod assets;
mod events;
mod history;
mod overview;
mod samples;
mod state;
mod wire;

use std::collections::BTreeSet;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;

pub use samples::Samples;
pub use state::Console;
pub(crate) use state::MAX_EVENT_STREAMS;

use crate::api::{ApiError, Keys, client_only, with_valid_ids};
use crate::local::Manifest;

/// The page, which needs no key, and its data, which needs the client key.
pub fn router(console: Console, keys: &Keys) -> Router {
    let data = Router::new()
        .route("/console/endpoints", get(endpoints))
        .route("/console/{endpoint}/manifest", get(manifest))
        .route("/console/{endpoint}/events", get(events::overview))
        .route("/console/{endpoint}/overview", get(overview::overview))
        .route("/console/{endpoint}/history", get(history::history))
        .route("/console/{endpoint}/jobs/{id}", get(overview::job))
        .route("/console/{endpoint}/jobs/{id}/events", get(events::job));
    assets::routes().merge(client_only(with_valid_ids(data), keys)).with_state(console)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoints<'a> {
    endpoints: Vec<String>,
    /// Those whose requests go to workers without a queue.
    load_balancers: &'a BTreeSet<String>,
}

async fn endpoints(State(console): State<Console>) -> Result<Response, ApiError> {
    let mut endpoints = console.store.endpoints().await?;
    // The store does not know an endpoint before its first job.
    if let Some(own) = console.local.endpoint().filter(|own| !endpoints.iter().any(|id| id == own)) {
        endpoints.insert(0, own.to_owned());
    }
    Ok(Json(Endpoints { endpoints, load_balancers: &console.balanced }).into_response())
}

async fn manifest(State(console): State<Console>, Path(endpoint): Path<String>) -> Result<Json<Manifest>, ApiError> {
    let is_own = console.local.endpoint().is_some_and(|own| own == endpoint);
    console.local.manifest().filter(|_| is_own).map(Json).ok_or(ApiError::NoManifest)
}
