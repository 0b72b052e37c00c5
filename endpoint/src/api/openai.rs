//! `/v2/<id>/openai/…`: each OpenAI request becomes a job. As on the platform, the handler gets `openai_route` and
//! `openai_input`, and its output is the answer.

mod caller;
mod events;
mod failure;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use self::caller::CancelOnDrop;
use self::failure::Failure;
use super::app::App;
use super::auth::CallerKey;
use super::body;
use super::client;
use super::error::{ApiError, ErrorText};
use super::json as wire_json;
use super::submission::{RUNSYNC, new_job};
use crate::store::{JobView, Payload, StoreError};

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
                let mut rewritten = Failure::new(response.status(), text).into_response();
                let retry_after = response.headers().get(RETRY_AFTER).cloned();
                rewritten.headers_mut().extend(retry_after.map(|after| (RETRY_AFTER, after)));
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
    request: Request,
) -> Result<Response, ApiError> {
    let (Parts { headers, extensions, .. }, body) = request.into_parts();
    let body = body::read(body, RUNSYNC.max_body, &app.request_memory).await;
    let body = body.map_err(|error| error.of_client(RUNSYNC.max_body))?;
    // After its body was read: a client that is still sending it would see a broken connection, and try again.
    if is_form(&headers) {
        return Err(ApiError::FormBody);
    }
    let (request, options) = read_request(&method, &body)?;
    let input = OpenAiInput { openai_input: request, openai_route: &format!("/{route}") };
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
    cancel_on_drop.disarm();
    let items = match &job.ending.output {
        // The handler streams and returns no aggregate: its stream items are the answer.
        Some(output) if output.get() == "[]" => app.store.drain(&endpoint, &id, Duration::ZERO).await?.1,
        _ => Vec::new(),
    };
    Ok(answer(&job, &items))
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
    let output = match items {
        [only] => only.get(),
        _ => job.ending.output.as_deref().map_or("null", |output| output.get()),
    };
    let output = unwrapped(output);
    match Failure::of_output(output) {
        Some(failure) => failure.into_response(),
        None => ([(CONTENT_TYPE, "application/json")], output.to_owned()).into_response(),
    }
}

/// Handlers for OpenAI routes often stream; their aggregate is then a list with one answer.
fn unwrapped(output: &str) -> &str {
    match serde_json::from_str::<Vec<&RawValue>>(output) {
        Ok(items) if items.len() == 1 && items[0].get().starts_with('{') => items[0].get(),
        _ => output,
    }
}
