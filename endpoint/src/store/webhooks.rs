//! The way from a job's end to whoever delivers its webhook.

use tokio::sync::mpsc;

/// Deliveries that may wait to be picked up. Each is two short strings.
const CAPACITY: usize = 100_000;

/// A finished job whose webhook wants to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookDue {
    /// The endpoint.
    pub endpoint: String,
    /// The job.
    pub job: String,
}

/// The store's end of the channel; by default nobody listens.
#[derive(Debug, Clone, Default)]
pub struct WebhookQueue(Option<mpsc::Sender<WebhookDue>>);

impl WebhookQueue {
    /// A queue and the end that deliveries are read from.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<WebhookDue>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self(Some(sender)), receiver)
    }

    /// Notes a finished job, without waiting.
    pub fn push(&self, endpoint: &str, job: &str) {
        let Some(sender) = &self.0 else { return };
        if sender.try_send(WebhookDue { endpoint: endpoint.to_owned(), job: job.to_owned() }).is_err() {
            tracing::warn!(endpoint, job, "too many webhooks wait: this one is dropped; speed up the receivers");
        }
    }
}
