//! Write a RunPod serverless handler in Rust.
//!
//! A handler is a program of its own: it implements [`Handler`] and calls [`serve()`] from `main`. The worker starts the program
//! and sends it jobs over a socket. A crash, a stuck kernel or a lost GPU ends this process, never the worker.
//!
//! ```no_run,standalone_crate
//! use std::process::ExitCode;
//!
//! use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, serve};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! struct WordCount {
//!     stop_words: Vec<String>,
//! }
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Input {
//!     lines: Vec<String>,
//!     /// Count a word only when it has at least this many letters.
//!     #[serde(default)]
//!     min_letters: usize,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Output {
//!     words: usize,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct LineCount {
//!     line: usize,
//!     words: usize,
//! }
//!
//! impl Handler for WordCount {
//!     type Input = Input;
//!     type Output = Output;
//!     type Chunk = LineCount;
//!
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     const IDEMPOTENT: bool = true;
//!
//!     fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
//!         env.progress("stop words", 0, 1);
//!         let text = std::fs::read_to_string("/models/stop-words.txt")?;
//!         Ok(Self { stop_words: text.lines().map(str::to_owned).collect() })
//!     }
//!
//!     fn run(&mut self, input: Input, job: &Job<LineCount>) -> Result<Output, HandlerError> {
//!         if input.lines.is_empty() {
//!             return Err(HandlerError::validation("input.lines: must not be empty"));
//!         }
//!         let mut total = 0;
//!         for (line, text) in input.lines.iter().enumerate() {
//!             job.stop_point()?; // the job ends here if it was cancelled
//!             let counts = |word: &&str| word.len() >= input.min_letters && !self.stop_words.iter().any(|stop| stop == word);
//!             let words = text.split_whitespace().filter(counts).count();
//!             total += words;
//!             job.emit(LineCount { line, words })?;
//!             job.progress(format!("{} of {} lines", line + 1, input.lines.len()));
//!         }
//!         job.record("words", total as f64);
//!         Ok(Output { words: total })
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     serve::<WordCount>()
//! }
//! ```
//!
//! [`serve_fn`] serves a single function. [`BatchHandler`] runs several jobs at the same time, so that they fill the GPU;
//! [`StepHandler`] lets jobs join and leave between the steps of a model that computes step by step. With the feature `async`,
//! `AsyncHandler` runs very many jobs at the same time that mostly wait for other services.
//!
//! # Failures
//!
//! | cause | effect on the job | effect on the process |
//! | --- | --- | --- |
//! | the input does not have the type [`Handler::Input`], or breaks a limit of its schema | fails as `validation`, with the JSON path of every problem | none |
//! | `run` returns an error | fails with the error's kind and message, and its causes as traceback | none |
//! | a panic | fails as `inference_error`, with message and backtrace | the slot loads its model again |
//! | out of device memory, by the error's text | fails as `oom`, with the allocator's statistics | the allocator's cache is emptied |
//! | the device is lost, by the error's text and a probe | fails as `device_lost` | the worker replaces it |
//! | the output is over the size limit of a message, or cannot be written as JSON | fails as `protocol` | none |
//! | a crash | fails as `crashed`, or runs again if [`Handler::IDEMPOTENT`] | the worker replaces it |
//!
//! Only a panic that unwinds can be caught, so this crate does not compile with `panic = "abort"`.
//!
//! # Threads
//!
//! Each slot is one OS thread that builds its model and runs its jobs, so a model need be neither `Send` nor `Sync`. Other
//! threads, which run no user code, read from and write to the socket. The worker logs what the handler prints to stdout and
//! stderr. Standard input is empty.
//!
//! # Logs
//!
//! The worker logs each printed line at level INFO, with the job's id if only one job is running. Events of the `tracing` crate
//! keep their level and always have the id of their job; see `LogLayer` (feature `tracing`, on by default). Declare secret
//! inputs as [`Secret`]: the worker masks their values in all logs and errors.
//!
//! # Feature `files`
//!
//! Downloads the files that jobs name, from public addresses and within limits, and uploads what jobs make to S3-compatible storage;
//! see the module `files`.
//!
//! # Feature `async`
//!
//! Adds `AsyncHandler`, whose jobs are futures on a tokio runtime, with `AsyncJob`, `Concurrency`, `serve_async` and
//! `serve_async_fn`. A thousand jobs that wait need no thread each.
//!
//! # Feature `torch`
//!
//! Adds the choice of the device, loads libtorch's CUDA libraries at run time, switches gradients off on slot threads, reports
//! device memory and loads weights; see the module `torch`.

// The examples are compiled but not run (`no_run,standalone_crate`): where cargo puts the programs of doc tests, they would not
// find libtorch.
#![cfg_attr(not(feature = "torch"), forbid(unsafe_code))]

#[cfg(panic = "abort")]
compile_error!(
    "remove `panic = \"abort\"` from the profile: a handler must unwind, so that a panic fails only one job"
);

#[cfg(feature = "async")]
mod async_function;
#[cfg(feature = "async")]
mod async_handler;
#[cfg(feature = "async")]
mod async_job;
mod batch;
mod check;
mod classify;
#[cfg(feature = "async")]
mod concurrency;
mod encode;
mod error;
#[cfg(feature = "tracing")]
mod events;
mod fake_device;
#[cfg(feature = "files")]
mod file_error;
#[cfg(feature = "files")]
pub mod files;
mod function;
#[cfg(doctest)]
mod guide;
mod handler;
mod input;
mod job;
mod limit_env;
mod load_env;
mod manifest;
mod output;
mod panics;
mod running_job;
mod schema;
mod secret;
mod send_queue;
mod serve;
mod step;
mod stopped;
pub mod testing;
mod text;
#[cfg(feature = "torch")]
pub mod torch;

#[cfg(feature = "async")]
pub use async_function::serve_async_fn;
#[cfg(feature = "async")]
pub use async_handler::AsyncHandler;
#[cfg(feature = "async")]
pub use async_job::{AsyncJob, AwaitedChunks};
pub use batch::{BatchHandler, BatchItem, BatchLimits};
pub use check::Check;
#[cfg(feature = "async")]
pub use concurrency::Concurrency;
pub use encode::EncodeError;
pub use error::{ErrorClass, HandlerError};
#[cfg(feature = "tracing")]
pub use events::LogLayer;
pub use function::serve_fn;
pub use handler::{Handler, NoChunks};
pub use job::Job;
pub use load_env::LoadEnv;
pub use runpod_handler_protocol::{ErrorKind, StopReason};
pub use secret::Secret;
#[cfg(feature = "async")]
pub use serve::serve_async;
pub use serve::{EXIT_DEVICE_LOST, EXIT_LOAD_FAILED, EXIT_PROTOCOL, EXIT_USAGE, serve, serve_batch, serve_step};
pub use step::{Running, StepHandler, StepLimits};
pub use stopped::{EmitError, Stopped};
