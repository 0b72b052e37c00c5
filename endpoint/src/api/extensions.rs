//! What our worker and our endpoint say to each other beyond RunPod's worker API.
//!
//! The endpoint announces the extensions in a header of every answer; a worker uses those that were announced to it. RunPod's
//! servers announce none, and official workers ignore the header.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::json;

use super::app::App;
use super::body;
use super::error::ApiError;
use super::json;
use super::limits;
use super::query::Params;
use crate::store::{JobId, Model, ping_interval, storable};

/// The header of the announcement.
const EXTENSIONS: HeaderName = HeaderName::from_static("x-runpod-endpoint-extensions");

const ANNOUNCED: HeaderValue = HeaderValue::from_static("hand-back, goodbye, instance, model");

/// The header in which a worker names its process.
const INSTANCE: &str = "x-runpod-worker-instance";

/// The header of answers to heartbeats with the longest interval between two of them, in milliseconds.
const PING_INTERVAL: HeaderName = HeaderName::from_static("x-runpod-endpoint-ping-interval");

/// Longest name and version of a model, in characters: longer ones are cut, as the worker does in its metrics.
const MAX_MODEL: usize = 64;

/// Longest name of a process.
const MAX_INSTANCE: usize = 64;

/// Announces the extensions.
pub(crate) fn announce(mut response: Response) -> Response {
    response.headers_mut().insert(EXTENSIONS, ANNOUNCED);
    response
}

/// Whether these are the headers of an answer of the worker API.
pub(crate) fn is_for_a_worker(answer: &HeaderMap) -> bool {
    answer.contains_key(EXTENSIONS)
}

/// Tells a worker how often its jobs must be named under this lease.
pub(crate) fn with_ping_interval(mut response: Response, lease: Duration) -> Response {
    let interval = u64::try_from(ping_interval(lease).as_millis()).unwrap_or(u64::MAX);
    response.headers_mut().insert(PING_INTERVAL, HeaderValue::from(interval));
    response
}

/// A request to one of the routes that a worker's process uses for itself.
pub(crate) struct WorkerCall {
    pub(crate) endpoint: String,
    pub(crate) worker: String,
    /// What the process calls itself.
    pub(crate) instance: Option<String>,
    pub(crate) params: Params,
}

impl FromRequestParts<App> for WorkerCall {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, app).await;
        let Path((endpoint, segment)) = path.map_err(|_| ApiError::InvalidId)?;
        let mut params = Params::parse(parts.uri.query());
        let worker = params.worker(&segment).to_owned();
        let instance = parts.headers.get(INSTANCE).map(instance).transpose()?.map(str::to_owned);
        Ok(Self { endpoint, worker, instance, params })
    }
}

/// Such a request, once its process is admitted: a second one with the id of the worker is refused.
pub(crate) struct Admitted(pub(crate) WorkerCall);

impl FromRequestParts<App> for Admitted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let call = WorkerCall::from_request_parts(parts, app).await?;
        app.store.admit(&call.endpoint, &call.worker, call.instance.as_deref()).await?;
        Ok(Self(call))
    }
}

fn instance(value: &HeaderValue) -> Result<&str, ApiError> {
    let fits = |text: &&str| {
        let letters = text.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-_".contains(&letter));
        letters && (1..=MAX_INSTANCE).contains(&text.len())
    };
    value
        .to_str()
        .ok()
        .filter(fits)
        .ok_or_else(|| ApiError::BadRequest(format!("{INSTANCE} must be 1 to {MAX_INSTANCE} letters, digits, - and _")))
}

/// What a heartbeat says of the handler, by the parameters `model` and `model_version`.
pub(crate) fn model(params: &Params) -> Option<Model> {
    let text = |name| {
        let text: String = params.get(name)?.chars().filter(|letter| !letter.is_control()).take(MAX_MODEL).collect();
        (!text.is_empty()).then_some(text)
    };
    Some(Model { name: text("model")?, version: text("model_version")? })
}

#[derive(Debug, Deserialize)]
struct HandBack {
    jobs: Vec<JobId>,
}

/// Takes jobs back that a worker does not finish. May be repeated: a job that the worker does not hold is left alone.
pub(crate) async fn hand_back(
    State(app): State<App>,
    Admitted(WorkerCall { endpoint, worker, .. }): Admitted,
    body: Body,
) -> Result<Response, ApiError> {
    let body = body::read(body, limits::HAND_BACK_BODY, &app.request_memory).await;
    let body = body.map_err(|error| error.of_client(limits::HAND_BACK_BODY))?;
    let HandBack { jobs } = json::object(&body)
        .map_err(|error| ApiError::BadRequest(format!("the body must be like {{\"jobs\": [\"<id>\"]}}: {error}")))?;
    if jobs.len() > limits::BATCH {
        return Err(ApiError::BadRequest(format!("name at most {} jobs in one request", limits::BATCH)));
    }
    let jobs: Vec<_> = jobs.iter().map(|id| storable(id)).collect();
    let handed_back = app.store.hand_back(&endpoint, &worker, &jobs).await?;
    if handed_back > 0 {
        tracing::info!(worker, jobs = handed_back, "A worker has handed jobs back. They are queued again.");
    }
    Ok(Json(json!({"handedBack": handed_back})).into_response())
}

/// Notes that a worker leaves.
pub(crate) async fn goodbye(
    State(app): State<App>,
    Admitted(WorkerCall { endpoint, worker, .. }): Admitted,
) -> Result<Response, ApiError> {
    app.store.goodbye(&endpoint, &worker).await?;
    tracing::info!(worker, "The worker has left.");
    Ok(Json(json!({})).into_response())
}
