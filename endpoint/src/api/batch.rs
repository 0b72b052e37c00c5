//! RunPod's batch API: thousands of inputs in one request, one state, and results in pages.
//!
//! The platform documents no replies of add, rename, finalize and cancel: here they are the summary of the batch. A request's id is a
//! job's id.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::app::App;
use super::auth::CallerKey;
use super::body::{self, Received};
use super::error::{ApiError, Problem};
use super::json;
use super::limits;
use super::query::{PageQuery, Params};
use super::shared_json::SharedJson;
use super::submission::{RUN, requested_job, undeliverable};
use super::time::rfc3339;
use super::wire::SubmitRequest;
use crate::store::{BatchRequest, BatchView, NewJob, Page, Status, storable};

/// The routes and their OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, batches))
        .routes(routes!(batch, rename))
        .routes(routes!(add_requests, batch_requests))
        .routes(routes!(remove_request))
        .routes(routes!(finalize))
        .routes(routes!(cancel_batch))
}

type BatchPath = Path<(String, String)>;

/// The reply to a new batch.
#[derive(Debug, Serialize, ToSchema)]
struct NewBatch<'a> {
    id: &'a str,
    /// `DRAFT`.
    status: &'a str,
}

/// A batch. It has ended when `requestCompleted`, `requestFailed` and `requestCancelled` add up to `requestTotal`; its status stays
/// FINALIZED then.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Batch)]
struct BatchDocument<'a> {
    /// Milliseconds since 1970.
    created_at: u64,
    endpoint_id: &'a str,
    id: &'a str,
    /// What a client has called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Requests that were cancelled before a worker took them. Not part of RunPod's document.
    request_cancelled: usize,
    request_completed: usize,
    request_failed: usize,
    /// The requests that were added, in order; only in the reply to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    request_ids: Option<Vec<Arc<str>>>,
    request_in_progress: usize,
    request_total: usize,
    /// DRAFT, FINALIZED or CANCELLED.
    status: &'a str,
}

impl<'a> BatchDocument<'a> {
    fn new(endpoint: &'a str, batch: &'a BatchView) -> Self {
        let BatchView { id, name, state, counts, created } = batch;
        Self {
            created_at: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
            endpoint_id: endpoint,
            id,
            name: name.as_deref(),
            request_cancelled: counts.cancelled,
            request_completed: counts.completed,
            request_failed: counts.failed,
            request_ids: None,
            request_in_progress: counts.in_progress,
            request_total: counts.total(),
            status: state.name(),
        }
    }
}

/// A page of the batches.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchList<'a> {
    /// Newest first.
    batches: Vec<BatchDocument<'a>>,
    has_more: bool,
    limit: usize,
    offset: usize,
    total: usize,
}

/// A page of the requests of a batch. The document is written in parts; this type is its schema.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RequestList<'a> {
    has_more: bool,
    limit: usize,
    offset: usize,
    /// In the order in which they were added.
    requests: Vec<RequestDocument<'a>>,
    total: usize,
}

/// A request of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BatchRequest)]
struct RequestDocument<'a> {
    /// When it ended, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// Its job's id.
    id: &'a str,
    /// The result, unless it failed; any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value)]
    output: Option<&'a RawValue>,
    /// When its latest attempt began, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    status: Status,
}

/// Requests to add to a draft.
#[derive(Debug, Deserialize, ToSchema)]
struct AddRequests {
    /// Each like the body of `/run`.
    #[serde(deserialize_with = "json::objects")]
    requests: Vec<SubmitRequest>,
}

/// Attributes of a batch.
#[derive(Debug, Deserialize, ToSchema)]
struct Attributes {
    /// What to call it; empty for no name.
    #[schema(max_length = 256)]
    name: String,
}

/// Create a batch, as a draft.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/batch",
    params(("endpoint" = String, Path, description = "Endpoint id")),
    request_body(content = Vec<SubmitRequest>, description = "Its first requests, each like the body of /run; may be empty"),
    responses((status = 200, body = NewBatch, description = "The draft"), (status = 429, body = Problem, description = "Too many batches have not ended, or the queue is full")),
)]
async fn create(State(app): State<App>, Path(endpoint): Path<String>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = read(&app, body).await?;
    let requests: Vec<json::Object<SubmitRequest>> = serde_json::from_slice(&body).map_err(|error| {
        ApiError::BadRequest(format!("the body must be a JSON array like [{{\"input\": {{...}}}}, ...]: {error}"))
    })?;
    let requests = requests.into_iter().map(|json::Object(request)| request).collect();
    let jobs = jobs(&app, &endpoint, &parts, requests).await?;
    let batch = app.store.create_batch(&endpoint, Arc::from(format!("batch-{}", Uuid::new_v4())), jobs).await?;
    Ok(Json(NewBatch { id: &batch.id, status: batch.state.name() }).into_response())
}

