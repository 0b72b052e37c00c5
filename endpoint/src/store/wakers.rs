//! Those who wait for one endpoint, and what wakes them.

use std::sync::Arc;

use tokio::sync::Notify;

use super::state::Effect;
use super::watchers::Watchers;
use super::webhooks::WebhookQueue;

/// Everyone who waits for something to happen at one endpoint.
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

    /// Tells those who wait. Runs inside the tokio runtime, though not always on one of its threads.
    pub(crate) fn perform(&self, effect: &Effect) {
        match effect {
            Effect::JobWaiting => self.jobs_waiting.notify_one(),
            Effect::JobChanged(id) => self.job_readers.wake(id),
            Effect::StopWaiting(worker) => self.stop_polls.wake(worker),
            Effect::WorkerRecycled(worker) => self.supervisors.wake(worker),
            Effect::WebhookDue(id) => self.webhooks.push(&self.endpoint, id),
            Effect::JobFinished(id, status) => tracing::info!(job = %id, status = status.name(), "job finished"),
        }
    }
}
