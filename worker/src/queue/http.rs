//! RunPod's queue over HTTP: job-take, job-take-batch, job-stop, job-done, job-stream.

use std::convert::Infallible;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use runpod_handler_protocol::MAX_PAYLOAD_LEN;
use tokio::time::timeout;

use super::limits::{
    BODY_TIMEOUT, CONFLICT_PAUSE, HAND_BACK_TIMEOUT, MAX_LARGE_JOBS, MAX_SMALL_REPLY, MAX_SURPLUS, POLL_TIMEOUT,
    POST_BODY_TIMEOUT, POST_BYTES_PER_SECOND, POST_TIMEOUT, POST_TIMEOUT_MAX, PROGRESS_TIMEOUT,
};
use super::{
    Extension, Extensions, JobSource, Outage, PostReply, QueueConfig, RequestError, ResultBody, ResultSink, StopReply,
    TakeReply, TenantField, wire,
};
use crate::base::url::append;
use crate::base::{ClientError, UrlTemplate, excerpt, http_client, request_error_text, retry_after};
use runpod_worker_core::JobId;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// RunPod's queue over HTTP. Each call makes one try; the callers decide when to make another.
pub struct HttpQueue {
    polls: Client,
    posts: Client,
    take: String,
    take_batch: String,
    stop: Option<String>,
    hand_back: Option<String>,
    goodbye: Option<String>,
    extensions: Extensions,
    done: UrlTemplate,
    stream: Option<UrlTemplate>,
    tenant: Option<TenantField>,
    outage: Outage,
}

/// Shows one URL, without the parts that may be secret.
impl fmt::Debug for HttpQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpQueue").field("done", &self.done).finish_non_exhaustive()
    }
}

impl HttpQueue {
    /// Prepares both clients. Nothing is sent.
    ///
    /// # Errors
    /// When the key cannot stand in a header or the system has no usable TLS set-up.
    pub fn new(config: &QueueConfig) -> Result<Self, ClientError> {
        let worker = &config.worker_id;
        let batch = config.take.sibling("/job-take/", "/job-take-batch/");
        let stop = config.take.sibling("/job-take/", "/job-stop/");
        let sibling = |route| config.take.sibling("/job-take/", route).map(|url| url.for_worker(worker));
        Ok(Self {
            // RunPod's SDK declares JSON on its GETs too.
            polls: http_client(&config.key, Some("application/json"), Policy::limited(10))?,
            posts: http_client(&config.key, Some("application/x-www-form-urlencoded"), keep_the_method())?,
            take: config.take.for_worker(worker),
            take_batch: batch.as_ref().unwrap_or(&config.take).for_worker(worker),
            stop: stop.map(|stop| stop.for_worker(worker)),
            hand_back: sibling("/hand-back/"),
            goodbye: sibling("/goodbye/"),
            extensions: config.extensions.clone(),
            done: config.done.clone(),
            stream: config.stream.clone(),
            tenant: config.tenant.clone(),
            outage: Outage::default(),
        })
    }

    fn take_url(&self, want: usize, holding: bool) -> String {
        let batch = want > 1;
        let mut url = if batch { self.take_batch.clone() } else { self.take.clone() };
        if batch {
            append(&mut url, "batch_size", &want.to_string());
        }
        append(&mut url, "job_in_progress", if holding { "1" } else { "0" });
        url
    }

    /// Sets the tenant of each job, if `--tenant-field` is set.
    fn with_tenants(&self, mut reply: TakeReply) -> TakeReply {
        if let (Some(field), TakeReply::Jobs(jobs)) = (&self.tenant, &mut reply) {
            for job in jobs {
                job.tenant = job.body.as_ref().ok().and_then(|body| field.read(body));
            }
        }
        reply
    }

    async fn get(&self, url: &str) -> Result<Response, RequestError> {
        match timeout(POLL_TIMEOUT, self.extensions.sign(self.polls.get(url)).send()).await {
            Ok(sent) => self.note(sent, false),
            // A long poll without an answer says nothing about the queue.
            Err(_) => Err(RequestError::TimedOut(POLL_TIMEOUT)),
        }
    }

    /// Records whether the queue has answered, and which extensions it announces.
    fn note(&self, sent: Result<Response, reqwest::Error>, is_post: bool) -> Result<Response, RequestError> {
        match &sent {
            Ok(response) if !response.status().is_server_error() => self.outage.answered(),
            // Whoever has no room for results may still hand out jobs: the outbox repeats posts on its own.
            Ok(_) if is_post => {}
            Ok(_) | Err(_) => self.outage.failed(),
        }
        if let Ok(response) = &sent {
            self.extensions.note(response.status(), response.headers());
        }
        sent.map_err(request_error)
    }

