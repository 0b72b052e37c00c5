//! `probe`: asks the server that runs in the same container how it is, so that an image needs no HTTP client for its health
//! check.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, StatusCode};

use super::args::{ProbeArgs, ProbeKind};
use super::exit::Exit;
use super::output::Output;

/// The server answers these from memory; more time would not help.
const LIMIT: Duration = Duration::from_secs(3);

/// The probe failed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// Nobody answers, or too late.
    #[error("no endpoint answers at {address}: {source}; --bind names another address")]
    Unreachable { address: SocketAddr, source: reqwest::Error },
    /// It answers that it is not well.
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
    let unreachable = |source| ProbeError::Unreachable { address, source };
    // No proxy stands between a container and itself.
    let client = Client::builder().no_proxy().timeout(LIMIT).build().map_err(unreachable)?;
    let reply = client.get(format!("http://{address}/{path}")).send().await.map_err(unreachable)?;
    let status = reply.status();
    let body = reply.text().await.map_err(unreachable)?;
    if status.is_success() { Ok(body) } else { Err(ProbeError::Refused { status, body }) }
}