/// Add requests to a draft.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/batch/{id}/requests",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Batch id")),
    request_body = AddRequests,
    responses((status = 200, body = BatchDocument, description = "The batch, with the ids of the new requests"), (status = 404, body = Problem, description = "No such batch"), (status = 429, body = Problem, description = "The queue is full")),
)]
async fn add_requests(
    State(app): State<App>,
    Path((endpoint, id)): BatchPath,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = read(&app, body).await?;
    let AddRequests { requests } = json::object(&body).map_err(|error| {
        ApiError::BadRequest(format!(
            "the body must be a JSON object like {{\"requests\": [{{\"input\": {{...}}}}, ...]}}: {error}"
        ))
    })?;
    let jobs = jobs(&app, &endpoint, &parts, requests).await?;
    let ids = jobs.iter().map(|job| Arc::clone(&job.id)).collect();
    let batch = app.store.add_to_batch(&endpoint, &id, jobs).await?;
    Ok(Json(BatchDocument { request_ids: Some(ids), ..BatchDocument::new(&endpoint, &batch) }).into_response())
}

async fn read(app: &App, body: Body) -> Result<Received, ApiError> {
    let body = body::read(body, limits::BATCH_BODY, &app.request_memory).await;
    body.map_err(|error| error.of_client(limits::BATCH_BODY))
}

/// The jobs of these requests, or a mistake with its place.
async fn jobs(app: &App, endpoint: &str, parts: &Parts, requests: Vec<SubmitRequest>) -> Result<Vec<NewJob>, ApiError> {
    let caller = CallerKey::of(&parts.extensions);
    let at = |number: usize, error: ApiError| ApiError::BadRequest(format!("request {number}: {error}"));
    let mut jobs = Vec::with_capacity(requests.len());
    for (number, request) in requests.into_iter().enumerate() {
        let job = requested_job(app, endpoint, &parts.headers, &caller, request, &RUN);
        jobs.push(job.map_err(|error| at(number, error))?);
    }
    let webhooks = jobs.iter().enumerate().filter_map(|(number, job)| Some((number, job.request.webhook.as_deref()?)));
    let checked = app.options.webhooks.check_all(webhooks).await;
    checked.map_err(|(number, error)| at(number, undeliverable(&error)))?;
    Ok(jobs)
}

/// Remove a request from a draft.
#[utoipa::path(
    delete,
    path = "/v2/{endpoint}/batch/{id}/requests/{request}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Batch id"), ("request" = String, Path, description = "Request id")),
    responses((status = 200, body = BatchDocument, description = "The batch"), (status = 404, body = Problem, description = "No such batch or request")),
)]
async fn remove_request(
    State(app): State<App>,
    Path((endpoint, id, request)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    Ok(document(&endpoint, &app.store.remove_from_batch(&endpoint, &id, &request).await?))
}

/// Name a batch.
#[utoipa::path(
    put,
    path = "/v2/{endpoint}/batch/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Batch id")),
    request_body = Attributes,
    responses((status = 200, body = BatchDocument, description = "The batch"), (status = 404, body = Problem, description = "No such batch")),
)]
async fn rename(State(app): State<App>, Path((endpoint, id)): BatchPath, body: Body) -> Result<Response, ApiError> {
    let Attributes { name } = json::object(&read(&app, body).await?).map_err(|error| {
        ApiError::BadRequest(format!("the body must be a JSON object like {{\"name\": \"...\"}}: {error}"))
    })?;
    if name.chars().count() > limits::BATCH_NAME {
        return Err(ApiError::BadRequest(format!("`name` is longer than {} characters", limits::BATCH_NAME)));
    }
    let name = Some(name).filter(|name| !name.is_empty()).map(|name| storable(&name));
    Ok(document(&endpoint, &app.store.rename_batch(&endpoint, &id, name).await?))
}

