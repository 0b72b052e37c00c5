//! Drains one lane: posts, waits, tries again, gives up.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use runpod_handler_protocol::{ErrorKind, ErrorReport};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::lane::{Chunk, Lane, Step};
use super::limits::{
    OVERDUE_AFTER, OVERDUE_IN_LINE, OutboxLimits, RETRY_PAUSE, RETRY_PAUSE_MAX, UNAUTHORIZED_PAUSE,
    UNAUTHORIZED_PAUSE_MAX,
};
use super::pending::PendingResult;
use super::shared::Shared;
use super::spool::{DeadLetterReason, Record, now_ms};
use super::spool_handle::SpoolHandle;
use super::stats::count;
use super::verdict::{Verdict, verdict};
use crate::base::{FailureState, Identity, Retry};
use crate::queue::{Outage, PostReply, RequestError, ResultSink, chunk_body, progress_body, result_body};
use runpod_worker_core::{DeliveryEvent, Event, FinalResult, JobId};

/// One thing to post, ready to be sent as often as needed.
enum Message {
    Final(PendingResult),
    Chunk(Bytes),
}

/// How a series of tries ended.
enum Outcome {
    Accepted,
    Refused { code: u16 },
    GivenUp { code: Option<u16>, why: String },
}

/// Posts for all lanes.
pub(super) struct Deliverer<S> {
    sink: Arc<S>,
    identity: Identity,
    limits: OutboxLimits,
    shared: Arc<Shared>,
    posts: Semaphore,
    outage: Outage,
    /// The time in which the queue answers other requests and accepts no result. What waits shares one series of tries.
    refusals: Outage,
    /// How many messages the queue has accepted.
    accepted: AtomicU64,
    /// Whether posts fail, and how.
    failure: Mutex<FailureState<(&'static str, u16)>>,
    warned_of_no_stream: AtomicBool,
}

impl<S: ResultSink> Deliverer<S> {
    pub(super) fn new(sink: Arc<S>, identity: Identity, limits: OutboxLimits, shared: Arc<Shared>) -> Self {
        Self {
            outage: sink.outage(),
            sink,
            identity,
            limits,
            shared,
            posts: Semaphore::new(limits.max_posts.max(1)),
            refusals: Outage::default(),
            accepted: AtomicU64::new(0),
            failure: Mutex::default(),
            warned_of_no_stream: AtomicBool::new(false),
        }
    }

    /// Posts everything that comes through the lane, up to and including the final result. Returns whether the queue has it.
    pub(super) async fn drain_lane(&self, lane: &Lane, events: &mpsc::Sender<Event>) -> bool {
        // When chunks of this job began to fail; `None` after one was accepted.
        let mut failing_since: Option<Instant> = None;
        loop {
            let step = lane.next().await;
            let cost = step.cost();
            match step {
                Step::Chunk(Chunk { attempt, seq, payload }) => {
                    if let Err(why) = self.deliver_chunk(&lane.job, &payload, &mut failing_since).await {
                        count(&self.shared.counters.lost_chunks);
                        tracing::warn!(job = %lane.job, attempt, seq, why, "A chunk could not be delivered and is dropped. The job goes on.");
                    }
                    lane.release(cost, &self.shared.held_bytes);
                    let job = lane.job.clone();
                    // The dispatcher may have ended; what is left in the lane is still to be posted.
                    let _ = events.send(Event::Delivery(DeliveryEvent::Chunk { job, attempt, seq })).await;
                }
                Step::Progress(value) => {
                    self.post_progress(&lane.job, &value).await;
                    lane.release(cost, &self.shared.held_bytes);
                }
                Step::Final(result) => {
                    let stop_pod = result.stop_pod;
                    let pending = self.pending(&lane.job, &result);
                    // The body has a copy; for as long as a result waits, one is enough.
                    drop(result);
                    return self.deliver_final(lane, pending, stop_pod, self.limits.max_age).await;
                }
                Step::Recovered(pending) => {
                    let left = self.limits.max_age.saturating_sub(pending.record.age());
                    return self.deliver_final(lane, *pending, false, left).await;
                }
            }
        }
    }

