//! A queue in memory whose submitters wait for their results.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use runpod_http_server::{Budget, Share};
use runpod_worker_core::{JobId, TakenJob};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::limits::{MAX_BODIES, MAX_UNREAD_MESSAGES, POLL_TIMEOUT, READ_TIMEOUT};
use crate::queue::{JobSource, PostReply, ResultBody, ResultSink, StopReply, TakeReply};

/// Why a job is rejected, or ends without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// No more jobs may wait.
    #[error("{0} jobs wait already: try again later, or add workers")]
    Full(usize),
    /// The bodies of other requests take all the memory that bodies may have.
    #[error("the requests in progress hold {MAX_BODIES} bytes: try again later, or pass large data by URL")]
    NoMemory,
    /// The job has waited too long for a slot.
    #[error("no slot was free within {0:?}: try again later, or add workers")]
    Late(Duration),
    /// The caller did not read the messages of its job.
    #[error("the items of the job were not read for {READ_TIMEOUT:?}, so it was stopped")]
    Unread,
    /// The worker is shutting down or cannot work.
    #[error("this worker is shutting down: try another one")]
    Closed,
}

/// A message to the caller about its job. Messages are in order.
#[derive(Clone, Debug)]
pub(super) enum CallerMessage {
    /// One streamed item, as a job-stream body.
    Chunk(Bytes),
    /// The newest progress, as a job-done body.
    Progress(Bytes),
    /// The result, as a job-done body. Nothing follows.
    Final(Bytes),
    /// There will be no result, for this reason. Nothing follows.
    Rejected(Rejection),
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    waiting: VecDeque<TakenJob>,
    callers: HashMap<JobId, mpsc::Sender<CallerMessage>>,
    /// Jobs whose callers have left.
    stops: Vec<JobId>,
}

/// The queue; clones share it.
#[derive(Clone, Debug)]
pub struct DirectQueue {
    state: Arc<Mutex<State>>,
    arrived: Arc<Notify>,
    gone: Arc<Notify>,
    max_waiting: usize,
    max_wait: Duration,
    bodies: Budget,
}

impl DirectQueue {
    /// A queue in which at most `max_waiting` jobs wait for a slot, each for at most `max_wait`.
    pub fn new(max_waiting: usize, max_wait: Duration) -> Self {
        let bodies = Budget::new(MAX_BODIES);
        Self { state: Arc::default(), arrived: Arc::default(), gone: Arc::default(), max_waiting, max_wait, bodies }
    }

    /// An empty share of the memory for request bodies.
    pub(super) fn share(&self) -> Share {
        self.bodies.share()
    }

    /// Puts a job in, with the share of the memory that its body takes. Its id must be new.
    ///
    /// # Errors
    /// [`Rejection`], with the reason for the caller.
    pub(super) fn submit(&self, job: TakenJob, body: Share) -> Result<Submission, Rejection> {
        let id = job.id.clone();
        let mut state = self.state();
        if state.closed {
            return Err(Rejection::Closed);
        }
        if state.waiting.len() >= self.max_waiting {
            return Err(Rejection::Full(self.max_waiting));
        }
        let (send, messages) = mpsc::channel(MAX_UNREAD_MESSAGES);
        state.callers.insert(id.clone(), send);
        state.waiting.push_back(job);
        drop(state);
        self.arrived.notify_one();
        let expires = Instant::now() + self.max_wait;
        Ok(Submission { queue: self.clone(), id, messages, expires, taken: false, over: false, _body: body })
    }

