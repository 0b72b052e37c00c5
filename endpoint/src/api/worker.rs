//! The worker API: what RunPod's worker runtimes call.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::time::sleep;

use super::app::App;
use super::body::{self, BodyError};
use super::delivery::{self, Receipt};
use super::error::ApiError;
use super::extensions::{self, WorkerCall};
use super::large_result;
use super::limits;
use super::query::Params;
use super::report::{self, Report};
use super::wire::{JobMessage, StopReply};
use crate::store::{Heartbeat, Outcome, TakenJob};

/// Characters of a worker's own text in a log line.
const LOGGED_TEXT: usize = 200;

/// How long polls are held during a drain.
const DRAIN_HOLD: Duration = Duration::from_secs(1);

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v2/{endpoint}/job-take/{worker}", get(take).post(take))
        .route("/v2/{endpoint}/job-take-batch/{worker}", get(take_batch).post(take_batch))
        .route("/v2/{endpoint}/job-stop/{worker}", get(stop).post(stop))
        .route("/v2/{endpoint}/ping/{worker}", get(ping).post(ping))
        .route(HAND_BACK, post(extensions::hand_back))
        .route(GOODBYE, post(extensions::goodbye))
        // A result is taken from whichever process delivers it.
        .route(JOB_DONE, post(done))
        .route(JOB_STREAM, post(stream_item))
}

const HAND_BACK: &str = "/v2/{endpoint}/hand-back/{worker}";
const GOODBYE: &str = "/v2/{endpoint}/goodbye/{worker}";
const JOB_DONE: &str = "/v2/{endpoint}/job-done/{worker}/{job}";
const JOB_STREAM: &str = "/v2/{endpoint}/job-stream/{worker}/{job}";

/// The routes without GET.
pub(crate) const POST_ONLY: [&str; 4] = [HAND_BACK, GOODBYE, JOB_DONE, JOB_STREAM];

type ReportPath = Path<(String, String, String)>;

async fn take(State(app): State<App>, call: WorkerCall) -> Result<Response, ApiError> {
    let jobs = take_jobs(&app, &call, 1).await?;
    let Some(job) = jobs.first() else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let receipt = Receipt::new(Arc::clone(&app.store), &call.endpoint, &call.worker, &jobs);
    Ok(delivery::respond(encode(&JobMessage::from(job))?, receipt))
}

async fn take_batch(State(app): State<App>, call: WorkerCall) -> Result<Response, ApiError> {
    let wanted = call.params.number("batch_size").unwrap_or(1);
    let max = usize::try_from(wanted).unwrap_or(limits::BATCH).clamp(1, limits::BATCH);
    let jobs = take_jobs(&app, &call, max).await?;
    if jobs.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let receipt = Receipt::new(Arc::clone(&app.store), &call.endpoint, &call.worker, &jobs);
    let messages: Vec<_> = jobs.iter().map(JobMessage::from).collect();
    Ok(delivery::respond(encode(&messages)?, receipt))
}

async fn take_jobs(
    app: &App,
    WorkerCall { endpoint, worker, instance, .. }: &WorkerCall,
    max: usize,
) -> Result<Vec<TakenJob>, ApiError> {
    if app.drain.is_cancelled() {
        // Workers repeat an empty poll at once: without a hold, a draining worker would poll in a tight loop.
        tokio::select! {
            () = sleep(DRAIN_HOLD) => {}
            () = app.shutdown.cancelled() => {}
        }
        return Ok(Vec::new());
    }
    tokio::select! {
        jobs = app.store.take_as(endpoint, worker, instance.as_deref(), max, app.hold) => Ok(jobs?),
        () = app.drain.cancelled() => Ok(Vec::new()),
        () = app.shutdown.cancelled() => Ok(Vec::new()),
    }
}

fn encode(message: &impl serde::Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(message).map_err(|error| ApiError::BadRequest(format!("the job cannot be encoded: {error}")))
}