    /// One try: a newer value is worth more than a second try with this one.
    async fn post_progress(&self, job: &JobId, value: &[u8]) {
        let body = progress_body(value);
        let permit = self.posts.acquire().await;
        let reply = self.sink.post_progress(job, body).await;
        drop(permit);
        if verdict(reply) != Verdict::Accepted {
            tracing::debug!(%job, "A progress update was not accepted.");
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

    /// A result ready to be posted and to be written to disk.
    fn pending(&self, job: &JobId, result: &FinalResult) -> PendingResult {
        let spool = self.shared.spool.as_ref();
        let attempt = u32::from(spool.is_some_and(|spool| !spool.always()));
        let body = result_body(result, &self.identity);
        let record =
            Record { job: job.clone(), streamed: result.streamed, attempt, time_ms: now_ms(), body, origin: None };
        PendingResult { record, entry: spool.map(SpoolHandle::new_entry) }
    }

    /// Returns whether the queue has the result itself. The last try begins before `limit` is over.
    async fn deliver_final(&self, lane: &Lane, pending: PendingResult, stop_pod: bool, limit: Duration) -> bool {
        let job = &lane.job;
        let until = Instant::now() + limit;
        if let Some(entry) = pending.entry.clone() {
            lane.set_entry(entry);
        }
        let (len, streamed) = (pending.record.body.len(), pending.record.streamed);
        let message = Message::Final(pending);
        let first = self.first_attempt(job, &message).await;
        let outcome = self.settle(job, &message, first, until).await;
        let Message::Final(pending) = message else { return false };
        let (kept, why) = match outcome {
            Outcome::Accepted => {
                self.remove(pending).await;
                return true;
            }
            Outcome::GivenUp { code, why } => {
                let kept = self.keep_dead_letter(pending, code, &why).await;
                (kept, why)
            }
            Outcome::Refused { code } => {
                let why = refusal(code, len);
                let report = ErrorReport { kind: ErrorKind::Delivery, message: why.clone(), traceback: String::new() };
                let mut substitute =
                    self.pending(job, &FinalResult { result: Err(report), streamed, stop_pod, cost: None });
                substitute.record.origin.clone_from(&pending.record.origin);
                // Before the original goes, so that a crash in between leaves at least one of them to be posted.
                self.save(&substitute).await;
                let kept = self.keep_dead_letter(pending, Some(code), &why).await;
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
            tracing::error!(%job, why, "A result could not be delivered. It is kept: see `runpod-worker dead-letters`.");
        } else {
            tracing::error!(%job, why, "A result could not be delivered and is lost.");
        }
        false
    }

    /// The try that nearly always succeeds. A result whose first try takes long or fails is overdue.
    async fn first_attempt(&self, job: &JobId, message: &Message) -> PostReply {
        if self.shared.spool.as_ref().is_some_and(SpoolHandle::always) {
            self.write_to_disk(message).await;
        }
        let (permit, is_overdue) = self.turn(message).await;
        let mut attempt = pin!(self.post(permit, job, message));
        if is_overdue {
            return attempt.await;
        }
        match timeout(OVERDUE_AFTER, &mut attempt).await {
            Ok(reply @ PostReply::Status { code: 200..=299, .. }) => reply,
            Ok(reply) => {
                self.overdue(message).await;
                reply
            }
            Err(_) => tokio::join!(attempt, self.overdue(message)).0,
        }
    }

    /// Waits until a final result may be posted for the first time. One that waits because others are being accepted is in no more
    /// danger than those, unless there are very many: writing it down would only make all of them wait longer. Returns whether it
    /// is overdue, and kept on disk.
    async fn turn(&self, message: &Message) -> (Option<SemaphorePermit<'_>>, bool) {
        // Fails as long as somebody waits, so nobody is overtaken.
        if let Ok(permit) = self.posts.try_acquire() {
            return (Some(permit), false);
        }
        let place = self.shared.line.enter();
        let begun = Instant::now();
        let mut turn = pin!(self.permit());
        let mut accepted = self.accepted.load(Ordering::Relaxed);
        loop {
            if let Ok(permit) = timeout(OVERDUE_AFTER, &mut turn).await {
                return (permit, false);
            }
            let before = std::mem::replace(&mut accepted, self.accepted.load(Ordering::Relaxed));
            if accepted == before || begun.elapsed() >= OVERDUE_IN_LINE {
                // What is on disk is safe, however long the posts of others take.
                drop(place);
                let (permit, ()) = tokio::join!(turn, self.overdue(message));
                return (permit, true);
            }
        }
    }

    /// A final result was not accepted at once. Until it is, it is kept on disk.
    async fn overdue(&self, message: &Message) {
        count(&self.shared.counters.overdue);
        self.write_to_disk(message).await;
    }

    /// Writes a final result to disk if it is not there yet.
    async fn write_to_disk(&self, message: &Message) {
        if let Message::Final(pending) = message {
            self.save(pending).await;
        }
    }

    async fn save(&self, pending: &PendingResult) {
        if let Some(spool) = &self.shared.spool {
            spool.save(pending).await;
        }
    }

    async fn remove(&self, pending: PendingResult) {
        if let (Some(spool), Some(entry)) = (&self.shared.spool, pending.entry) {
            // In the usual case the result was never written, and there is nothing to wait for.
            if entry.may_be_written() {
                spool.remove(entry).await;
            }
        }
    }

    /// Returns whether the result is kept.
    async fn keep_dead_letter(&self, pending: PendingResult, code: Option<u16>, why: &str) -> bool {
        match &self.shared.spool {
            Some(spool) => spool.keep_dead_letter(pending, DeadLetterReason::new(code, why.to_owned())).await,
            None => false,
        }
    }

    async fn attempt(&self, job: &JobId, message: &Message) -> PostReply {
        let permit = self.permit().await;
        self.post(permit, job, message).await
    }

    /// Held for one try only: a lane that waits for its next try must not keep the others from posting.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.posts.acquire().await.ok()
    }

    async fn post(&self, _permit: Option<SemaphorePermit<'_>>, job: &JobId, message: &Message) -> PostReply {
        match message {
            Message::Final(PendingResult { record, .. }) => record.post(&*self.sink).await,
            Message::Chunk(body) => self.sink.post_chunk(job, body.clone()).await,
        }
    }

    /// Turns the first reply into an outcome, with as many further tries as fit before `until`.
    async fn settle(&self, job: &JobId, message: &Message, first: PostReply, until: Instant) -> Outcome {
        let mut retry = Retry::new(RETRY_PAUSE, RETRY_PAUSE_MAX);
        let mut slow_retry = Retry::new(UNAUTHORIZED_PAUSE, UNAUTHORIZED_PAUSE_MAX);
        let mut reply = first;
        // How many other messages had been accepted when this one failed last.
        let mut accepted_before = None;
        loop {
            // Whether the pause ends when the queue accepts again: it has neither refused the key nor named a time.
            let mut wakes = false;
            let (pause, error) = match verdict(reply) {
                Verdict::Accepted => {
                    self.succeeded();
                    return Outcome::Accepted;
                }
                Verdict::Refused { code } => return Outcome::Refused { code },
                Verdict::Dead { code: Some(code) } => {
                    return Outcome::GivenUp {
                        code: Some(code),
                        why: format!("the queue answered {code}: it does not know the job any more"),
                    };
                }
                Verdict::Dead { code: None } => return self.no_stream(),
                Verdict::Later { retry_after, error } => {
                    wakes = retry_after.is_none() && error.is_outage();
                    (retry.next(retry_after), error)
                }
                Verdict::Unauthorized { error } => {
                    self.shared.counters.unauthorized.store(true, Ordering::Relaxed);
                    (slow_retry.next(None), error)
                }
            };
            self.failed(&error);
            if Instant::now() + pause > until {
                let why = format!("the time for its delivery is over, and the last try failed: {error}");
                return Outcome::GivenUp { code: None, why };
            }
            count(&self.shared.counters.retries);
            // The disk may have been full before.
            self.write_to_disk(message).await;
            // A message that is refused again while others are accepted must not be tried each time that one of them is.
            let accepted = self.accepted.load(Ordering::Relaxed);
            let fails_alone = accepted_before.replace(accepted).is_some_and(|before| accepted > before);
            if wakes && !fails_alone {
                // An outage may last longer than the message may wait.
                if timeout_at(until, self.wait(pause)).await != Ok(false) {
                    retry.reset();
                }
            } else {
                sleep(pause).await;
            }
            reply = self.attempt(job, message).await;
        }
    }

    /// Waits before the next try: until the caller's turn, or until the queue accepts again. Returns whether the queue was away.
    async fn wait(&self, pause: Duration) -> bool {
        if !self.outage.is_on() {
            self.refusals.pause(pause).await;
        }
        // It may have gone away meanwhile; then all parts of the worker take turns.
        self.outage.is_on() && self.outage.pause(pause).await
    }

    fn no_stream(&self) -> Outcome {
        if !self.warned_of_no_stream.swap(true, Ordering::Relaxed) {
            tracing::warn!("Chunks cannot be streamed: set RUNPOD_WEBHOOK_POST_STREAM to the job-stream URL.");
        }
        Outcome::GivenUp { code: None, why: "there is no job-stream URL".to_owned() }
    }

    fn succeeded(&self) {
        self.shared.counters.unauthorized.store(false, Ordering::Relaxed);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.refusals.answered();
        if self.failure.lock().succeed() {
            tracing::info!("The queue accepts results again.");
        }
    }

    fn failed(&self, error: &RequestError) {
        if error.is_outage() {
            self.refusals.failed();
        }
        if self.failure.lock().fail(error.kind()) {
            tracing::warn!(%error, "Results cannot be delivered. They are kept and tried again.");
        }
    }
}

fn refusal(code: u16, bytes: usize) -> String {
    format!(
        "the queue refused the result of {bytes} bytes with status {code}; return less, or upload large results and return \
         their URL"
    )
}
