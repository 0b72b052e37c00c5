//! What operators do with an endpoint: pause it, repeat what failed, send webhooks again.

use async_trait::async_trait;

use super::error::StoreError;
use super::request::JobId;
use super::views::{GivenUp, JobRow, Page, RetriedFailed};
use super::webhook_queue::WebhookEnd;

/// The part of a [`Store`](super::Store) that operators use. Every method fails as those of the store do.
#[async_trait]
pub trait Operations: Send + Sync {
    /// Stops or resumes giving jobs to workers. Jobs are accepted meanwhile, and running ones go on.
    async fn set_paused(&self, endpoint: &str, paused: bool) -> Result<(), StoreError>;

    /// The FAILED and TIMED_OUT jobs, newest first, without their outputs.
    async fn failed(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<JobRow>, StoreError>;
    /// Queues them again, oldest first, until one is refused.
    async fn retry_failed(&self, endpoint: &str) -> Result<RetriedFailed, StoreError>;

    /// Notes how the delivery of one end of a job has ended. Deliveries that have not ended are due again when a durable store is
    /// opened.
    async fn webhook_ended(&self, endpoint: &str, id: &str, end_number: u64, end: WebhookEnd)
    -> Result<(), StoreError>;
    /// The webhooks that were given up, those of the newest jobs first.
    async fn given_up(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<GivenUp>, StoreError>;
    /// Sends a webhook again that was given up.
    ///
    /// # Errors
    /// [`StoreError::NothingToResend`] when none of this job was.
    async fn resend_webhook(&self, endpoint: &str, id: &str) -> Result<(), StoreError>;
    /// Sends all of them again; returns the jobs.
    async fn resend_webhooks(&self, endpoint: &str) -> Result<Vec<JobId>, StoreError>;
}
