//! The client API: what RunPod's SDKs call.

use std::time::Duration;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Json, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::error::{ApiError, Problem};
use super::limits;
use super::query::Params;
use super::shared_json::SharedJson;
use super::submission::{RUN, RUNSYNC, submit};
use super::wire::{HealthReply, JobDocument, JobStatus, Purged, Requests, StreamReply, SubmitRequest};
use crate::store::{JobView, Status, StoreError};

const RUNSYNC_WAIT: Duration = Duration::from_secs(90);
/// Half of the official Python client's timeout.
const STREAM_WAIT: Duration = Duration::from_secs(5);

/// The routes and their OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(run))
        .routes(routes!(runsync))
        .routes(routes!(status))
        .routes(routes!(status_sync))
        .routes(routes!(stream))
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(purge_queue))
        .routes(routes!(requests))
        .routes(routes!(health))
}

type JobPath = Path<(String, String)>;

/// Queue a job.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/run",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = "A repeated request with the same key and body gets the same job")),
    request_body = SubmitRequest,
    responses((status = 200, body = JobStatus, description = "The job is queued"), (status = 422, body = Problem, description = "The key was used for another request"), (status = 429, body = Problem, description = "The queue is full")),
)]
async fn run(State(app): State<App>, Path(endpoint): Path<String>, request: Request) -> Result<Response, ApiError> {
    let job = submit(&app, &endpoint, request, &RUN).await?;
    Ok(Json(JobStatus::from(&job)).into_response())
}

/// Queue a job and wait until it ends.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/runsync",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = "A repeated request with the same key and body gets the same job"), ("wait" = Option<u64>, Query, minimum = 1000, maximum = 300_000, description = "Longest wait in milliseconds")),
    request_body = SubmitRequest,
    responses((status = 200, body = JobDocument, description = "The job, or its id and state if the wait ended first"), (status = 422, body = Problem, description = "The key was used for another request"), (status = 429, body = Problem, description = "The queue is full")),
)]
async fn runsync(
    State(app): State<App>,
    Path(endpoint): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let wait = Params::parse(query.as_deref()).wait(RUNSYNC_WAIT)?;
    let job = submit(&app, &endpoint, request, &RUNSYNC).await?;
    let job = wait_finished(&app, &endpoint, &job.id, wait).await?;
    if job.status.is_terminal() { Ok(document(&job)) } else { Ok(Json(JobStatus::from(&job)).into_response()) }
}

/// Read a job.
#[utoipa::path(
    method(get, post),
    path = "/v2/{endpoint}/status/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Job id"), ("ttl" = Option<u64>, Query, description = "Shortens how long a finished job's record is kept, in milliseconds")),
    responses((status = 200, body = JobDocument, description = "The job"), (status = 404, body = Problem, description = "No such job, or its record has expired")),
)]
async fn status(
    State(app): State<App>,
    Path((endpoint, id)): JobPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let ttl = Params::parse(query.as_deref()).ttl()?;
    Ok(document(&app.store.view(&endpoint, &id, ttl).await?))
}

/// Wait until a job ends and read it.
#[utoipa::path(
    method(get, post),
    path = "/v2/{endpoint}/status-sync/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Job id"), ("wait" = Option<u64>, Query, minimum = 1000, maximum = 300_000, description = "Longest wait in milliseconds")),
    responses((status = 200, body = JobDocument, description = "The job"), (status = 404, body = Problem, description = "No such job, or its record has expired")),
)]
async fn status_sync(
    State(app): State<App>,
    Path((endpoint, id)): JobPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wait = Params::parse(query.as_deref()).wait(RUNSYNC_WAIT)?;
    Ok(document(&wait_finished(&app, &endpoint, &id, wait).await?))
}

