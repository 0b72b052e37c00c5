//! RunPod's HTTP client: job-take, job-take-batch, job-stop, job-done, job-stream.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use runpod_handler_protocol::MAX_PAYLOAD_LEN;
use tokio::time::timeout;

use super::{JobSource, PostReply, QueueConfig, RequestError, ResultSink, StopReply, TakeReply, TenantField, wire};
use crate::base::url::append;
use crate::base::{ClientError, UrlTemplate, http_client, request_error_text, retry_after};
use runpod_worker_core::JobId;

/// A long poll is given up after this time without an answer, as in RunPod's SDK.
const POLL_LIMIT: Duration = Duration::from_secs(90);

/// Reading the body of an answer that has begun may take this long.
const BODY_LIMIT: Duration = Duration::from_secs(120);

/// A post may take this long …
const POST_LIMIT: Duration = Duration::from_secs(60);

/// … and one second more for each of this many bytes …
const POST_BYTES_PER_SECOND: u64 = 100_000;

/// … up to the limit of RunPod's SDK.
const POST_LIMIT_MAX: Duration = Duration::from_secs(600);

/// The answer to a post is its status; its body is not waited for any longer than this.
const POST_BODY_LIMIT: Duration = Duration::from_secs(5);

/// The final result waits behind a progress post in flight, so that one gets less time.
const PROGRESS_LIMIT: Duration = Duration::from_secs(10);

/// Jobs of the largest size that one reply may hold; smaller ones may be more.
const MAX_LARGE_JOBS: usize = 16;

/// Longest reply that is read when no job can be in it.
const MAX_SMALL_REPLY: usize = 1024 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// RunPod's queue over HTTP. One attempt per call; when to try again is decided by the callers.
pub struct HttpQueue {
    polls: Client,
    posts: Client,
    take: String,
    take_batch: String,
    stop: Option<String>,
    done: UrlTemplate,
    stream: Option<UrlTemplate>,
    tenant: Option<TenantField>,
}

