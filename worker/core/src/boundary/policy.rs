//! Every limit and size that the core keeps.

use std::time::Duration;

use runpod_handler_protocol::CheckOrder;

/// What follows when a job has asked for a fresh worker. Its result carries `stopPod` in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRefresh {
    /// The worker finishes the jobs that it holds and exits with status 0, where a platform starts another one.
    Exit,
    /// Only the handler process is replaced, where nothing would start the worker again.
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
    /// Number of jobs that it has run.
    pub max_jobs: Option<u64>,
    /// Host memory that it holds, in bytes.
    pub max_rss: Option<u64>,
    /// Device memory in tensors when a job ends, in bytes.
    pub max_vram: Option<u64>,
    /// Time since it began to serve.
    pub max_age: Option<Duration>,
}

/// Limits and sizes, fixed for the life of the worker.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Id of this worker on the platform.
    pub worker_id: String,
    /// Number of handler processes; one per GPU.
    pub processes: usize,
    /// Slots in each process.
    pub slots: u32,
    /// Jobs to hold ready beyond the free slots.
    pub prefetch: usize,
    /// Most jobs asked for with one poll. The next poll follows at once, so that many free slots are filled step by step, while the
    /// first jobs run: a thousand jobs that begin at the same moment end no sooner, and cost more.
    pub poll_jobs: usize,
    /// `auto`, `cpu` or `cuda`, passed to the handler.
    pub device: String,
    /// Chunks of one job that may be undelivered before the handler has to wait.
    pub chunk_window: u32,

    /// Fitness checks of a handler process before it loads its models; `None` for none.
    pub checks: Option<CheckOrder>,
    /// When handler processes are replaced between jobs.
    pub recycle: RecycleLimits,
    /// RunPod's `refresh_worker`: the worker exits after its first job.
    pub refresh_worker: bool,
    /// What follows when a job asks for a fresh worker.
    pub on_refresh: OnRefresh,
    /// The queue considers a worker gone after a result with `stopPod`. A queue inside the worker does not.
    pub queue_recycles: bool,
    /// How long a worker that has replaced only its handler stays away from such a queue.
    pub refresh_absence: Duration,

    /// Time limit of a job without an execution timeout of its own, counted from the moment when it was taken.
    pub job_timeout: Duration,
    /// How far the clocks of worker and handler may differ about a job's deadline.
    pub deadline_slack: Duration,
    /// How long a job may go on after being asked to stop, before its process is killed.
    pub cancel_grace: Duration,
    /// How long the other jobs of a process that must be killed may go on.
    pub retire_grace: Duration,
    /// Stop requests kept for jobs that may be on their way here.
    pub early_stop_limit: usize,
    /// Jobs that have ended here and are remembered, so that a late stop of one does not hit its retry.
    pub ended_jobs: usize,
    /// Results of completed jobs kept for a queue that hands the same job out again.
    pub recent_results: usize,
    /// Total size of those results, in bytes.
    pub recent_bytes: usize,

    /// Time limit for the start of the program, and again for its handshake.
    pub handshake_timeout: Duration,
    /// Time limit for loading without progress.
    pub load_stall_timeout: Duration,
    /// Time between pings to a process.
    pub ping_interval: Duration,
    /// A process that has not answered a ping for this long is killed.
    pub pong_timeout: Duration,
    /// Time between probes of an idle GPU; zero for no probes.
    pub probe_interval: Duration,
    /// Time limit for the answer to a probe.
    pub probe_timeout: Duration,
    /// Time limit for reaping a killed process.
    pub reap_timeout: Duration,
    /// Time limit for the exit of a process that was asked to shut down.
    pub exit_timeout: Duration,

    /// Failed starts in a row after which the worker gives up.
    pub start_attempts: u32,
    /// Pause before the start that follows the second crash in a row; doubled with each further one.
    pub restart_delay: Duration,
    /// Longest pause between starts.
    pub restart_delay_max: Duration,
    /// Crashes within `crash_window` that make the worker unhealthy.
    pub crash_limit: usize,
    /// The period over which crashes are counted.
    pub crash_window: Duration,
    /// How often a job may lose its process without being suspected: before the job was begun, or by a signal from outside.
    pub lost_run_limit: u32,
    /// A handler process that exits by itself this long before the worker is asked to stop was asked to stop, too.
    pub shutdown_notice: Duration,

    /// How long results of an earlier run, or one that asks for a fresh worker, may delay the next poll. Their delivery goes
    /// on afterwards.
    pub undelivered_grace: Duration,

    /// Dollars an hour for the worker with all its GPUs, if known.
    pub price_per_hour: Option<f64>,
    /// Results carry the cost of their job.
    pub cost_in_result: bool,

    /// On shutdown, how long the poll in flight may go on.
    pub poll_grace: Duration,
    /// On shutdown, how long an aborted poll may take to end.
    pub poll_abort_timeout: Duration,
    /// On shutdown, how long running jobs may go on before they are asked to stop.
    pub drain_grace: Duration,
    /// On shutdown, how long the delivery of results may go on after the last job has ended.
    pub flush_grace: Duration,
    /// The same after a second signal.
    pub abort_flush_grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            worker_id: "local".to_owned(),
            processes: 1,
            slots: 1,
            prefetch: 0,
            poll_jobs: 100,
            device: "auto".to_owned(),
            chunk_window: 32,
            checks: None,
            recycle: RecycleLimits::default(),
            refresh_worker: false,
            on_refresh: OnRefresh::RestartHandler,
            queue_recycles: true,
            refresh_absence: seconds(5),
            job_timeout: seconds(600),
            deadline_slack: Duration::from_millis(500),
            cancel_grace: seconds(5),
            retire_grace: seconds(30),
            early_stop_limit: 4096,
            ended_jobs: 4096,
            recent_results: 64,
            recent_bytes: 16 * 1024 * 1024,
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
            lost_run_limit: 2,
            shutdown_notice: seconds(1),
            undelivered_grace: seconds(60),
            price_per_hour: None,
            cost_in_result: false,
            poll_grace: seconds(1),
            poll_abort_timeout: seconds(2),
            drain_grace: seconds(30),
            flush_grace: seconds(10),
            abort_flush_grace: seconds(1),
        }
    }
}
