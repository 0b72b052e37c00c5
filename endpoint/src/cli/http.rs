//! A client of the client API, for this endpoint and for RunPod.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, InvalidHeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use runpod_alerts::request_error_text;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::args::{ServerArgs, is_endpoint_url};
use crate::api::{IDEMPOTENCY_KEY, is_id};
use crate::store::{Status, StoreError};

/// Time limit of a request: longer than the endpoint holds any reply.
const REQUEST_LIMIT: Duration = Duration::from_secs(120);
/// Time limit of a connection attempt.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The key cannot be an HTTP header.
    #[error("the API key contains characters that no HTTP header can carry: check --api-key or RUNPOD_API_KEY")]
    Key(#[from] InvalidHeaderValue),
    /// The HTTP client cannot be created, for example because of TLS settings.
    #[error("the HTTP client cannot start: {0}; check the proxy and certificate settings of this machine")]
    Setup(#[source] reqwest::Error),
    /// The job id cannot be part of a URL.
    #[error("{0:?} is not a job id: give the id that `submit` printed")]
    JobId(String),
    /// No connection, or no answer.
    #[error("no answer from {url}: {error}; start the endpoint (runpod-endpoint dev ...) or set --url")]
    Unreachable {
        /// The endpoint.
        url: String,
        /// Why, with its causes.
        error: String,
    },
    /// 401 or 403.
    #[error("the endpoint refuses the API key: set --api-key or RUNPOD_API_KEY")]
    Unauthorized,
    /// There is no such route, and the URL does not have the form of an endpoint's.
    #[error("{url} answered 404: {text}; --url must name an endpoint, such as {}", example(.url))]
    NotAnEndpoint {
        /// What was given.
        url: String,
        /// The error text of the reply.
        text: String,
    },
    /// Any other error status.
    #[error("the endpoint answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The error text of the reply.
        text: String,
    },
    /// The reply is not a document of this API.
    #[error("the reply is not the expected JSON: {0}; check that --url names an endpoint (…/v2/<endpoint id>)")]
    Reply(#[from] serde_json::Error),
}

impl ClientError {
    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// A job document, with the output as it was received.
#[derive(Debug, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) status: Status,
    /// Milliseconds; absent if the job has never run.
    #[serde(rename = "executionTime")]
    pub(crate) execution_time: Option<u64>,
    pub(crate) output: Option<Box<RawValue>>,
    pub(crate) error: Option<Box<RawValue>>,
}

/// A `/stream` reply.
#[derive(Debug, Deserialize)]
pub(crate) struct Stream {
    pub(crate) status: Status,
    pub(crate) stream: Vec<StreamItem>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamItem {
    pub(crate) output: Box<RawValue>,
}

/// A `/requests` reply.
#[derive(Debug, Deserialize)]
pub(crate) struct Requests {
    pub(crate) requests: Vec<Job>,
}

/// A `/purge-queue` reply.
#[derive(Debug, Deserialize)]
pub(crate) struct Purged {
    pub(crate) removed: u64,
}

/// One endpoint, as a client reaches it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    http: reqwest::Client,
    url: String,
}

impl Endpoint {
    pub(crate) fn new(server: &ServerArgs) -> Result<Self, ClientError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = server.api_key.as_ref().filter(|key| !key.expose().is_empty()) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .timeout(REQUEST_LIMIT)
            .connect_timeout(CONNECT_LIMIT)
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self { http, url: server.url.trim_end_matches('/').to_owned() })
    }

    /// The base URL of the endpoint.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The path of an operation on a job. An id with other characters could change where the request goes.
    pub(crate) fn job_path(operation: &str, job: &str) -> Result<String, ClientError> {
        if is_id(job) { Ok(format!("{operation}/{job}")) } else { Err(ClientError::JobId(job.to_owned())) }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<String, ClientError> {
        self.get_at(&format!("{}/{path}", self.url)).await
    }

    /// A URL outside of the endpoint's API, with the same key.
    pub(crate) async fn get_at(&self, url: &str) -> Result<String, ClientError> {
        self.send(self.http.get(url)).await
    }

    pub(crate) async fn post(&self, path: &str, body: String) -> Result<String, ClientError> {
        self.submit(path, body, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: String) -> Result<String, ClientError> {
        self.send(self.http.put(format!("{}/{path}", self.url)).body(body)).await
    }

    /// Posts a job; with a key, the request may be repeated.
    pub(crate) async fn submit(&self, path: &str, body: String, key: Option<&str>) -> Result<String, ClientError> {
        let request = self.http.post(format!("{}/{path}", self.url)).body(body);
        self.send(key.into_iter().fold(request, |request, key| request.header(IDEMPOTENCY_KEY, key))).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<String, ClientError> {
        let request = request.header(CONTENT_TYPE, "application/json");
        let reply = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = reply.status();
        let text = reply.text().await.map_err(|error| self.unreachable(error))?;
        match status {
            _ if status.is_success() => Ok(text),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ClientError::Unauthorized),
            StatusCode::NOT_FOUND if !is_endpoint_url(&self.url) && !is_not_found(&text) => {
                Err(ClientError::NotAnEndpoint { url: self.url.clone(), text: reason(&text) })
            }
            _ => Err(ClientError::Refused { status: status.as_u16(), text: reason(&text) }),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        ClientError::Unreachable { url: self.url.clone(), error: request_error_text(error) }
    }
}

/// Whether a 404 is about a job or a batch, so that the endpoint was found.
fn is_not_found(text: &str) -> bool {
    let reason = reason(text);
    [StoreError::JobNotFound, StoreError::BatchNotFound].iter().any(|error| reason == error.to_string())
}

/// The URL that was probably meant: one with the endpoint's name as its only path.
fn example(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (host, path) = rest.split_once('/').unwrap_or((rest, "ENDPOINT_ID"));
    format!("{scheme}://{host}/v2/{}", path.rsplit('/').next().unwrap_or_default())
}

/// The message of an error document, or the start of any other body.
fn reason(text: &str) -> String {
    #[derive(Deserialize)]
    struct Problem {
        error: Option<String>,
        detail: Option<String>,
    }
    let problem: Option<Problem> = serde_json::from_str(text).ok();
    let message = problem.and_then(|problem| problem.error.or(problem.detail));
    message.unwrap_or_else(|| text.chars().take(200).collect())
}
