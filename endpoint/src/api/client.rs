//! The client API: what RunPod's SDKs call.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use uuid::Uuid;

use super::App;
use super::body::{self, BodyError};
use super::error::ApiError;
use super::json;
use super::query::Params;
use super::wire::{HealthReply, JobDocument, JobStatus, Purged, Requests, StreamItem, StreamReply, SubmitRequest};
use crate::store::{JobView, NewJob, StoreError};

/// Largest `wait` of `/runsync` and `/stream`.
const MAX_WAIT_MS: u64 = 300_000;
const RUNSYNC_WAIT: Duration = Duration::from_secs(90);
/// Half of the time after which the official Python client gives up.
const STREAM_WAIT: Duration = Duration::from_secs(5);
/// Longest list of `/requests`.
const MAX_REQUESTS: usize = 1000;

const MIB: usize = 1 << 20;

/// The two ways to submit.
struct Submission {
    max_body: usize,
    id_prefix: &'static str,
    retention: Duration,
}

const RUN: Submission = Submission { max_body: 10 * MIB, id_prefix: "", retention: Duration::from_secs(30 * 60) };
const RUNSYNC: Submission =
    Submission { max_body: 20 * MIB, id_prefix: "sync-", retention: Duration::from_secs(5 * 60) };

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v2/{endpoint}/run", post(run))
        .route("/v2/{endpoint}/runsync", post(runsync))
        .route("/v2/{endpoint}/status/{id}", get(status).post(status))
        .route("/v2/{endpoint}/status-sync/{id}", get(status_sync).post(status_sync))
        .route("/v2/{endpoint}/stream/{id}", get(stream).post(stream))
        .route("/v2/{endpoint}/cancel/{id}", post(cancel))
        .route("/v2/{endpoint}/retry/{id}", post(retry))
        .route("/v2/{endpoint}/purge-queue", post(purge_queue))
        .route("/v2/{endpoint}/requests", get(requests))
        .route("/v2/{endpoint}/health", get(health))
}

type JobPath = Path<(String, String)>;

async fn run(State(app): State<App>, Path(endpoint): Path<String>, body: Body) -> Result<Response, ApiError> {
    let job = submit(&app, &endpoint, body, &RUN).await?;
    Ok(Json(JobStatus::from(&job)).into_response())
}

async fn runsync(
    State(app): State<App>,
    Path(endpoint): Path<String>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let wait = Params::parse(query.as_deref()).wait(RUNSYNC_WAIT, MAX_WAIT_MS);
    let job = submit(&app, &endpoint, body, &RUNSYNC).await?;
    let job = wait_finished(&app, &endpoint, &job.id, wait).await?;
    if job.status.is_terminal() { Ok(document(&job)) } else { Ok(Json(JobStatus::from(&job)).into_response()) }
}

async fn submit(app: &App, endpoint: &str, body: Body, kind: &Submission) -> Result<JobView, ApiError> {
    let body = body::read(body, kind.max_body).await.map_err(|error| match error {
        BodyError::TooLarge => ApiError::BodyTooLarge { limit: kind.max_body },
        BodyError::Unreadable => ApiError::BodyUnreadable,
    })?;
    let request: SubmitRequest = json::object(&body).map_err(|error| {
        ApiError::BadRequest(format!("the body must be a JSON object like {{\"input\": {{...}}}}: {error}"))
    })?;
    let Some(input) = request.input else {
        return Err(ApiError::BadRequest("`input` is missing: send {\"input\": {...}}".to_owned()));
    };
    if request.webhook.is_some() {
        tracing::warn!("this endpoint does not deliver webhooks yet; read the result with /status");
    }
    let job = NewJob {
        id: Arc::from(format!("{}{}-u1", kind.id_prefix, Uuid::new_v4())),
        input: Arc::from(input),
        s3_config: request.s3_config.map(Arc::from),
        webhook: request.webhook,
        policy: request.policy.map(|policy| policy.validate()).transpose()?.unwrap_or_default(),
        retention: kind.retention,
    };
    Ok(app.store.submit(endpoint, job).await?)
}

async fn status(
    State(app): State<App>,
    Path((endpoint, id)): JobPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let ttl = Params::parse(query.as_deref()).number("ttl").map(Duration::from_millis);
    Ok(document(&app.store.view(&endpoint, &id, ttl).await?))
}

async fn status_sync(
    State(app): State<App>,
    Path((endpoint, id)): JobPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wait = Params::parse(query.as_deref()).wait(RUNSYNC_WAIT, MAX_WAIT_MS);
    Ok(document(&wait_finished(&app, &endpoint, &id, wait).await?))
}

async fn wait_finished(app: &App, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError> {
    tokio::select! {
        job = app.store.wait_finished(endpoint, id, wait) => job,
        () = app.shutdown.cancelled() => app.store.view(endpoint, id, None).await,
    }
}

async fn stream(
    State(app): State<App>,
    Path((endpoint, id)): JobPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wait = Params::parse(query.as_deref()).wait(STREAM_WAIT, MAX_WAIT_MS);
    let (status, items) = tokio::select! {
        drained = app.store.drain(&endpoint, &id, wait) => drained?,
        () = app.shutdown.cancelled() => app.store.drain(&endpoint, &id, Duration::ZERO).await?,
    };
    let stream = items.iter().map(|item| StreamItem { output: item }).collect();
    Ok(Json(StreamReply { status, stream }).into_response())
}

async fn cancel(State(app): State<App>, Path((endpoint, id)): JobPath) -> Result<Response, ApiError> {
    let job = app.store.cancel(&endpoint, &id).await?;
    Ok(Json(JobStatus::from(&job)).into_response())
}

async fn retry(State(app): State<App>, Path((endpoint, id)): JobPath) -> Result<Response, ApiError> {
    let job = app.store.retry(&endpoint, &id).await?;
    Ok(Json(JobStatus::from(&job)).into_response())
}

async fn purge_queue(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    Ok(Json(Purged { removed: app.store.purge(&endpoint).await?, status: "completed" }).into_response())
}

async fn requests(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    let jobs = app.store.pending(&endpoint, MAX_REQUESTS).await?;
    Ok(Json(Requests { requests: jobs.iter().map(JobDocument::from).collect() }).into_response())
}

async fn health(State(app): State<App>, Path(endpoint): Path<String>) -> Response {
    Json(HealthReply::from(app.store.health(&endpoint).await)).into_response()
}

fn document(job: &JobView) -> Response {
    Json(JobDocument::from(job)).into_response()
}
