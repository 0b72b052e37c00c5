//! The worker's own HTTP server. It reads only the latest snapshot and counters. It calls no user code and waits for nothing, so
//! it answers in every state of the worker.

mod health;
pub(crate) mod limits;
mod probes;
mod runtime;
mod server;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use runpod_http_server::exposition;
use tokio::sync::watch;

use crate::base::Identity;
use crate::heartbeat::HeartbeatMonitor;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::sensors::Sensors;
use runpod_worker_core::Snapshot;

pub use probes::PulseWatch;
pub use server::{NamedCounts, serve, server};

const PING: &str = "/ping";

const INDEX: &str = "\
/health   job and worker counts, slots, processes, deliveries, GPUs (JSON)
/ready    200 when jobs can be taken, 503 with the reason otherwise (JSON)
/live     200 while the worker's dispatcher runs, 503 otherwise (JSON)
/ping     200 when ready, 204 while starting, 503 with the reason otherwise (JSON)
/metrics  for Prometheus: OpenMetrics, or text/plain for those that ask for it
";

/// The data that the server answers from.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// Who this worker is.
    pub identity: Arc<Identity>,
    /// The newest picture of the worker.
    pub snapshots: watch::Receiver<Snapshot>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Undelivered results.
    pub outbox: Outbox,
    /// How the pings go.
    pub heartbeat: HeartbeatMonitor,
    /// Whether the dispatcher beats.
    pub pulse: Arc<PulseWatch>,
    /// GPUs, container, ports.
    pub sensors: Sensors,
    /// The beginning of the dispatcher's time.
    pub started: Instant,
}

/// The routes of the health server.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/health", get(health::health))
        .route("/ready", get(probes::ready))
        .route("/live", get(probes::live))
        .route(PING, get(probes::ping))
        .route("/metrics", get(encode_metrics))
        .with_state(state)
}

/// Only RunPod's health check of load-balancing endpoints, at its usual path and at `path`.
pub fn ping(snapshots: watch::Receiver<Snapshot>, path: &str) -> Router {
    let router = Router::new().route(PING, get(probes::ping_alone));
    let router = if path == PING { router } else { router.route(path, get(probes::ping_alone)) };
    router.with_state(snapshots)
}

async fn encode_metrics(State(state): State<HttpState>, headers: HeaderMap) -> Response {
    // A copy, because the dispatcher cannot publish while the original is borrowed.
    let snapshot = state.snapshots.borrow().clone();
    state.metrics.publish(&snapshot);
    state.metrics.sample(state.started.elapsed(), state.heartbeat.stats().age, &state.outbox.stats());
    match state.metrics.encode() {
        Ok(text) => exposition(&headers, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