    async fn post_result(&self, mut url: String, job: &JobId, body: &ResultBody, streamed: bool) -> PostReply {
        append(&mut url, "isStream", if streamed { "true" } else { "false" });
        let limit = post_timeout(body.len());
        if body.parts().count() < 2 {
            return self.post(&url, job, body.whole(), limit).await;
        }
        let parts: Vec<Bytes> = body.parts().cloned().collect();
        let in_parts = reqwest::Body::wrap_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>)));
        let request = self.posts.post(&url).header(CONTENT_LENGTH, body.len()).body(in_parts);
        match self.post_request(request, job, limit).await {
            // The client can follow a redirect only with a body in one piece.
            PostReply::Status { code: 307 | 308, .. } => self.post(&url, job, body.whole(), limit).await,
            reply => reply,
        }
    }

    async fn post(&self, url: &str, job: &JobId, body: Bytes, limit: Duration) -> PostReply {
        self.post_request(self.posts.post(url).body(body), job, limit).await
    }

    async fn post_request(&self, request: RequestBuilder, job: &JobId, limit: Duration) -> PostReply {
        let mut request = self.extensions.sign(request).timeout(limit);
        // The queue finds the job by the URL, so an id that cannot stand in a header does no harm.
        if let Ok(id) = HeaderValue::from_str(job.as_str()) {
            request = request.header(REQUEST_ID, id);
        }
        self.send(request, limit).await
    }

    /// Posts to a route of an extension.
    async fn post_extension(&self, extension: Extension, url: Option<&String>, body: String) -> PostReply {
        let Some(url) = url.filter(|_| self.extensions.has(extension)) else { return PostReply::NoRoute };
        let request = self.extensions.sign(self.posts.post(url)).header(CONTENT_TYPE, "application/json");
        self.send(request.body(body).timeout(HAND_BACK_TIMEOUT), HAND_BACK_TIMEOUT).await
    }

    /// Sends a post and reads its answer.
    async fn send(&self, request: RequestBuilder, limit: Duration) -> PostReply {
        let sent = request.send().await;
        let timed_out = sent.as_ref().is_err_and(|error| error.is_timeout() && !error.is_connect());
        match self.note(sent, true) {
            Ok(response) => {
                let code = response.status().as_u16();
                let retry_after = retry_after(response.headers());
                // Read so that the connection can be used again; the content has no meaning.
                let _ = read_body(response, MAX_SMALL_REPLY, POST_BODY_TIMEOUT).await;
                PostReply::Status { code, retry_after }
            }
            Err(_) if timed_out => PostReply::Failed(RequestError::TimedOut(limit)),
            Err(error) => PostReply::Failed(error),
        }
    }
}

impl JobSource for HttpQueue {
    fn outage(&self) -> Outage {
        self.outage.clone()
    }

    async fn take(&self, want: usize, holding: bool) -> TakeReply {
        let response = match self.get(&self.take_url(want, holding)).await {
            Ok(response) => response,
            // The queue has held the request for the longest time allowed: the normal end of a poll without a job.
            Err(RequestError::TimedOut(_)) => return TakeReply::Nothing,
            Err(error) => return TakeReply::Failed { error, retry_after: None },
        };
        let (status, begun) = (response.status(), Instant::now());
        let retry_after = retry_after(response.headers());
        match status {
            StatusCode::NO_CONTENT | StatusCode::BAD_REQUEST => TakeReply::Nothing,
            StatusCode::TOO_MANY_REQUESTS => TakeReply::RateLimited { retry_after },
            StatusCode::CONFLICT => {
                let retry_after = Some(retry_after.unwrap_or_default().max(CONFLICT_PAUSE));
                TakeReply::Failed { error: RequestError::DuplicateWorker, retry_after }
            }
            _ if !status.is_success() => {
                TakeReply::Failed { error: RequestError::from_status(status.as_u16()), retry_after }
            }
            _ => {
                let media_type = media_type(response.headers());
                let most = want.saturating_add(MAX_SURPLUS);
                let limit = MAX_PAYLOAD_LEN.saturating_mul(want.clamp(1, MAX_LARGE_JOBS));
                match read_body(response, limit, BODY_TIMEOUT).await {
                    Ok(Body::Complete(body)) if body.is_empty() => TakeReply::Nothing,
                    Ok(Body::Complete(body)) if media_type == "application/json" => {
                        let mut reply = self.with_tenants(wire::take_reply(&body, most));
                        if let TakeReply::Jobs(jobs) = &mut reply {
                            jobs.iter_mut().for_each(|job| job.transfer = begun.elapsed());
                        }
                        reply
                    }
                    Ok(Body::Complete(body)) => wire::unusable(
                        &body,
                        &format!("its media type is `{}` instead of `application/json`", excerpt(&media_type)),
                        most,
                    ),
                    Ok(Body::Cut(body)) => wire::unusable(&body, &format!("it is longer than {limit} bytes"), most),
                    Err(error) => TakeReply::Failed { error, retry_after },
                }
            }
        }
    }

