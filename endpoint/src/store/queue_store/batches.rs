//! Batches on whole stores.

use std::sync::Arc;

use async_trait::async_trait;

use super::QueueStore;
use super::endpoint::Endpoint;
use crate::store::backing::Backing;
use crate::store::batch::{BatchId, BatchView};
use crate::store::batches::{BatchRequest, Batches};
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::queue::Queue;
use crate::store::request::NewJob;
use crate::store::views::Page;

impl<B: Backing> QueueStore<B> {
    fn find_batch_endpoint(&self, name: &str) -> Result<Arc<Endpoint<B>>, StoreError> {
        self.find(name).ok_or(StoreError::BatchNotFound)
    }

    /// Changes a batch of an endpoint that exists.
    async fn change_batch(
        &self,
        endpoint: &str,
        change: impl FnOnce(&mut Queue<B::Content>, Timestamp) -> Result<BatchView, StoreError> + Send,
    ) -> Result<BatchView, StoreError> {
        let endpoint = self.find_batch_endpoint(endpoint)?;
        self.commit(&endpoint, change).await?
    }

    fn contents(jobs: Vec<NewJob>) -> Vec<NewJob<B::Content>> {
        let content = |job: NewJob| NewJob { id: job.id, request: job.request.map(|_, payload| B::content(payload)) };
        jobs.into_iter().map(content).collect()
    }
}

#[async_trait]
impl<B: Backing> Batches for QueueStore<B> {
    async fn create_batch(&self, endpoint: &str, id: BatchId, jobs: Vec<NewJob>) -> Result<BatchView, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        let jobs = Self::contents(jobs);
        self.commit(&endpoint, |queue, now| queue.create_batch(now, &id, jobs)).await?
    }

    async fn add_to_batch(&self, endpoint: &str, id: &str, jobs: Vec<NewJob>) -> Result<BatchView, StoreError> {
        let jobs = Self::contents(jobs);
        self.change_batch(endpoint, |queue, now| queue.add_to_batch(now, id, jobs)).await
    }

    async fn remove_from_batch(&self, endpoint: &str, id: &str, job: &str) -> Result<BatchView, StoreError> {
        self.change_batch(endpoint, |queue, _| queue.remove_from_batch(id, job)).await
    }

    async fn rename_batch(&self, endpoint: &str, id: &str, name: Option<Arc<str>>) -> Result<BatchView, StoreError> {
        self.change_batch(endpoint, |queue, _| queue.rename_batch(id, name)).await
    }

    async fn finalize_batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError> {
        self.change_batch(endpoint, |queue, now| queue.finalize_batch(now, id)).await
    }

    async fn cancel_batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError> {
        self.change_batch(endpoint, |queue, now| queue.cancel_batch(now, id)).await
    }

    async fn batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError> {
        let endpoint = self.find_batch_endpoint(endpoint)?;
        let (view, mark) = endpoint.with(|queue, _| queue.batch_view(id));
        self.backing.settled(mark).await?;
        view
    }

    async fn batches(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<BatchView>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Page::default()) };
        let (page, mark) = endpoint.with(|queue, _| queue.batch_list(offset, limit));
        self.backing.settled(mark).await?;
        Ok(page)
    }

    async fn batch_requests(
        &self,
        endpoint: &str,
        id: &str,
        offset: usize,
        limit: usize,
    ) -> Result<Page<BatchRequest>, StoreError> {
        let endpoint = self.find_batch_endpoint(endpoint)?;
        let (page, mark) = endpoint.with(|queue, _| queue.batch_requests(id, offset, limit));
        self.backing.settled(mark).await?;
        let Page { entries, total } = page?;
        let mut loaded = Vec::with_capacity(entries.len());
        for BatchRequest { view, started, completed } in entries {
            let view = self.with_output(&endpoint, view).await?;
            loaded.push(BatchRequest { view, started, completed });
        }
        Ok(Page { entries: loaded, total })
    }
}
