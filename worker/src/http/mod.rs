//! The worker's own HTTP server. It reads the latest snapshot and counters and nothing else: no user code, no waiting, so it
//! answers in every state of the worker.

mod health;
mod probes;
mod runtime;

use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Identity;
use crate::core::Snapshot;
use crate::heartbeat::{HeartbeatMonitor, Pulse};
use crate::metrics::{self, Metrics};
use crate::outbox::Outbox;
use crate::telemetry::runtime::Runtime;

use probes::PulseWatch;

/// How long requests under way may take when the server ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

const INDEX: &str = "\
/health   job and worker counts, slots, processes, deliveries, GPUs (JSON)
/ready    200 when jobs can be taken, 503 with the reason otherwise (JSON)
/live     200 while the worker's dispatcher moves, 503 otherwise (JSON)
/ping     200 when ready, 204 while starting, 503 otherwise
/metrics  OpenMetrics for Prometheus
";

/// What the server can see.
#[derive(Clone, Debug)]
pub struct HttpState {
    snapshots: watch::Receiver<Snapshot>,
    identity: Arc<Identity>,
    metrics: Arc<Metrics>,
    outbox: Outbox,
    heartbeat: HeartbeatMonitor,
    pulse: Arc<PulseWatch>,
    runtime: Runtime,
    started: Instant,
}

impl HttpState {
    /// Everything it answers from.
    pub fn new(
        identity: Identity,
        snapshots: watch::Receiver<Snapshot>,
        metrics: Arc<Metrics>,
        outbox: Outbox,
        heartbeat: HeartbeatMonitor,
        pulse: Pulse,
        runtime: Runtime,
    ) -> Self {
        Self {
            snapshots,
            identity: Arc::new(identity),
            metrics,
            outbox,
            heartbeat,
            pulse: Arc::new(PulseWatch::new(pulse)),
            runtime,
            started: Instant::now(),
        }
    }
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/health", get(health::health))
        .route("/ready", get(probes::ready))
        .route("/live", get(probes::live))
        .route("/ping", get(probes::ping))
        .route("/metrics", get(encode_metrics))
        .with_state(state)
}

/// Serves until `over`; then gives requests under way a moment.
pub async fn serve(listener: TcpListener, state: HttpState, over: CancellationToken) {
    let stop = over.clone();
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(async move { stop.cancelled().await });
    let limit = async {
        over.cancelled().await;
        tokio::time::sleep(CLOSE_LIMIT).await;
    };
    tokio::select! {
        ended = server.into_future() => {
            if let Err(error) = ended {
                tracing::error!(%error, "the HTTP server has ended");
            }
        }
        () = limit => {}
    }
}

async fn encode_metrics(State(state): State<HttpState>) -> Response {
    match state.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
