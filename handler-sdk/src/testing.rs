//! Tests a handler without a worker: the harness plays the worker, and the handler runs on threads of the test.
//!
//! ```no_run,standalone_crate
//! use runpod_handler_sdk::testing::Harness;
//! use runpod_handler_sdk::{ErrorKind, Handler, HandlerError, Job, LoadEnv, NoChunks};
//! use serde_json::json;
//!
//! struct Double;
//!
//! impl Handler for Double {
//!     type Input = u32;
//!     type Output = u32;
//!     type Chunk = NoChunks;
//!
//!     fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
//!         Ok(Self)
//!     }
//!
//!     fn run(&mut self, input: u32, _: &Job<NoChunks>) -> Result<u32, HandlerError> {
//!         Ok(2 * input)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut double = Harness::load::<Double>()?;
//! assert_eq!(double.run(&json!(21))?.output, json!(42));
//! assert_eq!(double.run(&json!("21")).unwrap_err().kind(), Some(ErrorKind::Validation));
//! # Ok(())
//! # }
//! ```
//!
//! # Jobs that run beside the test
//!
//! [`Harness::submit`] starts a job and returns at once. [`wait_until`](Harness::wait_until) waits until the job has streamed or
//! reported something, [`cancel`](Harness::cancel) asks it to stop, and [`wait`](Harness::wait) returns its result. A [`JobRequest`]
//! has a deadline, other fields, or text that is not JSON. [`Setup`] chooses the device and the number of slots.
//!
//! ```no_run,standalone_crate
//! use std::time::Duration;
//!
//! use runpod_handler_sdk::testing::{Harness, JobRequest, TestError};
//! use runpod_handler_sdk::{ErrorKind, Handler};
//! use serde_json::json;
//!
//! fn a_long_job_can_be_stopped<H: Handler>() -> Result<(), TestError> {
//!     let mut handler = Harness::load::<H>()?;
//!     let long = handler.submit(JobRequest::input(&json!({"steps": 1_000_000})))?;
//!     handler.wait_until(long, |seen| !seen.chunks.is_empty())?;
//!     handler.cancel(long)?;
//!     assert_eq!(handler.wait(long).unwrap_err().kind(), Some(ErrorKind::Cancelled));
//!
//!     let late = JobRequest::input(&json!({"steps": 1_000_000})).deadline(Duration::from_millis(50));
//!     let late = handler.submit(late)?;
//!     assert_eq!(handler.wait(late).unwrap_err().kind(), Some(ErrorKind::Timeout));
//!     Ok(())
//! }
//! ```
//!
//! # A device that fails
//!
//! A [`FakeDevice`] runs out of memory, is lost or hangs when the test wants it to. With the feature `torch` every tensor that the
//! handler creates is an operation on it, so the handler fails where it would on a GPU, without any change:
//!
//! ```no_run,standalone_crate
//! use runpod_handler_sdk::testing::{FakeDevice, Fault, Setup, TestError};
//! use runpod_handler_sdk::{ErrorKind, Handler};
//! use serde_json::json;
//!
//! fn the_job_after_an_out_of_memory_error_completes<H: Handler>() -> Result<(), TestError> {
//!     let device = FakeDevice::new();
//!     let mut handler = Setup::new().fake_device(&device).load::<H>()?;
//!     device.fail_after(3, Fault::OutOfMemory);
//!     assert_eq!(handler.run(&json!({"text": "one"})).unwrap_err().kind(), Some(ErrorKind::Oom));
//!     handler.run(&json!({"text": "two"}))?;
//!     Ok(())
//! }
//! ```
//!
//! A handler that computes without libtorch calls [`FakeDevice::operation`] in the double of its model.

mod error;
mod harness;
mod job;
mod loading;
mod process;
mod setup;
#[cfg(test)]
mod tests;

pub use runpod_handler_protocol::{CheckReport, CheckStatus, ErrorReport};

pub use self::error::TestError;
pub use self::harness::Harness;
pub use self::job::{Finished, JobRequest, Seen, TestJob};
pub use self::setup::Setup;
pub use crate::fake_device::{DeviceFault, FakeDevice, Fault};
