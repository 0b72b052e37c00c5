//! Empties one lane: posts, waits, tries again, gives up.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ErrorReport};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::lane::{Chunk, Lane, Step};
use super::verdict::{Verdict, verdict};
use super::{OutboxLimits, Shared, count};
use crate::config::Identity;
use crate::core::{DeliveryEvent, Event, FinalResult, JobId};
use crate::queue::{PostReply, RequestError, ResultSink, chunk_body, progress_body, result_body};
use crate::retry::Retry;

/// A final result that is not accepted within this time is overdue.
const PROMPT: Duration = Duration::from_millis(250);

/// Pauses between attempts grow from about this …
const PAUSE: Duration = Duration::from_secs(1);

/// … to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The same while the key is refused.
const UNAUTHORIZED_PAUSE: Duration = Duration::from_secs(30);
const UNAUTHORIZED_PAUSE_MAX: Duration = Duration::from_secs(300);

/// One thing to post, ready to be sent as often as needed.
enum Message {
    Final { body: Bytes, streamed: bool },
    Chunk(Bytes),
}

/// How a series of attempts ended.
enum Outcome {
    Accepted,
    Refused { code: u16 },
    GivenUp { why: String },
}

/// Posts for all lanes.
pub(super) struct Courier<S> {
    sink: Arc<S>,
    identity: Identity,
    limits: OutboxLimits,
    shared: Arc<Shared>,
    posts: Semaphore,
    /// Kind of the last failure; `None` after a success.
    failing: Mutex<Option<(&'static str, u16)>>,
    told_no_stream: AtomicBool,
}

impl<S: ResultSink> Courier<S> {
    pub(super) fn new(sink: Arc<S>, identity: Identity, limits: OutboxLimits, shared: Arc<Shared>) -> Self {
        Self {
            sink,
            identity,
            limits,
            shared,
            posts: Semaphore::new(limits.max_posts.max(1)),
            failing: Mutex::default(),
            told_no_stream: AtomicBool::new(false),
        }
    }

    /// Posts everything that comes through the lane, up to and including the final result. Returns whether the queue has it.
    pub(super) async fn empty(&self, lane: &Lane, events: &mpsc::Sender<Event>) -> bool {
        // When chunks of this job began to fail; `None` after one was accepted.
        let mut failing_since: Option<Instant> = None;
        loop {
            let step = lane.next().await;
            let cost = step.cost();
            match step {
                Step::Chunk(Chunk { attempt, seq, payload }) => {
                    if let Err(why) = self.deliver_chunk(&lane.job, &payload, &mut failing_since).await {
                        count(&self.shared.counters.lost_chunks);
                        tracing::warn!(job = %lane.job, attempt, seq, why, "a chunk is lost; the job goes on");
                    }
                    lane.release(cost, &self.shared.ledger);
                    let job = lane.job.clone();
                    // Nobody listens any more: the worker is going down, and what is left still wants to be posted.
                    let _ = events.send(Event::Delivery(DeliveryEvent::Chunk { job, attempt, seq })).await;
                }
                Step::Progress(value) => {
                    self.post_progress(&lane.job, &value).await;
                    lane.release(cost, &self.shared.ledger);
                }
                Step::Final(result) => return self.deliver_final(&lane.job, result).await,
            }
        }
    }

    /// One attempt: the next value is worth more than this one again.
    async fn post_progress(&self, job: &JobId, value: &[u8]) {
        let body = progress_body(value);
        let permit = self.posts.acquire().await;
        let reply = self.sink.post_progress(job, body).await;
        drop(permit);
        if verdict(reply) != Verdict::Accepted {
            tracing::debug!(job = %job, "a progress update was not accepted");
        }
    }

    async fn deliver_chunk(
        &self,
        job: &JobId,
        item: &Bytes,
        failing_since: &mut Option<Instant>,
    ) -> Result<(), String> {
        let message = Message::Chunk(chunk_body(item));
        let first = self.attempt(job, &message).await;
        let since = failing_since.unwrap_or_else(Instant::now);
        match self.settle(job, &message, first, since + self.limits.chunk_age).await {
            Outcome::Accepted => {
                *failing_since = None;
                Ok(())
            }
            Outcome::Refused { code } => Err(format!("the queue answered {code}")),
            Outcome::GivenUp { why } => {
                *failing_since = Some(since);
                Err(why)
            }
        }
    }

