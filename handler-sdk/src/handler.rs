//! The trait for handlers that run one job at a time.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, de::DeserializeOwned};

use crate::check::Check;
use crate::error::HandlerError;
use crate::job::Job;
use crate::load_env::LoadEnv;

/// The model of one slot. It is built on the slot's own OS thread and stays there, so it need not be `Send`.
///
/// The methods are plain blocking code. When one panics, the job fails with the message and a backtrace, and the slot loads
/// its model again. The [crate documentation](crate) shows a whole handler.
pub trait Handler: Sized + 'static {
    /// The job's `input`. Serde reads it and `schemars` derives its JSON Schema from the same type. A field is optional when it
    /// is an `Option` or has `#[serde(default)]`. An unknown field is ignored with a warning; with
    /// `#[serde(deny_unknown_fields)]` it fails the job.
    ///
    /// Everything that the schema says is enforced before [`run`](Self::run), such as `#[schemars(range(min = 1, max = 10))]`,
    /// `length` and `regex`. The error lists all problems with their paths.
    type Input: DeserializeOwned + JsonSchema;
    /// The job's `output`, at most 64 MiB of JSON. `NaN` and infinite numbers become `null`, because JSON cannot express them.
    type Output: Serialize + JsonSchema;
    /// One streamed chunk; [`NoChunks`] for a handler that does not stream.
    type Chunk: Serialize + JsonSchema + 'static;

    /// Name in the manifest and in metrics; by default the file name of the program.
    const NAME: Option<&'static str> = None;
    /// Version in the manifest and in metrics; best set to `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str = "unversioned";
    /// Whether a job can run twice without harm. If so, a job that was running when the process crashed may run once more.
    const IDEMPOTENT: bool = false;

    /// Fitness checks of this handler, for example for model files or for services that the model needs. They run before
    /// [`load`](Self::load), together with the checks of memory, disk and GPU that every worker runs. When one fails, the
    /// worker takes no jobs and exits.
    ///
    /// `env` is the environment of a process with one slot, before anything is loaded.
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

    /// Runs one job. Long work should call [`Job::stop_point`] now and then, so that a cancelled job ends in time.
    ///
    /// # Errors
    /// Any reason why the job cannot be completed; only this job fails.
    fn run(&mut self, input: Self::Input, job: &Job<Self::Chunk>) -> Result<Self::Output, HandlerError>;
}

/// The chunk type of a handler that does not stream. The type has no values, so nothing can be emitted.
#[derive(Clone, Copy, Debug)]
pub enum NoChunks {}

impl Serialize for NoChunks {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl JsonSchema for NoChunks {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NoChunks".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(false)
    }
}
