//! Test a handler without a worker: the loop that a worker drives, on threads of the test.
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

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{
    Decoder, ErrorKind, ErrorReport, FrameError, PROTOCOL_VERSION, Received, ToHandler, ToSupervisor, encode_header,
};
use serde_json::{Value, json};

use crate::Handler;
use crate::serve::serve_on;

/// The deadline of every job: longer than a test should take.
const DEADLINE: Duration = Duration::from_secs(600);
/// Silence that a test should not wait out any longer; loading a model says more often how far it has come.
const SILENCE: Duration = Duration::from_secs(600);
const JOB: &str = "test-job";

/// A loaded handler with one slot.
#[derive(Debug)]
pub struct Harness {
    stream: UnixStream,
    decoder: Decoder<ToSupervisor>,
    handler: Option<JoinHandle<u8>>,
    jobs: u32,
}

/// What came of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finished {
    /// Its output, as the caller would get it.
    pub output: Value,
    /// The items that it streamed, in order.
    pub chunks: Vec<Value>,
    /// The newest progress, if it reported any.
    pub progress: Option<Value>,
    /// The figures that it recorded, and those of its memory.
    pub records: BTreeMap<String, f64>,
    /// It asked for a fresh worker.
    pub refresh: bool,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// The model was not built.
    #[error("the handler did not load: {}{}", .0.message, trace(.0))]
    Load(ErrorReport),
    /// The job failed; the report is what the caller would get.
    #[error("the job failed as {}: {}{}", .0.kind.as_str(), .0.message, trace(.0))]
    Failed(ErrorReport),
    /// The handler's threads are gone.
    #[error("the handler ended before it answered")]
    Ended,
    /// The socket between test and handler failed, or nothing came for ten minutes.
    #[error("no answer from the handler: {0}")]
    Io(#[from] io::Error),
    /// The handler said something that is no message.
    #[error("the handler cannot be understood: {0}")]
    Protocol(String),
}

impl TestError {
    /// The kind of the failure, if handler code is behind it.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Load(report) | Self::Failed(report) => Some(report.kind),
            _ => None,
        }
    }
}

fn trace(report: &ErrorReport) -> String {
    if report.traceback.is_empty() { String::new() } else { format!("\n{}", report.traceback) }
}

impl From<FrameError> for TestError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl Harness {
    /// Loads the handler on the device that it chooses by itself, as `--device auto` does.
    ///
    /// # Errors
    /// [`TestError::Load`] with what `load` or `warm_up` returned.
    pub fn load<H: Handler>() -> Result<Self, TestError> {
        Self::load_on::<H>("auto")
    }

