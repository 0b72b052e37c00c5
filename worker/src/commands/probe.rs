//! `runpod-worker probe`: asks the worker in the same container whether it is live or ready, so that an image needs no HTTP
//! client for its health check.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::StatusCode;

use super::{complain, print};
use crate::base::{request_error_text, tls};
use crate::cli::{ProbeArgs, ProbeKind};
use crate::config::{EXIT_CONFIG, ProcessEnvironment, probe_address};

/// Longest time for the answer. The worker answers from memory, so more time would not help.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Why the probe failed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// There was no answer in time.
    #[error("no worker answers at {address}: {cause}")]
    Unreachable { address: SocketAddr, cause: String },
    /// The worker is not live, or not ready.
    #[error("the worker answers {status}: {body}")]
    Refused { status: StatusCode, body: String },
}

/// Exit status 0 when the worker answers well, else 1; 64 for a wrong configuration.
pub(super) async fn probe_command(args: &ProbeArgs) -> ExitCode {
    let address = match probe_address(args.http_bind.as_deref(), &ProcessEnvironment) {
        Ok(address) => address,
        Err(errors) => return complain(EXIT_CONFIG, &errors.to_string()),
    };
    match probe(address, args.kind).await {
        Ok(body) => print(&body),
        Err(error) => complain(1, &error.to_string()),
    }
}

async fn probe(address: SocketAddr, kind: ProbeKind) -> Result<String, ProbeError> {
    let path = match kind {
        ProbeKind::Live => "live",
        ProbeKind::Ready => "ready",
    };
    let unreachable = |error| ProbeError::Unreachable { address, cause: request_error_text(error) };
    // The worker is in the same container, so no proxy is used.
    let builder =
        tls::client_builder().map_err(|error| ProbeError::Unreachable { address, cause: error.to_string() })?;
    let client = builder.no_proxy().timeout(TIMEOUT).build().map_err(unreachable)?;
    let reply = client.get(format!("http://{address}/{path}")).send().await.map_err(unreachable)?;
    let status = reply.status();
    let body = reply.text().await.map_err(unreachable)?;
    if status.is_success() { Ok(body) } else { Err(ProbeError::Refused { status, body }) }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_status_of_the_answer_decides() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let nobody = probe(SocketAddr::from(([127, 0, 0, 1], 1)), ProbeKind::Live).await.unwrap_err();
        assert!(nobody.to_string().contains("no worker answers at 127.0.0.1:1"), "{nobody}");

        let routes = Router::new()
            .route("/live", get(|| async { "fine" }))
            .route("/ready", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "still loading") }));
        let server = tokio::spawn(axum::serve(listener, routes).into_future());
        assert_eq!(probe(address, ProbeKind::Live).await.unwrap(), "fine");
        let refused = probe(address, ProbeKind::Ready).await.unwrap_err();
        assert_eq!(refused.to_string(), "the worker answers 503 Service Unavailable: still loading");
        server.abort();
    }
}
