//! The requests that become jobs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use runpod_handler_protocol::{ErrorKind, MAX_PAYLOAD_LEN};
use runpod_http_server::Share;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::limits::MAX_BODY;
use super::queue::{CallerMessage, DirectQueue, Rejection, Submission};
use crate::queue::{TakeReply, wire};
use runpod_worker_core::TakenJob;

/// Seconds after which a rejected caller may try again.
const RETRY_AFTER: &str = "1";

/// `POST /runsync`: the job's result, or with `Accept: text/event-stream` its items as they come and then its result.
pub fn jobs(queue: DirectQueue) -> Router {
    Router::new().route("/runsync", post(runsync)).with_state(queue)
}

/// [`jobs`], and for the other routes of the local API of RunPod's SDK an answer that says where they are.
pub fn local_api(queue: DirectQueue) -> Router {
    let elsewhere = || any(async || ApiError::Elsewhere);
    let routes = ["/run", "/status/{id}", "/stream/{id}", "/cancel/{id}", "/health"];
    routes.into_iter().fold(jobs(queue), |router, path| router.route(path, elsewhere()))
}

/// `POST /<endpoint id>/realtime`: the bare result, as RunPod's SDK answers on its realtime port, with what was streamed before it.
pub fn realtime(queue: DirectQueue) -> Router {
    Router::new().route("/{endpoint}/realtime", post(bare)).with_state(queue)
}

/// The job of a request: what the caller sent, with a new id. Everything but the id goes to the handler as it is.
///
/// An id of the caller gets a random ending: a request that is sent twice is run twice, while a queue that sends an id twice means
/// the same job.
fn job(body: &Bytes) -> Result<TakenJob, String> {
    const FORM: &str = r#"send a JSON object such as {"input": {…}}"#;
    let mut fields: BTreeMap<Cow<'_, str>, Cow<'_, RawValue>> =
        serde_json::from_slice(body).map_err(|error| format!("the body is not a job: {error}; {FORM}"))?;
    if !fields.contains_key("input") {
        return Err(format!("the body has no `input`; {FORM}"));
    }
    let mut id = Uuid::new_v4().to_string();
    if let Some(given) = fields.get("id") {
        let given: String = serde_json::from_str(given.get()).map_err(|_| "`id` must be a string, or left out")?;
        id = format!("{given}-{}", &id[..8]);
    }
    let id = serde_json::value::to_raw_value(&id).map_err(|error| error.to_string())?;
    fields.insert("id".into(), Cow::Owned(id));
    let object = serde_json::to_vec(&fields).map_err(|error| error.to_string())?;
    match wire::take_reply(&object.into(), 1) {
        TakeReply::Jobs(mut jobs) => match jobs.pop() {
            Some(TakenJob { body: Err(reason), .. }) => Err(reason),
            Some(job) => Ok(job),
            None => Err(FORM.to_owned()),
        },
        _ => Err("the job's `id` cannot be used: leave it out, or send a short string".to_owned()),
    }
}

/// Why a request does not become a job.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    /// The request is not a job.
    #[error("{0}")]
    Malformed(String),
    /// The body is longer than [`MAX_BODY`].
    #[error("the body has more than {MAX_BODY} bytes: pass large data by URL")]
    TooLarge,
    /// A route that the endpoint has.
    #[error("this API has only POST /runsync; all routes are served by `runpod-endpoint dev -- HANDLER`")]
    Elsewhere,
    /// The queue has rejected the job.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.to_string() }));
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, body).into_response(),
            Self::Elsewhere => (StatusCode::NOT_FOUND, body).into_response(),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, body).into_response(),
            Self::Rejected(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], body).into_response()
            }
        }
    }
}

async fn submit(queue: &DirectQueue, body: Body) -> Result<(String, Submission), ApiError> {
    let mut share = queue.share();
    let body = read(body, &mut share).await?;
    let job = job(&body).map_err(ApiError::Malformed)?;
    let id = job.id.as_str().to_owned();
    Ok((id, queue.submit(job, share)?))
}

/// Reads a body of limited size. Its bytes count against the memory that all bodies share.
async fn read(body: Body, share: &mut Share) -> Result<Bytes, ApiError> {
    let mut parts = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| ApiError::Malformed(format!("the body cannot be read: {error}")))?;
        if read.len() + part.len() > MAX_BODY {
            return Err(ApiError::TooLarge);
        }
        if !share.try_grow(part.len()) {
            return Err(Rejection::NoMemory.into());
        }
        read.extend_from_slice(&part);
    }
    Ok(read.freeze())
}

async fn runsync(State(queue): State<DirectQueue>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let (id, submission) = submit(&queue, body).await?;
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/event-stream") { Ok(events(id, submission)) } else { result(&id, submission).await }
}

