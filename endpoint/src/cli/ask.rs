//! Requests that are repeated while the endpoint does not answer.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::sleep;

use super::http::{ClientError, Endpoint};
use super::output::Output;

/// Pause between two questions about a job: short at first, for jobs that end at once.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Failed questions in a row before giving up.
const PATIENCE: u32 = 5;

/// A question that is repeated over short troubles.
pub(super) async fn ask(endpoint: &Endpoint, path: &str, output: &mut Output) -> Result<String, ClientError> {
    let mut failures = 0;
    loop {
        match endpoint.get(path).await {
            Err(error) if error.is_passing() && failures < PATIENCE => {
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
