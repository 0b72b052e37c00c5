//! Connections: accepted, served within limits, closed.

use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::faults::ResettableStream;

/// How long a client may take to send the headers of a request, and how long a connection may wait for its next one.
/// Without a limit, clients that send a byte now and then would hold connections for ever. Longer than the 90 s after which
/// HTTP libraries close idle connections, so that none sends a request on one that is about to end here.
const HEADER_LIMIT: Duration = Duration::from_secs(120);

/// How long open requests may take to end once the server stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Serves until `shutdown`, then closes within a few seconds.
pub(super) async fn serve(mut listener: TcpListener, router: Router, shutdown: &CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    let open = GracefulShutdown::new();
    loop {
        let (stream, _) = tokio::select! {
            // Errors are logged in there, and a process without file descriptors pauses.
            accepted = Listener::accept(&mut listener) => accepted,
            () = shutdown.cancelled() => break,
        };
        // Without this the second half of a small reply waits for the acknowledgement of the first: 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its small packets back");
        }
        let (stream, connection) = ResettableStream::new(stream);
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(connection.clone()));
            router.clone().oneshot(request)
        });
        let serving = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    // What has not ended by then is cut off when the program ends.
    let _ = timeout(CLOSE_LIMIT, open.shutdown()).await;
}
