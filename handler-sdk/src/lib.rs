//! Write a RunPod serverless handler in Rust.
//!
//! A handler is a program of its own: it implements [`Handler`] and calls [`serve`] from `main`. The worker starts it and
//! drives it over a socket; a crash, a stuck kernel or a lost GPU costs this process and never the worker.
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
//!             job.check()?; // ends here when the job was cancelled
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
//! # What goes wrong, and what becomes of it
//!
//! | in the handler | the job | the process |
//! | --- | --- | --- |
//! | the input is not of type [`Handler::Input`] | fails as `validation`, with the JSON path of every problem | goes on |
//! | an error is returned | fails with the error's kind and message, its causes as traceback | goes on |
//! | a panic | fails as `inference_error`, with message and backtrace | the slot loads again |
//! | out of device memory, by the error's text | fails as `oom`, with the allocator's figures | its cache is emptied; as above |
//! | the device is lost, by the error's text and a probe | fails as `device_lost` | is replaced by the worker |
//! | the output is over the limit of one message, or has no JSON form | fails as `protocol` | goes on |
//! | a crash | fails as `crashed`, or runs again if [`Handler::IDEMPOTENT`] | is replaced by the worker |
//!
//! A panic can only be caught when it unwinds, so `panic = "abort"` does not compile.
//!
//! # Threads
//!
//! Each slot is one OS thread that builds its model and runs its jobs, so a model need be neither `Send` nor `Sync`. Reading
//! and writing the socket happens on threads that run no user code. Whatever the handler prints to stdout or stderr becomes
//! the worker's log; standard input is empty.
//!
//! # Logs
//!
//! What is printed is logged line by line at level INFO, and named after the job while only one runs. Events of the `tracing`
//! crate keep their level and always name their job; see `LogLayer`. (Feature `tracing`, on by default.) Secrets among the
//! inputs are of type [`Secret`].
//!
//! # Feature `torch`
//!
//! Chooses the device, loads the CUDA half of libtorch, switches gradients off on slot threads, shows device memory and loads
//! weights; see `torch`.

// The examples here are compiled one by one and never run (`no_run,standalone_crate`): programs of doc tests lie where they
// would not find libtorch.
#![cfg_attr(not(feature = "torch"), forbid(unsafe_code))]

#[cfg(panic = "abort")]
compile_error!("a handler must unwind so that a panic fails one job only: remove `panic = \"abort\"` from the profile");

mod checks;
mod classify;
mod control;
mod encode;
mod error;
#[cfg(feature = "tracing")]
mod events;
mod handler;
mod input;
mod job;
mod load_env;
#[cfg(test)]
mod loop_tests;
mod outgoing;
mod panics;
mod running;
mod schema_check;
mod secret;
mod serve;
mod slot;
pub mod testing;
mod text;
#[cfg(feature = "torch")]
pub mod torch;
mod usage;

pub use checks::Check;
pub use encode::EncodeError;
pub use error::{ErrorClass, HandlerError};
#[cfg(feature = "tracing")]
pub use events::LogLayer;
pub use handler::{Handler, NoChunks};
pub use job::{EmitError, Job, Stopped};
pub use load_env::LoadEnv;
pub use runpod_handler_protocol::{CancelReason, ErrorKind};
pub use secret::Secret;
pub use serve::{EXIT_LOAD_FAILED, EXIT_PROTOCOL, EXIT_USAGE, serve};
