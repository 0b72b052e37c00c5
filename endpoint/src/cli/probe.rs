//! `probe`: asks the server in the same container for its state, so that an image needs no HTTP client for its health check.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use runpod_alerts::request_error_text;

use super::args::{ProbeArgs, ProbeKind};
use super::exit::Exit;
use super::output::Output;

/// Timeout. The server answers probes from memory.
const LIMIT: Duration = Duration::from_secs(3);

/// The probe failed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// No answer in time.
    #[error("no endpoint answers at {address}: {error}; --bind names another address")]
    Unreachable { address: SocketAddr, error: String },
    /// An error status.
    #[error("the endpoint answers {status}: {body}")]
    Refused { status: StatusCode, body: String },
}

pub(crate) async fn probe(args: &ProbeArgs, output: &mut Output) -> Exit {
    match ask(args).await {
        Ok(body) => {
            output.line(&body);
            Exit::Success
        }
        Err(error) => output.fail(&error, Exit::Failure),
    }
}

async fn ask(args: &ProbeArgs) -> Result<String, ProbeError> {
    let address = args.bind;
    let path = match args.kind {
        ProbeKind::Live => "live",
        ProbeKind::Ready => "ready",
    };
    let unreachable = |error| ProbeError::Unreachable { address, error: request_error_text(error) };
    // The server is in the same container: no proxy.
    let client = Client::builder().no_proxy().timeout(LIMIT).build().map_err(unreachable)?;
    let reply = client.get(format!("http://{address}/{path}")).send().await.map_err(unreachable)?;
    let status = reply.status();
    let body = reply.text().await.map_err(unreachable)?;
    if status.is_success() { Ok(body) } else { Err(ProbeError::Refused { status, body }) }
}
