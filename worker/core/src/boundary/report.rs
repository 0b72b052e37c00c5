//! What has happened. Logs, metrics and traces are all made from these reports.

#![expect(missing_docs, reason = "a field that is named after what it holds needs no sentence")]

use std::collections::BTreeMap;
use std::time::Duration;

use runpod_handler_protocol::{BatchReport, CheckReport, ErrorReport, StepReport};

use super::event::Exit;
use super::gpu_slowdown::GpuSlowdown;
use super::gpu_time::JobCost;
use super::ids::{Incarnation, JobId, ProcessId};

/// How a job ended, as counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// It has an output.
    Completed,
    /// It has an error.
    Failed,
    /// Its deadline passed.
    TimedOut,
    /// A client cancelled it; nothing is posted.
    Cancelled,
    /// The worker shut down first. Nothing is posted, and the queue gives the job to another worker.
    HandedBack,
}

impl JobStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Completed, Self::Failed, Self::TimedOut, Self::Cancelled, Self::HandedBack];

    /// The word used in logs and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::HandedBack => "handed_back",
        }
    }
}

/// One part of the start of a handler process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartPhase {
    /// The operating system starts the program.
    Spawn,
    /// The program introduces itself.
    Handshake,
    /// Machine, device and handler are checked.
    Checks,
    /// The models are built.
    Load,
    /// The handler's own warm-up.
    WarmUp,
}

impl StartPhase {
    /// All phases in their order.
    pub const ALL: [Self; 5] = [Self::Spawn, Self::Handshake, Self::Checks, Self::Load, Self::WarmUp];

    /// The word used in logs and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Handshake => "handshake",
            Self::Checks => "checks",
            Self::Load => "load",
            Self::WarmUp => "warm_up",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Report {
    /// A job was taken from the queue.
    JobTaken {
        job: JobId,
        /// Its tenant, if known.
        tenant: Option<String>,
    },
    /// The queue sent a job that the worker already has or has just completed.
    DuplicateJob { job: JobId },
    /// A job arrived when the worker was already closing. No heartbeat has listed it, so the queue gives it to another
    /// worker.
    JobRejected { job: JobId },
    /// A job was sent to a slot.
    JobStarted {
        job: JobId,
        /// 1 for the first run.
        attempt: u32,
        /// Time since it was taken.
        waited: Duration,
    },
    /// A handler that runs several jobs at the same time has begun with a job that it held.
    JobBegun {
        job: JobId,
        /// Time since it was sent to the process.
        waited: Duration,
    },
    /// A model has begun a batch.
    BatchBegun { process: ProcessId, batch: BatchReport },
    /// A model has taken steps.
    StepsTaken { process: ProcessId, steps: StepReport },
    /// A job will be run again, because its process exited.
    JobRetried { job: JobId, reason: String },
    /// A job is asked to stop.
    JobStopping {
        job: JobId,
        /// Why, as one clause.
        reason: String,
    },
    /// A job's outcome is decided. Not yet delivered.
    JobFinished {
        job: JobId,
        /// How it ended.
        status: JobStatus,
        /// The error, unless it completed.
        error: Option<ErrorReport>,
        /// Time since its last run began; zero if it never ran.
        run_time: Duration,
        /// Its tenant, if known.
        tenant: Option<String>,
        /// Time since it was first asked to stop; `None` if it never was.
        stop_time: Option<Duration>,
        /// GPU time and price of its last run.
        cost: JobCost,
        /// The device on which it ran, if a slot had it until the end.
        device: Option<String>,
        /// Figures recorded by the handler.
        records: BTreeMap<String, f64>,
    },
    /// The queue has accepted the result, or has refused it for good.
    JobDelivered {
        job: JobId,
        /// `true` when the queue has it.
        accepted: bool,
    },
    /// A message about a job that has ended, or about another attempt, was dropped.
    LateMessage { job: JobId },
    /// A handler process is being started.
    ProcessStarting {
        process: ProcessId,
        /// 1 for the first start.
        incarnation: Incarnation,
    },
    /// A part of the start of a handler process is over.
    StartPhase {
        process: ProcessId,
        phase: StartPhase,
        /// How long it took.
        time: Duration,
    },
    /// A slot made progress with loading its model.
    Loading {
        process: ProcessId,
        /// What is being done.
        stage: String,
        /// Units done.
        done: u64,
        /// Units in all; 0 when unknown.
        total: u64,
    },
    /// A slot can run jobs.
    SlotReady {
        process: ProcessId,
        slot: u32,
        /// The device that holds its model.
        device: String,
        /// Time spent loading.
        load_time: Duration,
    },
    /// One fitness check of a handler process is over.
    Checked { process: ProcessId, check: CheckReport },
    /// A healthy handler process takes no more jobs and will be replaced.
    ProcessRecycled { process: ProcessId, reason: RecycleReason },
    /// An async handler runs more jobs at the same time from now on, or fewer.
    ConcurrencyChanged {
        process: ProcessId,
        /// How many it ran at most until now.
        before: usize,
        /// How many it runs at most from now on.
        after: usize,
    },
    /// A handler process is being killed.
    ProcessKilled { process: ProcessId, reason: String },
    /// A handler process has exited.
    ProcessExited {
        process: ProcessId,
        exit: Exit,
        /// The worker had asked it to exit, or had killed it.
        expected: bool,
    },
    /// A handler process could not be brought up.
    StartFailed {
        process: ProcessId,
        /// One sentence that names the fix.
        reason: String,
        /// Time until the next attempt; `None` when there is none.
        retry_in: Option<Duration>,
    },
    /// An earlier run left results on disk; they are delivered before any job is taken.
    UndeliveredFound {
        /// How many there are.
        jobs: usize,
    },
    /// Results of an earlier run could not be delivered in time. Jobs are taken while delivery goes on.
    UndeliveredLate {
        /// How many are left.
        jobs: usize,
    },
    /// The set of GPUs that are slowed down has changed, or their reasons have.
    GpuSlowdowns {
        /// All GPUs that are slowed down now.
        gpus: Vec<GpuSlowdown>,
    },
    /// The worker has begun to shut down and takes no more jobs.
    Draining {
        /// Why, as one clause.
        reason: String,
    },
    /// A part of the shutdown took longer than its limit and was given up.
    ShutdownOverrun {
        /// The part: `poll` or `outbox`.
        part: &'static str,
    },
}

/// Why a healthy process is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecycleReason {
    /// It has run `--max-jobs`.
    Jobs,
    /// It holds more host memory than `--max-rss`.
    HostMemory,
    /// Its tensors hold more device memory between jobs than `--max-vram`.
    DeviceMemory,
    /// It has served for `--max-age`.
    Age,
    /// A job asked for a fresh worker.
    Refresh,
}

impl RecycleReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Jobs, Self::HostMemory, Self::DeviceMemory, Self::Age, Self::Refresh];

    /// The word used in logs and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "max_jobs",
            Self::HostMemory => "max_rss",
            Self::DeviceMemory => "max_vram",
            Self::Age => "max_age",
            Self::Refresh => "refresh",
        }
    }
}