    /// Loads the handler as `--device` would: `auto`, `cpu` or `cuda`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_on<H: Handler>(device: &str) -> Result<Self, TestError> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_read_timeout(Some(SILENCE))?;
        let handler = Some(std::thread::spawn(|| serve_on::<H>(theirs, || {})));
        let mut this = Self { stream, decoder: Decoder::new(), handler, jobs: 0 };
        let hello = ToHandler::Hello { protocol: PROTOCOL_VERSION, worker_version: env!("CARGO_PKG_VERSION").into() };
        this.send(&hello, b"")?;
        let load = ToHandler::Load { worker_id: "test".into(), slots: 1, device: device.into(), chunk_window: 1 };
        this.send(&load, b"")?;
        this.loaded()?;
        Ok(this)
    }

    /// Runs one job with this `input`.
    ///
    /// # Errors
    /// [`TestError::Failed`] with what the caller would be told. The next job may run all the same.
    pub fn run(&mut self, input: &Value) -> Result<Finished, TestError> {
        self.run_job(&json!({ "id": JOB, "input": input }))
    }

    /// Runs one job given as the queue's whole object, with `input` and whatever else the handler reads with
    /// [`Job::field`](crate::Job::field).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_job(&mut self, job: &Value) -> Result<Finished, TestError> {
        self.jobs += 1;
        let attempt = self.jobs;
        let deadline_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
        let run = ToHandler::Run { job: JOB.into(), attempt, slot: 0, deadline_ms, traceparent: None };
        self.send(&run, job.to_string().as_bytes())?;
        let mut finished = Finished::default();
        loop {
            let (message, payload) = self.receive()?;
            match message {
                ToSupervisor::Chunk { seq, .. } => {
                    finished.chunks.push(read(&payload)?);
                    self.send(&ToHandler::ChunkAck { job: JOB.into(), attempt, seq }, b"")?;
                }
                ToSupervisor::Progress { .. } => finished.progress = Some(read(&payload)?),
                ToSupervisor::Done { refresh, records, .. } => {
                    return Ok(Finished { output: read(&payload)?, refresh, records, ..finished });
                }
                ToSupervisor::Failed { reloading, .. } => {
                    let report = read(&payload)?;
                    if reloading {
                        self.loaded()?;
                    }
                    return Err(TestError::Failed(report));
                }
                _ => {}
            }
        }
    }

    /// Waits until the slot can run jobs.
    fn loaded(&mut self) -> Result<(), TestError> {
        loop {
            match self.receive()? {
                (ToSupervisor::Loaded { .. }, _) => return Ok(()),
                (ToSupervisor::LoadFailed { .. }, payload) => return Err(TestError::Load(read(&payload)?)),
                _ => {}
            }
        }
    }

    fn send(&mut self, message: &ToHandler, payload: &[u8]) -> Result<(), TestError> {
        let header = encode_header(message, payload.len())?;
        self.stream.write_all(&header)?;
        self.stream.write_all(payload)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(ToSupervisor, Bytes), TestError> {
        loop {
            match self.decoder.next()? {
                Some(Received::Message(message, payload)) => return Ok((message, payload)),
                Some(other) => return Err(TestError::Protocol(format!("{other:?}"))),
                None if self.decoder.read_from(&mut self.stream)? == 0 => return Err(TestError::Ended),
                None => {}
            }
        }
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        // The handler may be gone already.
        let _ = self.send(&ToHandler::Shutdown, b"");
        if let Some(handler) = self.handler.take() {
            let _ = handler.join();
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, TestError> {
    serde_json::from_slice(payload).map_err(|error| TestError::Protocol(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HandlerError, Job, LoadEnv};

    struct Counter {
        jobs: u32,
    }

    impl Handler for Counter {
        type Input = u32;
        type Output = u32;
        type Chunk = u32;

        fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
            Ok(Self { jobs: 0 })
        }

        fn run(&mut self, input: u32, job: &Job<u32>) -> Result<u32, HandlerError> {
            self.jobs += 1;
            assert_ne!(input, 13, "thirteen");
            for number in 0..input {
                job.emit(number)?;
            }
            job.progress(input);
            job.record("items", f64::from(input));
            if job.field::<bool>("tired")?.unwrap_or(false) {
                job.request_refresh();
            }
            Ok(self.jobs)
        }
    }

    struct Broken;

    impl Handler for Broken {
        type Input = u32;
        type Output = u32;
        type Chunk = crate::NoChunks;

        fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
            Err("no weights".into())
        }

        fn run(&mut self, _: u32, _: &Job<Self::Chunk>) -> Result<u32, HandlerError> {
            Ok(0)
        }
    }

    #[test]
    fn a_job_gives_output_stream_progress_and_figures() {
        let mut counter = Harness::load::<Counter>().unwrap();
        let first = counter.run_job(&json!({ "input": 3, "tired": true })).unwrap();
        assert_eq!((first.output, first.chunks), (json!(1), vec![json!(0), json!(1), json!(2)]));
        assert_eq!((first.progress, first.records["items"], first.refresh), (Some(json!(3)), 3.0, true));
        assert_eq!(counter.run(&json!(0)).unwrap().output, json!(2));
    }

    #[test]
    fn failures_are_told_as_the_caller_would_hear_them_and_the_next_job_runs() {
        let mut counter = Harness::load::<Counter>().unwrap();
        let refused = counter.run(&json!("three")).unwrap_err();
        assert_eq!(refused.kind(), Some(ErrorKind::Validation));
        let panicked = counter.run(&json!(13)).unwrap_err();
        assert!(panicked.to_string().contains("thirteen"), "{panicked}");
        assert_eq!(counter.run(&json!(0)).unwrap().output, json!(1), "a panic loads the model again");
    }

    #[test]
    fn a_load_that_fails_says_why() {
        let error = Harness::load::<Broken>().unwrap_err();
        assert!(error.to_string().contains("no weights"), "{error}");
    }
}
