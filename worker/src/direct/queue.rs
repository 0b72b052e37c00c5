//! A queue in memory whose submitters wait for their results.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::queue::{JobSource, PostReply, ResultSink, StopReply, TakeReply};
use runpod_worker_core::{JobId, TakenJob};

/// How long a poll is held. The worker asks again at once.
const HOLD: Duration = Duration::from_secs(30);
/// Messages that may wait for a caller who reads slowly; then the job's stream waits too.
const UNREAD: usize = 16;
/// A caller who reads none of them for this long is taken for gone: the job's posts wait for it, and they are few.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Why a caller gets no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// As many jobs wait as may.
    #[error("{0} jobs wait already: try again later, or add workers")]
    Full(usize),
    /// It waited too long for a slot.
    #[error("no slot was free within {0:?}: try again later, or add workers")]
    Late(Duration),
    /// The caller did not read what its job said.
    #[error("nothing was read for {READ_LIMIT:?}, so the job was stopped")]
    Unread,
    /// The worker is shutting down or cannot work.
    #[error("this worker is shutting down: try another one")]
    Closed,
}

/// What a caller hears about a job, in order.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// One streamed item, as a job-stream body.
    Chunk(Bytes),
    /// The newest progress, as a job-done body.
    Progress(Bytes),
    /// The result, as a job-done body. Nothing follows.
    Final(Bytes),
    /// There will be no result. Nothing follows.
    Refused(Refused),
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    waiting: VecDeque<TakenJob>,
    callers: HashMap<JobId, mpsc::Sender<Said>>,
    /// Jobs whose callers have gone.
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
}

impl DirectQueue {
    /// A queue in which at most `max_waiting` jobs wait for a slot, each for at most `max_wait`.
    pub fn new(max_waiting: usize, max_wait: Duration) -> Self {
        Self { state: Arc::default(), arrived: Arc::default(), gone: Arc::default(), max_waiting, max_wait }
    }

    /// Puts a job in. Its id must be new.
    ///
    /// # Errors
    /// [`Refused`], with the reason for the caller.
    pub(super) fn submit(&self, job: TakenJob) -> Result<Ticket, Refused> {
        let id = job.id.clone();
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= self.max_waiting {
            return Err(Refused::Full(self.max_waiting));
        }
        let (say, heard) = mpsc::channel(UNREAD);
        state.callers.insert(id.clone(), say);
        state.waiting.push_back(job);
        drop(state);
        self.arrived.notify_one();
        let expires = Instant::now() + self.max_wait;
        Ok(Ticket { queue: self.clone(), id, heard, expires, taken: false, over: false })
    }

    /// Takes nothing in any more and turns away those who wait for a slot.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for job in std::mem::take(&mut state.waiting) {
            if let Some(caller) = state.callers.remove(&job.id) {
                // Nothing was sent before, so there is room.
                let _ = caller.try_send(Said::Refused(Refused::Closed));
            }
        }
    }

    /// The worker is over: whoever still waits for a result, because the job was handed back, is turned away.
    pub fn end(&self) {
        self.close();
        // A caller whose sender is gone hears everything that was said before, and then why nothing follows.
        self.state().callers.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, want: usize) -> Vec<TakenJob> {
        let mut state = self.state();
        let count = want.min(state.waiting.len());
        state.waiting.drain(..count).collect()
    }

    /// A caller who has gone is no fault of the worker: there is nobody to try again for.
    async fn say(&self, job: &JobId, said: Said) -> PostReply {
        let caller = self.state().callers.get(job).cloned();
        if let Some(caller) = caller
            && caller.send_timeout(said, READ_LIMIT).await.is_err()
        {
            self.caller_left(job);
        }
        PostReply::Status { code: 200, retry_after: None }
    }

    /// Why a caller's sender is gone without a last word.
    fn why_silent(&self) -> Refused {
        if self.state().closed { Refused::Closed } else { Refused::Unread }
    }

    /// Takes the job back if no slot has it yet.
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

/// A caller's hold on a job. Dropped before the result it stops the job: nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Ticket {
    queue: DirectQueue,
    id: JobId,
    heard: mpsc::Receiver<Said>,
    expires: Instant,
    /// A slot has the job, or had it; its own deadline holds from then on.
    taken: bool,
    over: bool,
}

impl Ticket {
    /// The next message. The last is [`Said::Final`] or [`Said::Refused`].
    pub(super) async fn next(&mut self) -> Said {
        let said = loop {
            tokio::select! {
                said = self.heard.recv() => break said.unwrap_or_else(|| Said::Refused(self.queue.why_silent())),
                () = sleep_until(self.expires), if !self.taken => {
                    self.taken = !self.queue.withdraw(&self.id);
                    if !self.taken {
                        break Said::Refused(Refused::Late(self.queue.max_wait));
                    }
                }
            }
        };
        self.over = matches!(said, Said::Final(_) | Said::Refused(_));
        said
    }

    /// Whether the last message was heard.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

impl Drop for Ticket {
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
        tokio::time::timeout(HOLD, jobs).await.unwrap_or(TakeReply::Nothing)
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
        tokio::time::timeout(HOLD, stops).await.unwrap_or(StopReply::Nothing)
    }
}

impl ResultSink for DirectQueue {
    async fn post_final(&self, job: &JobId, body: Bytes, _streamed: bool) -> PostReply {
        self.say(job, Said::Final(body)).await
    }

    async fn post_chunk(&self, job: &JobId, body: Bytes) -> PostReply {
        self.say(job, Said::Chunk(body)).await
    }

    async fn post_progress(&self, job: &JobId, body: Bytes) -> PostReply {
        self.say(job, Said::Progress(body)).await
    }
}
