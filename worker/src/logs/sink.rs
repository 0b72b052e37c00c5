//! The log over HTTP: batches of JSON lines, for a receiver that keeps logs longer than a container lives.
//!
//! The worker does not wait for the receiver. Lines wait in memory up to a bound; beyond it the oldest are dropped and counted, and the
//! next batch says how many.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use reqwest::{Client, StatusCode};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::fields::Fields;
use super::limits::{SINK_BATCH, SINK_FLUSH_TIMEOUT, SINK_LINGER, SINK_PAUSE, SINK_PAUSE_MAX, SINK_POST_TIMEOUT};
use super::line;
use crate::base::{
    ClientError, FailureState, Retry, Secret, UrlTemplate, http_client, request_error_text, retry_after,
};

/// Events of this module are not sent to the receiver: each failure would make the next batch.
pub(super) const TARGET: &str = module_path!();

/// Where the log is posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Receives POSTs of newline-delimited JSON.
    pub url: UrlTemplate,
    /// Sent as `Authorization: Bearer`, unless it is empty.
    pub token: Secret,
    /// Bytes of lines that may wait.
    pub buffer_bytes: usize,
}

/// Lines on their way to the receiver.
#[derive(Clone)]
pub(super) struct SinkQueue(Arc<Shared>);

struct Shared {
    worker_id: String,
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    /// A first line has come, or enough for a batch.
    news: Notify,
    closing: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
}

impl SinkQueue {
    fn new(worker_id: &str, max_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            worker_id: worker_id.to_owned(),
            max_bytes,
            waiting: Mutex::default(),
            news: Notify::new(),
            closing: CancellationToken::new(),
        }))
    }

    /// Adds one line, with its line break. Never waits.
    pub(super) fn push(&self, line: String) {
        let mut waiting = self.lock();
        let before = waiting.bytes;
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        while waiting.bytes > self.0.max_bytes {
            let Some(oldest) = waiting.lines.pop_front() else { break };
            waiting.bytes -= oldest.len();
            waiting.dropped += 1;
        }
        if before == 0 || (before < SINK_BATCH && waiting.bytes >= SINK_BATCH) {
            self.0.news.notify_one();
        }
    }

    /// Adds a line with a message of the log about itself.
    pub(super) fn push_note(&self, message: String) {
        self.push(self.note(message));
    }

    fn note(&self, message: String) -> String {
        line::stamped_json(&Fields::of_message(message), Level::WARN, &self.0.worker_id)
    }

    /// Waits for the next batch; `None` when the program ends and nothing is left.
    async fn next_batch(&self) -> Option<Vec<u8>> {
        while self.lock().bytes == 0 {
            if self.0.closing.is_cancelled() {
                return None;
            }
            tokio::select! {
                () = self.0.news.notified() => {}
                () = self.0.closing.cancelled() => {}
            }
        }
        let ready = Instant::now() + SINK_LINGER;
        while self.lock().bytes < SINK_BATCH && !self.0.closing.is_cancelled() {
            tokio::select! {
                () = self.0.news.notified() => {}
                () = self.0.closing.cancelled() => {}
                () = sleep_until(ready) => break,
            }
        }
        Some(self.take())
    }

    fn take(&self) -> Vec<u8> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        let dropped = std::mem::take(&mut waiting.dropped);
        if dropped > 0 {
            let message = format!("Dropped {dropped} lines: the log sink was too slow.");
            batch.extend_from_slice(self.note(message).as_bytes());
        }
        while let Some(line) = waiting.lines.pop_front() {
            waiting.bytes -= line.len();
            batch.extend_from_slice(line.as_bytes());
            if batch.len() >= SINK_BATCH {
                break;
            }
        }
        batch
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock()
    }
}

/// The task that posts batches.
pub struct Sink {
    queue: SinkQueue,
    task: JoinHandle<()>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// Starts the task. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the system has no usable TLS set-up.
    pub fn start(config: &SinkConfig, worker_id: &str) -> Result<Self, ClientError> {
        // Without the queue's key, which is not for this receiver.
        let client = http_client(&Secret::default(), Some("application/x-ndjson"), reqwest::redirect::Policy::none())?;
        let queue = SinkQueue::new(worker_id, config.buffer_bytes);
        let receiver = Receiver { client, url: config.url.for_worker(worker_id), token: config.token.clone() };
        let task = tokio::spawn(deliver(queue.clone(), receiver));
        Ok(Self { queue, task })
    }

    pub(super) fn queue(&self) -> SinkQueue {
        self.queue.clone()
    }

    /// Sends what waits, for three seconds at most.
    pub async fn close(mut self) {
        self.queue.0.closing.cancel();
        if timeout(SINK_FLUSH_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!(target: TARGET, "The last log lines did not reach the log sink in time.");
        }
    }
}

/// Posts batches one after the other, so that lines arrive in order.
async fn deliver(queue: SinkQueue, receiver: Receiver) {
    let mut retry = Retry::new(SINK_PAUSE, SINK_PAUSE_MAX);
    let mut state = FailureState::default();
    while let Some(batch) = queue.next_batch().await {
        loop {
            let closing = queue.0.closing.is_cancelled();
            match receiver.post(&batch).await {
                Ok(()) => {
                    if state.succeed() {
                        tracing::info!(target: TARGET, "The log sink takes lines again.");
                    }
                    retry.reset();
                    break;
                }
                Err(Refusal::ForGood(reason)) => {
                    if state.fail(()) {
                        tracing::warn!(target: TARGET, reason, "The log sink refuses lines. They are dropped.");
                    }
                    break;
                }
                Err(Refusal::ForNow { reason, retry_after }) => {
                    if state.fail(()) {
                        tracing::warn!(target: TARGET, reason, "The log sink takes no lines. Trying again.");
                    }
                    if closing {
                        return;
                    }
                    tokio::select! {
                        () = sleep(retry.next(retry_after)) => {}
                        () = queue.0.closing.cancelled() => {}
                    }
                }
            }
        }
    }
}

struct Receiver {
    client: Client,
    url: String,
    token: Secret,
}

/// Why a batch was not taken.
enum Refusal {
    ForNow { reason: String, retry_after: Option<Duration> },
    ForGood(String),
}

impl Receiver {
    async fn post(&self, batch: &[u8]) -> Result<(), Refusal> {
        let mut request = self.client.post(&self.url).body(batch.to_vec()).timeout(SINK_POST_TIMEOUT);
        if !self.token.is_empty() {
            request = request.bearer_auth(self.token.expose());
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return Err(Refusal::ForNow { reason: request_error_text(error), retry_after: None });
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let reason = format!("it answered {status}: check --log-sink and --log-sink-token");
        let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        if passing || status.is_server_error() {
            return Err(Refusal::ForNow { reason, retry_after: retry_after(response.headers()) });
        }
        Err(Refusal::ForGood(reason))
    }
}

#[cfg(test)]
mod tests;
