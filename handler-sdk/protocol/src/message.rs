//! The messages. Headers hold small fields of known size; whatever a user can make long travels as payload.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::CheckOrder;

/// Number of this protocol. Both sides announce theirs first and refuse to go on when they differ.
pub const PROTOCOL_VERSION: u32 = 1;

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
    },
    /// Check machine and handler, before `Load` or instead of it. Answered with [`ToSupervisor::Checked`].
    Check(CheckOrder),
    /// Build the model, once per slot. After a failed check nothing is built.
    Load {
        /// Id of the worker on the platform, for logs and error reports.
        worker_id: String,
        /// How many slots to build, each on a thread of its own.
        slots: u32,
        /// `auto`, `cpu` or `cuda`: what the operator asked for.
        device: String,
        /// How many chunks of one job may be on their way without acknowledgement.
        chunk_window: u32,
    },
    /// Run a job. Payload: the job object as the queue sent it, with `input` inside.
    Run {
        /// Job id.
        job: String,
        /// 1 for the first run on this worker, 2 for the second, and so on.
        attempt: u32,
        /// Slot that is to run it; free by both sides' reckoning.
        slot: u32,
        /// Milliseconds until the job's deadline.
        deadline_ms: u64,
        /// W3C trace context of the job, if it carried one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
    /// Stop a job at its next cancellation point. The handler still answers with `Done` or `Failed`.
    Cancel {
        /// Job id.
        job: String,
        /// Attempt it was started with; a cancel for another attempt is ignored.
        attempt: u32,
        /// Why.
        reason: CancelReason,
    },
    /// Chunks up to and including `seq` have left the supervisor: the job may emit that many more.
    ChunkAck {
        /// Job id.
        job: String,
        /// Attempt that emitted them.
        attempt: u32,
        /// Sequence number of the newest chunk that is done with.
        seq: u64,
    },
    /// Answer with [`ToSupervisor::Pong`]. The control thread answers, whatever user code is doing.
    Ping {
        /// Returned in the pong.
        seq: u64,
    },
    /// Compute one number on the slot's device, to see whether it still works. Sent to slots that have no job; answered with
    /// [`ToSupervisor::Probed`].
    Probe {
        /// Slot.
        slot: u32,
    },
    /// Finish what is running, take nothing new, exit with status 0.
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
    /// What the checks found. Payload: list of [`CheckReport`](crate::CheckReport) as JSON. If one failed, the process exits
    /// next.
    Checked,
    /// Start-up is moving.
    Loading {
        /// Slot.
        slot: u32,
        /// What is being done, such as `weights`.
        stage: String,
        /// Units done so far.
        done: u64,
        /// Units in all; 0 when unknown.
        total: u64,
    },
    /// The slot's model is built and warmed up.
    Loaded {
        /// Slot.
        slot: u32,
        /// Where the model lives, such as `cpu` or `cuda:0`.
        device: String,
        /// Milliseconds spent in `load` and `warm_up`.
        millis: u64,
        /// Of those, in `warm_up`.
        #[serde(default)]
        warm_up_millis: u64,
    },
    /// The slot's model could not be built. Payload: [`ErrorReport`]. The process exits next.
    LoadFailed {
        /// Slot.
        slot: u32,
    },
    /// User code is about to get the job, and this message has left the process. A job without it is not blamed for the end
    /// of the process.
    Started {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
    },
    /// One streamed item. Payload: the item as JSON.
    Chunk {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
        /// 1, 2, 3… within the attempt.
        seq: u64,
    },
    /// The newest progress value; it replaces earlier ones. Payload: the value as JSON.
    Progress {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
    },
    /// The job is finished. Payload: the output as JSON.
    Done {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
        /// The handler asked for a fresh worker after this job.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refresh: bool,
        /// Figures that the handler recorded about the job, such as `tokens`, and those of [`records`](crate::records).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        records: BTreeMap<String, f64>,
    },
    /// The job has failed. Payload: [`ErrorReport`].
    Failed {
        /// Job id.
        job: String,
        /// Attempt.
        attempt: u32,
        /// The handler asked for a fresh worker after this job.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refresh: bool,
        /// The slot rebuilds its model and takes no job until it sends `Loaded` again (after a panic).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reloading: bool,
    },
    /// Answer to [`ToHandler::Ping`].
    Pong {
        /// From the ping.
        seq: u64,
    },
    /// Answer to [`ToHandler::Probe`]. Payload: [`ErrorReport`] if it failed.
    Probed {
        /// Slot.
        slot: u32,
        /// The device works.
        ok: bool,
    },
}

/// Why a job is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The job's deadline has passed.
    Deadline,
    /// The platform cancelled the job.
    Stopped,
    /// The worker is shutting down and its drain time is over.
    Drain,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "its deadline has passed",
            Self::Stopped => "it was cancelled",
            Self::Drain => "the worker is shutting down",
        })
    }
}

/// What went wrong with a job or a load. A closed set: the same word stands on the wire, in logs and in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is not what the handler takes. The caller's mistake.
    Validation,
    /// The job names a model that the handler does not have. The caller's mistake.
    ModelNotFound,
    /// The handler returned an error or panicked.
    InferenceError,
    /// Out of memory, on the device or the host.
    Oom,
    /// The device cannot be used by this process any more.
    DeviceLost,
    /// The job's deadline passed.
    Timeout,
    /// The job was cancelled.
    Cancelled,
    /// The handler process died.
    Crashed,
    /// The handler process stopped answering.
    Unresponsive,
    /// The handler broke the protocol, for example with a result over the size limit.
    Protocol,
    /// The model could not be loaded.
    Load,
    /// The result was refused by the platform.
    Delivery,
    /// The worker or its machine is at fault.
    Infra,
}