/// Queue the requests of a draft. They run when no other job waits.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/batch/{id}/finalize",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Batch id")),
    responses((status = 200, body = BatchDocument, description = "The batch"), (status = 400, body = Problem, description = "The batch is empty"), (status = 404, body = Problem, description = "No such batch")),
)]
async fn finalize(State(app): State<App>, Path((endpoint, id)): BatchPath) -> Result<Response, ApiError> {
    Ok(document(&endpoint, &app.store.finalize_batch(&endpoint, &id).await?))
}

/// Cancel the requests of a batch that wait. Those that run end as they would.
#[utoipa::path(
    post,
    path = "/v2/{endpoint}/batch/{id}/cancel",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Batch id")),
    responses((status = 200, body = BatchDocument, description = "The batch; CANCELLED once nothing of it runs"), (status = 409, body = Problem, description = "All of its requests have ended: it stays as it is"), (status = 404, body = Problem, description = "No such batch")),
)]
async fn cancel_batch(State(app): State<App>, Path((endpoint, id)): BatchPath) -> Result<Response, ApiError> {
    Ok(document(&endpoint, &app.store.cancel_batch(&endpoint, &id).await?))
}

/// Read a batch.
#[utoipa::path(
    get,
    path = "/v2/{endpoint}/batch/{id}",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Batch id")),
    responses((status = 200, body = BatchDocument, description = "The batch"), (status = 404, body = Problem, description = "No such batch, or it has expired")),
)]
async fn batch(State(app): State<App>, Path((endpoint, id)): BatchPath) -> Result<Response, ApiError> {
    Ok(document(&endpoint, &app.store.batch(&endpoint, &id).await?))
}

fn document(endpoint: &str, batch: &BatchView) -> Response {
    Json(BatchDocument::new(endpoint, batch)).into_response()
}

/// List the batches.
#[utoipa::path(
    get,
    path = "/v2/{endpoint}/batch",
    params(("endpoint" = String, Path, description = "Endpoint id"), PageQuery),
    responses((status = 200, body = BatchList, description = "The batches, newest first")),
)]
async fn batches(
    State(app): State<App>,
    Path(endpoint): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Params::parse(query.as_deref()).page()?;
    let Page { entries, total } = app.store.batches(&endpoint, query.offset, query.limit).await?;
    let batches = entries.iter().map(|batch| BatchDocument::new(&endpoint, batch)).collect();
    let PageQuery { offset, limit } = query;
    Ok(Json(BatchList { batches, has_more: query.has_more(entries.len(), total), limit, offset, total })
        .into_response())
}

/// Read the requests of a batch, with their results.
#[utoipa::path(
    get,
    path = "/v2/{endpoint}/batch/{id}/requests",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("id" = String, Path, description = "Batch id"), PageQuery),
    responses((status = 200, body = RequestList, description = "The requests, in the order in which they were added"), (status = 404, body = Problem, description = "No such batch, or it has expired")),
)]
async fn batch_requests(
    State(app): State<App>,
    Path((endpoint, id)): BatchPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Params::parse(query.as_deref()).page()?;
    let Page { entries, total } = app.store.batch_requests(&endpoint, &id, query.offset, query.limit).await?;
    let has_more = query.has_more(entries.len(), total);
    let PageQuery { offset, limit } = query;
    let mut json = SharedJson::default();
    // As `RequestList` is written.
    json.push(&format!(r#"{{"hasMore":{has_more},"limit":{limit},"offset":{offset},"requests":["#));
    for (number, request) in entries.iter().enumerate() {
        json.push(if number == 0 { "" } else { "," });
        push_request(&mut json, request);
    }
    json.push(&format!(r#"],"total":{total}}}"#));
    Ok(json.into_response())
}

fn push_request(json: &mut SharedJson, request: &BatchRequest) {
    let BatchRequest { view, started, completed } = request;
    let document = RequestDocument {
        completed_at: completed.map(rfc3339),
        error: view.ending.error.as_deref(),
        id: &view.id,
        output: None,
        started_at: started.map(rfc3339),
        status: view.status,
    };
    // Strings only: nothing in it can fail.
    let text = serde_json::to_string(&document).unwrap_or_default();
    match view.ending.output.as_ref().filter(|_| view.status == Status::Completed) {
        Some(output) => {
            json.push(text.strip_suffix('}').unwrap_or_default());
            json.push(r#","output":"#);
            json.push_payload(output);
            json.push("}");
        }
        None => json.push(&text),
    }
}
