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

use crate::handler::Handler;
use crate::serve::serve_on;

/// Time until the deadline of every job: longer than a test should take.
const DEADLINE: Duration = Duration::from_secs(600);
/// Longest wait for one message. A model that loads reports its progress more often.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(600);
const JOB: &str = "test-job";

/// A loaded handler with one slot.
#[derive(Debug)]
pub struct Harness {
    stream: UnixStream,
    decoder: Decoder<ToSupervisor>,
    handler: Option<JoinHandle<u8>>,
    jobs: u32,
}

/// The result of a completed job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finished {
    /// Its output, as the caller would receive it.
    pub output: Value,
    /// The chunks that it streamed, in order.
    pub chunks: Vec<Value>,
    /// Its last progress, if it reported any.
    pub progress: Option<Value>,
    /// The values that it recorded, and the memory that it used.
    pub records: BTreeMap<String, f64>,
    /// Whether it asked for a fresh worker.
    pub refresh: bool,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// The model could not be built.
    #[error("the handler did not load: {}{}", .0.message, trace(.0))]
    Load(ErrorReport),
    /// The job failed; the report is the one that the caller would receive.
    #[error("the job failed as {}: {}{}", .0.kind.as_str(), .0.message, trace(.0))]
    Failed(ErrorReport),
    /// The handler's threads ended.
    #[error("the handler ended before it answered")]
    Ended,
    /// The socket between test and handler failed, or no message arrived for ten minutes.
    #[error("no answer from the handler: {0}")]
    Io(#[from] io::Error),
    /// The handler sent something that is not a message.
    #[error("the handler's message cannot be read: {0}")]
    Protocol(String),
}

impl TestError {
    /// The kind of the failure, if the handler failed.
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
    /// Loads the handler on the device that it chooses itself, as with `--device auto`.
    ///
    /// # Errors
    /// [`TestError::Load`] with the error of `load` or `warm_up`.
    pub fn load<H: Handler>() -> Result<Self, TestError> {
        Self::load_on::<H>("auto")
    }

    /// Loads the handler as with `--device`: `auto`, `cpu` or `cuda`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_on<H: Handler>(device: &str) -> Result<Self, TestError> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_read_timeout(Some(MESSAGE_TIMEOUT))?;
        let handler = Some(std::thread::spawn(|| serve_on::<H>(theirs, || {})));
        let mut this = Self { stream, decoder: Decoder::new(), handler, jobs: 0 };
        let hello = ToHandler::Hello {
            protocol: PROTOCOL_VERSION,
            worker_version: env!("CARGO_PKG_VERSION").into(),
            processes: 1,
        };
        this.send(&hello, b"")?;
        let load = ToHandler::Load { worker_id: "test".into(), slots: 1, device: device.into(), chunk_window: 1 };
        this.send(&load, b"")?;
        this.loaded()?;
        Ok(this)
    }

    /// Runs one job with this `input`.
    ///
    /// # Errors
    /// [`TestError::Failed`] with the error that the caller would receive. After it the next job can run.
    pub fn run(&mut self, input: &Value) -> Result<Finished, TestError> {
        self.run_job(&json!({ "id": JOB, "input": input }))
    }

    /// Runs one job, given as the whole object that the queue sends: with `input` and any other field that the handler reads
    /// with [`Job::field`](crate::Job::field).
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
        // The handler may have ended already.
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
mod tests;
