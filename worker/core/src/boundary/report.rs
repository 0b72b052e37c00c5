//! What has happened, for logs, metrics and traces.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::Exit;
use super::gpu_slowdown::GpuSlowdown;
use super::gpu_time::JobCost;
use super::ids::{Epoch, JobId, ProcessId};
use runpod_handler_protocol::{CheckReport, ErrorReport};

/// How a job ended, as counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// It has an output.
    Completed,
    /// It has an error.
    Failed,
    /// Its deadline passed.
    TimedOut,
    /// The platform stopped it; nothing is posted.
    Cancelled,
    /// Shutdown came first. Nothing is posted, so that the platform gives the job to another worker.
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

/// A part of bringing a handler process up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartPhase {
    /// The operating system starts the program.
    Spawn,
    /// The program introduces itself.
    Handshake,
    /// Machine, device and handler are checked.
    Checks,
    /// Models are built.
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

/// Something that happened, for logs and metrics. Logs, metrics and health all follow from the same transition.
#[derive(Clone, Debug)]
pub enum Report {
    /// A job came in.
    JobTaken {
        /// Job.
        job: JobId,
        /// On whose behalf it runs.
        tenant: Option<String>,
    },
    /// The queue sent a job that the worker already has or has just completed.
    DuplicateJob {
        /// Job.
        job: JobId,
    },
    /// A job came when the worker was already closing. It was never acknowledged, so the queue gives it to another one.
    JobRejected {
        /// Job.
        job: JobId,
    },
    /// A job was sent to a slot.
    JobStarted {
        /// Job.
        job: JobId,
        /// 1 for the first run.
        attempt: u32,
        /// Time since it was taken.
        waited: Duration,
    },
    /// A job will be run again, because its process died.
    JobRetried {
        /// Job.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// A job is asked to stop.
    JobStopping {
        /// Job.
        job: JobId,
        /// Why, in words.
        reason: String,
    },
    /// A job's outcome is decided. Not yet delivered.
    JobFinished {
        /// Job.
        job: JobId,
        /// How it ended.
        status: JobStatus,
        /// What went wrong, unless it completed.
        error: Option<ErrorReport>,
        /// From the start of its last run; zero if it never ran.
        run_time: Duration,
        /// On whose behalf it ran.
        tenant: Option<String>,
        /// From the first request to stop; `None` if it was not asked to.
        stop_time: Option<Duration>,
        /// What its last run has used up.
        cost: JobCost,
        /// Where it ran last, if a slot had it to the end.
        device: Option<String>,
        /// Figures recorded by the handler.
        records: BTreeMap<String, f64>,
    },
    /// The platform has the result, or has refused it for good.
    JobDelivered {
        /// Job.
        job: JobId,
        /// The platform has it.
        accepted: bool,
    },
    /// A message came after its job had ended, or for another attempt, and was dropped.
    LateMessage {
        /// Job.
        job: JobId,
    },
    /// A handler process is being started.
    ProcessStarting {
        /// Process.
        process: ProcessId,
        /// 1 for the first start.
        epoch: Epoch,
    },
    /// A part of the start of a handler process is over.
    StartPhase {
        /// Process.
        process: ProcessId,
        /// Which part.
        phase: StartPhase,
        /// How long it took.
        time: Duration,
    },
    /// Start-up of a slot is moving.
    Loading {
        /// Process.
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
        /// Process.
        process: ProcessId,
        /// Slot.
        slot: u32,
        /// Where its model lives.
        device: String,
        /// Time spent loading.
        load_time: Duration,
    },
    /// One fitness check of a handler process is over.
    Checked {
        /// Process.
        process: ProcessId,
        /// What it found.
        check: CheckReport,
    },
    /// A healthy handler process takes no more jobs and will be replaced.
    ProcessRecycled {
        /// Process.
        process: ProcessId,
        /// Why.
        reason: RecycleReason,
    },
    /// A handler process broke its side of the contract and is being killed.
    ProcessKilled {
        /// Process.
        process: ProcessId,
        /// Why.
        reason: String,
    },
    /// A handler process is dead.
    ProcessExited {
        /// Process.
        process: ProcessId,
        /// How.
        exit: Exit,
        /// The worker had asked for it.
        expected: bool,
    },
    /// A handler process could not be brought up.
    StartFailed {
        /// Process.
        process: ProcessId,
        /// One sentence with the fix in it.
        reason: String,
        /// Time until the next try; `None` when there is none.
        retry_in: Option<Duration>,
    },
    /// An earlier run has left results on disk; they are delivered before any job is taken.
    UndeliveredFound {
        /// How many.
        jobs: usize,
    },
    /// They cannot be delivered now. Jobs are taken again meanwhile.
    UndeliveredLate {
        /// How many are left.
        jobs: usize,
    },
    /// Other GPUs than before are slowed down, or for other reasons.
    GpuSlowdowns {
        /// All that are now.
        gpus: Vec<GpuSlowdown>,
    },
    /// The worker takes no more jobs.
    Draining {
        /// Why, in words.
        reason: String,
    },
    /// A part of the shutdown took longer than its limit.
    ShutdownOverrun {
        /// Which part.
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
