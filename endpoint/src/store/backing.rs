//! Where a [`QueueStore`](super::QueueStore) keeps what changes: in memory only, or in a file too.

use std::future::Future;
use std::sync::Arc;

use super::error::StoreError;
use super::limits::Limits;
use super::payload::{Content, Payload};
use super::queue::{Changes, Effect, Mark, Queue};
use super::views::JobView;
use super::wakers::Wakers;

/// What one operation left behind.
#[derive(Debug)]
pub struct Entry {
    /// The endpoint's key.
    pub(crate) endpoint: u32,
    /// What is written, in one transaction.
    pub(crate) changes: Changes,
    /// What is performed once the changes are written: no effect may show what a crash could still undo.
    pub(crate) effects: Vec<Effect>,
    /// Performs the effects.
    pub(crate) wakers: Arc<Wakers>,
}

/// Memory that outlives the process, or none.
///
/// Entries are written in the order of their marks, so a reader that waits for the mark it saw has seen only what
/// lasts.
pub trait Backing: Send + Sync + 'static {
    /// How queues hold payloads.
    type Content: Content;

    /// A queue that notes what this backing needs.
    fn queue(&self, limits: Limits) -> Queue<Self::Content>;
    /// A payload on its way into a queue.
    fn content(payload: Payload) -> Self::Content;
    /// Whether changes can be written at the moment; asked before a change that must not be lost.
    ///
    /// # Errors
    /// With what is wrong.
    fn ready(&self) -> Result<(), StoreError>;
    /// Notes a new endpoint.
    fn add_endpoint(&self, endpoint: u32, name: &str);
    /// Notes that an endpoint without jobs was removed. Its key may be used again.
    fn remove_endpoint(&self, endpoint: u32);
    /// Files an entry. Called while the queue is locked, so it must not wait.
    fn append(&self, entry: Entry) -> Mark;
    /// Waits until everything up to `mark` is on disk.
    ///
    /// # Errors
    /// When it cannot be written.
    fn settled(&self, mark: Mark) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// A job as it was written down last, for as long as later changes cannot be; `None` when it never was.
    ///
    /// # Errors
    /// When it cannot be read.
    fn stored(
        &self,
        endpoint: u32,
        job: u64,
    ) -> impl Future<Output = Result<Option<JobView<Self::Content>>, StoreError>> + Send;
    /// The text of payloads; `None` for what is no longer there.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(
        &self,
        endpoint: u32,
        contents: Vec<Self::Content>,
    ) -> impl Future<Output = Result<Vec<Option<Payload>>, StoreError>> + Send;
}

/// Nothing outlives the process.
#[derive(Debug, Clone, Copy)]
pub struct InMemory;

impl Backing for InMemory {
    type Content = Payload;

    fn queue(&self, limits: Limits) -> Queue {
        Queue::new(limits)
    }

    fn content(payload: Payload) -> Payload {
        payload
    }

    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn add_endpoint(&self, _: u32, _: &str) {}

    fn remove_endpoint(&self, _: u32) {}

    fn append(&self, _: Entry) -> Mark {
        0
    }

    async fn settled(&self, _: Mark) -> Result<(), StoreError> {
        Ok(())
    }

    async fn stored(&self, _: u32, _: u64) -> Result<Option<JobView>, StoreError> {
        Ok(None)
    }

    async fn load(&self, _: u32, contents: Vec<Payload>) -> Result<Vec<Option<Payload>>, StoreError> {
        Ok(contents.into_iter().map(Some).collect())
    }
}

/// An endpoint as it was left, for a store that starts again.
pub(crate) struct Restored<C> {
    pub(crate) endpoint: u32,
    pub(crate) name: String,
    pub(crate) queue: Queue<C>,
}
