//! What the worker looks like from outside: the one source of `/health`, `/ready`, gauges and heartbeats.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::Exit;
use super::gpu_time::{GpuTime, Price};
use super::ids::{Epoch, JobId, ProcessId, Time};
use runpod_handler_protocol::{ErrorKind, Manifest};

/// The state of the whole worker, in the platform's words where it has some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// No slot is ready yet, or none is ready again after a crash.
    #[default]
    Initializing,
    /// A slot is ready, the queue has not been asked yet.
    Ready,
    /// Waiting for a job.
    Idle,
    /// At least one job is held.
    Running,
    /// Without a job, and the queue asked for fewer requests or a GPU is slowed down.
    Throttled,
    /// The worker cannot work and is about to exit.
    Unhealthy,
    /// Shutting down.
    Draining,
}

impl WorkerState {
    /// All states, for metrics that show each one.
    pub const ALL: [Self; 7] =
        [Self::Initializing, Self::Ready, Self::Idle, Self::Running, Self::Throttled, Self::Unhealthy, Self::Draining];

    /// The word used in `/health`, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Ready => "ready",
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Throttled => "throttled",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }
}

/// Counts since the worker started, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Ended with an output.
    pub completed: u64,
    /// Ended with an error, timeouts included.
    pub failed: u64,
    /// Of those, ended by their deadline.
    pub timed_out: u64,
    /// Stopped by the platform.
    pub cancelled: u64,
    /// Left to another worker at shutdown.
    pub handed_back: u64,
    /// Runs repeated because a process died.
    pub retried: u64,
    /// With a slot now.
    pub in_progress: usize,
    /// Held without a slot now.
    pub in_queue: usize,
    /// Finished, waiting to be accepted by the platform.
    pub delivering: usize,
}

/// How many slots are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Waiting for a job.
    pub ready: usize,
    /// Running a job.
    pub busy: usize,
    /// Running a job that was asked to stop.
    pub lingering: usize,
    /// Building their model, for the first time or again.
    pub loading: usize,
    /// Without a process.
    pub absent: usize,
}

/// Device memory of a handler process, from its allocator, when its last job was over. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In tensors.
    pub allocated: u64,
    /// Taken from the device: tensors and the allocator's cache.
    pub reserved: Option<u64>,
    /// Most that was in tensors during the job.
    pub peak: Option<u64>,
}

/// One handler process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessView {
    /// Which.
    pub id: ProcessId,
    /// Incarnation; 0 before the first start.
    pub epoch: Epoch,
    /// `backoff`, `spawning`, `handshaking`, `loading`, `serving`, `retiring`, `killing`, `stopped` or `gave_up`.
    pub phase: &'static str,
    /// Operating system's id, while it lives.
    pub pid: Option<u32>,
    /// Where its models live, once loaded.
    pub device: Option<String>,
    /// Slots that run a job.
    pub busy: usize,
    /// What it holds on the device, once a job has told.
    pub device_memory: Option<DeviceMemory>,
    /// How its last incarnation ended.
    pub last_exit: Option<Exit>,
}

/// The worker's own requests for jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollView {
    /// One is under way.
    pub in_flight: bool,
    /// When the last one ended, and [how](super::PollAnswer::outcome).
    pub last: Option<(Time, &'static str)>,
}

/// What the handler process runs on, as far as it has said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The SDK it was built with.
    pub sdk: Option<String>,
    /// libtorch, from its checks.
    pub libtorch: Option<String>,
    /// Driver and CUDA, from its checks.
    pub cuda: Option<String>,
}

/// A consistent picture of the worker after an event.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Overall state.
    pub state: WorkerState,
    /// Why it is unhealthy, not ready or slow, in one sentence.
    pub reason: Option<String>,
    /// At least one handler process takes jobs.
    pub serving: bool,
    /// Job counts.
    pub jobs: JobCounts,
    /// Failed jobs by kind of error.
    pub failures: BTreeMap<ErrorKind, u64>,
    /// Slot counts.
    pub slots: SlotCounts,
    /// Requests for jobs.
    pub poll: PollView,
    /// Processes in order of their ids.
    pub processes: Vec<ProcessView>,
    /// Ids of all jobs that are not closed: what the heartbeat lists.
    pub held: Arc<[JobId]>,
    /// What the handler said about itself, once it has.
    pub manifest: Option<Arc<Manifest>>,
    /// What the handler process runs on.
    pub versions: Arc<Versions>,
    /// What the time of the processes went into.
    pub gpu_time: GpuTime,
    /// What the worker costs, where that is known.
    pub price: Option<Price>,
}