    /// Takes no more jobs and rejects those that wait for a slot.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for job in std::mem::take(&mut state.waiting) {
            if let Some(caller) = state.callers.remove(&job.id) {
                // Nothing was sent before, so there is room.
                let _ = caller.try_send(CallerMessage::Rejected(Rejection::Closed));
            }
        }
    }

    /// Ends the queue with the worker: rejects every job that has no result yet, such as one that was handed back.
    pub fn end(&self) {
        self.close();
        // A caller whose sender is gone gets the messages that were sent before, and then the rejection.
        self.state().callers.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn pop(&self, want: usize) -> Vec<TakenJob> {
        let mut state = self.state();
        let count = want.min(state.waiting.len());
        state.waiting.drain(..count).collect()
    }

    /// Sends a message to the caller. A caller who has left is not a failure: a retry would not help.
    async fn send(&self, job: &JobId, message: CallerMessage) -> PostReply {
        let caller = self.state().callers.get(job).cloned();
        if let Some(caller) = caller
            && caller.send_timeout(message, READ_TIMEOUT).await.is_err()
        {
            self.caller_left(job);
        }
        PostReply::Status { code: 200, retry_after: None }
    }

    /// The reason why the sender of a caller is gone without a result.
    fn rejection(&self) -> Rejection {
        if self.state().closed { Rejection::Closed } else { Rejection::Unread }
    }

    /// Removes the job if no slot has it yet; returns whether it was removed.
    fn withdraw(&self, id: &JobId) -> bool {
        let mut state = self.state();
        let before = state.waiting.len();
        state.waiting.retain(|job| job.id != *id);
        state.waiting.len() < before
    }

    fn caller_left(&self, id: &JobId) {
        self.state().callers.remove(id);
        if !self.withdraw(id) {
            self.state().stops.push(id.clone());
            self.gone.notify_one();
        }
    }
}

/// A job that a caller has submitted. When it is dropped before the result, the job is stopped, because the caller has left.
#[derive(Debug)]
pub(super) struct Submission {
    queue: DirectQueue,
    id: JobId,
    messages: mpsc::Receiver<CallerMessage>,
    expires: Instant,
    /// A slot has the job, or had it. From then on its own deadline applies.
    taken: bool,
    over: bool,
    /// Given back when the caller has the result.
    _body: Share,
}

impl Submission {
    /// Waits for the next message. The last is [`CallerMessage::Final`] or [`CallerMessage::Rejected`].
    pub(super) async fn next(&mut self) -> CallerMessage {
        let message = loop {
            tokio::select! {
                message = self.messages.recv() => break message.unwrap_or_else(|| CallerMessage::Rejected(self.queue.rejection())),
                () = sleep_until(self.expires), if !self.taken => {
                    self.taken = !self.queue.withdraw(&self.id);
                    if !self.taken {
                        break CallerMessage::Rejected(Rejection::Late(self.queue.max_wait));
                    }
                }
            }
        };
        self.over = matches!(message, CallerMessage::Final(_) | CallerMessage::Rejected(_));
        message
    }

    /// Whether the last message was received.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if self.over {
            self.queue.state().callers.remove(&self.id);
        } else {
            self.queue.caller_left(&self.id);
        }
    }
}

impl JobSource for DirectQueue {
    async fn take(&self, want: usize, _holding: bool) -> TakeReply {
        let jobs = async {
            loop {
                let jobs = self.pop(want);
                if !jobs.is_empty() {
                    return TakeReply::Jobs(jobs);
                }
                self.arrived.notified().await;
            }
        };
        tokio::time::timeout(POLL_TIMEOUT, jobs).await.unwrap_or(TakeReply::Nothing)
    }

    async fn stops(&self) -> StopReply {
        let stops = async {
            loop {
                let stops = std::mem::take(&mut self.state().stops);
                if !stops.is_empty() {
                    return StopReply::Stop(stops);
                }
                self.gone.notified().await;
            }
        };
        tokio::time::timeout(POLL_TIMEOUT, stops).await.unwrap_or(StopReply::Nothing)
    }
}

impl ResultSink for DirectQueue {
    async fn post_final(&self, job: &JobId, body: ResultBody, _streamed: bool) -> PostReply {
        self.send(job, CallerMessage::Final(body.whole())).await
    }

    async fn post_chunk(&self, job: &JobId, body: Bytes) -> PostReply {
        self.send(job, CallerMessage::Chunk(body)).await
    }

    async fn post_progress(&self, job: &JobId, body: Bytes) -> PostReply {
        self.send(job, CallerMessage::Progress(body)).await
    }
}
