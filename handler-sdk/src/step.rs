//! The trait for handlers that advance several jobs at once, step by step.

use std::fmt;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::check::Check;
use crate::error::HandlerError;
use crate::job::Job;
use crate::limit_env::number;
use crate::load_env::LoadEnv;

/// Environment variables that replace the limits of the program.
const MAX_RUNNING: &str = "RUNPOD_STEP_MAX_RUNNING";
const MAX_COST: &str = "RUNPOD_STEP_MAX_COST";

/// A model that works on several jobs in small steps, such as a decoder that computes one token of each job in every step
/// (continuous batching). Serve it with [`serve_step`](crate::serve_step).
///
/// [`admit`](Self::admit) turns an input into a sequence; [`step`](Self::step) advances all running sequences. Jobs join and leave
/// between two steps: a new job does not wait until the others have ended, and the place of one that has ended is free for the next
/// step. The oldest waiting job joins first, as soon as the [limits](Self::limits) have room for it.
///
/// ```no_run,standalone_crate
/// use std::process::ExitCode;
///
/// use runpod_handler_sdk::{HandlerError, Job, LoadEnv, Running, StepHandler, StepLimits, serve_step};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Input {
///     count_to: u64,
/// }
///
/// struct Counter;
///
/// /// What the model keeps of one running job.
/// struct Count {
///     next: u64,
///     last: u64,
/// }
///
/// impl StepHandler for Counter {
///     type Input = Input;
///     type Output = u64;
///     type Chunk = u64;
///     type Sequence = Count;
///
///     fn limits() -> StepLimits {
///         StepLimits::running(32).cost(64 * 1024)
///     }
///
///     fn cost(input: &Input) -> u64 {
///         input.count_to
///     }
///
///     fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
///         Ok(Self)
///     }
///
///     fn admit(&mut self, input: Input, _: &Job<u64>) -> Result<Count, HandlerError> {
///         Ok(Count { next: 1, last: input.count_to })
///     }
///
///     fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError> {
///         for one in running {
///             if let Err(error) = one.job.emit(one.sequence.next) {
///                 one.fail(error);
///             } else if one.sequence.next >= one.sequence.last {
///                 one.finish(one.sequence.last);
///             } else {
///                 one.sequence.next += 1;
///             }
///         }
///         Ok(())
///     }
/// }
///
/// fn main() -> ExitCode {
///     serve_step::<Counter>()
/// }
/// ```
///
/// # Failures
///
/// | cause | effect |
/// | --- | --- |
/// | an input is not valid, or its cost is above the limit | its job fails at once |
/// | `admit` returns an error or panics | only its job fails; after a panic the model is loaded again once the running jobs have ended |
/// | `admit` runs out of memory beside other jobs | the job waits for more room; the cost limit is halved, and grows back slowly |
/// | [`Running::fail`] | only that job fails |
/// | `step` returns an error or panics | the jobs run again from their inputs in halves, one half after the other, until the failing job is alone; only it fails. After a panic the model is loaded again first |
/// | `step` runs out of memory | the cost limit is halved, and the jobs run again from their inputs as they fit; one that runs out of memory alone fails |
/// | a crash, or a lost device | the worker runs each job again, alone; the one that crashes again fails |
/// | a sequence never ends | its job fails at its deadline; the others go on |
///
/// A job that has emitted a chunk never runs again: it fails with the error of the step. So return an error of `step` only when the
/// guilty job is not known, and do what can fail for one job alone in `admit`.
///
/// A job that is cancelled, or whose deadline has passed, leaves before the next step, and its sequence is dropped.
///
/// # Streaming
///
/// A job whose reader is slow sits out steps while too many of its chunks are unacknowledged, so it does not slow the others
/// down: `step` is called without it. A step that emits one chunk of each job therefore never blocks.
pub trait StepHandler: Sized + 'static {
    /// The job's `input`; see [`Handler::Input`](crate::Handler::Input).
    type Input: DeserializeOwned + JsonSchema + Send;
    /// The job's `output`; see [`Handler::Output`](crate::Handler::Output).
    type Output: Serialize + JsonSchema;
    /// One streamed chunk; [`NoChunks`](crate::NoChunks) for a handler that does not stream.
    type Chunk: Serialize + JsonSchema + 'static;
    /// What the model keeps of one running job: its tokens, its KV cache. It stays on the model's thread.
    type Sequence;

    /// Name in the manifest and in metrics; by default the file name of the program.
    const NAME: Option<&'static str> = None;
    /// Version in the manifest and in metrics; best set to `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str = "unversioned";
    /// Whether a job can run twice without harm. If so, a job that crashed the process on its own may run once more. The jobs of
    /// a step that failed as a whole run again in any case, unless they have streamed.
    const IDEMPOTENT: bool = false;

    /// The limits of the jobs that run at the same time.
    fn limits() -> StepLimits;

    /// The cost of an input, in the unit of the cost limit: the most tokens that its KV cache will hold, for example. Called on a
    /// thread without a model.
    fn cost(input: &Self::Input) -> u64 {
        let _ = input;
        1
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

    /// Runs the model once or twice with made-up input, so that the first job does not pay for lazy initialization.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        Ok(())
    }

    /// Makes a sequence of an input. The running sequences wait meanwhile.
    ///
    /// # Errors
    /// Any reason why this job cannot run. No other job is affected.
    fn admit(&mut self, input: Self::Input, job: &Job<Self::Chunk>) -> Result<Self::Sequence, HandlerError>;

    /// Advances each of these sequences by one step. There is at least one. They are in the order in which they were admitted;
    /// between two calls others may have joined and left.
    ///
    /// # Errors
    /// Any reason why the step fails, if it is not known which job is the cause. The sequences are dropped; see above.
    fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError>;
}

