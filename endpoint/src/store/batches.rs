//! What is done with batches (RunPod's batch API).

use std::sync::Arc;

use async_trait::async_trait;

use super::batch::{BatchId, BatchView};
use super::clock::Timestamp;
use super::error::StoreError;
use super::payload::Payload;
use super::request::NewJob;
use super::views::{JobView, Page};

/// A request of a batch. Its id is a job id.
#[derive(Debug, Clone)]
pub struct BatchRequest<P = Payload> {
    /// The job.
    pub view: JobView<P>,
    /// When its latest attempt began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub completed: Option<Timestamp>,
}

/// The part of a [`Store`](super::Store) that knows batches. Every method fails as those of the store do, with
/// [`StoreError::BatchNotFound`] for a batch that there is not, and with [`StoreError::BatchState`] for what its state forbids.
#[async_trait]
pub trait Batches: Send + Sync {
    /// Creates a draft with these requests: all of them or none.
    async fn create_batch(&self, endpoint: &str, id: BatchId, jobs: Vec<NewJob>) -> Result<BatchView, StoreError>;
    /// Adds requests to a draft: all of them or none.
    async fn add_to_batch(&self, endpoint: &str, id: &str, jobs: Vec<NewJob>) -> Result<BatchView, StoreError>;
    /// Removes a request from a draft.
    async fn remove_from_batch(&self, endpoint: &str, id: &str, job: &str) -> Result<BatchView, StoreError>;
    /// Gives a batch another name, or none.
    async fn rename_batch(&self, endpoint: &str, id: &str, name: Option<Arc<str>>) -> Result<BatchView, StoreError>;
    /// Queues the requests of a draft.
    async fn finalize_batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError>;
    /// Cancels the requests that wait. Those that run go on. [`StoreError::BatchEnded`] when all have ended.
    async fn cancel_batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError>;
    /// One batch.
    async fn batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError>;
    /// The batches, newest first.
    async fn batches(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<BatchView>, StoreError>;
    /// The requests of a batch, in the order in which they were added.
    async fn batch_requests(
        &self,
        endpoint: &str,
        id: &str,
        offset: usize,
        limit: usize,
    ) -> Result<Page<BatchRequest>, StoreError>;
}