    /// Returns whether the queue has the result itself.
    async fn deliver_final(&self, job: &JobId, result: FinalResult) -> bool {
        let until = Instant::now() + self.limits.max_age;
        let (streamed, stop_pod) = (result.streamed, result.stop_pod);
        let message = Message::Final { body: result_body(&result, &self.identity), streamed };
        // The body has a copy; for as long as a result waits, one is enough.
        drop(result);
        let first = self.first_attempt(job, &message).await;
        let why = match self.settle(job, &message, first, until).await {
            Outcome::Accepted => return true,
            Outcome::GivenUp { why } => why,
            Outcome::Refused { code } => {
                let why = refusal(code, message.len());
                let report = ErrorReport { kind: ErrorKind::Delivery, message: why.clone(), traceback: String::new() };
                let substitute = FinalResult { result: Err(report), streamed, stop_pod };
                let message = Message::Final { body: result_body(&substitute, &self.identity), streamed };
                let first = self.attempt(job, &message).await;
                match self.settle(job, &message, first, until).await {
                    Outcome::Accepted => format!("{why}; the job was reported as failed instead"),
                    Outcome::Refused { .. } | Outcome::GivenUp { .. } => {
                        format!("{why}; the report of that was not accepted either")
                    }
                }
            }
        };
        count(&self.shared.counters.dead_letters);
        tracing::error!(job = %job, why, "a result could not be delivered");
        false
    }

    /// The attempt that nearly always succeeds. A result whose first attempt takes long or fails is overdue.
    async fn first_attempt(&self, job: &JobId, message: &Message) -> PostReply {
        let mut attempt = pin!(self.attempt(job, message));
        match timeout(PROMPT, &mut attempt).await {
            Ok(reply @ PostReply::Status { code: 200..=299, .. }) => reply,
            Ok(reply) => {
                self.overdue(job);
                reply
            }
            Err(_) => {
                self.overdue(job);
                attempt.await
            }
        }
    }

    /// A final result was not accepted at once. Until it is, it lives in memory only.
    fn overdue(&self, job: &JobId) {
        count(&self.shared.counters.overdue);
        tracing::debug!(job = %job, "a result was not accepted at once; it is kept until it is");
    }

    async fn attempt(&self, job: &JobId, message: &Message) -> PostReply {
        // Held for one attempt only: a lane that waits for its next attempt must not keep the others from posting.
        let _permit = self.posts.acquire().await;
        match message {
            Message::Final { body, streamed } => self.sink.post_final(job, body.clone(), *streamed).await,
            Message::Chunk(body) => self.sink.post_chunk(job, body.clone()).await,
        }
    }

    /// From the first reply to the last word, with as many attempts as fit before `until`.
    async fn settle(&self, job: &JobId, message: &Message, first: PostReply, until: Instant) -> Outcome {
        let mut retry = Retry::new(PAUSE, PAUSE_MAX);
        let mut slow_retry = Retry::new(UNAUTHORIZED_PAUSE, UNAUTHORIZED_PAUSE_MAX);
        let mut reply = first;
        loop {
            let (pause, error) = match verdict(reply) {
                Verdict::Accepted => {
                    self.succeeded();
                    return Outcome::Accepted;
                }
                Verdict::Refused { code } => return Outcome::Refused { code },
                Verdict::Dead { code: Some(code) } => {
                    return Outcome::GivenUp {
                        why: format!("the queue answered {code}: it does not want the job any more"),
                    };
                }
                Verdict::Dead { code: None } => return self.no_stream(),
                Verdict::Later { retry_after, error } => (retry.next(retry_after), error),
                Verdict::Unauthorized { error } => {
                    self.shared.counters.unauthorized.store(true, Ordering::Relaxed);
                    (slow_retry.next(None), error)
                }
            };
            self.failed(&error);
            if Instant::now() + pause > until {
                return Outcome::GivenUp { why: format!("its time is over, and the last attempt failed: {error}") };
            }
            count(&self.shared.counters.retries);
            sleep(pause).await;
            reply = self.attempt(job, message).await;
        }
    }

    fn no_stream(&self) -> Outcome {
        if !self.told_no_stream.swap(true, Ordering::Relaxed) {
            tracing::warn!("chunks cannot be streamed: set RUNPOD_WEBHOOK_POST_STREAM to the job-stream URL");
        }
        Outcome::GivenUp { why: "there is no job-stream URL".to_owned() }
    }

    fn succeeded(&self) {
        self.shared.counters.unauthorized.store(false, Ordering::Relaxed);
        if self.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("results are accepted again");
        }
    }

    fn failed(&self, error: &RequestError) {
        let before = self.failing.lock().unwrap_or_else(PoisonError::into_inner).replace(error.kind());
        if before != Some(error.kind()) {
            tracing::warn!(%error, "results cannot be delivered; they are kept and tried again");
        }
    }
}

impl Message {
    fn len(&self) -> usize {
        match self {
            Self::Final { body, .. } | Self::Chunk(body) => body.len(),
        }
    }
}

fn refusal(code: u16, bytes: usize) -> String {
    format!(
        "the queue refused the result of {bytes} bytes with status {code}; return less, or upload large results and return \
         their URL"
    )
}
