//! Fetches one URL.

use std::error::Error;
use std::time::{Duration, Instant};

use reqwest::Url;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::client::GuardedClient;
use crate::input::Input;

/// What became of one URL.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Fetched {
    /// The URL as it was in the input.
    pub url: String,
    /// Status code of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Length of the body in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// SHA-256 of the body, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The body, if it was asked for and is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Why there is no answer, or not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Fetches a URL. Whatever goes wrong is an error of this URL alone.
pub(crate) async fn fetch(client: &GuardedClient, url: &str, input: &Input) -> Fetched {
    let begun = Instant::now();
    let mut fetched =
        Fetched { url: url.to_owned(), status: None, length: None, sha256: None, json: None, error: None, millis: 0 };
    let limit = Duration::from_millis(input.timeout_ms);
    let answer = tokio::time::timeout(limit, answer(client, input, &mut fetched)).await;
    fetched.error = match answer {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(with_causes(&*error)),
        Err(_) => Some(format!("no complete answer within {limit:?}")),
    };
    fetched.millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    fetched
}

async fn answer(
    client: &GuardedClient,
    input: &Input,
    fetched: &mut Fetched,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let url: Url = fetched.url.parse()?;
    let mut response = client.get(url).await?;
    fetched.status = Some(response.status().as_u16());
    let (mut length, mut hash, mut body) = (0, Sha256::new(), Vec::new());
    while let Some(bytes) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        length += bytes.len();
        if length > input.max_bytes {
            return Err(format!("the body is longer than {} bytes", input.max_bytes).into());
        }
        hash.update(&bytes);
        if input.json {
            body.extend_from_slice(&bytes);
        }
    }
    fetched.length = Some(length);
    fetched.sha256 = Some(format!("{:x}", hash.finalize()));
    fetched.json = serde_json::from_slice(&body).ok();
    Ok(())
}

/// An error with its causes, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
