//! `/v2/<id>/openai/…`: each OpenAI request becomes a job. As on the platform, the handler gets `openai_route` and
//! `openai_input`, and its output is the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::any;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::app::App;
use super::body;
use super::client::{self, RUNSYNC};
use super::error::{ApiError, ErrorText};
use super::json as wire_json;
use crate::store::{JobView, Payload, Status};

/// Length of one wait for the job; repeated until the job ends.
const STEP: Duration = Duration::from_secs(30);

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/v2/{endpoint}/openai/{*route}", any(pass))
}

/// Rewrites this server's errors as OpenAI error objects.
pub(crate) fn as_openai_errors(routes: Router<App>) -> Router<App> {
    routes.layer(map_response(|response: Response| async {
        match response.extensions().get::<ErrorText>() {
            Some(ErrorText(text)) => {
                let (status, retry_after) = (response.status(), response.headers().get("retry-after").cloned());
                let mut rewritten = error(status, text);
                rewritten.headers_mut().extend(retry_after.map(|after| (axum::http::header::RETRY_AFTER, after)));
                rewritten
            }
            None => response,
        }
    }))
}

/// `input` of the job.
#[derive(Serialize)]
struct OpenAiInput<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    openai_input: Option<&'a RawValue>,
    openai_route: &'a str,
}

/// The only field that decides how a request is answered.
#[derive(Default, Deserialize)]
struct RequestOptions {
    #[serde(default)]
    stream: Option<bool>,
}

async fn pass(
    State(app): State<App>,
    Path((endpoint, route)): Path<(String, String)>,
    method: Method,
    body: Body,
) -> Result<Response, ApiError> {
    let body = body::read(body, RUNSYNC.max_body, &app.request_memory).await;
    let body = body.map_err(|error| error.of_client(RUNSYNC.max_body))?;
    let (request, options) = read_request(&method, &body)?;
    let input = OpenAiInput { openai_input: request, openai_route: &format!("/{route}") };
    let input =
        to_raw_value(&input).map_err(|error| ApiError::BadRequest(format!("the request cannot be queued: {error}")))?;
    let job = client::new_job(&app, &endpoint, Arc::from(input), &RUNSYNC);
    let id = Arc::clone(&job.id);
    let cancel_on_drop = CancelOnDrop { app: app.clone(), endpoint: endpoint.clone(), job: Some(Arc::clone(&id)) };
    app.store.submit(&endpoint, job).await?;
    if options.stream == Some(true) {
        return Ok(event_stream(app, endpoint, id, cancel_on_drop));
    }
    let job = finished(&app, &endpoint, &id).await?;
    cancel_on_drop.disarm();
    let items = match &job.ending.output {
        // The handler streams and returns no aggregate: its stream items are the answer.
        Some(output) if output.get() == "[]" => app.store.drain(&endpoint, &id, Duration::ZERO).await?.1,
        _ => Vec::new(),
    };
    Ok(answer(&job, &items))
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

async fn finished(app: &App, endpoint: &str, id: &str) -> Result<JobView, ApiError> {
    loop {
        let job = client::wait_finished(app, endpoint, id, STEP).await?;
        if job.status.is_terminal() || app.shutdown.is_cancelled() {
            return Ok(job);
        }
    }
}

fn answer(job: &JobView, items: &[Payload]) -> Response {
    if job.status != Status::Completed {
        let (status, text) = failure(job);
        return error(status, &text);
    }
    let output = match items {
        [only] => only.get(),
        _ => job.ending.output.as_deref().map_or("null", |output| output.get()),
    };
    let output = unwrapped(output);
    let status = error_status(output).unwrap_or(StatusCode::OK);
    (status, [("content-type", "application/json")], output.to_owned()).into_response()
}

/// Handlers for OpenAI routes often stream; their aggregate is then a list with one answer.
fn unwrapped(output: &str) -> &str {
    match serde_json::from_str::<Vec<&RawValue>>(output) {
        Ok(items) if items.len() == 1 && items[0].get().starts_with('{') => items[0].get(),
        _ => output,
    }
}

/// The HTTP status of an output that is an error object, as inference servers return them.
fn error_status(output: &str) -> Option<StatusCode> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        object: Option<String>,
        #[serde(default)]
        error: Value,
        #[serde(default)]
        code: Value,
    }
    let answer: Answer = serde_json::from_str(output).ok()?;
    let is_error = answer.object.as_deref() == Some("error") || answer.error.is_object();
    let code = if answer.error.is_object() { &answer.error["code"] } else { &answer.code };
    let status = code.as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    is_error.then(|| status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::BAD_REQUEST))
}

