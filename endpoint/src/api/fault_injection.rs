//! Injects scripted faults into the worker API.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use runpod_http_server::Connection;
use serde_json::json;
use tokio::time::sleep;

use super::app::App;
use super::body;
use super::delivery::HandedOut;
use super::query::Params;
use crate::faults::{Fault, FaultKind, FaultRoute, Faults, Target};

/// How long a request stays unanswered unless the script sets a time. Longer than workers wait.
const HANG: Duration = Duration::from_secs(120);

/// Pause between the parts of a slow body.
const SLOW_INTERVAL: Duration = Duration::from_millis(100);

/// A parsed request to the worker API.
struct Call {
    route: FaultRoute,
    endpoint: String,
    worker: String,
    jobs: Vec<String>,
}

impl Call {
    fn parse(request: &Request) -> Option<Self> {
        let mut segments = request.uri().path().strip_prefix("/v2/")?.split('/');
        let (endpoint, operation, worker) = (segments.next()?, segments.next()?, segments.next()?);
        let mut params = Params::parse(request.uri().query());
        let route = match operation {
            "job-take" | "job-take-batch" => FaultRoute::JobTake,
            "job-stop" => FaultRoute::JobStop,
            "job-done" => FaultRoute::JobDone,
            "job-stream" => FaultRoute::JobStream,
            "ping" => FaultRoute::Ping,
            _ => return None,
        };
        let worker = params.split_segment(worker);
        let job = segments.next().map(|job| params.split_segment(job).to_owned());
        let pinged = params.get("job_id").unwrap_or_default().split(',').filter(|id| !id.is_empty());
        let jobs = pinged.map(str::to_owned).chain(job).collect();
        Some(Self { route, endpoint: endpoint.to_owned(), worker: worker.to_owned(), jobs })
    }

    fn target(&self) -> Target<'_> {
        Target { route: self.route, endpoint: &self.endpoint, worker: &self.worker }
    }
}

/// Applies the fault that fits the request, or passes the request on.
pub(crate) async fn inject(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(faults) = app.options.faults.as_deref() else { return next.run(request).await };
    let Some(call) = Call::parse(&request) else { return next.run(request).await };
    let connection = request.extensions().get::<ConnectInfo<Connection>>().map(|info| info.0.clone());
    let jobs: Vec<_> = call.jobs.iter().map(String::as_str).collect();
    if let Some(fault) = faults.strike(call.target(), &jobs) {
        note(&call, &fault);
        return strike(&app, faults, &call, &fault, connection, Passage::Open { request, next }).await;
    }
    if call.route == FaultRoute::JobStop {
        return tokio::select! {
            response = next.run(request) => response,
            job = faults.stops.next(&call.worker) => Json(json!({"jobsToStop": [&*job]})).into_response(),
        };
    }
    let response = next.run(request).await;
    let Some(handed) = response.extensions().get::<HandedOut>().cloned() else { return response };
    let ids: Vec<_> = handed.jobs.iter().map(|job| &**job).collect();
    if let Some(fault) = faults.strike_jobs(call.target(), &ids) {
        note(&call, &fault);
        return strike(&app, faults, &call, &fault, connection, Passage::Passed(response)).await;
    }
    faults.taken(call.target(), &handed.jobs, &handed.json);
    response
}

fn note(call: &Call, fault: &Fault) {
    tracing::info!(worker = call.worker, route = ?fault.on, kind = ?fault.kind, "A scripted fault strikes.");
}

/// A request before its route runs, or the response after it.
enum Passage {
    Open { request: Request, next: Next },
    Passed(Response),
}

impl Passage {
    async fn pass(self) -> Response {
        match self {
            Self::Open { request, next } => next.run(request).await,
            Self::Passed(response) => response,
        }
    }

    /// Drops the proper answer. If the fault is not `processed`, the request never reaches its route, and jobs in the answer are
    /// requeued.
    async fn discard(self, app: &App, processed: bool) {
        match self {
            Self::Open { request, .. } if !processed => {
                let _ = body::read(request.into_body(), app.max_result_bytes, &app.request_memory).await;
            }
            Self::Passed(_) if !processed => {}
            passage => {
                let mut body = passage.pass().await.into_body().into_data_stream();
                while body.next().await.is_some() {}
            }
        }
    }
}

async fn strike(
    app: &App,
    faults: &Faults,
    call: &Call,
    fault: &Arc<Fault>,
    connection: Option<Connection>,
    passage: Passage,
) -> Response {
    let pause = |time: Duration| async move {
        tokio::select! {
            () = sleep(time) => {}
            () = app.shutdown.cancelled() => {}
        }
    };
    match fault.kind {
        FaultKind::Delay if fault.processed => {
            let response = passage.pass().await;
            pause(fault.after.unwrap_or_default()).await;
            response
        }
        FaultKind::Delay => {
            pause(fault.after.unwrap_or_default()).await;
            passage.pass().await
        }
        FaultKind::SlowBody => slow(passage.pass().await, fault.bytes_per_second.unwrap_or(1)),
        FaultKind::Duplicate => match faults.last_job(&call.endpoint) {
            Some(json) => {
                passage.discard(app, false).await;
                ([(CONTENT_TYPE, "application/json")], json).into_response()
            }
            None => passage.pass().await,
        },
        FaultKind::Hang => {
            passage.discard(app, fault.processed).await;
            pause(fault.after.unwrap_or(HANG)).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        kind => {
            passage.discard(app, fault.processed).await;
            match kind {
                FaultKind::Empty => StatusCode::NO_CONTENT.into_response(),
                FaultKind::Reset => reset(connection),
                FaultKind::Garbage => ([(CONTENT_TYPE, "application/json")], "{\"id\": \"").into_response(),
                _ => status(fault),
            }
        }
    }
}

fn status(fault: &Fault) -> Response {
    let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(json!({"error": "scripted fault", "status": status.as_u16()}))).into_response();
    if let Some(after) = fault.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    response
}

fn reset(connection: Option<Connection>) -> Response {
    if let Some(connection) = connection {
        connection.reset();
    }
    StatusCode::BAD_GATEWAY.into_response()
}

/// The same answer, sent slowly. Its jobs count as delivered once the last part is requested.
fn slow(response: Response, bytes_per_second: u32) -> Response {
    let (parts, body) = response.into_parts();
    let size = usize::try_from(bytes_per_second).unwrap_or(1).div_ceil(10);
    let pieces = body.into_data_stream().flat_map(move |frame| {
        let mut rest = frame.unwrap_or_default();
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            pieces.push(rest.split_to(size.min(rest.len())));
        }
        stream::iter(pieces)
    });
    let paced = pieces.then(|piece: Bytes| async move {
        sleep(SLOW_INTERVAL).await;
        Ok::<_, Infallible>(piece)
    });
    let mut response = Response::from_parts(parts, Body::from_stream(paced));
    // Without a length the parts are sent as they come.
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}
