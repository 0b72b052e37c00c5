//! The trait for handlers that run many jobs at the same time, as futures.

use std::future::Future;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::async_job::AsyncJob;
use crate::check::Check;
use crate::error::HandlerError;
use crate::load_env::LoadEnv;

/// Jobs that run at the same time at the start unless the handler says otherwise.
const DEFAULT_CONCURRENCY: u32 = 100;

/// A handler whose jobs mostly wait: for other services, for disks, for databases. Serve it with
/// [`serve_async`](crate::serve_async).
///
/// All jobs share one handler and the threads of one tokio runtime, so a thousand jobs cost memory for a thousand futures and no
/// thread each. The worker takes as many jobs as [`max_concurrency`](Self::max_concurrency) says; no flag is needed, and `--slots` has
/// no effect. [`Concurrency`](crate::Concurrency) changes the number while the handler runs.
///
/// ```no_run,standalone_crate
/// use std::process::ExitCode;
/// use std::time::Duration;
///
/// use runpod_handler_sdk::{AsyncHandler, AsyncJob, HandlerError, LoadEnv, NoChunks, serve_async};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Input {
///     millis: u64,
/// }
///
/// struct Naps;
///
/// impl AsyncHandler for Naps {
///     type Input = Input;
///     type Output = u64;
///     type Chunk = NoChunks;
///
///     fn max_concurrency() -> u32 {
///         1000
///     }
///
///     async fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
///         Ok(Self)
///     }
///
///     async fn run(&self, input: Input, _: AsyncJob<NoChunks>) -> Result<u64, HandlerError> {
///         tokio::time::sleep(Duration::from_millis(input.millis)).await;
///         Ok(input.millis)
///     }
/// }
///
/// fn main() -> ExitCode {
///     serve_async::<Naps>()
/// }
/// ```
///
/// # Cancellation drops the future
///
/// When a job must end, because it was cancelled, its deadline has passed or the worker shuts down, its future is dropped at the point
/// where it waits. What it owns is dropped with it: a request in flight is given up, a guard runs its `Drop`. A task that the job has
/// spawned goes on unless its handle is aborted, for example by a `tokio::task::JoinSet` that the future owns. A job that has something
/// to do before it ends waits for [`AsyncJob::stopped`].
///
/// # Failures
///
/// | cause | effect |
/// | --- | --- |
/// | `run` returns an error, or panics | only its job fails; the handler is not loaded again |
/// | a job blocks its thread for a second | the log says which job it is; the other jobs go on in the other threads |
/// | a job blocks its thread for ten seconds, or for two after it was asked to stop | the job fails immediately; its thread is free when it returns |
/// | all threads are blocked for ten seconds | the jobs that block them fail, the process is replaced, and the other jobs run again |
///
/// Whatever computes for long or calls blocking code belongs in `tokio::task::spawn_blocking`, libtorch too; a handler that does
/// little else is a [`Handler`](crate::Handler) or a [`BatchHandler`](crate::BatchHandler). The runtime has a thread for each CPU that
/// the process may use, between 4 and 32.
pub trait AsyncHandler: Send + Sync + Sized + 'static {
    /// The job's `input`; see [`Handler::Input`](crate::Handler::Input).
    type Input: DeserializeOwned + JsonSchema + Send;
    /// The job's `output`; see [`Handler::Output`](crate::Handler::Output).
    type Output: Serialize + JsonSchema + Send;
    /// One streamed chunk; [`NoChunks`](crate::NoChunks) for a handler that does not stream.
    type Chunk: Serialize + JsonSchema + Send + 'static;

    /// Name in the manifest and in metrics; by default the file name of the program.
    const NAME: Option<&'static str> = None;
    /// Version in the manifest and in metrics; best set to `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str = "unversioned";
    /// Whether a job can run twice without harm; see [`Handler::IDEMPOTENT`](crate::Handler::IDEMPOTENT).
    const IDEMPOTENT: bool = false;

    /// How many jobs run at the same time when the handler starts, at most 8,192; 100 by default. It is no maximum:
    /// [`Concurrency::set`](crate::Concurrency::set) may exceed it. The environment variable `RUNPOD_MAX_CONCURRENCY` is both: it
    /// replaces this number, and the handler cannot exceed it.
    fn max_concurrency() -> u32 {
        DEFAULT_CONCURRENCY
    }

    /// Fitness checks of this handler; see [`Handler::checks`](crate::Handler::checks).
    fn checks(env: &LoadEnv) -> Vec<Check> {
        let _ = env;
        Vec::new()
    }

    /// Builds the handler, once for the process.
    ///
    /// # Errors
    /// Any reason why it cannot be built. The process exits, and the worker starts another one, as long as its own limit of starts allows.
    fn load(env: &LoadEnv) -> impl Future<Output = Result<Self, HandlerError>> + Send;

    /// Prepares the handler for its first job, for example by opening connections.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    fn warm_up(&self) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async { Ok(()) }
    }

    /// Runs one job.
    ///
    /// # Errors
    /// Any reason why the job cannot be completed; only this job fails.
    fn run(
        &self,
        input: Self::Input,
        job: AsyncJob<Self::Chunk>,
    ) -> impl Future<Output = Result<Self::Output, HandlerError>> + Send;
}
