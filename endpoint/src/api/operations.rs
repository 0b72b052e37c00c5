//! What operators do with an endpoint beside RunPod's API: pause it, repeat what failed, send webhooks again.

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::error::{ApiError, Problem};
use super::query::{PageQuery, Params};
use super::time::rfc3339;
use super::wire::JobDocument;
use crate::store::{GivenUp, Page, RetriedFailed, Status};
use crate::webhooks::origin_name;

/// The routes and their OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(failed))
        .routes(routes!(retry_failed))
        .routes(routes!(webhooks))
        .routes(routes!(resend_webhooks))
        .routes(routes!(resend_webhook))
}

/// Whether the endpoint gives jobs to workers.
#[derive(Debug, Serialize, ToSchema)]
struct Paused {
    paused: bool,
}

/// How many jobs were queued again.
#[derive(Debug, Serialize, ToSchema)]
struct Retried {
    /// The failed jobs that were not.
    left: usize,
    /// Why they were not; absent when none is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    retried: usize,
}

/// How many webhooks are sent again.
#[derive(Debug, Serialize, ToSchema)]
struct Resent {
    resent: usize,
}

/// A page of the jobs that have failed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FailedJobs<'a> {
    has_more: bool,
    /// Newest first, without their outputs.
    jobs: Vec<JobDocument<'a>>,
    limit: usize,
    offset: usize,
    total: usize,
}

/// A page of the webhooks that were given up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Webhooks<'a> {
    has_more: bool,
    limit: usize,
    offset: usize,
    total: usize,
    /// Those of the newest jobs first.
    webhooks: Vec<GivenUpWebhook<'a>>,
}

/// A webhook that was given up.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GivenUpWebhook<'a> {
    /// When, in RFC 3339.
    given_up_at: String,
    /// The job.
    id: &'a str,
    /// Why no try succeeded.
    reason: &'a str,
    /// Scheme, host and port of the URL. The rest of it may hold secrets.
    receiver: String,
    /// How the job ended.
    status: Status,
}

impl<'a> From<&'a GivenUp> for GivenUpWebhook<'a> {
    fn from(webhook: &'a GivenUp) -> Self {
        let GivenUp { job, status, url, reason, at } = webhook;
        Self { given_up_at: rfc3339(*at), id: job, reason, receiver: origin_name(url), status: *status }
    }
}

/// Accept jobs, and give none to workers. Jobs that run go on.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/pause",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    responses((status = 200, body = Paused, description = "The endpoint is paused until it is resumed, also after a restart with a data file")),
)]
async fn pause(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    set_paused(&app, &endpoint, true).await
}

/// Give jobs to workers again.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/resume",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    responses((status = 200, body = Paused, description = "The endpoint gives out its jobs")),
)]
async fn resume(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    set_paused(&app, &endpoint, false).await
}

async fn set_paused(app: &App, endpoint: &str, paused: bool) -> Result<Response, ApiError> {
    app.store.set_paused(endpoint, paused).await?;
    tracing::info!(endpoint, paused, "The endpoint was paused or resumed.");
    Ok(Json(Paused { paused }).into_response())
}

/// List FAILED and TIMED_OUT jobs.
#[utoipa::path(
    get,
    path = "/v2/{endpoint}/failed",
    params(("endpoint" = String, Path, description = "Endpoint id"), PageQuery),
    responses((status = 200, body = FailedJobs, description = "The jobs, newest first")),
)]
async fn failed(
    State(app): State<App>,
    Path(endpoint): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Params::parse(query.as_deref()).page()?;
    let Page { entries, total } = app.store.failed(&endpoint, query.offset, query.limit).await?;
    let jobs = entries.iter().map(|row| JobDocument::from(&row.view)).collect();
    let PageQuery { offset, limit } = query;
    Ok(Json(FailedJobs { has_more: query.has_more(entries.len(), total), jobs, limit, offset, total }).into_response())
}

/// Queue all FAILED and TIMED_OUT jobs again, oldest first, until one is refused.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/retry-failed",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    responses((status = 200, body = Retried, description = "The number of jobs that are queued again, and of those that are not, with the reason"), (status = 409, body = Problem, description = "Only requests of cancelled batches have failed: none was queued again"), (status = 429, body = Problem, description = "As many jobs wait as may: none was queued again")),
)]
async fn retry_failed(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    let RetriedFailed { retried, left, refusal } = app.store.retry_failed(&endpoint).await?;
    match refusal {
        Some(refusal) if retried == 0 => Err(ApiError::NoneRetried { left, refusal }),
        refusal => {
            let reason = refusal.map(|refusal| refusal.to_string());
            Ok(Json(Retried { left, reason, retried }).into_response())
        }
    }
}

/// List webhooks whose delivery was given up.
#[utoipa::path(
    get,
    path = "/v2/{endpoint}/webhooks",
    params(("endpoint" = String, Path, description = "Endpoint id"), PageQuery),
    responses((status = 200, body = Webhooks, description = "The webhooks, those of the newest jobs first")),
)]
async fn webhooks(
    State(app): State<App>,
    Path(endpoint): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Params::parse(query.as_deref()).page()?;
    let Page { entries, total } = app.store.given_up(&endpoint, query.offset, query.limit).await?;
    let webhooks = entries.iter().map(GivenUpWebhook::from).collect();
    let PageQuery { offset, limit } = query;
    Ok(Json(Webhooks { has_more: query.has_more(entries.len(), total), limit, offset, total, webhooks })
        .into_response())
}

/// Send all webhooks again that were given up.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/webhooks/resend",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    responses((status = 200, body = Resent, description = "The number of webhooks that are sent again")),
)]
async fn resend_webhooks(State(app): State<App>, Path(endpoint): Path<String>) -> Result<Response, ApiError> {
    Ok(Json(Resent { resent: app.store.resend_webhooks(&endpoint).await?.len() }).into_response())
}

/// Send the webhook of a job again that was given up.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/webhooks/resend/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Job id")),
    responses((status = 200, body = Resent, description = "It is sent again"), (status = 400, body = Problem, description = "No webhook of the job was given up"), (status = 404, body = Problem, description = "No such job, or its record has expired")),
)]
async fn resend_webhook(
    State(app): State<App>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    app.store.resend_webhook(&endpoint, &id).await?;
    Ok(Json(Resent { resent: 1 }).into_response())
}
