//! Sends one webhook, wherever its redirects lead, as long as they lead to permitted addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use tokio::time::timeout;

use super::guard::{Guard, GuardedResolver, Lookup, NotPublic, system_lookup};
use crate::store::StoreError;

/// One attempt, redirects included. The platform's value is not known.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);

/// Redirects followed in one attempt.
const MAX_HOPS: usize = 5;

/// Why a webhook was not accepted. The texts name no URL: it may carry secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("the webhook is not a URL; give http:// or https:// and a host")]
    Url,
    #[error("webhooks go to http:// and https:// only")]
    Scheme,
    #[error(transparent)]
    NotPublic(#[from] NotPublic),
    #[error("the receiver answered {0}; it must answer with a 2xx status")]
    Status(u16),
    #[error("the receiver redirects too often")]
    TooManyHops,
    #[error("the receiver did not answer within 30 s")]
    Timeout,
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SendError {
    /// Whether another attempt would fail in the same way.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Url | Self::Scheme)
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
            .dns_resolver(Arc::new(GuardedResolver { guard: guard.clone(), lookup }))
            .redirect(Policy::none())
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
        let mut url = Url::parse(url).map_err(|_| SendError::Url)?;
        for _ in 0..=MAX_HOPS {
            self.check(&url)?;
            let request = self.http.post(url.clone()).headers(headers.clone()).body(body.clone());
            let reply = request.send().await.map_err(unreachable)?;
            match reply.status() {
                status if status.is_success() => return Ok(()),
                // Other redirects would turn the request into a GET without the body.
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    let target = reply.headers().get(LOCATION).and_then(|target| target.to_str().ok());
                    url = target.and_then(|target| url.join(target).ok()).ok_or(SendError::Url)?;
                }
                status => return Err(SendError::Status(status.as_u16())),
            }
        }
        Err(SendError::TooManyHops)
    }

    /// Host names are checked when they are resolved; addresses in the URL itself are never resolved.
    fn check(&self, url: &Url) -> Result<(), SendError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SendError::Scheme);
        }
        let host = url.host_str().ok_or(SendError::Url)?;
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) if !self.guard.permits(ip) => Err(NotPublic.into()),
            _ => Ok(()),
        }
    }
}

fn unreachable(error: reqwest::Error) -> SendError {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        if source.is::<NotPublic>() {
            return NotPublic.into();
        }
        cause = source;
    }
    SendError::Unreachable(cause.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::post;
    use parking_lot::Mutex;

    use super::*;

    /// A receiver on this machine; every request is noted.
    async fn receiver() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let hook = move |body: String| async move { log.lock().push(body) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inward = Redirect::temporary("http://169.254.169.254/latest/meta-data/");
        let relative = Redirect::temporary("/hook");
        let router = Router::new()
            .route("/hook", post(hook))
            .route("/moved", post(|| async move { relative }))
            .route("/inward", post(|| async move { inward }))
            .route("/file", post(|| async { Redirect::temporary("file:///etc/passwd") }))
            .route("/loop", post(|| async { Redirect::temporary("/loop") }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, seen)
    }

    async fn post_to(client: &WebhookClient, url: &str) -> Result<(), SendError> {
        client.post(url, HeaderMap::new(), Bytes::from_static(b"{}")).await
    }

    fn loopback_allowed() -> Guard {
        Guard::new(&["127.0.0.0/8".parse().unwrap()])
    }

    #[tokio::test]
    async fn addresses_and_names_of_this_machine_are_refused() {
        let (address, seen) = receiver().await;
        let client = WebhookClient::new(Guard::default()).unwrap();
        let port = address.port();
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"] {
            let error = post_to(&client, &format!("http://{host}:{port}/hook")).await.unwrap_err();
            assert!(matches!(error, SendError::NotPublic(_)), "{host}: {error}");
        }
        assert!(seen.lock().is_empty());
    }

    #[tokio::test]
    async fn an_allowed_network_is_reached_through_redirects() {
        let (address, seen) = receiver().await;
        let client = WebhookClient::new(loopback_allowed()).unwrap();
        post_to(&client, &format!("http://{address}/moved")).await.unwrap();
        assert_eq!(*seen.lock(), ["{}"]);
        assert!(matches!(post_to(&client, &format!("http://{address}/loop")).await, Err(SendError::TooManyHops)));
    }

    #[tokio::test]
    async fn every_hop_of_a_redirect_is_checked() {
        let (address, _) = receiver().await;
        let client = WebhookClient::new(loopback_allowed()).unwrap();
        assert!(matches!(post_to(&client, &format!("http://{address}/inward")).await, Err(SendError::NotPublic(_))));
        assert!(matches!(post_to(&client, &format!("http://{address}/file")).await, Err(SendError::Scheme)));
        assert!(matches!(post_to(&client, "ftp://example.org/").await, Err(SendError::Scheme)));
        assert!(matches!(post_to(&client, "no url").await, Err(SendError::Url)));
    }

    #[tokio::test]
    async fn a_name_that_changes_its_answer_gains_nothing() {
        let (address, seen) = receiver().await;
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        // Public at first, this machine afterwards: a check that is separate from the connection would be fooled.
        let lookup: Lookup = Arc::new(move |_| {
            let mut asked = count.lock();
            *asked += 1;
            let ip: IpAddr = if *asked == 1 { [203, 0, 113, 1].into() } else { [127, 0, 0, 1].into() };
            Box::pin(async move { Ok(vec![SocketAddr::new(ip, 0)]) })
        });
        // The first answer is allowed here so that only the pinning is tested; nothing listens on it.
        let guard = Guard::new(&["203.0.113.0/24".parse().unwrap()]);
        let client = WebhookClient::with_lookup(guard, lookup).unwrap();
        let url = format!("http://rebind.example:{}/hook", address.port());
        let first = timeout(Duration::from_secs(2), post_to(&client, &url)).await;
        assert!(!matches!(first, Ok(Ok(()))), "{first:?}");
        assert_eq!(*asked.lock(), 1, "the connection used the answer that was checked");
        assert!(matches!(post_to(&client, &url).await, Err(SendError::NotPublic(_))));
        assert!(seen.lock().is_empty());
    }
}