/// One running job: its sequence, and its place among the others.
#[non_exhaustive]
pub struct Running<H: StepHandler> {
    /// What the model keeps of it.
    pub sequence: H::Sequence,
    /// The job: its id, deadline, stop flag, chunks and progress.
    pub job: Job<H::Chunk>,
    pub(crate) cost: u64,
    /// The job object, so that the job can run again.
    pub(crate) payload: Bytes,
    /// When it joined the others.
    pub(crate) number: u64,
    /// It runs again after a step that failed, in which it may be the guilty one.
    pub(crate) is_suspect: bool,
    /// It does not take the next step.
    pub(crate) sits_out: bool,
    /// Steps that it has taken.
    pub(crate) steps: u64,
    /// Sum over these steps of how many jobs took them.
    pub(crate) company: u64,
    pub(crate) end: Option<Result<H::Output, HandlerError>>,
}

impl<H: StepHandler> Running<H> {
    pub(crate) fn new(
        sequence: H::Sequence,
        job: Job<H::Chunk>,
        cost: u64,
        payload: Bytes,
        number: u64,
        is_suspect: bool,
    ) -> Self {
        Self { sequence, job, cost, payload, number, is_suspect, sits_out: false, steps: 0, company: 0, end: None }
    }

    /// Completes the job with this output, and drops the sequence after the step. The first end of a job counts.
    pub fn finish(&mut self, output: H::Output) {
        self.end.get_or_insert(Ok(output));
    }

    /// Fails this job and no other, and drops the sequence after the step. The first end of a job counts.
    pub fn fail(&mut self, error: impl Into<HandlerError>) {
        self.end.get_or_insert(Err(error.into()));
    }

    /// Whether this step has ended the job.
    pub fn is_finished(&self) -> bool {
        self.end.is_some()
    }
}

impl<H: StepHandler> fmt::Debug for Running<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("job", &self.job.id()).field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// How many jobs may run at the same time.
///
/// The environment variables `RUNPOD_STEP_MAX_RUNNING` and `RUNPOD_STEP_MAX_COST` replace the limits of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    max_running: u32,
    max_cost: u64,
}

impl StepLimits {
    /// Most running jobs that a worker can fill.
    const MOST_RUNNING: u32 = 1024;

    /// At most `max_running` jobs in a step, between 1 and 1,024.
    #[must_use]
    pub fn running(max_running: u32) -> Self {
        Self { max_running: max_running.clamp(1, Self::MOST_RUNNING), max_cost: u64::MAX }
    }

    /// At most this cost of all running jobs together. A job that alone costs more fails as `validation`.
    #[must_use]
    pub fn cost(self, max_cost: u64) -> Self {
        Self { max_cost: max_cost.max(1), ..self }
    }

    /// Most jobs in a step.
    pub fn max_running(&self) -> u32 {
        self.max_running
    }

    /// Most cost of all running jobs.
    pub fn max_cost(&self) -> u64 {
        self.max_cost
    }

    /// How many jobs wait in the process for a place: enough that one which becomes free is taken in the next step, and few enough
    /// that an idle worker gets the others.
    pub(crate) fn max_waiting(&self) -> u32 {
        self.max_running.div_ceil(4)
    }

    /// The limits with those that the environment sets. A value that is not a number is logged and ignored.
    pub(crate) fn with_environment(self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let running = number(MAX_RUNNING, &variable).map(|running| u32::try_from(running).unwrap_or(u32::MAX));
        let limits = Self { max_running: running.map_or(self, Self::running).max_running, ..self };
        number(MAX_COST, &variable).map_or(limits, |cost| limits.cost(cost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_environment_replace_those_of_the_program() {
        let limits = StepLimits::running(8).cost(100);
        let set = |name: &str| match name {
            MAX_RUNNING => Some("16".to_owned()),
            MAX_COST => Some("many".to_owned()),
            _ => None,
        };
        assert_eq!(limits.with_environment(set), StepLimits::running(16).cost(100));
        assert_eq!(limits.with_environment(|name| (name == MAX_COST).then(|| "7".to_owned())), limits.cost(7));
        assert_eq!(limits.with_environment(|_| None), limits);
    }

    #[test]
    fn a_step_has_room_for_one_job_and_one_waits() {
        let limits = StepLimits::running(0).cost(0);
        assert_eq!((limits.max_running(), limits.max_cost(), limits.max_waiting()), (1, 1, 1));
        assert_eq!(StepLimits::running(u32::MAX).max_running(), 1024);
    }
}
