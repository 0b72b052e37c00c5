//! `/v2/<id>/openai/…`: each OpenAI request becomes a job. As on the platform, the handler gets `openai_route` and
//! `openai_input`, and its output is the answer.

mod caller;
mod error_object;
mod event_stream;
mod event_text;
mod events;
mod failure;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::caller::CancelOnDrop;
use self::failure::Failure;
pub(super) use self::failure::OpenAiProblem;
use super::app::App;
use super::auth::CallerKey;
use super::body;
use super::client;
use super::error::{ApiError, ErrorText};
use super::json as wire_json;
use super::route::route_of;
use super::submission::{RUNSYNC, new_job};
use crate::store::{JobView, Payload, StoreError};

/// Length of one wait for the job; repeated until the job ends.
const STEP: Duration = Duration::from_secs(30);

/// Path of all OpenAI routes below an endpoint.
const OPENAI: &str = "openai";

/// The routes and their OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(without_body, with_body))
}

/// Whether the request is one to an OpenAI route, known or not.
pub(super) fn is_asked_by(request: &Request) -> bool {
    route_of(request.uri()).is_some_and(|(_, operation)| operation == OPENAI)
}

/// Makes an error of this server an OpenAI error object.
pub(super) fn in_its_form(response: Response) -> Response {
    match response.extensions().get::<ErrorText>() {
        Some(ErrorText(text)) => {
            let error = Failure::new(response.status(), text).into_response();
            let (mut parts, _) = response.into_parts();
            parts.headers.remove(CONTENT_LENGTH);
            Response::from_parts(parts, error.into_body())
        }
        None => response,
    }
}

/// `input` of the job.
#[derive(Serialize)]
struct OpenAiInput<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    openai_input: Option<&'a RawValue>,
    openai_route: &'a str,
}

/// An OpenAI request. The handler gets all of its fields; this one decides how it is answered.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = OpenAiRequest)]
struct RequestOptions {
    /// Answer with the items that the job streams, as server-sent events.
    #[serde(default)]
    stream: Option<bool>,
}

type OpenAiPath = Path<(String, String)>;

/// Pass an OpenAI request on without a body, such as that for the list of models.
#[utoipa::path(
    method(get, delete),
    path = "/v2/{endpoint}/openai/{*route}",
    operation_id = "openai",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("route" = String, Path, description = "The path of OpenAI's API, such as v1/models", example = "v1/models")),
    responses((status = 200, body = serde_json::Value, description = "What the handler has answered"), (status = 500, body = OpenAiProblem, description = "The job has failed"), (status = 504, body = OpenAiProblem, description = "The time of the job was over")),
)]
async fn without_body(
    State(app): State<App>,
    Path((endpoint, _)): OpenAiPath,
    request: Request,
) -> Result<Response, ApiError> {
    pass(app, endpoint, request).await
}

/// Pass an OpenAI request on, such as v1/chat/completions.
#[utoipa::path(
    method(post, put, patch),
    path = "/v2/{endpoint}/openai/{*route}",
    operation_id = "openai",
    params(("endpoint" = String, Path, description = "Endpoint id"), ("route" = String, Path, description = "The path of OpenAI's API, such as v1/chat/completions", example = "v1/chat/completions")),
    request_body = RequestOptions,
    responses((status = 200, description = "What the handler has answered", content((serde_json::Value = "application/json"), (serde_json::Value = "text/event-stream"))), (status = 500, body = OpenAiProblem, description = "The job has failed"), (status = 504, body = OpenAiProblem, description = "The time of the job was over")),
)]
async fn with_body(
    State(app): State<App>,
    Path((endpoint, _)): OpenAiPath,
    request: Request,
) -> Result<Response, ApiError> {
    pass(app, endpoint, request).await
}

