//! An async handler that is a single function.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::process::ExitCode;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::async_handler::AsyncHandler;
use crate::async_job::AsyncJob;
use crate::error::HandlerError;
use crate::function::{register, registered};
use crate::handler::NoChunks;
use crate::load_env::LoadEnv;
use crate::serve::serve_async;

/// Runs an async function as a handler under a worker: the whole `main` of a program without anything to load. As many calls run at
/// the same time as [`AsyncHandler::max_concurrency`] says by default; the environment variable `RUNPOD_MAX_CONCURRENCY` changes it.
///
/// ```no_run,standalone_crate
/// use std::process::ExitCode;
/// use std::time::Duration;
///
/// use runpod_handler_sdk::{HandlerError, serve_async_fn};
///
/// fn main() -> ExitCode {
///     serve_async_fn(|millis: u64, job| async move {
///         job.progress("asleep");
///         tokio::time::sleep(Duration::from_millis(millis)).await;
///         Ok::<_, HandlerError>(millis)
///     })
/// }
/// ```
pub fn serve_async_fn<I, O, E, F, R>(function: F) -> ExitCode
where
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
    E: Into<HandlerError> + 'static,
    F: Fn(I, AsyncJob<NoChunks>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, E>> + Send + 'static,
{
    register(function);
    serve_async::<AsyncFunction<I, O, E, F, R>>()
}

/// A function as an async handler.
pub(crate) struct AsyncFunction<I, O, E, F, R> {
    function: Arc<F>,
    _types: PhantomData<fn(I, O, E) -> R>,
}

impl<I, O, E, F, R> fmt::Debug for AsyncFunction<I, O, E, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncFunction").finish_non_exhaustive()
    }
}

impl<I, O, E, F, R> AsyncHandler for AsyncFunction<I, O, E, F, R>
where
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
    E: Into<HandlerError> + 'static,
    F: Fn(I, AsyncJob<NoChunks>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, E>> + Send + 'static,
{
    type Input = I;
    type Output = O;
    type Chunk = NoChunks;

    async fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self { function: registered()?, _types: PhantomData })
    }

    fn run(&self, input: I, job: AsyncJob<NoChunks>) -> impl Future<Output = Result<O, HandlerError>> + Send {
        let result = (self.function)(input, job);
        async { result.await.map_err(Into::into) }
    }
}