impl ErrorKind {
    /// All of them.
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

    /// The word used on the wire, in logs and as a metric label.
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

/// An error as it travels, payload of [`ToSupervisor::Failed`] and [`ToSupervisor::LoadFailed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Which of the closed set.
    pub kind: ErrorKind,
    /// One message for the person who sent the job.
    pub message: String,
    /// Backtrace or chain of causes; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceback: String,
}

/// What a handler says about itself in the handshake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the handler, by default its crate's.
    pub name: String,
    /// Version of the handler's crate.
    pub version: String,
    /// Running a job a second time does no harm, so a job may be run again after a crash.
    pub idempotent: bool,
    /// The handler emits chunks.
    pub streams: bool,
    /// JSON Schema of the job's `input`.
    pub input_schema: Value,
    /// JSON Schema of the result's `output`.
    pub output_schema: Value,
    /// JSON Schema of one streamed item, if the handler streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_schema: Option<Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::CheckReport;

    fn to_handler() -> Vec<ToHandler> {
        let job = || "job-1".to_owned();
        vec![
            ToHandler::Hello { protocol: 1, worker_version: "0.1.0".into() },
            ToHandler::Load { worker_id: "w1".into(), slots: 2, device: "auto".into(), chunk_window: 32 },
            ToHandler::Run { job: job(), attempt: 1, slot: 0, deadline_ms: 600_000, traceparent: None },
            ToHandler::Run { job: job(), attempt: 2, slot: 1, deadline_ms: 0, traceparent: Some("00-ab-cd-01".into()) },
            ToHandler::Cancel { job: job(), attempt: 1, reason: CancelReason::Deadline },
            ToHandler::Cancel { job: job(), attempt: 1, reason: CancelReason::Stopped },
            ToHandler::Cancel { job: job(), attempt: 1, reason: CancelReason::Drain },
            ToHandler::ChunkAck { job: job(), attempt: 1, seq: 7 },
            ToHandler::Ping { seq: 3 },
            ToHandler::Check(CheckOrder {
                worker_id: "w1".into(),
                device: "cuda".into(),
                system: true,
                gpu_memory: false,
                min_cuda: (11, 8),
                min_gpu_memory: 1 << 30,
                benchmark_limit_ms: 2000,
                gpu_limit_ms: 30_000,
            }),
            ToHandler::Probe { slot: 1 },
            ToHandler::Shutdown,
        ]
    }

    fn to_supervisor() -> Vec<ToSupervisor> {
        let job = || "job-1".to_owned();
        vec![
            ToSupervisor::Hello { protocol: 1, sdk_version: "0.1.0".into() },
            ToSupervisor::Loading { slot: 0, stage: "weights".into(), done: 3, total: 10 },
            ToSupervisor::Loaded { slot: 0, device: "cuda:0".into(), millis: 812, warm_up_millis: 300 },
            ToSupervisor::LoadFailed { slot: 0 },
            ToSupervisor::Started { job: job(), attempt: 1 },
            ToSupervisor::Chunk { job: job(), attempt: 1, seq: 1 },
            ToSupervisor::Progress { job: job(), attempt: 1 },
            ToSupervisor::Done { job: job(), attempt: 1, refresh: false, records: BTreeMap::new() },
            ToSupervisor::Done { job: job(), attempt: 1, refresh: true, records: [("tokens".to_owned(), 12.0)].into() },
            ToSupervisor::Failed { job: job(), attempt: 1, refresh: false, reloading: false },
            ToSupervisor::Failed { job: job(), attempt: 1, refresh: true, reloading: true },
            ToSupervisor::Pong { seq: 3 },
            ToSupervisor::Checked,
            ToSupervisor::Probed { slot: 1, ok: false },
        ]
    }

    #[test]
    fn wire_form_of_every_message() {
        insta::assert_json_snapshot!("to_handler", to_handler());
        insta::assert_json_snapshot!("to_supervisor", to_supervisor());
        insta::assert_json_snapshot!(
            "payloads",
            json!([
                ErrorReport {
                    kind: ErrorKind::Validation,
                    message: "input.count: expected a number".into(),
                    traceback: String::new(),
                },
                Manifest {
                    name: "echo".into(),
                    version: "1.2.3".into(),
                    idempotent: true,
                    streams: true,
                    input_schema: json!({"type": "object"}),
                    output_schema: json!(true),
                    chunk_schema: Some(json!({"type": "string"})),
                },
                [
                    CheckReport::ok("memory", "12 GiB available"),
                    CheckReport::failed("disk", "3 % of / is free", "remove files"),
                    CheckReport::skipped("network", "not asked for"),
                ],
            ])
        );
    }

    #[test]
    fn every_message_reads_back_as_itself() {
        for message in to_handler() {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<ToHandler>(&text).unwrap(), message);
        }
        for message in to_supervisor() {
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(serde_json::from_str::<ToSupervisor>(&text).unwrap(), message);
        }
    }

    #[test]
    fn error_kinds_have_one_spelling() {
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
        }
    }
}
