//! Wakes the requests that wait for something at one endpoint.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::queue::Effect;
use super::watchers::Watchers;
use super::webhook_queue::{WebhookDue, WebhookQueue};

/// How long the poll of a worker that gets no jobs is held. Short, because such a worker waits for it before it ends.
pub(crate) const REFUSED_HOLD: Duration = Duration::from_secs(5);

/// The requests that wait for something to happen at one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    pub(crate) jobs_waiting: Notify,
    pub(crate) job_readers: Watchers,
    pub(crate) stop_polls: Watchers,
    pub(crate) supervisors: Watchers,
    pub(crate) timer: Arc<Notify>,
    endpoint: String,
    webhooks: WebhookQueue,
}

impl Wakers {
    pub(crate) fn new(endpoint: &str, webhooks: WebhookQueue) -> Self {
        Self { endpoint: endpoint.to_owned(), webhooks, ..Self::default() }
    }

    /// Performs an effect. Runs inside the tokio runtime, though not always on one of its threads.
    pub(crate) fn perform(&self, effect: &Effect) {
        match effect {
            Effect::JobWaiting => self.jobs_waiting.notify_one(),
            Effect::JobChanged(id) => self.job_readers.wake(id),
            Effect::StopWaiting(worker) => self.stop_polls.wake(worker),
            Effect::WorkerRefreshing(worker) => self.supervisors.wake(worker),
            Effect::WebhookDue { job, url, end_number } => self.webhooks.push(WebhookDue {
                endpoint: self.endpoint.clone(),
                job: Arc::clone(job),
                url: Arc::clone(url),
                end_number: *end_number,
            }),
            Effect::DispatchResumed => self.jobs_waiting.notify_waiters(),
            Effect::DuplicateWorker(worker) => tracing::warn!(
                %worker,
                "A second process uses the id of this worker. Give every worker an id of its own (RUNPOD_POD_ID)."
            ),
            Effect::WorkerUnfit(worker) => tracing::warn!(
                %worker,
                "This worker cannot start, or has failed all of its jobs. It gets no more until it is started again."
            ),
            Effect::JobFinished(id, status) => tracing::info!(job = %id, status = status.name(), "The job has ended."),
        }
    }
}
