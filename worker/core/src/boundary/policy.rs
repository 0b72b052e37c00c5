//! The limits that the state machine keeps. Every wait is here, and each setting has one meaning.

use std::time::Duration;

use runpod_handler_protocol::CheckOrder;

/// What follows when a job has asked for a fresh worker, beside the `stopPod` in its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRefresh {
    /// The worker finishes what it has and exits with status 0, for someone who starts another.
    Exit,
    /// The handler process is replaced, for a worker that nobody would start again.
    RestartHandler,
}

impl OnRefresh {
    /// The word used in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::RestartHandler => "restart-handler",
        }
    }
}

/// When a process is replaced between jobs; `None` for never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecycleLimits {
    /// Jobs run.
    pub max_jobs: Option<u64>,
    /// Bytes of host memory held.
    pub max_rss: Option<u64>,
    /// Bytes of device memory in tensors when a job is over.
    pub max_vram: Option<u64>,
    /// Time since it began to serve.
    pub max_age: Option<Duration>,
}

/// Limits and sizes, fixed for the life of the worker.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Id of this worker on the platform.
    pub worker_id: String,
    /// Handler processes; one per GPU.
    pub processes: usize,
    /// Slots in each process.
    pub slots: u32,
    /// Jobs to hold ready beyond the free slots.
    pub prefetch: usize,
    /// `auto`, `cpu` or `cuda`, passed to the handler.
    pub device: String,
    /// Chunks of one job that may be undelivered before the handler has to wait.
    pub chunk_window: u32,

    /// What to check in a handler process before it loads; `None` for nothing.
    pub checks: Option<CheckOrder>,
    /// When handler processes are replaced between jobs.
    pub recycle: RecycleLimits,
    /// RunPod's `refresh_worker`: the worker ends after its first job.
    pub refresh_worker: bool,
    /// What follows when a job asks for a fresh worker.
    pub on_refresh: OnRefresh,
    /// The queue takes a worker that says `stopPod` for gone, which a queue inside of the worker does not.
    pub queue_recycles: bool,

    /// A job without an execution timeout of its own may take this long, counted from the moment it was taken.
    pub job_timeout: Duration,
    /// How long a job that was asked to stop may go on before its process is killed.
    pub cancel_grace: Duration,
    /// How long the other jobs of a process that must be killed may go on.
    pub retire_grace: Duration,

    /// From spawn to the handshake.
    pub handshake_timeout: Duration,
    /// Longest time without progress while loading.
    pub load_stall_timeout: Duration,
    /// Time between pings to a process.
    pub ping_interval: Duration,
    /// A process that has not answered for this long is frozen.
    pub pong_timeout: Duration,
    /// An idle GPU is probed this often; zero for never.
    pub probe_interval: Duration,
    /// A probe that takes longer has found a dead GPU.
    pub probe_timeout: Duration,
    /// A killed process must be reaped within this time.
    pub reap_timeout: Duration,
    /// A process told to shut down may take this long.
    pub exit_timeout: Duration,

    /// Starts in a row that may fail before the worker gives up.
    pub start_attempts: u32,
    /// Pause before the second failed start is followed by another; doubled each time.
    pub restart_delay: Duration,
    /// Longest pause between starts.
    pub restart_delay_max: Duration,
    /// This many crashes …
    pub crash_limit: usize,
    /// … within this time make the worker unhealthy.
    pub crash_window: Duration,

    /// How long results of an earlier run, or one that asks for a fresh worker, may hold up the next poll. They are delivered
    /// all the same.
    pub undelivered_grace: Duration,

    /// Dollars an hour for the worker with all its GPUs, where known.
    pub price_per_hour: Option<f64>,
    /// Results say what their job has used up.
    pub cost_in_result: bool,

    /// On shutdown, how long the poll in flight may go on.
    pub poll_grace: Duration,
    /// On shutdown, how long running jobs may go on before they are cancelled.
    pub drain_grace: Duration,
    /// On shutdown, how long undelivered results may take after the last job has ended.
    pub flush_grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            worker_id: "local".to_owned(),
            processes: 1,
            slots: 1,
            prefetch: 0,
            device: "auto".to_owned(),
            chunk_window: 32,
            checks: None,
            recycle: RecycleLimits::default(),
            refresh_worker: false,
            on_refresh: OnRefresh::RestartHandler,
            queue_recycles: true,
            job_timeout: seconds(600),
            cancel_grace: seconds(5),
            retire_grace: seconds(30),
            handshake_timeout: seconds(30),
            load_stall_timeout: seconds(300),
            ping_interval: seconds(5),
            pong_timeout: seconds(30),
            probe_interval: seconds(60),
            probe_timeout: seconds(20),
            reap_timeout: seconds(10),
            exit_timeout: seconds(10),
            start_attempts: 3,
            restart_delay: seconds(1),
            restart_delay_max: seconds(30),
            crash_limit: 5,
            crash_window: seconds(600),
            undelivered_grace: seconds(60),
            price_per_hour: None,
            cost_in_result: false,
            poll_grace: seconds(1),
            drain_grace: seconds(30),
            flush_grace: seconds(10),
        }
    }
}
