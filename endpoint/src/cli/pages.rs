//! Lists that are read page by page.

use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::ask::{FIRST_PAUSE, ask_unless};
use super::http::{ClientError, Endpoint};
use super::outcome::CommandError;
use super::output::Output;

/// Entries that are asked for at once: the most that the endpoint returns.
const PAGE: usize = 1000;

/// The pages of one of the endpoint's lists.
pub(super) struct Pages<'a> {
    endpoint: &'a Endpoint,
    list: &'a str,
    offset: usize,
    limit: usize,
}

impl<'a> Pages<'a> {
    pub(super) fn new(endpoint: &'a Endpoint, list: &'a str) -> Self {
        Self { endpoint, list, offset: 0, limit: PAGE }
    }

    /// The page after the entries that were [taken](Self::take). One that is too large for the endpoint is asked for in smaller parts.
    pub(super) async fn next<T: DeserializeOwned>(&mut self, output: &mut Output) -> Result<T, CommandError> {
        loop {
            let limit = self.limit;
            // 503 says that the reply does not fit into the memory for replies, perhaps only at this moment.
            let is_too_large =
                |error: &ClientError| limit > 1 && matches!(error, ClientError::Refused { status: 413 | 503, .. });
            let path = format!("{}?offset={}&limit={limit}", self.list, self.offset);
            match ask_unless(self.endpoint, &path, output, is_too_large).await {
                Err(error) if is_too_large(&error) => {
                    self.limit /= 2;
                    sleep(FIRST_PAUSE).await;
                }
                reply => return Ok(serde_json::from_str(&reply?)?),
            }
        }
    }

    /// Goes on after so many more entries.
    pub(super) fn take(&mut self, entries: usize) {
        self.offset += entries;
    }
}