fn failure(job: &JobView) -> (StatusCode, String) {
    let text = job.ending.error.clone().unwrap_or_default();
    match job.status {
        Status::TimedOut => (StatusCode::GATEWAY_TIMEOUT, format!("the job timed out: {text}")),
        Status::Cancelled => (StatusCode::CONFLICT, "the job was cancelled".to_owned()),
        Status::Failed => (StatusCode::INTERNAL_SERVER_ERROR, text),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the endpoint is shutting down; try again".to_owned()),
    }
}

fn error_object(status: StatusCode, text: &str) -> Value {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {"code": status.as_u16(), "message": text, "param": null, "type": kind}})
}

fn error(status: StatusCode, text: &str) -> Response {
    (status, Json(error_object(status, text))).into_response()
}

/// Cancels the job when its caller disconnects: no other client knows its id.
struct CancelOnDrop {
    app: App,
    endpoint: String,
    job: Option<Arc<str>>,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.job = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let (store, endpoint) = (Arc::clone(&self.app.store), std::mem::take(&mut self.endpoint));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Cancelling a job that has ended changes nothing.
            runtime.spawn(async move { store.cancel(&endpoint, &job).await });
        }
    }
}

/// Server-sent events from the job's stream items.
fn event_stream(app: App, endpoint: String, id: Arc<str>, cancel_on_drop: CancelOnDrop) -> Response {
    let reader = EventReader {
        app,
        endpoint,
        id,
        _cancel_on_drop: cancel_on_drop,
        has_streamed: false,
        done_sent: false,
        ended: false,
    };
    let body = Body::from_stream(reader.into_stream());
    ([("content-type", "text/event-stream"), ("cache-control", "no-cache")], body).into_response()
}

struct EventReader {
    app: App,
    endpoint: String,
    id: Arc<str>,
    _cancel_on_drop: CancelOnDrop,
    has_streamed: bool,
    done_sent: bool,
    ended: bool,
}

impl EventReader {
    fn into_stream(self) -> impl Stream<Item = Result<String, Infallible>> {
        stream::unfold(self, |mut reader| async move {
            let text = reader.next().await?;
            Some((Ok(text), reader))
        })
    }

    /// The next events, or a comment that keeps the connection alive.
    async fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let drained = tokio::select! {
            drained = self.app.store.drain(&self.endpoint, &self.id, STEP) => drained,
            () = self.app.shutdown.cancelled() => return None,
        };
        let Ok((status, items)) = drained else { return None };
        let mut text = String::new();
        self.has_streamed |= !items.is_empty();
        for item in &items {
            self.push(&mut text, item);
        }
        if status.is_terminal() {
            self.ended = true;
            self.end(&mut text).await;
        } else if items.is_empty() {
            text.push_str(": waiting\n\n");
        }
        Some(text)
    }

    /// Inference servers yield JSON, or complete events as text.
    fn push(&mut self, text: &mut String, item: &RawValue) {
        let event: Option<String> = serde_json::from_str(item.get()).ok();
        match event.filter(|event| event.trim_start().starts_with("data:")) {
            Some(event) => {
                self.done_sent |= event.contains("data: [DONE]");
                text.push_str(event.trim());
            }
            None => {
                text.push_str("data: ");
                text.push_str(&single_line(item.get()));
            }
        }
        text.push_str("\n\n");
    }

    async fn end(&mut self, text: &mut String) {
        let Ok(job) = self.app.store.view(&self.endpoint, &self.id, None).await else { return };
        if job.status != Status::Completed {
            let (status, message) = failure(&job);
            text.push_str(&format!("data: {}\n\n", error_object(status, &message)));
        } else if !self.has_streamed
            && let Some(output) = job.ending.output.as_deref().filter(|output| output.get().starts_with('{'))
        {
            // The handler does not stream: its result is the only event.
            text.push_str(&format!("data: {}\n\n", single_line(output.get())));
        }
        if !self.done_sent {
            text.push_str("data: [DONE]\n\n");
        }
    }
}

/// Replaces the line breaks of pretty-printed JSON, which would end the event; JSON strings contain none.
fn single_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}
