//! The trait for handlers that run several jobs at once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::check::Check;
use crate::error::HandlerError;
use crate::job::Job;
use crate::limit_env::number;
use crate::load_env::LoadEnv;

/// Environment variables that replace the limits of the program.
const MAX_ITEMS: &str = "RUNPOD_BATCH_MAX_ITEMS";
const MAX_COST: &str = "RUNPOD_BATCH_MAX_COST";
const MAX_WAIT_MS: &str = "RUNPOD_BATCH_MAX_WAIT_MS";

/// A model that runs several jobs at once, so that they fill the GPU. Serve it with [`serve_batch`](crate::serve_batch).
///
/// While one batch runs, arriving jobs wait for the next one. As soon as the model is free, the next batch starts with the
/// jobs that wait, oldest first, up to the [limits](Self::limits). An idle model therefore runs a single job at once. The worker
/// takes as many jobs as fill one running and one waiting batch; no flag is needed.
///
/// ```no_run,standalone_crate
/// use std::process::ExitCode;
///
/// use runpod_handler_sdk::{BatchHandler, BatchItem, BatchLimits, HandlerError, LoadEnv, NoChunks, serve_batch};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Input {
///     text: String,
/// }
///
/// struct Lengths;
///
/// impl BatchHandler for Lengths {
///     type Input = Input;
///     type Output = usize;
///     type Chunk = NoChunks;
///
///     fn limits() -> BatchLimits {
///         BatchLimits::items(32).cost(16 * 1024)
///     }
///
///     fn cost(input: &Input) -> u64 {
///         input.text.len() as u64
///     }
///
///     fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
///         Ok(Self)
///     }
///
///     fn run_batch(
///         &mut self,
///         items: &[BatchItem<Input, NoChunks>],
///     ) -> Result<Vec<Result<usize, HandlerError>>, HandlerError> {
///         Ok(items.iter().map(|item| Ok(item.input.text.len())).collect())
///     }
/// }
///
/// fn main() -> ExitCode {
///     serve_batch::<Lengths>()
/// }
/// ```
///
/// # Failures
///
/// | cause | effect |
/// | --- | --- |
/// | an input is not valid, or its cost is above the limit | its job fails at once; the batch does not contain it |
/// | `run_batch` returns an error for one item | only the job of that item fails |
/// | `run_batch` returns an error for the batch, or panics | the batch runs again in halves, until the failing item is alone; only its job fails |
/// | out of memory | as above; the cost limit is halved, and grows back slowly |
/// | a crash, or a lost device | the worker runs each job of the batch again, alone; the one that crashes again fails |
/// | the number of results is wrong | all jobs of the batch fail |
///
/// A job that has emitted a chunk never runs again: it fails with the error of its batch.
///
/// A cancelled job leaves the waiting jobs at once. In a running batch its [`Job::is_stopped`] becomes true; if the batch goes on
/// for longer than the worker's cancel grace, the process is replaced and the other jobs of the batch run again.
pub trait BatchHandler: Sized + 'static {
    /// The job's `input`; see [`Handler::Input`](crate::Handler::Input).
    type Input: DeserializeOwned + JsonSchema + Send;
    /// The job's `output`; see [`Handler::Output`](crate::Handler::Output).
    type Output: Serialize + JsonSchema;
    /// One streamed chunk; [`NoChunks`](crate::NoChunks) for a handler that does not stream.
    type Chunk: Serialize + JsonSchema + 'static;

    /// Name in the manifest and in metrics; by default the file name of the program.
    const NAME: Option<&'static str> = None;
    /// Version in the manifest and in metrics; best set to `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str = "unversioned";
    /// Whether a job can run twice without harm. If so, a job that crashed the process on its own may run once more. The jobs of
    /// a batch that failed as a whole run again in any case.
    const IDEMPOTENT: bool = false;

    /// The limits of a batch.
    fn limits() -> BatchLimits;

    /// The cost of an input, in the unit of the cost limit: tokens, pixels, bytes. An estimate is enough. Called on a thread
    /// without a model.
    fn cost(input: &Self::Input) -> u64 {
        let _ = input;
        1
    }

    /// What an input must have in common with the other inputs of its batch, such as the size of an image or the name of an
    /// adapter. By default any inputs can share a batch.
    fn key(input: &Self::Input) -> String {
        let _ = input;
        String::new()
    }

    /// Fitness checks of this handler; see [`Handler::checks`](crate::Handler::checks).
    fn checks(env: &LoadEnv) -> Vec<Check> {
        let _ = env;
        Vec::new()
    }

    /// Builds the model. Called once per slot, and again after a panic.
    ///
    /// # Errors
    /// Any reason why the model cannot be built. The process exits, and the worker starts another one within its limits.
    fn load(env: &LoadEnv) -> Result<Self, HandlerError>;

    /// Runs the model once or twice with made-up input, so that the first batch does not pay for lazy initialization.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        Ok(())
    }

    /// Runs one batch. Returns one result for each item, in the order of the items.
    ///
    /// Return `Err` inside the list for an item that cannot be completed, and `Err` for the whole batch when it is not known which
    /// item is the cause.
    ///
    /// # Errors
    /// Any reason why the batch cannot be completed. It runs again in halves.
    fn run_batch(
        &mut self,
        items: &[BatchItem<Self::Input, Self::Chunk>],
    ) -> Result<Vec<Result<Self::Output, HandlerError>>, HandlerError>;
}

