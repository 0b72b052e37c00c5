//! The messages. A header has only small fields of limited size; everything that can be long is payload.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::{BatchReport, StepReport};
use crate::check::CheckOrder;

/// Version of this protocol. Each side sends its version first, and the connection ends when they differ.
pub const PROTOCOL_VERSION: u32 = 1;

/// Most slots of a handler process: how many jobs it may hold at once. Worker and SDK keep a place for each.
pub const MAX_SLOTS: u32 = 8192;

/// Most jobs that an async handler runs at once, whatever it asks for.
pub const MAX_CONCURRENCY: u32 = MAX_SLOTS;

/// From the supervisor to the handler process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToHandler {
    /// First message.
    Hello {
        /// The supervisor's [`PROTOCOL_VERSION`].
        protocol: u32,
        /// The supervisor's package version, for logs.
        worker_version: String,
        /// Number of handler processes that share the CPUs of the machine with this one, itself included.
        #[serde(default = "crate::check::one")]
        processes: u32,
        /// The supervisor wants [`ToSupervisor::Batch`] and [`ToSupervisor::Steps`]. An older one does not know them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        batch_reports: bool,
    },
    /// Run the fitness checks of the handler and the device, before `Load` or without one. Answered with
    /// [`ToSupervisor::Checked`].
    Check(CheckOrder),
    /// Build the model of each slot. After a failed fitness check none is built.
    Load {
        /// Id of the worker on the platform, for logs and error reports.
        worker_id: String,
        /// Number of slots, each with a thread and a model of its own.
        slots: u32,
        /// The device that the operator requested: `auto`, `cpu` or `cuda`.
        device: String,
        /// How many chunks of one job may be unacknowledged.
        chunk_window: u32,
    },
    /// Run a job. Payload: the job object as the queue sent it, with `input` inside.
    Run {
        /// Job id.
        job: String,
        /// 1 for the first run on this worker, 2 for the second, and so on.
        attempt: u32,
        /// Slot that runs it; it has no other job.
        slot: u32,
        /// Milliseconds until the job's deadline.
        deadline_ms: u64,
        /// W3C trace context of the job, if it carried one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
    /// Stop a job at its next stop point. The handler still answers with `Done` or `Failed`.
    Stop {
        /// Job id.
        job: String,
        /// Attempt to stop; a stop of another attempt is ignored.
        attempt: u32,
        /// Why the job must stop.
        reason: StopReason,
    },
    /// The supervisor has passed on the chunks up to and including `seq`: the job may emit that many more.
    ChunkAck {
        /// Job id.
        job: String,
        /// Attempt that emitted the chunks.
        attempt: u32,
        /// Sequence number of the newest acknowledged chunk.
        seq: u64,
    },
    /// Answered with [`ToSupervisor::Pong`] by the control thread, whatever user code is doing.
    Ping {
        /// Number that the pong repeats.
        seq: u64,
    },
    /// Compute one number on the slot's device to test whether it still works. Sent to slots without a job; answered with
    /// [`ToSupervisor::Probed`].
    Probe {
        /// Slot.
        slot: u32,
    },
    /// Finish the running jobs, take no new ones, and exit with status 0.
    Shutdown,
}

/// From the handler process to the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToSupervisor {
    /// First message. Payload: [`Manifest`] as JSON.
    Hello {
        /// The handler's [`PROTOCOL_VERSION`].
        protocol: u32,
        /// Version of the SDK that the handler was built with, for logs.
        sdk_version: String,
    },
    /// The outcome of the fitness checks. Payload: list of [`CheckReport`](crate::CheckReport) as JSON. If one failed, the
    /// process exits next.
    Checked,
    /// Progress of loading.
    Loading {
        /// Slot.
        slot: u32,
        /// The current step, such as `weights`.
        stage: String,
        /// Units done so far.
        done: u64,
        /// Total number of units; 0 when unknown.
        total: u64,
    },
    /// The slot's model is built and warmed up.
    Loaded {
        /// Slot.
        slot: u32,
        /// Device of the model, such as `cpu` or `cuda:0`.
        device: String,
        /// Milliseconds spent in `load` and `warm_up`.
        millis: u64,
        /// The part of `millis` that was spent in `warm_up`.
        #[serde(default)]
        warm_up_millis: u64,
    },
    /// The slot's model could not be built. Payload: [`ErrorReport`] as JSON. The process exits next.
    LoadFailed {
        /// Slot.
        slot: u32,
    },
    /// The job is about to be passed to user code. Sent before that happens: when the process crashes, a job without this message
    /// is not blamed.
    Started {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
        /// The model that runs it together with other jobs; absent for a handler that runs each job alone, or as a future. An older
        /// handler does not send it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<u32>,
    },
    /// A batch begins; its jobs have been reported as started.
    Batch(BatchReport),
    /// A model that advances its jobs step by step has taken steps.
    Steps(StepReport),
    /// One streamed chunk. Payload: the chunk as JSON.
    Chunk {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
        /// Number of the chunk: 1, 2, 3… within the attempt.
        seq: u64,
    },
    /// Progress of a job, which replaces earlier progress. Payload: the value as JSON.
    Progress {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
    },
    /// The job completed. Payload: the output as JSON.
    Done {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
        /// The handler asked for a fresh worker after this job.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refresh: bool,
        /// Values that the handler recorded about the job, such as `tokens`, and those of the SDK; see
        /// [`records`](crate::records).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        records: BTreeMap<String, f64>,
    },
    /// The job failed. Payload: [`ErrorReport`] as JSON.
    Failed {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
        /// The handler asked for a fresh worker after this job.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refresh: bool,
        /// The slot builds its model again (after a panic), and takes no job until it sends `Loaded`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reloading: bool,
    },
    /// Answer to [`ToHandler::Ping`].
    Pong {
        /// Number of the ping.
        seq: u64,
    },
    /// Answer to [`ToHandler::Probe`]. Payload: [`ErrorReport`] as JSON if the probe failed.
    Probed {
        /// Slot.
        slot: u32,
        /// Whether the device works.
        ok: bool,
    },
    /// An async handler runs this many jobs at the same time from now on. When it runs more already, those may finish.
    Concurrency {
        /// Number of jobs, between 1 and [`MAX_CONCURRENCY`].
        jobs: u32,
    },
    /// Jobs block all threads of an async handler, so that no other job goes on. Those that do have failed before; the process must
    /// be replaced, and its other jobs are not to blame.
    Blocked,
}

