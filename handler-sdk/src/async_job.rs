//! A running job of an async handler.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

use crate::concurrency::Concurrency;
use crate::encode::encode;
use crate::job::Job;
use crate::stopped::{EmitError, Stopped};

/// A running job of an [`AsyncHandler`](crate::AsyncHandler). It has all methods of [`Job`] except those that block, in whose place it
/// has its own. Clones are the same job, so a task of the handler can keep one; after the end of the job they do nothing any more.
pub struct AsyncJob<C> {
    job: Arc<Job<AwaitedChunks>>,
    concurrency: Concurrency,
    _chunk: PhantomData<fn(C)>,
}

/// The chunk type of the [`Job`] inside an [`AsyncJob`]: its chunks are emitted with [`AsyncJob::emit`], never by blocking.
#[derive(Clone, Copy, Debug)]
pub enum AwaitedChunks {}

impl<C> AsyncJob<C> {
    pub(crate) fn new(job: Arc<Job<AwaitedChunks>>, concurrency: Concurrency) -> Self {
        Self { job, concurrency, _chunk: PhantomData }
    }

    /// Waits until the job must end: it was cancelled, its deadline has passed, or the worker is shutting down.
    ///
    /// A job that has called this ends by itself, and has two seconds for that. The future of any other job is dropped as soon as the
    /// job must end.
    ///
    /// ```no_run,standalone_crate
    /// # use runpod_handler_sdk::{AsyncJob, HandlerError, NoChunks};
    /// # async fn ask() -> Result<String, HandlerError> { Ok(String::new()) }
    /// # async fn give_up() {}
    /// # async fn run(job: AsyncJob<NoChunks>) -> Result<String, HandlerError> {
    /// tokio::select! {
    ///     answer = ask() => answer,
    ///     stopped = job.stopped() => {
    ///         give_up().await;
    ///         Err(stopped.into())
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn stopped(&self) -> Stopped {
        let running = self.job.running();
        running.let_end_itself();
        running.until_stopped().await
    }

    /// How many jobs the handler runs at the same time, which it can change.
    pub fn concurrency(&self) -> &Concurrency {
        &self.concurrency
    }
}

impl<C: Serialize> AsyncJob<C> {
    /// Streams one chunk. Chunks arrive in order. Waits while too many chunks are unacknowledged, so a slow reader slows the job down
    /// instead of filling its memory.
    ///
    /// # Errors
    /// [`EmitError::Stopped`] when the job must end (also while this waits), [`EmitError::Encode`] when the chunk cannot be sent.
    pub async fn emit(&self, chunk: C) -> Result<(), EmitError> {
        let payload = encode("chunk", &chunk)?;
        drop(chunk);
        Ok(self.job.emit_encoded(payload).await?)
    }
}

impl<C> Deref for AsyncJob<C> {
    type Target = Job<AwaitedChunks>;

    fn deref(&self) -> &Self::Target {
        &self.job
    }
}

impl<C> Clone for AsyncJob<C> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.job), self.concurrency.clone())
    }
}

impl<C> fmt::Debug for AsyncJob<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncJob").field("id", &self.job.id()).field("attempt", &self.job.attempt()).finish()
    }
}
