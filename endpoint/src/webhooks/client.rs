//! Sends one webhook, wherever its redirects lead, as long as they lead to permitted addresses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use runpod_address_guard::{Guard, GuardedResolver, Lookup, PrivateAddress, system_lookup};
use runpod_alerts::request_error_text;
use tokio::time::timeout;

use super::target::{self, BadTarget};
use crate::store::StoreError;

/// One try, redirects included. The platform's value is not known.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);

/// Until a connection is open. A host that is gone is found out sooner than one that is slow.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Redirects followed in one try.
const MAX_HOPS: usize = 5;

/// Why a webhook was not accepted. The texts name no URL: it may carry secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Target(#[from] BadTarget),
    #[error("the receiver answered {0}; it must answer with a 2xx status")]
    Status(u16),
    #[error("the receiver redirects too often")]
    TooManyHops,
    #[error("the receiver did not answer within 30 s")]
    Timeout,
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
    #[error("the receiver was busy with other webhooks for all of the time")]
    NoPermit,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SendError {
    /// Whether another try would fail in the same way.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Target(_))
    }
}

/// An HTTP client that reaches permitted addresses only.
#[derive(Debug, Clone)]
pub(crate) struct WebhookClient {
    http: Client,
    guard: Guard,
}

impl WebhookClient {
    pub(crate) fn new(guard: Guard) -> Result<Self, reqwest::Error> {
        Self::with_lookup(guard, system_lookup())
    }

    fn with_lookup(guard: Guard, lookup: Lookup) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .dns_resolver(Arc::new(GuardedResolver::new(guard.clone(), lookup)))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            // A proxy would resolve names on its own and reach what the guard refuses.
            .no_proxy()
            .user_agent(concat!("runpod-endpoint/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, guard })
    }

    /// Posts `body` and waits for a 2xx.
    pub(crate) async fn post(&self, url: &str, headers: HeaderMap, body: Bytes) -> Result<(), SendError> {
        timeout(ATTEMPT_LIMIT, self.follow(url, headers, body)).await.unwrap_or(Err(SendError::Timeout))
    }

    async fn follow(&self, url: &str, mut headers: HeaderMap, body: Bytes) -> Result<(), SendError> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut url = target::parse(url)?;
        for _ in 0..=MAX_HOPS {
            // Host names are checked when they are resolved.
            target::check(&url, &self.guard)?;
            let request = self.http.post(url.clone()).headers(headers.clone()).body(body.clone());
            let reply = request.send().await.map_err(unreachable)?;
            match reply.status() {
                status if status.is_success() => return Ok(()),
                // Other redirects would turn the request into a GET without the body.
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    let target = reply.headers().get(LOCATION).and_then(|target| target.to_str().ok());
                    url = target.and_then(|target| url.join(target).ok()).ok_or(BadTarget::Url)?;
                }
                status => return Err(SendError::Status(status.as_u16())),
            }
        }
        Err(SendError::TooManyHops)
    }
}

fn unreachable(error: reqwest::Error) -> SendError {
    if PrivateAddress::caused(&error) {
        return BadTarget::from(PrivateAddress).into();
    }
    SendError::Unreachable(request_error_text(error))
}

#[cfg(test)]
mod tests;