async fn stop(
    State(app): State<App>,
    WorkerCall { endpoint, worker, instance, .. }: WorkerCall,
) -> Result<Response, ApiError> {
    let instance = instance.as_deref();
    let jobs = tokio::select! {
        jobs = app.store.stops_as(&endpoint, &worker, instance, app.hold) => jobs?,
        () = app.drain.cancelled() => app.store.stops_as(&endpoint, &worker, instance, DRAIN_HOLD).await?,
        () = app.shutdown.cancelled() => Vec::new(),
    };
    if jobs.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(StopReply { jobs_to_stop: jobs.iter().map(|id| &**id).collect() }).into_response())
}

/// Results of unknown, finished and cancelled jobs are acknowledged too: the worker could not do anything about an error.
async fn done(
    State(app): State<App>,
    Path((endpoint, worker, segment)): ReportPath,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let job = Params::parse(query.as_deref()).split_segment(&segment);
    let (limit, size) = (app.max_result_bytes, body.size_hint().exact());
    let report = match body::read(body, limit, &app.request_memory).await {
        Ok(body) => {
            let report = Report::parse(&body);
            if app.options.warn_of_large_results && matches!(report, Ok(Report::Final(_))) {
                large_result::warn_if_refused_by_platform(job, body.len());
            }
            report
                .map_err(|error| ApiError::BadRequest(format!("the worker posted a result that is not JSON: {error}")))
        }
        Err(BodyError::TooLarge) => Err(ApiError::ResultTooLarge { size, limit }),
        // The result did not arrive completely. The job stays with its worker until the lease ends.
        Err(BodyError::Unreadable) => return Err(ApiError::BodyUnreadable),
        // The worker sends it again.
        Err(BodyError::NoMemory) => return Err(ApiError::TooManyBodies),
    };
    match report {
        Ok(Report::Progress(output)) => app.store.progress(&endpoint, &worker, job, output).await?,
        Ok(Report::Final(outcome)) => app.store.finish(&endpoint, &worker, job, outcome).await?,
        Err(error) => {
            // Workers do not repeat a refused result. Without an outcome the job would wait for its lease and run again for nothing.
            let outcome = Outcome::failed(error.to_string());
            app.store.finish(&endpoint, &worker, job, outcome).await?;
            return Err(error);
        }
    }
    Ok(Json(json!({})).into_response())
}

async fn stream_item(
    State(app): State<App>,
    Path((endpoint, worker, segment)): ReportPath,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let job = Params::parse(query.as_deref()).split_segment(&segment);
    let (limit, size) = (app.max_result_bytes, body.size_hint().exact());
    let body = body::read(body, limit, &app.request_memory).await.map_err(|error| match error {
        BodyError::TooLarge => ApiError::ResultTooLarge { size, limit },
        error => error.of_client(limit),
    })?;
    let item = report::parse_stream_item(&body)
        .map_err(|error| ApiError::BadRequest(format!("the worker posted an item that is not JSON: {error}")))?;
    app.store.stream_item(&endpoint, &worker, job, item).await?;
    Ok(Json(json!({})).into_response())
}

async fn ping(
    State(app): State<App>,
    WorkerCall { endpoint, worker, instance, params }: WorkerCall,
) -> Result<Response, ApiError> {
    let jobs = params.get("job_id").unwrap_or_default().split(',').filter(|id| !id.is_empty()).map(Arc::from).collect();
    let unhealthy = params.get("status") == Some("unhealthy");
    let model = extensions::model(&params);
    let heartbeat = Heartbeat { jobs, unhealthy, model };
    let lease = app.store.heartbeat_as(&endpoint, &worker, instance.as_deref(), heartbeat).await?;
    if unhealthy {
        // A worker may say anything: a log line has room for its beginning.
        let text = |name| params.get(name).unwrap_or("?").chars().take(LOGGED_TEXT).collect::<String>();
        let (check, reason) = (text("check"), text("reason"));
        tracing::warn!(worker, check, reason, "The worker reports that it is unhealthy. It gets no more jobs.");
    }
    Ok(extensions::with_ping_interval(Json(json!({})).into_response(), lease))
}