    async fn stops(&self) -> StopReply {
        let Some(url) = &self.stop else { return StopReply::Unsupported };
        let response = match self.get(url).await {
            Ok(response) => response,
            Err(RequestError::TimedOut(_)) => return StopReply::Nothing,
            Err(error) => return StopReply::Failed { error, retry_after: None },
        };
        let status = response.status();
        let retry_after = retry_after(response.headers());
        match status {
            StatusCode::TOO_MANY_REQUESTS => StopReply::RateLimited { retry_after },
            _ if !status.is_success() => {
                StopReply::Failed { error: RequestError::from_status(status.as_u16()), retry_after }
            }
            _ if media_type(response.headers()) != "application/json" => StopReply::Nothing,
            _ => match read_body(response, MAX_SMALL_REPLY, BODY_TIMEOUT).await {
                Ok(Body::Complete(body)) => wire::stop_reply(&body),
                Ok(Body::Cut(_)) => StopReply::Nothing,
                Err(error) => StopReply::Failed { error, retry_after },
            },
        }
    }
}

impl ResultSink for HttpQueue {
    fn outage(&self) -> Outage {
        self.outage.clone()
    }

    async fn post_final(&self, job: &JobId, body: ResultBody, streamed: bool) -> PostReply {
        self.post_result(self.done.for_job(job), job, &body, streamed).await
    }

    async fn post_final_of(&self, worker: &str, job: &JobId, body: ResultBody, streamed: bool) -> PostReply {
        self.post_result(self.done.for_job_of(worker, job), job, &body, streamed).await
    }

    async fn post_chunk(&self, job: &JobId, body: Bytes) -> PostReply {
        let Some(stream) = &self.stream else { return PostReply::NoRoute };
        let mut url = stream.for_job(job);
        // RunPod's SDK sends `true` only with the final result, not on the stream route.
        append(&mut url, "isStream", "false");
        let limit = post_timeout(body.len());
        self.post(&url, job, body, limit).await
    }

    async fn hand_back(&self, jobs: &[JobId]) -> PostReply {
        let jobs: Vec<&str> = jobs.iter().map(JobId::as_str).collect();
        let body = serde_json::json!({ "jobs": jobs }).to_string();
        self.post_extension(Extension::HandBack, self.hand_back.as_ref(), body).await
    }

    async fn goodbye(&self) -> PostReply {
        self.post_extension(Extension::Goodbye, self.goodbye.as_ref(), "{}".to_owned()).await
    }

    async fn post_progress(&self, job: &JobId, body: Bytes) -> PostReply {
        let mut url = self.done.for_job(job);
        append(&mut url, "isStream", "false");
        self.post(&url, job, body, PROGRESS_TIMEOUT).await
    }
}

/// Follows 307 and 308 only. Other redirects turn a POST into a GET, whose success would look like a delivered result.
fn keep_the_method() -> Policy {
    Policy::custom(|attempt| {
        let keeps = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if keeps && attempt.previous().len() < 10 { attempt.follow() } else { attempt.stop() }
    })
}

fn post_timeout(len: usize) -> Duration {
    let extra = u64::try_from(len).unwrap_or(u64::MAX) / POST_BYTES_PER_SECOND;
    POST_TIMEOUT.saturating_add(Duration::from_secs(extra)).min(POST_TIMEOUT_MAX)
}

/// The media type without parameters, in lower case; empty when there is none.
fn media_type(headers: &HeaderMap) -> String {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

enum Body {
    Complete(Bytes),
    /// The beginning of a body that is longer than the limit.
    Cut(Bytes),
}

async fn read_body(response: Response, max_len: usize, limit: Duration) -> Result<Body, RequestError> {
    timeout(limit, read_up_to(response, max_len)).await.unwrap_or(Err(RequestError::TimedOut(limit)))
}

async fn read_up_to(mut response: Response, limit: usize) -> Result<Body, RequestError> {
    let Some(first) = response.chunk().await.map_err(request_error)? else { return Ok(Body::Complete(Bytes::new())) };
    let promised = response.content_length().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    // Small answers come in one piece, and need not be copied.
    if promised == first.len() && promised <= limit {
        return Ok(Body::Complete(first));
    }
    let mut body = BytesMut::with_capacity(promised.clamp(first.len(), limit.max(first.len())));
    body.extend_from_slice(&first);
    if body.len() > limit {
        return Ok(Body::Cut(body.freeze()));
    }
    while let Some(part) = response.chunk().await.map_err(request_error)? {
        body.extend_from_slice(&part);
        if body.len() > limit {
            return Ok(Body::Cut(body.freeze()));
        }
    }
    Ok(Body::Complete(body.freeze()))
}

/// The reason why no answer came, with its causes and without the URL, which may hold secrets.
pub fn request_error(error: reqwest::Error) -> RequestError {
    RequestError::Unreachable(request_error_text(error))
}

#[cfg(test)]
mod tests;
