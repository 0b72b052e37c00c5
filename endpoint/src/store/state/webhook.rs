//! What a webhook delivery needs to know of a job.

use std::sync::Arc;

use super::Queue;
use crate::store::content::Content;
use crate::store::job::{JobView, Payload};

/// A finished job and where to report it. The body of a webhook shows the input, which no other document does.
#[derive(Debug, Clone)]
pub struct Webhook<P = Payload> {
    /// Where to send it, as the client gave it.
    pub url: String,
    /// The job as `/status` shows it.
    pub job: JobView<P>,
    /// What the client submitted.
    pub input: P,
    /// The trace that the job belongs to.
    pub traceparent: Option<Arc<str>>,
    /// Tells apart the ends that a job reaches, one for each `/retry`; the same for as long as the end is this one.
    pub ending: u64,
}

impl<P: Content> Queue<P> {
    /// The delivery for a finished job that asked for one. `None` once the record has expired or the job runs again.
    #[must_use]
    pub fn webhook(&self, id: &str) -> Option<Webhook<P>> {
        let (id, job) = self.jobs.get_key_value(id)?;
        let url = job.webhook.clone()?;
        let (input, traceparent) = (job.input.clone(), job.traceparent.clone());
        // Each submission and each `/retry` has a place in the queue of its own.
        let ending = job.place.number;
        job.status().is_terminal().then(|| Webhook { url, job: job.view(id), input, traceparent, ending })
    }

    /// Notes that a delivery has ended, with or without success. Until then it is due again after a restart.
    pub fn webhook_told(&mut self, id: &str) {
        let Some((id, _)) = self.jobs.get_key_value(id) else { return };
        let id = Arc::clone(id);
        if self.jobs.get_mut(&id).is_some_and(|job| std::mem::take(&mut job.webhook_due)) {
            self.journal.touched(&id);
        }
    }
}
