//! Routes, and the life of the server.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Vitals, health, metrics, ready};
use crate::core::snapshot::Snapshot;
use crate::metrics::Metrics;

/// How long open requests may take once the server is told to stop.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

const INDEX: &str = "\
runpod-worker
/health   jobs and workers as the platform reports them, and details of this worker
/live     200 while the worker makes progress
/ready    200 while jobs can be run here, otherwise 503 with the reason
/ping     200 ready, 204 loading, 503 unhealthy or shutting down
/metrics  OpenMetrics text
";

/// What the answers are made of.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// The newest picture of the worker.
    pub snapshot: watch::Receiver<Snapshot>,
    /// Served at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// When the parts of the worker last moved.
    pub vitals: Arc<Vitals>,
    /// Id of this worker on the platform.
    pub worker_id: Arc<str>,
    /// A dispatcher that has not ticked for this long is dead, says `/live`.
    pub tick_limit: Duration,
}

/// The server's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else listens there.
    #[error("port {} is already in use: stop the other program, or choose another address for health and metrics", .address.port())]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Ports below 1024 need rights.
    #[error("no permission to listen on port {}: choose a port above 1023", .address.port())]
    Denied {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}; choose an address of this machine, such as 0.0.0.0")]
    Other {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Opens the server's port.
///
/// # Errors
/// When the address cannot be used.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::Denied { address },
        _ => BindError::Other { address, source },
    })
}

/// Serves until `shutdown`; requests that are open then get one more second.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, state: HttpState, shutdown: CancellationToken) -> io::Result<()> {
    let graceful = axum::serve(listener, router(state)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let mut server = pin!(graceful.into_future());
    tokio::select! {
        result = &mut server => return result,
        () = shutdown.cancelled() => {}
    }
    timeout(CLOSE_LIMIT, server).await.unwrap_or(Ok(()))
}

fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/health", get(health::health))
        .route("/live", get(ready::live))
        .route("/ready", get(ready::ready))
        .route("/ping", get(ready::ping))
        .route("/metrics", get(metrics::metrics))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::core::snapshot::WorkerState;

    const LIMIT: Duration = Duration::from_secs(20);

    struct Fixture {
        address: SocketAddr,
        snapshot: watch::Sender<Snapshot>,
        vitals: Arc<Vitals>,
        shutdown: CancellationToken,
        server: JoinHandle<io::Result<()>>,
        client: reqwest::Client,
    }

    impl Fixture {
        async fn new(tick_limit: Duration) -> Self {
            let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (snapshot, receiver) = watch::channel(Snapshot::default());
            let (vitals, shutdown) = (Arc::new(Vitals::new()), CancellationToken::new());
            let state = HttpState {
                snapshot: receiver,
                metrics: Arc::new(Metrics::new()),
                vitals: Arc::clone(&vitals),
                worker_id: "w-1".into(),
                tick_limit,
            };
            let server = tokio::spawn(serve(listener, state, shutdown.clone()));
            let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
            Self { address, snapshot, vitals, shutdown, server, client }
        }

        async fn get(&self, path: &str) -> (u16, String, String) {
            let response = self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap();
            let kind = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
            (response.status().as_u16(), kind, response.text().await.unwrap())
        }

        async fn json(&self, path: &str) -> (u16, Value) {
            let (status, kind, body) = self.get(path).await;
            assert_eq!(kind, "application/json");
            (status, serde_json::from_str(&body).unwrap())
        }
    }

    #[tokio::test]
    async fn ready_and_ping_follow_the_state() {
        let fixture = Fixture::new(LIMIT).await;
        for (state, ready, ping) in [
            (WorkerState::Initializing, 503, 204),
            (WorkerState::Ready, 200, 200),
            (WorkerState::Idle, 200, 200),
            (WorkerState::Running, 200, 200),
            (WorkerState::Throttled, 200, 200),
            (WorkerState::Unhealthy, 503, 503),
            (WorkerState::Draining, 503, 503),
        ] {
            fixture.snapshot.send_modify(|snapshot| snapshot.state = state);
            let (status, body) = fixture.json("/ready").await;
            assert_eq!(status, ready, "{state:?}");
            assert_eq!(body["ready"], ready == 200);
            assert_eq!(body["state"], state.as_str());
            assert_eq!(body["reason"].is_null(), ready == 200, "{state:?}");
            assert_eq!(fixture.get("/ping").await.0, ping, "{state:?}");
        }
        fixture.snapshot.send_modify(|snapshot| snapshot.reason = Some("no disk".into()));
        assert_eq!(fixture.json("/ready").await.1["reason"], "no disk");
    }

    #[tokio::test]
    async fn live_follows_the_dispatchers_ticks() {
        let fixture = Fixture::new(LIMIT).await;
        fixture.vitals.ticked();
        assert_eq!(fixture.json("/live").await, (200, serde_json::json!({"live": true, "reason": null})));

        // A limit of nothing: any silence is too long.
        let fixture = Fixture::new(Duration::ZERO).await;
        let (status, body) = fixture.json("/live").await;
        assert_eq!((status, &body["live"]), (503, &Value::Bool(false)));
        assert!(body["reason"].as_str().unwrap().contains("dispatcher"));
    }

    #[tokio::test]
    async fn health_metrics_and_index_are_served() {
        let fixture = Fixture::new(LIMIT).await;
        fixture.vitals.polled();
        let (status, health) = fixture.json("/health").await;
        assert_eq!((status, &health["worker"]["id"]), (200, &Value::from("w-1")));
        assert!(health["worker"]["lastPoll"].is_string() && health["worker"]["lastPing"].is_null());

        let (status, kind, text) = fixture.get("/metrics").await;
        assert_eq!((status, kind.as_str()), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
        assert!(text.ends_with("# EOF\n"));

        let (status, kind, text) = fixture.get("/").await;
        assert_eq!((status, kind.as_str()), (200, "text/plain; charset=utf-8"));
        for path in ["/health", "/live", "/ready", "/ping", "/metrics"] {
            assert!(text.contains(path));
            assert_ne!(fixture.get(path).await.0, 404, "{path}");
        }
        assert_eq!(fixture.get("/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn shutdown_does_not_wait_for_a_client_that_never_finishes() {
        let fixture = Fixture::new(LIMIT).await;
        let mut slow = TcpStream::connect(fixture.address).await.unwrap();
        slow.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        // Answered, so the slow connection, which is older, has been accepted as well.
        fixture.get("/live").await;
        fixture.shutdown.cancel();
        timeout(LIMIT, fixture.server).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(fixture.address).await.is_err(), "the port is closed");
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_with_the_fix() {
        let first = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let error = bind(first.local_addr().unwrap()).await.unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }));
        assert!(error.to_string().contains("choose another address"), "{error}");
    }
}
