//! Requests that are retried while the endpoint does not answer.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::sleep;

use super::http::{ClientError, Endpoint};
use super::output::Output;

/// The first pause between two status requests: short, for jobs that end at once.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two status requests.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Retries before a request fails.
const MAX_RETRIES: u32 = 5;

/// Sends a GET request and retries it while the endpoint is unreachable or overloaded for a short time.
pub(super) async fn ask(endpoint: &Endpoint, path: &str, output: &mut Output) -> Result<String, ClientError> {
    ask_unless(endpoint, path, output, |_| false).await
}

/// The same, except for failures that the caller handles.
pub(super) async fn ask_unless(
    endpoint: &Endpoint,
    path: &str,
    output: &mut Output,
    is_handled: impl Fn(&ClientError) -> bool,
) -> Result<String, ClientError> {
    let mut failures = 0;
    loop {
        match endpoint.get(path).await {
            Err(error) if error.is_temporary() && !is_handled(&error) && failures < MAX_RETRIES => {
                failures += 1;
                note_retry(&error, output);
                sleep(LONGEST_PAUSE * failures).await;
            }
            answer => return answer,
        }
    }
}

pub(super) fn note_retry(error: &impl Display, output: &mut Output) {
    output.note(&format!("runpod-endpoint: {error}; trying again"));
}
