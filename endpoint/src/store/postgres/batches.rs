//! Batches: which rows each operation needs.

use std::sync::Arc;

use async_trait::async_trait;

use super::PostgresStore;
use super::batch_rows;
use super::rows::count;
use super::shared::unanswered;
use super::work::Need;
use crate::store::batch::{BatchId, BatchView};
use crate::store::batches::{BatchRequest, Batches};
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::payload::Filed;
use crate::store::queue::{KeptBatch, Queue};
use crate::store::request::NewJob;
use crate::store::views::{JobView, Page};

fn filed(jobs: Vec<NewJob>) -> Vec<NewJob<Filed>> {
    let filed = |job: NewJob| NewJob { id: job.id, request: job.request.map(|_, payload| Filed::Fresh(payload)) };
    jobs.into_iter().map(filed).collect()
}

/// A batch out of a row that nobody has locked.
fn read(row: &tokio_postgres::Row) -> Result<KeptBatch, StoreError> {
    batch_rows::batch(row).map_err(unanswered)
}

impl PostgresStore {
    async fn find_batch(&self, endpoint: &str, id: &str) -> Result<KeptBatch, StoreError> {
        let found = self.shared.query(batch_rows::FIND, &[&endpoint, &id]).await?;
        read(found.first().ok_or(StoreError::BatchNotFound)?)
    }

    /// Changes a batch that exists.
    async fn change_batch(
        &self,
        endpoint: &str,
        id: &str,
        need: Need,
        change: impl Fn(&mut Queue<Filed>, Timestamp, &str) -> Result<BatchView, StoreError> + Send + 'static,
    ) -> Result<BatchView, StoreError> {
        let local = match self.shared.find(endpoint) {
            Some(local) => local,
            None => {
                // Endpoints are not noted for ids that somebody has guessed.
                self.find_batch(endpoint, id).await?;
                self.shared.local(endpoint)
            }
        };
        let id: BatchId = Arc::from(id);
        let need = Need { batch: Some(Arc::clone(&id)), ..need };
        self.shared.run(&local, need, move |queue, now| change(queue, now, &id)).await?
    }
}

/// What a batch's requests count against. They get their turns when the batch is finalized.
fn room_for(jobs: &[NewJob]) -> Need {
    Need { numbers: jobs.len(), bounds: true, batch_bounds: true, ..Need::default() }
}

#[async_trait]
impl Batches for PostgresStore {
    async fn create_batch(&self, endpoint: &str, id: BatchId, jobs: Vec<NewJob>) -> Result<BatchView, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let need = Need { numbers: jobs.len() + 1, batch: Some(Arc::clone(&id)), ..room_for(&jobs) };
        let jobs = filed(jobs);
        self.shared.run(&local, need, move |queue, now| queue.create_batch(now, &id, jobs.clone())).await?
    }

    async fn add_to_batch(&self, endpoint: &str, id: &str, jobs: Vec<NewJob>) -> Result<BatchView, StoreError> {
        let need = room_for(&jobs);
        let jobs = filed(jobs);
        self.change_batch(endpoint, id, need, move |queue, now, id| queue.add_to_batch(now, id, jobs.clone())).await
    }

    async fn remove_from_batch(&self, endpoint: &str, id: &str, job: &str) -> Result<BatchView, StoreError> {
        let (need, job) = (Need::job(job), job.to_owned());
        self.change_batch(endpoint, id, need, move |queue, _, id| queue.remove_from_batch(id, &job)).await
    }

    async fn rename_batch(&self, endpoint: &str, id: &str, name: Option<Arc<str>>) -> Result<BatchView, StoreError> {
        self.change_batch(endpoint, id, Need::default(), move |queue, _, id| queue.rename_batch(id, name.clone())).await
    }

    async fn finalize_batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError> {
        let need = Need { whole_batch: true, ..Need::default() };
        self.change_batch(endpoint, id, need, |queue, now, id| queue.finalize_batch(now, id)).await
    }

    async fn cancel_batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError> {
        let need = Need { whole_batch: true, ..Need::default() };
        self.change_batch(endpoint, id, need, |queue, now, id| queue.cancel_batch(now, id)).await
    }

    async fn batch(&self, endpoint: &str, id: &str) -> Result<BatchView, StoreError> {
        Ok(self.find_batch(endpoint, id).await?.view())
    }

    async fn batches(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<BatchView>, StoreError> {
        let (offset, limit) = (count(offset), count(limit));
        let rows = self.shared.query(batch_rows::NEWEST, &[&endpoint, &offset, &limit]).await?;
        let total = self.shared.query(batch_rows::COUNT, &[&endpoint]).await?;
        let entries = rows.iter().map(|row| Ok(read(row)?.view())).collect::<Result<_, StoreError>>()?;
        Ok(Page { entries, total: super::read::first_count(&total) })
    }

    async fn batch_requests(
        &self,
        endpoint: &str,
        id: &str,
        offset: usize,
        limit: usize,
    ) -> Result<Page<BatchRequest>, StoreError> {
        let batch = self.find_batch(endpoint, id).await?;
        let (offset, limit) = (count(offset), count(limit));
        let found = self.shared.look_batch_requests(endpoint, batch, offset, limit).await?;
        let outputs: Vec<_> = found.entries.iter().filter_map(|request| request.view.ending.output.clone()).collect();
        let mut outputs = self.shared.load(outputs).await?.into_iter();
        let loaded = |BatchRequest { view, started, completed }: BatchRequest<Filed>| {
            let view: JobView = view.and_then(|_| outputs.next().flatten());
            BatchRequest { view, started, completed }
        };
        Ok(Page { entries: found.entries.into_iter().map(loaded).collect(), total: found.total })
    }
}
