//! Empties one lane: posts, waits, tries again, gives up.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ErrorReport};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::keeper::{Keeper, Parcel};
use super::lane::{Chunk, Lane, Step};
use super::record::{Record, now_ms};
use super::spool::Reason;
use super::verdict::{Verdict, verdict};
use super::{OutboxLimits, Shared, count};
use crate::base::{Identity, Retry};
use crate::queue::{PostReply, RequestError, ResultSink, chunk_body, progress_body, result_body};
use runpod_worker_core::{DeliveryEvent, Event, FinalResult, JobId};

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
    Final(Parcel),
    Chunk(Bytes),
}

/// How a series of attempts ended.
enum Outcome {
    Accepted,
    Refused { code: u16 },
    GivenUp { code: Option<u16>, why: String },
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
                Step::Final(result) => {
                    let stop_pod = result.stop_pod;
                    let parcel = self.parcel(&lane.job, &result);
                    // The body has a copy; for as long as a result waits, one is enough.
                    drop(result);
                    return self.deliver_final(lane, parcel, stop_pod, self.limits.max_age).await;
                }
                Step::Recovered(parcel) => {
                    let left = self.limits.max_age.saturating_sub(parcel.record.age());
                    return self.deliver_final(lane, *parcel, false, left).await;
                }
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
            Outcome::GivenUp { why, .. } => {
                *failing_since = Some(since);
                Err(why)
            }
        }
    }

    /// A result ready to be posted and to be written down.
    fn parcel(&self, job: &JobId, result: &FinalResult) -> Parcel {
        let keeper = self.shared.keeper.as_ref();
        let attempt = u32::from(keeper.is_some_and(|keeper| !keeper.always()));
        let body = result_body(result, &self.identity);
        let record =
            Record { job: job.clone(), streamed: result.streamed, attempt, time_ms: now_ms(), body, origin: None };
        Parcel { record, ticket: keeper.map(Keeper::ticket) }
    }

    /// Returns whether the queue has the result itself. The last attempt begins before `limit` is over.
    async fn deliver_final(&self, lane: &Lane, parcel: Parcel, stop_pod: bool, limit: Duration) -> bool {
        let job = &lane.job;
        let until = Instant::now() + limit;
        if let Some(ticket) = parcel.ticket.clone() {
            lane.holds(ticket);
        }
        let (len, streamed) = (parcel.record.body.len(), parcel.record.streamed);
        let message = Message::Final(parcel);
        let first = self.first_attempt(job, &message).await;
        let outcome = self.settle(job, &message, first, until).await;
        let Message::Final(parcel) = message else { return false };
        let (kept, why) = match outcome {
            Outcome::Accepted => {
                self.remove(parcel).await;
                return true;
            }
            Outcome::GivenUp { code, why } => {
                let kept = self.bury(parcel, code, &why).await;
                (kept, why)
            }
            Outcome::Refused { code } => {
                let why = refusal(code, len);
                let report = ErrorReport { kind: ErrorKind::Delivery, message: why.clone(), traceback: String::new() };
                let mut substitute =
                    self.parcel(job, &FinalResult { result: Err(report), streamed, stop_pod, cost: None });
                substitute.record.origin.clone_from(&parcel.record.origin);
                // Before the original goes, so that a crash in between leaves at least one of them to be posted.
                self.save(&substitute).await;
                let kept = self.bury(parcel, Some(code), &why).await;
                let message = Message::Final(substitute);
                let first = self.attempt(job, &message).await;
                let outcome = self.settle(job, &message, first, until).await;
                if let Message::Final(substitute) = message {
                    self.remove(substitute).await;
                }
                match outcome {
                    Outcome::Accepted => (kept, format!("{why}; the job was reported as failed instead")),
                    Outcome::Refused { .. } | Outcome::GivenUp { .. } => {
                        (kept, format!("{why}; the report of that was not accepted either"))
                    }
                }
            }
        };
        count(&self.shared.counters.dead_letters);
        if kept {
            tracing::error!(%job, why, "a result could not be delivered; it is kept: see `runpod-worker dead-letters`");
        } else {
            tracing::error!(%job, why, "a result could not be delivered and is not kept");
        }
        false
    }

    /// The attempt that nearly always succeeds. A result whose first attempt takes long or fails is overdue.
    async fn first_attempt(&self, job: &JobId, message: &Message) -> PostReply {
        if self.shared.keeper.as_ref().is_some_and(Keeper::always) {
            self.keep(message).await;
        }
        let mut attempt = pin!(self.attempt(job, message));
        match timeout(PROMPT, &mut attempt).await {
            Ok(reply @ PostReply::Status { code: 200..=299, .. }) => reply,
            Ok(reply) => {
                self.overdue(message).await;
                reply
            }
            Err(_) => tokio::join!(attempt, self.overdue(message)).0,
        }
    }

    /// A final result was not accepted at once. Until it is, it is kept on disk.
    async fn overdue(&self, message: &Message) {
        count(&self.shared.counters.overdue);
        self.keep(message).await;
    }

    /// Writes a final result down if it is not on disk yet.
    async fn keep(&self, message: &Message) {
        if let Message::Final(parcel) = message {
            self.save(parcel).await;
        }
    }

    async fn save(&self, parcel: &Parcel) {
        if let Some(keeper) = &self.shared.keeper {
            keeper.save(parcel).await;
        }
    }

    async fn remove(&self, parcel: Parcel) {
        if let (Some(keeper), Some(ticket)) = (&self.shared.keeper, parcel.ticket) {
            // Nothing to wait for in the usual case: the result was never written.
            if ticket.may_be_written() {
                keeper.remove(ticket).await;
            }
        }
    }

    /// Returns whether the result is kept.
    async fn bury(&self, parcel: Parcel, code: Option<u16>, why: &str) -> bool {
        match &self.shared.keeper {
            Some(keeper) => keeper.bury(parcel, Reason::new(code, why.to_owned())).await,
            None => false,
        }
    }

    async fn attempt(&self, job: &JobId, message: &Message) -> PostReply {
        // Held for one attempt only: a lane that waits for its next attempt must not keep the others from posting.
        let _permit = self.posts.acquire().await;
        match message {
            Message::Final(Parcel { record, .. }) => record.post(&*self.sink).await,
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
                        code: Some(code),
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
                let why = format!("its time is over, and the last attempt failed: {error}");
                return Outcome::GivenUp { code: None, why };
            }
            count(&self.shared.counters.retries);
            // The disk may have been full before.
            self.keep(message).await;
            sleep(pause).await;
            reply = self.attempt(job, message).await;
        }
    }

    fn no_stream(&self) -> Outcome {
        if !self.told_no_stream.swap(true, Ordering::Relaxed) {
            tracing::warn!("chunks cannot be streamed: set RUNPOD_WEBHOOK_POST_STREAM to the job-stream URL");
        }
        Outcome::GivenUp { code: None, why: "there is no job-stream URL".to_owned() }
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

fn refusal(code: u16, bytes: usize) -> String {
    format!(
        "the queue refused the result of {bytes} bytes with status {code}; return less, or upload large results and return \
         their URL"
    )
}
