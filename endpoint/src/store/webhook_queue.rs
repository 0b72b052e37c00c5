//! The channel from the end of jobs to the delivery of their webhooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::request::JobId;

/// A finished job that is to be reported to its webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookDue {
    /// The endpoint.
    pub endpoint: String,
    /// The job.
    pub job: JobId,
    /// Where to, as the client gave it.
    pub url: Arc<str>,
    /// Which end of the job; see [`Webhook::end_number`](super::Webhook::end_number).
    pub end_number: u64,
}

/// How a delivery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookEnd {
    /// The receiver has accepted it.
    Delivered,
    /// No try succeeded, for this reason. It can be sent again.
    GivenUp(Arc<str>),
}

/// How deliveries have ended since the program started.
#[derive(Debug, Clone, Default)]
pub struct WebhookOutcomes(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl WebhookOutcomes {
    pub(crate) fn count_delivered(&self) {
        self.0.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// Every try failed.
    pub(crate) fn count_failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Ended before the last try: the job has no end to report any more.
    pub(crate) fn count_dropped(&self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Each outcome with its name.
    #[must_use]
    pub fn by_name(&self) -> [(&'static str, u64); 3] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { delivered, failed, dropped } = &*self.0;
        [("delivered", count(delivered)), ("failed", count(failed)), ("dropped", count(dropped))]
    }
}

/// The store's end of the channel; by default it leads nowhere.
#[derive(Debug, Clone, Default)]
pub struct WebhookQueue {
    /// Without a bound: each entry is a job that is kept in the store anyway.
    sender: Option<mpsc::UnboundedSender<WebhookDue>>,
    outcomes: WebhookOutcomes,
}

impl WebhookQueue {
    /// A queue and the end that deliveries are read from.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "each entry is a job of the store, and these have a bound")]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<WebhookDue>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender: Some(sender), outcomes: WebhookOutcomes::default() }, receiver)
    }

    /// Where deliveries from this queue are counted.
    #[must_use]
    pub fn outcomes(&self) -> WebhookOutcomes {
        self.outcomes.clone()
    }

    /// Notes a finished job, without waiting.
    pub fn push(&self, due: WebhookDue) {
        if let Some(sender) = &self.sender {
            // Fails only when nobody delivers any more, during a stop.
            let _ = sender.send(due);
        }
    }
}
