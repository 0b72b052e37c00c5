//! What operators do with an endpoint, on whole stores.

use async_trait::async_trait;

use super::QueueStore;
use crate::store::backing::Backing;
use crate::store::error::StoreError;
use crate::store::operations::Operations;
use crate::store::request::JobId;
use crate::store::views::{GivenUp, JobRow, Page, RetriedFailed};
use crate::store::webhook_queue::WebhookEnd;

/// Jobs that are changed at once. Other requests get a turn in between.
const STEP: usize = 1000;

#[async_trait]
impl<B: Backing> Operations for QueueStore<B> {
    async fn set_paused(&self, endpoint: &str, paused: bool) -> Result<(), StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        self.commit(&endpoint, |queue, _| queue.set_paused(paused)).await
    }

    async fn failed(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<JobRow>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Page::default()) };
        let ((found, total), _) = endpoint.with(|queue, _| {
            let Page { entries, total } = queue.failed(offset, limit);
            let with_mark = |row: JobRow<_>| Some((queue.snapshot(&row.view.id)?, row.submitted));
            (entries.into_iter().filter_map(with_mark).collect::<Vec<_>>(), total)
        });
        Ok(Page { entries: self.durable_rows(&endpoint, found).await?, total })
    }

    async fn retry_failed(&self, endpoint: &str) -> Result<RetriedFailed, StoreError> {
        let mut all = RetriedFailed::default();
        let Some(endpoint) = self.find(endpoint) else { return Ok(all) };
        // Those that fail again meanwhile are left alone.
        let (newest, _) = endpoint.with(|queue, _| queue.newest_failed());
        let mut next = newest.map(|_| 0);
        while let (Some(from), Some(newest)) = (next, newest) {
            let (some, rest) =
                self.commit(&endpoint, |queue, now| queue.retry_failed(now, from..=newest, STEP)).await?;
            next = rest;
            all.add(some);
        }
        Ok(all)
    }

    async fn webhook_ended(
        &self,
        endpoint: &str,
        id: &str,
        end_number: u64,
        end: WebhookEnd,
    ) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, now| queue.webhook_ended(now, id, end_number, end)).await
    }

    async fn given_up(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<GivenUp>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Page::default()) };
        let (page, mark) = endpoint.with(|queue, _| queue.given_up(offset, limit));
        self.backing.settled(mark).await?;
        Ok(page)
    }

    async fn resend_webhook(&self, endpoint: &str, id: &str) -> Result<(), StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        self.commit(&endpoint, |queue, now| queue.resend_webhook(now, id)).await?
    }

    async fn resend_webhooks(&self, endpoint: &str) -> Result<Vec<JobId>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        // Bounded by the number of webhooks that are kept to be sent again.
        self.commit(&endpoint, |queue, now| queue.resend_webhooks(now)).await
    }
}
