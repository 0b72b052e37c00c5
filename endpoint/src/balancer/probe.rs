//! Whether a worker takes requests, from its probe.

use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use axum::http::header::HOST;
use axum::http::{HeaderValue, Request, Response, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::timeout;

use super::exchange::WorkerConnection;
use super::limits::{PROBE_BODY, PROBE_TIME};
use super::table::Readiness;

/// The path at which workers answer whether they are ready.
pub(crate) const PROBE_PATH: &str = "/ping";

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The worker says so itself.
    Said(Readiness),
    /// It says nothing. This is what that means, unless it has requests: they may leave it no time, and no connection, for a probe.
    UnlessBusy(Readiness),
}

/// Asks a worker once. `is_busy` says whether it has requests at the moment.
pub(super) async fn probe(address: SocketAddr, is_busy: impl Fn() -> bool) -> Readiness {
    let was_busy = is_busy();
    let finding = timeout(PROBE_TIME, ask(address)).await.unwrap_or(Finding::UnlessBusy(Readiness::Unhealthy));
    match finding {
        Finding::UnlessBusy(_) if was_busy || is_busy() => Readiness::Busy,
        Finding::Said(readiness) | Finding::UnlessBusy(readiness) => readiness,
    }
}

async fn ask(address: SocketAddr) -> Finding {
    // It does not listen yet.
    let Ok(connection) = WorkerConnection::open(address).await else { return Finding::UnlessBusy(Readiness::Starting) };
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static(PROBE_PATH);
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    match connection.send(request).await {
        Ok(answer) => read(answer).await,
        Err(_) => Finding::UnlessBusy(Readiness::Unhealthy),
    }
}

async fn read(answer: Response<Body>) -> Finding {
    /// What a worker of this project answers.
    #[derive(Deserialize)]
    struct Probe {
        state: String,
    }
    match answer.status() {
        StatusCode::OK => return Finding::Said(Readiness::Ready),
        StatusCode::NO_CONTENT => return Finding::Said(Readiness::Starting),
        StatusCode::SERVICE_UNAVAILABLE => {}
        _ => return Finding::Said(Readiness::Unhealthy),
    }
    let body = to_bytes(answer.into_body(), PROBE_BODY).await.unwrap_or_default();
    let probe = serde_json::from_slice::<Probe>(&body);
    match probe.as_ref().map(|probe| &*probe.state) {
        Ok("draining") => Finding::Said(Readiness::Draining),
        Ok("unhealthy") => Finding::Said(Readiness::Unhealthy),
        // Its handler process is being replaced.
        Ok("ready" | "idle" | "running" | "throttled") => Finding::Said(Readiness::Starting),
        Ok(_) | Err(_) => Finding::UnlessBusy(Readiness::Unhealthy),
    }
}