async fn pass(app: App, endpoint: String, request: Request) -> Result<Response, ApiError> {
    let (Parts { headers, extensions, method, uri, .. }, body) = request.into_parts();
    let body = body::read(body, RUNSYNC.max_body, &app.request_memory).await;
    let body = body.map_err(|error| error.of_client(RUNSYNC.max_body))?;
    // After its body was read: a client that is still sending it would see a broken connection, and try again.
    if is_form(&headers) {
        return Err(ApiError::FormBody);
    }
    let (request, options) = read_request(&method, &body)?;
    let input = OpenAiInput { openai_input: request, openai_route: &openai_route(&uri) };
    let input =
        to_raw_value(&input).map_err(|error| ApiError::BadRequest(format!("the request cannot be queued: {error}")))?;
    let job = new_job(&app, &endpoint, &CallerKey::of(&extensions), Arc::from(input), &RUNSYNC);
    let id = Arc::clone(&job.id);
    let cancel_on_drop = CancelOnDrop { app: app.clone(), endpoint: endpoint.clone(), job: Some(Arc::clone(&id)) };
    app.store.submit(&endpoint, job).await?;
    if options.stream == Some(true) {
        return Ok(events::answer(app, endpoint, id, cancel_on_drop).await);
    }
    let job = match finished(&app, &endpoint, &id).await.map_err(Failure::from) {
        Ok(job) => job,
        Err(failure) => return Ok(failure.into_response()),
    };
    if job.status.is_terminal() {
        cancel_on_drop.disarm();
    } else {
        // The endpoint shuts down, and the caller is told to try again.
        cancel_on_drop.cancel().await;
    }
    let items = match &job.ending.output {
        // The handler streams and returns no aggregate: its stream items are the answer.
        output if is_nothing(output.as_ref()) => app.store.drain(&endpoint, &id, Duration::ZERO).await?.1,
        _ => Vec::new(),
    };
    Ok(answer(&job, &items))
}

/// The path below the endpoint's OpenAI routes with its query, as both were sent: decoded, they could not be told apart.
fn openai_route(uri: &Uri) -> String {
    // `/v2/<endpoint>/openai/<route>`
    let route = uri.path().splitn(5, '/').nth(4).unwrap_or_default();
    let query = uri.query().filter(|query| !query.is_empty()).map(|query| format!("?{query}")).unwrap_or_default();
    format!("/{route}{query}")
}

/// Whether the request uploads files as a browser's form does.
fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("multipart/")
}

fn read_request<'a>(method: &Method, body: &'a [u8]) -> Result<(Option<&'a RawValue>, RequestOptions), ApiError> {
    if body.is_empty() {
        return match *method {
            Method::POST => Err(ApiError::BadRequest("the body is empty: send the request as JSON".to_owned())),
            _ => Ok((None, RequestOptions::default())),
        };
    }
    let bad = |error: serde_json::Error| ApiError::BadRequest(format!("the body must be a JSON object: {error}"));
    let options = wire_json::object(body).map_err(bad)?;
    Ok((Some(serde_json::from_slice(body).map_err(bad)?), options))
}

async fn finished(app: &App, endpoint: &str, id: &str) -> Result<JobView, StoreError> {
    loop {
        let job = client::wait_finished(app, endpoint, id, STEP).await?;
        if job.status.is_terminal() || app.shutdown.is_cancelled() {
            return Ok(job);
        }
    }
}

fn answer(job: &JobView, items: &[Payload]) -> Response {
    if let Some(failure) = Failure::of_job(job) {
        return failure.into_response();
    }
    let several;
    let output = match items {
        [] => job.ending.output.as_deref().map_or("null", |output| output.get()),
        [only] => only.get(),
        _ => {
            let items: Vec<_> = items.iter().map(|item| item.get()).collect();
            several = format!("[{}]", items.join(","));
            &several
        }
    };
    let output = unwrapped(output);
    match Failure::of_output(output) {
        Some(failure) => failure.into_response(),
        None => ([(CONTENT_TYPE, "application/json")], output.to_owned()).into_response(),
    }
}

/// Whether an output is missing, `null` or an empty list.
fn is_nothing(output: Option<&Payload>) -> bool {
    output.is_none_or(|output| serde_json::from_str::<Option<[(); 0]>>(output.get()).is_ok())
}

/// Handlers for OpenAI routes often stream; their aggregate is then a list with one answer.
fn unwrapped(output: &str) -> &str {
    match serde_json::from_str::<Vec<&RawValue>>(output) {
        Ok(items) if items.len() == 1 && items[0].get().starts_with('{') => items[0].get(),
        _ => output,
    }
}
