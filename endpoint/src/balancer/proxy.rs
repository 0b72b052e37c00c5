//! Passes requests on to workers, and their answers back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout_at};

use super::admission::Admission;
use super::body::{self, Fate, is_too_large};
use super::exchange::{ExchangeError, SendError, WorkerConnection};
use super::headers::{WORKER_ID, clean, for_worker, is_upgrade};
use super::limits::REQUEST_TIME;
use super::refusal::Refusal;
use super::table::Pin;
use super::tunnel::tunnel;
use super::workers::{Balancer, NoWorker, Place};

/// What the proxy of one endpoint needs.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) balancer: Arc<Balancer>,
    pub(super) admission: Admission,
    pub(super) max_wait: Duration,
}

/// The route for every path.
pub(super) async fn pass_on(State(proxy): State<Proxy>, request: Request) -> Result<Response, Infallible> {
    Ok(forward(&proxy, request).await.unwrap_or_else(IntoResponse::into_response))
}

async fn forward(proxy: &Proxy, mut request: Request) -> Result<Response, Refusal> {
    proxy.admission.check().await?;
    if is_too_large(request.body()) {
        return Err(Refusal::TooLarge);
    }
    let client = is_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (head, body) = Head::of(request, client.is_some());
    let ends = Instant::now() + proxy.max_wait + REQUEST_TIME;
    let fate = Fate::default();
    let body = body::of_request(body, ends, &fate);
    let exchanged = exchange(proxy, &head, body).await;
    // The connection to the worker breaks when the body that is sent on it does.
    let blame = |refusal| match (refusal, fate.cut_off()) {
        (Refusal::Broken(_) | Refusal::TooSlow, Some(reason)) => reason.into(),
        (refusal, _) => refusal,
    };
    let (place, ends, mut answer) = exchanged.map_err(blame)?;
    // That of the worker concerns its own connection.
    *answer.version_mut() = Version::HTTP_11;
    if is_too_large(answer.body()) {
        return Err(Refusal::AnswerTooLarge);
    }
    let worker = HeaderValue::from_str(&place.worker).ok();
    let mut answer = match client {
        Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let worker = hyper::upgrade::on(&mut answer);
            tokio::spawn(tunnel(client, worker, place));
            clean(answer.headers_mut(), true);
            answer
        }
        _ => {
            clean(answer.headers_mut(), false);
            answer.map(|body| body::of_answer(body, ends, place))
        }
    };
    if let Some(worker) = worker {
        answer.headers_mut().insert(WORKER_ID, worker);
    }
    Ok(answer)
}

/// A request without its body.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    pin: Pin,
    is_upgrade: bool,
}

impl Head {
    fn of(request: Request, is_upgrade: bool) -> (Self, Body) {
        let (parts, body) = request.into_parts();
        let pin = parts.headers.get(WORKER_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let head = Self {
            pin: Pin::parse(pin),
            uri: parts.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from),
            method: parts.method,
            headers: parts.headers,
            is_upgrade,
        };
        (head, body)
    }

    fn request(&self, place: &Place, body: Body) -> Request {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = for_worker(&self.headers, place.address, self.is_upgrade);
        request
    }
}

/// The answer of a worker, with its place and the time at which it must be complete.
///
/// A request of which nothing was sent has reached no worker, and goes to another one. Any other one may have been begun, whatever its
/// method is: it is sent to nobody else.
async fn exchange(proxy: &Proxy, head: &Head, body: Body) -> Result<(Place, Instant, Response), Refusal> {
    let started = Instant::now();
    let deadline = started + proxy.max_wait;
    let (mut body, mut has_waited) = (body, false);
    loop {
        let found = tokio::select! {
            biased;
            found = connect(&proxy.balancer, &head.pin, deadline) => found,
            refusal = proxy.admission.closed() => Err(refusal),
        };
        if !std::mem::replace(&mut has_waited, true) {
            proxy.balancer.note_wait(started.elapsed());
        }
        let (place, connection) = found?;
        let ends = Instant::now() + REQUEST_TIME;
        let request = head.request(&place, body);
        match timeout_at(ends, connection.send(request)).await.map_err(|_| Refusal::TooSlow)? {
            Ok(answer) => return Ok((place, ends, answer)),
            Err(SendError::Unsent(unsent)) => {
                tracing::debug!(worker = %place.worker, "A connection to a worker broke before the request was sent, which goes to another one.");
                proxy.balancer.unreachable(&place);
                body = unsent;
            }
            Err(SendError::Broken(error)) => return Err(ExchangeError::Broken(error).into()),
        }
    }
}

/// A worker and a connection to it. One that cannot be reached has not seen the request, so the next one gets it.
async fn connect(balancer: &Arc<Balancer>, pin: &Pin, deadline: Instant) -> Result<(Place, WorkerConnection), Refusal> {
    loop {
        let place = balancer.acquire(pin, deadline).await.map_err(|error| match error {
            NoWorker::TimedOut => Refusal::NoWorker,
            NoWorker::Gone => Refusal::WorkerGone,
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
