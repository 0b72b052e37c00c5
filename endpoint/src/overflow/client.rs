//! Requests to the far endpoint.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use runpod_alerts::request_error_text;
use tokio::time::timeout;

use super::limits::{
    BYTES_A_SECOND, CONNECT_TIME, LONGEST_SILENCE, REFUSAL, REPLY_HEAD, SHORTEST_SILENCE, STREAM_HOLD, TRANSFER_TIME,
};
use super::settings::{OverflowError, OverflowSettings};
use super::wire::{Accepted, FarJob, FarStream, RunRequest, refusal, submission_key};
use crate::api::is_id;
use crate::store::TakenJob;

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Why the far endpoint did not do what it was asked to. The texts name neither key nor URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum FarError {
    #[error("no answer: {text}")]
    Unreachable {
        text: String,
        /// The request may have arrived there.
        was_sent: bool,
    },
    #[error("it answered {status}: {text}")]
    Refused { status: u16, text: String },
    #[error("it does not know the job, or the endpoint id in the URL is wrong")]
    NotFound,
    #[error("its answer is larger than {0} bytes: raise --max-result-mib or return a link to the result")]
    TooLarge(usize),
    #[error("its answer is not the expected JSON: {0}; the URL must end in /v2/<endpoint id>")]
    Reply(#[from] serde_json::Error),
    #[error("it gave the job an id that cannot be part of a URL")]
    Id,
}

/// Why a job came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The far endpoint would refuse it again.
    OfJob,
    /// A worker of the far endpoint had begun it, or its submission had an answer that makes no sense.
    Lost,
    /// The far endpoint or the way to it fails, which says nothing about the job.
    Outage,
}

impl FarError {
    /// Why a job comes back that was submitted with this error.
    pub(super) fn why(&self) -> Why {
        match self {
            Self::Refused { status: 400 | 413 | 422, .. } => Why::OfJob,
            Self::Refused { status: 300..=399 | 401..=403 | 408 | 425 | 429 | 500.., .. }
            | Self::Unreachable { .. }
            | Self::NotFound => Why::Outage,
            Self::Refused { .. } | Self::TooLarge(_) | Self::Reply(_) | Self::Id => Why::Lost,
        }
    }

    /// Whether it may have done all the same what it was asked to: no answer came, or that of a server in between.
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Unreachable { was_sent: true, .. } | Self::Refused { status: 502 | 504 | 520..=524, .. })
    }
}

/// A client of the far endpoint.
#[derive(Debug)]
pub(super) struct FarEndpoint {
    http: Client,
    url: Url,
    max_bytes: usize,
    /// How long it may be silent in the middle of a request.
    silence: Duration,
}

impl FarEndpoint {
    /// Results may have `max_result_bytes`.
    pub(super) fn new(settings: &OverflowSettings, max_result_bytes: usize) -> Result<Self, OverflowError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &settings.key {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| OverflowError::Key)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let silence = settings.lost_after.clamp(SHORTEST_SILENCE, LONGEST_SILENCE);
        let http = Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIME.min(silence))
            .timeout(TRANSFER_TIME)
            // A redirected POST would lose its body, and a redirect could take the key elsewhere.
            .redirect(Policy::none())
            .user_agent(concat!("runpod-endpoint/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(OverflowError::Client)?;
        Ok(Self { http, url: settings.url.clone(), max_bytes: max_result_bytes.saturating_add(REPLY_HEAD), silence })
    }

    /// Submits a job; its id there. A submission that is repeated is the same job there, if the far endpoint knows `Idempotency-Key`.
    pub(super) async fn submit(&self, job: &TakenJob) -> Result<String, FarError> {
        let body = serde_json::to_vec(&RunRequest::from(job))?;
        let silence = self.silence + Duration::from_secs((body.len() / BYTES_A_SECOND) as u64);
        let mut request = self.http.post(self.path(&["run"])).header(IDEMPOTENCY_KEY, submission_key(job)).body(body);
        if let Some(traceparent) = &job.request.traceparent {
            request = request.header("traceparent", &**traceparent);
        }
        let Accepted { id } = serde_json::from_slice(&self.send(request, silence).await?)?;
        if is_id(&id) { Ok(id) } else { Err(FarError::Id) }
    }

    /// The job as it is.
    pub(super) async fn status(&self, id: &str) -> Result<FarJob, FarError> {
        self.status_within(id, self.silence).await
    }

    /// The same; the far endpoint may be silent for `longest`.
    pub(super) async fn status_within(&self, id: &str, longest: Duration) -> Result<FarJob, FarError> {
        let silence = longest.min(self.silence);
        Ok(FarJob::parse(&self.send(self.http.get(self.path(&["status", id])), silence).await?)?)
    }

    /// The stream items since the last call. Waits a moment for the first one.
    pub(super) async fn stream(&self, id: &str) -> Result<FarStream, FarError> {
        let mut url = self.path(&["stream", id]);
        url.query_pairs_mut().append_pair("wait", &STREAM_HOLD.as_millis().to_string());
        Ok(serde_json::from_slice(&self.send(self.http.get(url), self.silence).await?)?)
    }

    /// Cancels the job; how it has ended, as far as the far endpoint says. One that had ended before is there with its result. One that
    /// is not known is no longer there to be cancelled.
    pub(super) async fn cancel(&self, id: &str, longest: Option<Duration>) -> Result<Option<FarJob>, FarError> {
        let silence = longest.unwrap_or(self.silence).min(self.silence);
        match self.send(self.http.post(self.path(&["cancel", id])), silence).await {
            Ok(body) => match FarJob::parse(&body) {
                // Not every endpoint answers with the result.
                Ok(job) if job.has_result() => {}
                job => return Ok(job.ok()),
            },
            Err(FarError::TooLarge(_) | FarError::Refused { status: 400 | 409 | 422, .. }) => {}
            Err(FarError::NotFound | FarError::Refused { status: 410, .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        match self.status_within(id, silence).await {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.why() == Why::Outage && !matches!(error, FarError::NotFound) => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn path(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Sends the request; the far endpoint may be silent for `silence` before and within its answer.
    async fn send(&self, request: RequestBuilder, silence: Duration) -> Result<Bytes, FarError> {
        let unreachable = |error: reqwest::Error| {
            let was_sent = !error.is_connect() && !error.is_builder();
            FarError::Unreachable { text: request_error_text(error), was_sent }
        };
        let silent =
            |_| FarError::Unreachable { text: format!("nothing came for {} s", silence.as_secs()), was_sent: true };
        let mut reply = timeout(silence, request.send()).await.map_err(silent)?.map_err(unreachable)?;
        let status = reply.status();
        let mut body = Vec::new();
        while let Some(part) = timeout(silence, reply.chunk()).await.map_err(silent)?.map_err(unreachable)? {
            if body.len() + part.len() > self.max_bytes {
                return Err(FarError::TooLarge(self.max_bytes));
            }
            body.extend_from_slice(&part);
        }
        match status {
            _ if status.is_success() => Ok(body.into()),
            StatusCode::NOT_FOUND => Err(FarError::NotFound),
            _ => Err(FarError::Refused { status: status.as_u16(), text: refusal(&body, REFUSAL) }),
        }
    }
}
