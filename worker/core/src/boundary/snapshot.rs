//! The state of the worker at one moment: the only source of `/health`, `/ready`, gauges and heartbeats.

use std::collections::BTreeMap;
use std::sync::Arc;

use runpod_handler_protocol::{ErrorKind, Manifest};

use super::batching::BatchingView;
use super::event::Exit;
use super::gpu_time::{GpuTime, Price};
use super::ids::{Incarnation, JobId, ProcessId, Time};
use super::poll_blocker::PollBlocker;

/// The state of the whole worker. Where RunPod has a word for a state, it is that word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// No handler process serves yet, or none serves again after a crash.
    #[default]
    Initializing,
    /// A handler process serves, and the queue was not asked for a job yet.
    Ready,
    /// Waiting for a job.
    Idle,
    /// The worker holds at least one job.
    Running,
    /// The worker holds no job, and the queue asked for fewer requests or a GPU is slowed down.
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

/// Jobs: counts since the worker started, and those that it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Ended with an output.
    pub completed: u64,
    /// Ended with an error, including timeouts.
    pub failed: u64,
    /// Failed jobs that were ended by their deadline.
    pub timed_out: u64,
    /// Cancelled by a client.
    pub cancelled: u64,
    /// Handed back to the queue at shutdown.
    pub handed_back: u64,
    /// Runs repeated because a process exited.
    pub retried: u64,
    /// Jobs in a slot now.
    pub in_progress: usize,
    /// Jobs that wait for a slot now.
    pub in_queue: usize,
    /// Jobs whose result waits to be accepted by the queue.
    pub delivering: usize,
}

/// The number of slots in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Waiting for a job.
    pub ready: usize,
    /// Running a job.
    pub busy: usize,
    /// Running a job that was asked to stop.
    pub lingering: usize,
    /// Loading their model, for the first time or again.
    pub loading: usize,
    /// Without a process.
    pub absent: usize,
}

/// Device memory of a handler process when its last job ended, in bytes, as its allocator reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In tensors.
    pub allocated: u64,
    /// In tensors and in the allocator's cache.
    pub reserved: Option<u64>,
    /// Peak in tensors during the job.
    pub peak: Option<u64>,
}

/// One handler process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessView {
    /// Its index.
    pub id: ProcessId,
    /// Its incarnation; 0 before the first start.
    pub incarnation: Incarnation,
    /// `backoff`, `spawning`, `handshaking`, `loading`, `serving`, `retiring`, `killing`, `stopped` or `gave_up`.
    pub phase: &'static str,
    /// Process id of the operating system, while it runs.
    pub pid: Option<u32>,
    /// The device that holds its models, once they are loaded.
    pub device: Option<String>,
    /// Jobs that it runs at once; an async handler can change it.
    pub slots: usize,
    /// Slots that run a job.
    pub busy: usize,
    /// Its device memory, once a job has reported it.
    pub device_memory: Option<DeviceMemory>,
    /// Its batches or steps, if it runs several jobs at the same time.
    pub batching: Option<BatchingView>,
    /// The exit of its previous incarnation.
    pub last_exit: Option<Exit>,
}

/// The worker's requests for jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollView {
    /// A request is in flight.
    pub in_flight: bool,
    /// Why no request is made; `None` only if one is in flight.
    pub blocked_by: Option<PollBlocker>,
    /// When the last request ended, and its [outcome](super::PollAnswer::outcome).
    pub last: Option<(Time, &'static str)>,
}

/// Versions of what the handler runs on, as far as the handler process has reported them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The SDK it was built with.
    pub sdk: Option<String>,
    /// libtorch, from the fitness checks.
    pub libtorch: Option<String>,
    /// Driver and CUDA, from the fitness checks.
    pub cuda: Option<String>,
}

/// A consistent view of the worker after an event.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Overall state.
    pub state: WorkerState,
    /// Why it is unhealthy, not ready, idle without asking for jobs, or slow; one sentence.
    pub reason: Option<String>,
    /// At least one handler process serves.
    pub serving: bool,
    /// Job counts.
    pub jobs: JobCounts,
    /// Failed jobs by kind of error.
    pub failures: BTreeMap<ErrorKind, u64>,
    /// Slot counts.
    pub slots: SlotCounts,
    /// Its requests for jobs.
    pub poll: PollView,
    /// Handler processes in order of their ids.
    pub processes: Vec<ProcessView>,
    /// Ids of all jobs that are not closed: what the heartbeat lists.
    pub held: Arc<[JobId]>,
    /// The handler's manifest, once it is known.
    pub manifest: Option<Arc<Manifest>>,
    /// Versions of what the handler runs on.
    pub versions: Arc<Versions>,
    /// GPU time by use.
    pub gpu_time: GpuTime,
    /// The price of the worker, if known.
    pub price: Option<Price>,
}

impl Snapshot {
    /// Jobs that failed by a mistake of their caller.
    #[must_use]
    pub fn caller_mistakes(&self) -> u64 {
        self.failures.iter().filter(|(kind, _)| kind.is_caller_mistake()).map(|(_, count)| count).sum()
    }
}