/// Shows the one URL that can be shown without what may be secret in it.
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
        Ok(Self {
            // RunPod's SDK declares JSON on its GETs too.
            polls: http_client(&config.key, Some("application/json"), Policy::limited(10))?,
            posts: http_client(&config.key, Some("application/x-www-form-urlencoded"), keep_the_method())?,
            take: config.take.for_worker(worker),
            take_batch: batch.as_ref().unwrap_or(&config.take).for_worker(worker),
            stop: stop.map(|stop| stop.for_worker(worker)),
            done: config.done.clone(),
            stream: config.stream.clone(),
            tenant: config.tenant.clone(),
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

    /// Notes on whose behalf each job runs, if that was asked for.
    fn with_tenants(&self, mut reply: TakeReply) -> TakeReply {
        if let (Some(field), TakeReply::Jobs(jobs)) = (&self.tenant, &mut reply) {
            for job in jobs {
                job.tenant = job.body.as_ref().ok().and_then(|body| field.read(body));
            }
        }
        reply
    }

    async fn get(&self, url: &str) -> Result<Response, RequestError> {
        match timeout(POLL_LIMIT, self.polls.get(url).send()).await {
            Ok(sent) => sent.map_err(request_error),
            Err(_) => Err(RequestError::TimedOut(POLL_LIMIT)),
        }
    }

    async fn post_result(&self, mut url: String, job: &JobId, body: Bytes, streamed: bool) -> PostReply {
        append(&mut url, "isStream", if streamed { "true" } else { "false" });
        let limit = post_limit(body.len());
        self.post(&url, job, body, limit).await
    }

    async fn post(&self, url: &str, job: &JobId, body: Bytes, limit: Duration) -> PostReply {
        let mut request = self.posts.post(url).body(body).timeout(limit);
        // An id that cannot stand in a header still stands in the URL, which is what counts.
        if let Ok(id) = HeaderValue::from_str(job.as_str()) {
            request = request.header(REQUEST_ID, id);
        }
        match request.send().await {
            Ok(response) => {
                let code = response.status().as_u16();
                let retry_after = retry_after(response.headers());
                // Read so that the connection can be used again; what it says means nothing.
                let _ = read_body(response, MAX_SMALL_REPLY, POST_BODY_LIMIT).await;
                PostReply::Status { code, retry_after }
            }
            Err(error) if error.is_timeout() && !error.is_connect() => PostReply::Failed(RequestError::TimedOut(limit)),
            Err(error) => PostReply::Failed(request_error(error)),
        }
    }
}

impl JobSource for HttpQueue {
    async fn take(&self, want: usize, holding: bool) -> TakeReply {
        let response = match self.get(&self.take_url(want, holding)).await {
            Ok(response) => response,
            // The queue held the request for as long as it may. That is the normal end of a quiet poll.
            Err(RequestError::TimedOut(_)) => return TakeReply::Nothing,
            Err(error) => return TakeReply::Failed { error, retry_after: None },
        };
        let (status, begun) = (response.status(), Instant::now());
        let retry_after = retry_after(response.headers());
        match status {
            StatusCode::NO_CONTENT | StatusCode::BAD_REQUEST => TakeReply::Nothing,
            StatusCode::TOO_MANY_REQUESTS => TakeReply::Throttled { retry_after },
            _ if !status.is_success() => {
                TakeReply::Failed { error: RequestError::from_status(status.as_u16()), retry_after }
            }
            _ => {
                let media_type = media_type(response.headers());
                let limit = MAX_PAYLOAD_LEN.saturating_mul(want.clamp(1, MAX_LARGE_JOBS));
                match read_body(response, limit, BODY_LIMIT).await {
                    Ok(Body::Complete(body)) if body.is_empty() => TakeReply::Nothing,
                    Ok(Body::Complete(body)) if media_type == "application/json" => {
                        let mut reply = self.with_tenants(wire::take_reply(&body));
                        if let TakeReply::Jobs(jobs) = &mut reply {
                            jobs.iter_mut().for_each(|job| job.transfer = begun.elapsed());
                        }
                        reply
                    }
                    Ok(Body::Complete(body)) => wire::unusable(
                        &body,
                        &format!("its media type is `{}` instead of `application/json`", printable(&media_type)),
                    ),
                    Ok(Body::Cut(body)) => wire::unusable(&body, &format!("it is longer than {limit} bytes")),
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
            StatusCode::TOO_MANY_REQUESTS => StopReply::Throttled { retry_after },
            _ if !status.is_success() => {
                StopReply::Failed { error: RequestError::from_status(status.as_u16()), retry_after }
            }
            _ if media_type(response.headers()) != "application/json" => StopReply::Nothing,
            _ => match read_body(response, MAX_SMALL_REPLY, BODY_LIMIT).await {
                Ok(Body::Complete(body)) => wire::stop_reply(&body),
                Ok(Body::Cut(_)) => StopReply::Nothing,
                Err(error) => StopReply::Failed { error, retry_after },
            },
        }
    }
}

impl ResultSink for HttpQueue {
    async fn post_final(&self, job: &JobId, body: Bytes, streamed: bool) -> PostReply {
        self.post_result(self.done.for_job(job), job, body, streamed).await
    }

    async fn post_final_of(&self, worker: &str, job: &JobId, body: Bytes, streamed: bool) -> PostReply {
        self.post_result(self.done.for_job_of(worker, job), job, body, streamed).await
    }

    async fn post_chunk(&self, job: &JobId, body: Bytes) -> PostReply {
        let Some(stream) = &self.stream else { return PostReply::NoRoute };
        let mut url = stream.for_job(job);
        // `false` on the stream route is no slip: RunPod's SDK says `true` only with the final result.
        append(&mut url, "isStream", "false");
        let limit = post_limit(body.len());
        self.post(&url, job, body, limit).await
    }

    async fn post_progress(&self, job: &JobId, body: Bytes) -> PostReply {
        let mut url = self.done.for_job(job);
        append(&mut url, "isStream", "false");
        self.post(&url, job, body, PROGRESS_LIMIT).await
    }
}

/// Follows 307 and 308 only. The others turn a POST into a GET, whose success would look like a delivered result.
fn keep_the_method() -> Policy {
    Policy::custom(|attempt| {
        let keeps = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if keeps && attempt.previous().len() < 10 { attempt.follow() } else { attempt.stop() }
    })
}

fn post_limit(len: usize) -> Duration {
    let extra = u64::try_from(len).unwrap_or(u64::MAX) / POST_BYTES_PER_SECOND;
    POST_LIMIT.saturating_add(Duration::from_secs(extra)).min(POST_LIMIT_MAX)
}

/// The media type without parameters, in lower case; empty when there is none.
fn media_type(headers: &HeaderMap) -> String {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Text from outside, short enough for a message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

enum Body {
    Complete(Bytes),
    /// It is longer than the limit; this is its beginning.
    Cut(Bytes),
}

async fn read_body(response: Response, limit: usize, patience: Duration) -> Result<Body, RequestError> {
    timeout(patience, read_up_to(response, limit)).await.unwrap_or(Err(RequestError::TimedOut(patience)))
}

async fn read_up_to(mut response: Response, limit: usize) -> Result<Body, RequestError> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(request_error)? {
        body.extend_from_slice(&part);
        if body.len() > limit {
            return Ok(Body::Cut(body.freeze()));
        }
    }
    Ok(Body::Complete(body.freeze()))
}

/// Why no answer came, with the causes and without the URL, which may hold secrets.
pub fn request_error(error: reqwest::Error) -> RequestError {
    RequestError::Unreachable(request_error_text(error))
}

#[cfg(test)]
mod tests;
