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

use crate::batch::BatchHandler;
use crate::handler::Handler;
use crate::serve::{Batched, OneByOne, Program, Stepped, serve_on};
use crate::step::StepHandler;

/// Time until the deadline of every job: longer than a test should take.
const DEADLINE: Duration = Duration::from_secs(600);
/// Longest wait for one message. A model that loads reports its progress more often.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(600);
const JOB: &str = "test-job";

/// A loaded handler with one model.
#[derive(Debug)]
pub struct Harness {
    stream: UnixStream,
    decoder: Decoder<ToSupervisor>,
    handler: Option<JoinHandle<u8>>,
    attempts: u32,
    slots: u32,
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
        Self::start::<OneByOne<H>>(device)
    }

    /// Loads a handler that runs jobs in batches, on the device that it chooses itself.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_batch<B: BatchHandler>() -> Result<Self, TestError> {
        Self::start::<Batched<B>>("auto")
    }

    /// Loads a handler that advances several jobs step by step, on the device that it chooses itself.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_step<H: StepHandler>() -> Result<Self, TestError> {
        Self::start::<Stepped<H>>("auto")
    }

    fn start<P: Program>(device: &str) -> Result<Self, TestError> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_read_timeout(Some(MESSAGE_TIMEOUT))?;
        let handler = Some(std::thread::spawn(|| serve_on::<P>(theirs, || {})));
        let slots = P::manifest().slots(1);
        let mut this = Self { stream, decoder: Decoder::new(), handler, attempts: 0, slots };
        let hello = ToHandler::Hello {
            protocol: PROTOCOL_VERSION,
            worker_version: env!("CARGO_PKG_VERSION").into(),
            processes: 1,
            batch_reports: false,
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
        self.run_jobs(std::slice::from_ref(job))?.pop().unwrap_or(Err(TestError::Ended))
    }

    /// Runs several jobs at the same time, each with one of these `inputs`. Returns their results in the order of the inputs.
    ///
    /// # Errors
    /// When the handler cannot be reached any more. The failure of a job is in the list.
    pub fn run_all(&mut self, inputs: &[Value]) -> Result<Vec<Result<Finished, TestError>>, TestError> {
        let jobs: Vec<Value> = inputs.iter().map(|input| json!({ "id": JOB, "input": input })).collect();
        self.run_jobs(&jobs)
    }

    fn run_jobs(&mut self, jobs: &[Value]) -> Result<Vec<Result<Finished, TestError>>, TestError> {
        let mut results = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(self.slots as usize) {
            self.attempts += 1;
            results.extend(self.run_in_slots(jobs)?);
        }
        Ok(results)
    }

    /// Runs at most as many jobs as there are slots.
    fn run_in_slots(&mut self, jobs: &[Value]) -> Result<Vec<Result<Finished, TestError>>, TestError> {
        let attempt = self.attempts;
        let deadline_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
        for (slot, job) in (0..).zip(jobs) {
            let run = ToHandler::Run { job: name(slot), attempt, slot, deadline_ms, traceparent: None };
            self.send(&run, job.to_string().as_bytes())?;
        }
        let mut partial = vec![Finished::default(); jobs.len()];
        let mut results: Vec<Option<Result<Finished, TestError>>> = jobs.iter().map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            let (message, payload) = self.receive()?;
            let Some(index) = job_of(&message).and_then(|job| (0..jobs.len()).find(|index| name(*index as u32) == job))
            else {
                continue;
            };
            let finished = &mut partial[index];
            match message {
                ToSupervisor::Chunk { job, seq, .. } => {
                    finished.chunks.push(read(&payload)?);
                    self.send(&ToHandler::ChunkAck { job, attempt, seq }, b"")?;
                }
                ToSupervisor::Progress { .. } => finished.progress = Some(read(&payload)?),
                ToSupervisor::Done { refresh, records, .. } => {
                    let finished = std::mem::take(finished);
                    results[index] = Some(Ok(Finished { output: read(&payload)?, refresh, records, ..finished }));
                }
                ToSupervisor::Failed { reloading, .. } => {
                    let report = read(&payload)?;
                    if reloading {
                        self.loaded()?;
                    }
                    results[index] = Some(Err(TestError::Failed(report)));
                }
                _ => {}
            }
        }
        Ok(results.into_iter().flatten().collect())
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

/// Id of the job that runs in a slot.
fn name(slot: u32) -> String {
    if slot == 0 { JOB.to_owned() } else { format!("{JOB}-{slot}") }
}

/// The job that a message is about.
fn job_of(message: &ToSupervisor) -> Option<&str> {
    match message {
        ToSupervisor::Chunk { job, .. }
        | ToSupervisor::Progress { job, .. }
        | ToSupervisor::Done { job, .. }
        | ToSupervisor::Failed { job, .. } => Some(job),
        _ => None,
    }
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, TestError> {
    serde_json::from_slice(payload).map_err(|error| TestError::Protocol(error.to_string()))
}

#[cfg(test)]
mod tests;