/// One job of a batch.
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchItem<I, C> {
    /// The job's input.
    pub input: I,
    /// The job: its id, deadline, stop flag, chunks and progress.
    pub job: Job<C>,
    pub(crate) cost: u64,
}

impl<I, C> BatchItem<I, C> {
    pub(crate) fn new(input: I, cost: u64, job: Job<C>) -> Self {
        Self { input, job, cost }
    }
}

/// How large a batch may be, and how long its first job may wait for others.
///
/// The environment variables `RUNPOD_BATCH_MAX_ITEMS`, `RUNPOD_BATCH_MAX_COST` and `RUNPOD_BATCH_MAX_WAIT_MS` replace the limits of the
/// program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    max_items: u32,
    max_cost: u64,
    max_wait: Duration,
}

impl BatchLimits {
    /// Most items in a batch that a worker can fill.
    const MOST_ITEMS: u32 = 1024;

    /// At most `max_items` jobs in a batch, between 1 and 1,024.
    #[must_use]
    pub fn items(max_items: u32) -> Self {
        Self { max_items: max_items.clamp(1, Self::MOST_ITEMS), max_cost: u64::MAX, max_wait: Duration::ZERO }
    }

    /// At most this cost in a batch. A job that costs more fails as `validation`.
    #[must_use]
    pub fn cost(self, max_cost: u64) -> Self {
        Self { max_cost: max_cost.max(1), ..self }
    }

    /// How long a job may wait for others although the model is idle; zero by default. Worth it only when a larger batch saves
    /// more time than the wait costs.
    #[must_use]
    pub fn wait(self, max_wait: Duration) -> Self {
        Self { max_wait, ..self }
    }

    /// Most jobs in a batch.
    pub fn max_items(&self) -> u32 {
        self.max_items
    }

    /// Most cost in a batch.
    pub fn max_cost(&self) -> u64 {
        self.max_cost
    }

    /// Longest wait of a job for others.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// The limits with those that the environment sets. A value that is not a number is logged and ignored.
    pub(crate) fn with_environment(self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| number(name, &variable);
        let mut limits = self;
        if let Some(items) = number(MAX_ITEMS) {
            let items = u32::try_from(items).unwrap_or(u32::MAX);
            limits = Self { max_items: Self::items(items).max_items, ..limits };
        }
        if let Some(cost) = number(MAX_COST) {
            limits = limits.cost(cost);
        }
        if let Some(wait) = number(MAX_WAIT_MS) {
            limits = limits.wait(Duration::from_millis(wait));
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_environment_replace_those_of_the_program() {
        let limits = BatchLimits::items(8).cost(100);
        let set = |name: &str| match name {
            MAX_ITEMS => Some("16".to_owned()),
            MAX_WAIT_MS => Some("5".to_owned()),
            MAX_COST => Some("many".to_owned()),
            _ => None,
        };
        let expected = BatchLimits::items(16).cost(100).wait(Duration::from_millis(5));
        assert_eq!(limits.with_environment(set), expected);
        assert_eq!(limits.with_environment(|_| None), limits);
    }

    #[test]
    fn a_batch_has_at_least_one_item_and_a_cost() {
        let limits = BatchLimits::items(0).cost(0);
        assert_eq!((limits.max_items(), limits.max_cost()), (1, 1));
        assert_eq!(BatchLimits::items(u32::MAX).max_items(), 1024);
    }
}
