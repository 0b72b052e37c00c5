//! The channel from the end of jobs to the delivery of their webhooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

/// Deliveries that may wait to be picked up. Each is two short strings.
const CAPACITY: usize = 100_000;

/// A finished job that is to be reported to its webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookDue {
    /// The endpoint.
    pub endpoint: String,
    /// The job.
    pub job: String,
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

    /// Given up before the last try: too many wait, or the job has no end to report any more.
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
    sender: Option<mpsc::Sender<WebhookDue>>,
    outcomes: WebhookOutcomes,
}

impl WebhookQueue {
    /// A queue and the end that deliveries are read from.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<WebhookDue>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self { sender: Some(sender), outcomes: WebhookOutcomes::default() }, receiver)
    }

    /// Where deliveries from this queue are counted.
    #[must_use]
    pub fn outcomes(&self) -> WebhookOutcomes {
        self.outcomes.clone()
    }

    /// Notes a finished job, without waiting.
    pub fn push(&self, endpoint: &str, job: &str) {
        let Some(sender) = &self.sender else { return };
        if sender.try_send(WebhookDue { endpoint: endpoint.to_owned(), job: job.to_owned() }).is_err() {
            self.outcomes.count_dropped();
            tracing::warn!(endpoint, job, "Too many webhooks wait: this one is dropped. Speed up the receivers.");
        }
    }
}
