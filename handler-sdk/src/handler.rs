//! The trait that users implement, and what it says about itself.

use std::any::TypeId;
use std::path::Path;

use runpod_handler_protocol::Manifest;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, de::DeserializeOwned};

use crate::{Check, HandlerError, Job, LoadEnv};

/// One slot's model. Built on the slot's own OS thread and never moved off it, so it need not be `Send`.
///
/// Code here is plain blocking code. It may panic: the job fails with the message and a backtrace, and the slot loads
/// again. See the [crate documentation](crate) for a whole handler.
pub trait Handler: Sized + 'static {
    /// The job's `input`. Serde reads it and `schemars` documents it: one truth. `Option` is the only way to be optional
    /// (or `#[serde(default)]`); a field that is not known is dropped with a warning, unless the type says
    /// `#[serde(deny_unknown_fields)]`.
    type Input: DeserializeOwned + JsonSchema;
    /// The job's `output`, at most 64 MiB of JSON. `NaN` and infinite numbers become `null`: JSON has no word for them.
    type Output: Serialize + JsonSchema;
    /// One streamed item; [`NoChunks`] for a handler that streams nothing.
    type Chunk: Serialize + JsonSchema + 'static;

    /// Name in the manifest and in metrics; by default the file name of the program.
    const NAME: Option<&'static str> = None;
    /// Version in the manifest and in metrics; best set to `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str = "unversioned";
    /// Running a job twice does no harm. Then a job that was running when the process died may be run once more.
    const IDEMPOTENT: bool = false;

    /// What must hold before the worker takes jobs, beside what is always checked (memory, disk, GPU): model files, services
    /// that the model needs. Checked before [`load`](Self::load); a failure keeps the worker from taking jobs and ends it.
    ///
    /// `env` is that of a process with one slot, before anything is loaded.
    fn checks(env: &LoadEnv) -> Vec<Check> {
        let _ = env;
        Vec::new()
    }

    /// Builds the model. Called once per slot, and again after a panic.
    ///
    /// # Errors
    /// Whatever keeps the model from being built. The process ends and the worker tries again within its budget.
    fn load(env: &LoadEnv) -> Result<Self, HandlerError>;

    /// Runs the model once or twice with made-up input, so that the first job does not pay for what is lazy.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        Ok(())
    }

    /// Runs one job. Long work should call [`Job::check`] now and then, so that a cancelled job ends in time.
    ///
    /// # Errors
    /// Whatever keeps the job from being done; only this job fails.
    fn run(&mut self, input: Self::Input, job: &Job<Self::Chunk>) -> Result<Self::Output, HandlerError>;
}

/// The chunk type of a handler that does not stream. It has no values, so nothing can be emitted.
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

/// What the handler says about itself in the handshake and for `--manifest`.
pub(crate) fn manifest<H: Handler>() -> Manifest {
    let streams = TypeId::of::<H::Chunk>() != TypeId::of::<NoChunks>();
    Manifest {
        name: H::NAME.map_or_else(program_name, str::to_owned),
        version: H::VERSION.to_owned(),
        idempotent: H::IDEMPOTENT,
        streams,
        input_schema: schemars::schema_for!(H::Input).to_value(),
        output_schema: schemars::schema_for!(H::Output).to_value(),
        chunk_schema: streams.then(|| schemars::schema_for!(H::Chunk).to_value()),
    }
}

/// File name of the running program; cargo names it after the crate.
pub(crate) fn program_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name().map_or_else(|| "handler".to_owned(), |name| name.to_string_lossy().into_owned())
}