async fn bare(
    State(queue): State<DirectQueue>,
    Path(_endpoint): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let (_, submission) = submit(&queue, body).await?;
    let (stream, body) = collect(submission).await?;
    Ok(match with_stream(body, &stream) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

/// Collects the items and the result of a job. A job with more items than fit into an output fails; it is stopped, because its
/// submission is dropped.
async fn collect(mut submission: Submission) -> Result<(Vec<Box<RawValue>>, Bytes), Rejection> {
    let (mut stream, mut len) = (Vec::new(), 0);
    loop {
        match submission.next().await {
            CallerMessage::Chunk(body) => {
                len += body.len();
                if len > MAX_PAYLOAD_LEN {
                    return Ok((Vec::new(), too_long()));
                }
                stream.extend(serde_json::from_slice::<Box<RawValue>>(&body));
            }
            CallerMessage::Progress(_) => {}
            CallerMessage::Rejected(reason) => return Err(reason),
            CallerMessage::Final(body) => return Ok((stream, body)),
        }
    }
}

/// The job-done body of a job whose items cannot be kept until its end.
fn too_long() -> Bytes {
    let message = format!(
        "the items have more than {MAX_PAYLOAD_LEN} bytes together: read them as they come, with `Accept: text/event-stream` \
         on /runsync, or return links to stored data"
    );
    let error = json!({ "error_type": ErrorKind::Protocol.as_str(), "error_message": message });
    json!({ "error": error.to_string() }).to_string().into()
}

/// A job-done body with the items that came before it.
fn with_stream(body: Bytes, stream: &[Box<RawValue>]) -> serde_json::Result<Bytes> {
    if stream.is_empty() {
        return Ok(body);
    }
    let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(&body)?;
    let items = serde_json::value::to_raw_value(stream)?;
    fields.insert("stream".into(), &items);
    serde_json::to_vec(&fields).map(Bytes::from)
}

/// A finished job, as RunPod's `/runsync` writes it.
#[derive(Debug, Serialize)]
struct Document<'a> {
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// The streamed items, when the caller did not ask for an event stream.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stream: &'a [Box<RawValue>],
}

/// The parts of a job-done body.
#[derive(Debug, Deserialize)]
struct Outcome<'a> {
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    error: Option<String>,
}

/// The part of the error text that the HTTP status is derived from.
#[derive(Debug, Deserialize)]
struct ErrorType {
    error_type: String,
}

async fn result(id: &str, submission: Submission) -> Result<Response, ApiError> {
    let (stream, body) = collect(submission).await?;
    Ok(match document(id, &body, &stream) {
        Ok((status, text)) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

fn document(id: &str, body: &[u8], stream: &[Box<RawValue>]) -> serde_json::Result<(StatusCode, String)> {
    let Outcome { output, error } = serde_json::from_slice(body)?;
    let code = error.as_deref().map_or(StatusCode::OK, status_of);
    let status = if error.is_some() { "FAILED" } else { "COMPLETED" };
    let document = Document { id, status, output, error: error.as_deref(), stream };
    Ok((code, serde_json::to_string(&document)?))
}

/// The HTTP status of a failed job, by its kind of error.
fn status_of(error: &str) -> StatusCode {
    let kind = serde_json::from_str(error).map_or_else(|_| String::new(), |ErrorType { error_type }| error_type);
    match kind.as_str() {
        "validation" => StatusCode::BAD_REQUEST,
        "model_not_found" => StatusCode::NOT_FOUND,
        "timeout" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Items as events without a name, progress as `progress`, the result as `result`.
fn events(id: String, submission: Submission) -> Response {
    let messages = stream::unfold((id, submission), |(id, mut submission)| async move {
        if submission.is_over() {
            return None;
        }
        let event = match submission.next().await {
            CallerMessage::Chunk(body) => event(&body),
            CallerMessage::Progress(body) => event(&body).event("progress"),
            CallerMessage::Rejected(reason) => sse::Event::default().event("refused").data(reason.to_string()),
            CallerMessage::Final(body) => match document(&id, &body, &[]) {
                Ok((_, text)) => event(text.as_bytes()).event("result"),
                Err(error) => sse::Event::default().event("refused").data(error.to_string()),
            },
        };
        Some((Ok::<_, Infallible>(event), (id, submission)))
    });
    Sse::new(messages).keep_alive(KeepAlive::default()).into_response()
}

/// A line break inside JSON is white space; in an event it would be a second line.
fn event(json: &[u8]) -> sse::Event {
    sse::Event::default().data(String::from_utf8_lossy(json).replace(['\r', '\n'], " "))
}
