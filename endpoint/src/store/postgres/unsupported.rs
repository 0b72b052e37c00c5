//! What endpoints that share a database cannot do yet. Each is refused with what to do instead.

use std::sync::Arc;

use async_trait::async_trait;

use super::PostgresStore;
use crate::store::batch::{BatchId, BatchView};
use crate::store::batches::{BatchRequest, Batches};
use crate::store::error::StoreError;
use crate::store::request::NewJob;
use crate::store::views::Page;

/// A batch has one state, which each of its thousands of jobs can change.
const BATCHES: StoreError = StoreError::Unsupported(
    "batches are not supported with --database; submit the requests one by one with /run, or use an endpoint with --data",
);

/// Whose turn it is follows from all jobs that wait.
pub(super) const FAIR_BY: StoreError =
    StoreError::Unsupported("fair_by is not supported with --database; remove it or use --data");

/// One program must follow the jobs at the other endpoint.
pub(super) const OVERFLOW: StoreError =
    StoreError::Unsupported("overflow is not supported with --database; remove it or use --data");

#[async_trait]
impl Batches for PostgresStore {
    async fn create_batch(&self, _: &str, _: BatchId, _: Vec<NewJob>) -> Result<BatchView, StoreError> {
        Err(BATCHES)
    }

    async fn add_to_batch(&self, _: &str, _: &str, _: Vec<NewJob>) -> Result<BatchView, StoreError> {
        Err(BATCHES)
    }

    async fn remove_from_batch(&self, _: &str, _: &str, _: &str) -> Result<BatchView, StoreError> {
        Err(BATCHES)
    }

    async fn rename_batch(&self, _: &str, _: &str, _: Option<Arc<str>>) -> Result<BatchView, StoreError> {
        Err(BATCHES)
    }

    async fn finalize_batch(&self, _: &str, _: &str) -> Result<BatchView, StoreError> {
        Err(BATCHES)
    }

    async fn cancel_batch(&self, _: &str, _: &str) -> Result<BatchView, StoreError> {
        Err(BATCHES)
    }

    async fn batch(&self, _: &str, _: &str) -> Result<BatchView, StoreError> {
        Err(BATCHES)
    }

    async fn batches(&self, _: &str, _: usize, _: usize) -> Result<Page<BatchView>, StoreError> {
        Err(BATCHES)
    }

    async fn batch_requests(&self, _: &str, _: &str, _: usize, _: usize) -> Result<Page<BatchRequest>, StoreError> {
        Err(BATCHES)
    }
}
