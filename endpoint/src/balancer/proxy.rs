//! Passes requests on to workers, and their answers back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RETRY_AFTER, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::time::{Instant, timeout_at};

use super::exchange::{ExchangeError, WorkerConnection};
use super::limits::{BODY, REQUEST_TIME};
use super::table::Pin;
use super::workers::{Balancer, NoWorker, Place};

/// Names the worker: in a request the one that it asks for, in an answer the one that has answered.
const WORKER_ID: HeaderName = HeaderName::from_static("x-runpod-worker-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// What the proxy of one endpoint needs.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    pub(super) balancer: Arc<Balancer>,
    pub(super) max_wait: Duration,
}

/// Why a request has no answer from a worker. The texts are RunPod's, where it has any.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error("timed out waiting for worker")]
    NoWorker,
    #[error("affinity_worker_gone")]
    WorkerGone,
    #[error("the body has more than {BODY} bytes: pass large data by URL")]
    TooLarge,
    #[error("the worker did not answer within {} s", REQUEST_TIME.as_secs())]
    TooSlow,
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

impl IntoResponse for ProxyError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoWorker => StatusCode::BAD_REQUEST,
            Self::WorkerGone => StatusCode::NOT_FOUND,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::Exchange(_) => StatusCode::BAD_GATEWAY,
        };
        let title = status.canonical_reason().unwrap_or_default();
        let body = Json(json!({ "detail": self.to_string(), "status": status.as_u16(), "title": title }));
        match self {
            Self::NoWorker => (status, [(RETRY_AFTER, "1")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

/// The route for every path.
pub(super) async fn pass_on(State(proxy): State<Proxy>, request: Request) -> Result<Response, Infallible> {
    Ok(forward(&proxy, request).await.unwrap_or_else(IntoResponse::into_response))
}

async fn forward(proxy: &Proxy, mut request: Request) -> Result<Response, ProxyError> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY) {
        return Err(ProxyError::TooLarge);
    }
    let pin = Pin::parse(request.headers().get(WORKER_ID).and_then(|id| id.to_str().ok()).unwrap_or_default());
    let upgrade = is_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let deadline = Instant::now() + proxy.max_wait;
    let (place, connection) = connect(&proxy.balancer, &pin, deadline).await?;
    let (mut parts, body) = request.into_parts();
    parts.uri = parts.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    parts.version = Version::HTTP_11;
    clean(&mut parts.headers, upgrade.is_some());
    parts.headers.remove(AUTHORIZATION);
    if !parts.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(&place.address.to_string())
    {
        parts.headers.insert(HOST, host);
    }
    let ends = Instant::now() + REQUEST_TIME;
    let sent = connection.send(Request::from_parts(parts, limited(body, BODY, ends, ())));
    let mut answer = timeout_at(ends, sent).await.map_err(|_| ProxyError::TooSlow)??;
    let worker = HeaderValue::from_str(&place.worker).ok();
    let mut answer = match upgrade {
        Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let worker = hyper::upgrade::on(&mut answer);
            tokio::spawn(tunnel(client, worker, place));
            clean(answer.headers_mut(), true);
            answer
        }
        _ => {
            clean(answer.headers_mut(), false);
            answer.map(|body| limited(body, BODY, ends, place))
        }
    };
    if let Some(worker) = worker {
        answer.headers_mut().insert(WORKER_ID, worker);
    }
    Ok(answer)
}

/// A worker and a connection to it. One that cannot be reached has not seen the request, so the next one gets it.
async fn connect(
    balancer: &Arc<Balancer>,
    pin: &Pin,
    deadline: Instant,
) -> Result<(Place, WorkerConnection), ProxyError> {
    loop {
        let place = balancer.acquire(pin, deadline).await.map_err(|error| match error {
            NoWorker::TimedOut => ProxyError::NoWorker,
            NoWorker::Gone => ProxyError::WorkerGone,
        })?;
        match WorkerConnection::open(place.address).await {
            Ok(connection) => return Ok((place, connection)),
            Err(ExchangeError::Unreached(error)) => {
                tracing::debug!(worker = %place.worker, %error, "A worker cannot be reached. Its request goes to another one.");
                balancer.unreachable(&place);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let names = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(UPGRADE)
        && names.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
}

/// Removes what concerns one connection only; an upgrade concerns both.
fn clean(headers: &mut HeaderMap, keeps_upgrade: bool) {
    let protocol = headers.get(UPGRADE).cloned().filter(|_| keeps_upgrade);
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The body, cut off when it has more bytes or takes longer. Keeps `guard` to its end.
fn limited<G: Send + 'static>(body: Body, limit: usize, ends: Instant, guard: G) -> Body {
    if body.is_end_stream() {
        // One of unknown length would be announced as one in chunks.
        return Body::empty();
    }
    let parts = body.into_data_stream();
    let state = (parts, 0_usize, guard);
    let parts = futures_util::stream::unfold(Some(state), move |state| async move {
        let (mut parts, mut bytes, guard) = state?;
        let part = match timeout_at(ends, parts.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(part))) => part,
            Ok(Some(Err(error))) => return Some((Err(error.to_string()), None)),
            Err(_) => return Some((Err(ProxyError::TooSlow.to_string()), None)),
        };
        bytes += part.len();
        if bytes > limit {
            return Some((Err(ProxyError::TooLarge.to_string()), None));
        }
        Some((Ok(part), Some((parts, bytes, guard))))
    });
    Body::from_stream(parts)
}

/// Passes bytes in both directions until both have ended. An open socket occupies its place at the worker.
async fn tunnel(client: OnUpgrade, worker: OnUpgrade, place: Place) {
    let (client, worker) = match tokio::try_join!(client, worker) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(worker = %place.worker, %error, "A connection was not upgraded.");
            return;
        }
    };
    if let Err(error) = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(worker)).await {
        tracing::debug!(worker = %place.worker, %error, "An upgraded connection broke.");
    }
}