/// Why a job is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The job's deadline has passed.
    Deadline,
    /// The platform cancelled the job.
    Cancelled,
    /// The worker is shutting down and its drain time is over.
    Drain,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "its deadline has passed",
            Self::Cancelled => "it was cancelled",
            Self::Drain => "the worker is shutting down",
        })
    }
}

/// Kind of a failure of a job or a load. The same name is used on the wire, in logs and in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is not valid: the caller's mistake.
    Validation,
    /// The job names a model that the handler does not have: the caller's mistake.
    ModelNotFound,
    /// The handler returned an error or panicked.
    InferenceError,
    /// Out of memory, on the device or the host.
    Oom,
    /// The process can no longer use its device.
    DeviceLost,
    /// The job's deadline passed.
    Timeout,
    /// The job was cancelled.
    Cancelled,
    /// The handler process crashed.
    Crashed,
    /// The handler process no longer answers.
    Unresponsive,
    /// The handler broke the protocol, for example with a result over the size limit.
    Protocol,
    /// The model could not be loaded.
    Load,
    /// The platform refused the result.
    Delivery,
    /// A fault of the worker or its machine.
    Infra,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Validation,
        Self::ModelNotFound,
        Self::InferenceError,
        Self::Oom,
        Self::DeviceLost,
        Self::Timeout,
        Self::Cancelled,
        Self::Crashed,
        Self::Unresponsive,
        Self::Protocol,
        Self::Load,
        Self::Delivery,
        Self::Infra,
    ];

    /// Whether the caller of the job made the mistake, so that nothing is wrong with the handler, the worker or its machine.
    pub fn is_caller_mistake(self) -> bool {
        matches!(self, Self::Validation | Self::ModelNotFound)
    }

    /// The name on the wire, in logs and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::ModelNotFound => "model_not_found",
            Self::InferenceError => "inference_error",
            Self::Oom => "oom",
            Self::DeviceLost => "device_lost",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Crashed => "crashed",
            Self::Unresponsive => "unresponsive",
            Self::Protocol => "protocol",
            Self::Load => "load",
            Self::Delivery => "delivery",
            Self::Infra => "infra",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error in the form that is sent: the payload of [`ToSupervisor::Failed`] and [`ToSupervisor::LoadFailed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Kind of the failure.
    pub kind: ErrorKind,
    /// Message for the caller.
    pub message: String,
    /// Backtrace or chain of causes; can be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceback: String,
}

/// Description of a handler: payload of [`ToSupervisor::Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the handler, by default that of its program.
    pub name: String,
    /// Version of the handler's crate.
    pub version: String,
    /// Whether a job can run twice without harm, so that it may run again after a crash.
    pub idempotent: bool,
    /// Whether the handler streams chunks.
    pub streams: bool,
    /// JSON Schema of the job's `input`.
    pub input_schema: Value,
    /// JSON Schema of the result's `output`.
    pub output_schema: Value,
    /// JSON Schema of one streamed chunk, if the handler streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_schema: Option<Value>,
    /// How many jobs a model runs at once; absent for one job in each slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_items: Option<u32>,
    /// How many jobs wait in the process for a model that runs several; absent for as many as a model runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_waiting_items: Option<u32>,
    /// How many jobs an async handler runs at once when it starts; absent for other handlers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
}

impl Manifest {
    /// Number of models in a process that was asked to have this many. An async handler is one model, which all of its jobs share.
    pub fn models(&self, models: u32) -> u32 {
        if self.max_concurrency.is_some() { 1 } else { models }
    }

    /// Number of slots of a process with this many models, which is how many jobs it takes. A model that runs several jobs at the same time
    /// has a slot for each of them, and the process has slots for the jobs that wait meanwhile. Slot `n` belongs to model
    /// `n % models`. An async handler has as many slots as it runs jobs at the same time.
    ///
    /// # Errors
    /// When these are more than [`MAX_SLOTS`]. An async handler has as many as possible then.
    pub fn slots(&self, models: u32) -> Result<u32, TooManySlots> {
        if let Some(jobs) = self.max_concurrency {
            return Ok(jobs.clamp(1, MAX_CONCURRENCY));
        }
        let Some(items) = self.max_batch_items.map(|items| items.max(1)) else { return Ok(models) };
        let waiting = self.max_waiting_items.unwrap_or(items);
        let slots = items.saturating_mul(models).saturating_add(waiting);
        if slots > MAX_SLOTS { Err(TooManySlots { models, items, waiting }) } else { Ok(slots) }
    }
}

/// A handler process with so many models would hold more jobs than [`MAX_SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the handler runs {items} jobs in each of {models} models at once, and {waiting} more wait in its process: together at most \
     {MAX_SLOTS} are possible; lower the limit of the handler's batches or steps, or the number of slots"
)]
pub struct TooManySlots {
    models: u32,
    items: u32,
    waiting: u32,
}

#[cfg(test)]
mod tests;