pub(crate) async fn wait_finished(app: &App, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError> {
    tokio::select! {
        job = app.store.wait_finished(endpoint, id, wait) => job,
        () = app.shutdown.cancelled() => app.store.view(endpoint, id, None).await,
    }
}

/// Read the items that a job has streamed since the last call.
#[utoipa::path(
    method(get, post),
    path = "/v2/{endpoint}/stream/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Job id"), ("wait" = Option<u64>, Query, minimum = 1000, maximum = 300_000, description = "Longest wait in milliseconds")),
    responses((status = 200, body = StreamReply, description = "The items; each is returned once"), (status = 404, body = Problem, description = "No such job, or its record has expired")),
)]
async fn stream(
    State(app): State<App>,
    Path((endpoint, id)): JobPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wait = Params::parse(query.as_deref()).wait(STREAM_WAIT)?;
    let (status, items) = tokio::select! {
        drained = app.store.drain(&endpoint, &id, wait) => drained?,
        () = app.shutdown.cancelled() => app.store.drain(&endpoint, &id, Duration::ZERO).await?,
    };
    // Version 2.0 of the official client drops items that come with the status FAILED. They are shown first, the status in the next reply.
    let status = match status {
        Status::Failed | Status::TimedOut if !items.is_empty() => Status::InProgress,
        status => status,
    };
    let mut json = SharedJson::default();
    // As `StreamReply` is written.
    json.push(&format!(r#"{{"status":"{}","stream":["#, status.name()));
    for (number, item) in items.iter().enumerate() {
        json.push(if number == 0 { r#"{"output":"# } else { r#",{"output":"# });
        json.push_payload(item);
        json.push("}");
    }
    json.push("]}");
    Ok(json.into_response())
}

/// Stop a job.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/cancel/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Job id")),
    responses((status = 200, body = JobStatus, description = "The current state of the job"), (status = 404, body = Problem, description = "No such job, or its record has expired")),
)]
async fn cancel(State(app): State<App>, Path((endpoint, id)): JobPath) -> Result<Response, ApiError> {
    let job = app.store.cancel(&endpoint, &id).await?;
    Ok(Json(JobStatus::from(&job)).into_response())
}

/// Queue a FAILED or TIMED_OUT job again.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/retry/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Job id")),
    responses((status = 200, body = JobStatus, description = "The job is queued"), (status = 400, body = Problem, description = "The job is in another state"), (status = 409, body = Problem, description = "The job is a request of a cancelled batch"), (status = 404, body = Problem, description = "No such job, or its record has expired")),
)]
async fn retry(State(app): State<App>, Path((endpoint, id)): JobPath) -> Result<Response, ApiError> {
    let job = app.store.retry(&endpoint, &id).await?;
    Ok(Json(JobStatus::from(&job)).into_response())
}

/// Cancel every job that no worker has taken.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/purge-queue",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    responses((status = 200, body = Purged, description = "The number of cancelled jobs")),
)]
async fn purge_queue(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    Ok(Json(Purged { removed: app.store.purge(&endpoint).await?, status: "completed" }).into_response())
}

/// List unfinished jobs.
#[utoipa::path(
    get,
    path = "/v2/{endpoint}/requests",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    responses((status = 200, body = Requests, description = "The jobs; queued jobs come first")),
)]
async fn requests(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    let jobs = app.store.pending(&endpoint, limits::LISTED_JOBS).await?;
    let mut json = SharedJson::default();
    // As `Requests` is written.
    json.push(r#"{"requests":["#);
    for (number, job) in jobs.iter().enumerate() {
        json.push(if number == 0 { "" } else { "," });
        push_document(&mut json, job);
    }
    json.push("]}");
    Ok(json.into_response())
}

/// Count jobs and workers.
#[utoipa::path(
    get,
    path = "/v2/{endpoint}/health",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    responses((status = 200, body = HealthReply, description = "The counters"), (status = 503, body = Problem, description = "The counters are not known at the moment")),
)]
async fn health(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    Ok(Json(HealthReply::from(app.store.health(&endpoint).await?)).into_response())
}

fn document(job: &JobView) -> Response {
    let mut json = SharedJson::default();
    push_document(&mut json, job);
    json.into_response()
}

fn push_document(json: &mut SharedJson, job: &JobView) {
    let [before, after] = JobDocument::from(job).around_output();
    json.push(&before);
    if let Some(output) = &job.ending.output {
        json.push(r#","output":"#);
        json.push_payload(output);
    }
    json.push(&after);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::http::header::RETRY_AFTER;
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::*;
    use crate::api::{AppState, Keys, Options, router};
    use crate::store::Away;

    #[tokio::test]
    async fn counters_that_are_not_known_are_refused_and_never_zero() {
        let app = App::from(AppState {
            store: Arc::new(Away),
            hold: Duration::ZERO,
            max_result_bytes: 1 << 20,
            request_memory: runpod_http_server::Budget::new(1 << 20),
            drain: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            options: Arc::new(Options::default()),
        });
        let api = router(app, Keys::default());
        for path in ["health", "metrics", "requests", "status/job", "job-take/w"] {
            let request = axum::http::Request::get(format!("/v2/ep/{path}")).body(Body::empty()).unwrap();
            let reply = api.clone().oneshot(request).await.unwrap();
            assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert_eq!(reply.headers()[RETRY_AFTER], "1", "{path}");
        }
    }
}
