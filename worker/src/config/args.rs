//! The flags of `run`. They are kept as text: one place reads flags, environment and defaults, and reports all mistakes at once.

use std::ffi::OsString;

use super::alerts::AlertArgs;
use super::checks::CheckArgs;
use super::gpu::GpuArgs;
use super::logs::LogArgs;
use super::metrics::MetricsArgs;
use super::recycling::RecycleArgs;
use super::traces::TraceArgs;

/// Flags of `run`. Each wins over its environment variable, which wins over the default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Jobs that each handler process runs at the same time. More than one overlaps CPU work; it does not split a GPU
    /// [env: RUNPOD_WORKER_SLOTS] [default: 1]
    #[arg(long, value_name = "N", help_heading = "Job handling")]
    pub slots: Option<String>,

    /// Handler processes; one per GPU [env: RUNPOD_WORKER_PROCESSES] [default: 1]
    #[arg(long, value_name = "N", help_heading = "Job handling")]
    pub processes: Option<String>,

    /// Jobs to hold ready beyond the free slots. They start sooner, but wait here instead of going to another worker
    /// [env: RUNPOD_WORKER_PREFETCH] [default: 0]
    #[arg(long, value_name = "N", help_heading = "Job handling")]
    pub prefetch: Option<String>,

    /// Longest time from taking a job to its end, waiting and re-runs included, for a job that has no limit of its own: 90s or
    /// 10m, for example [env: RUNPOD_WORKER_JOB_TIMEOUT] [default: 10m]
    #[arg(long, value_name = "TIME", help_heading = "Job handling")]
    pub job_timeout: Option<String>,

    /// How long a cancelled or overdue job may go on before its process is killed [env: RUNPOD_WORKER_CANCEL_GRACE]
    /// [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Job handling")]
    pub cancel_grace: Option<String>,

    /// On shutdown, how long running jobs may go on before they are handed back [env: RUNPOD_WORKER_DRAIN_GRACE]
    /// [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Shutdown")]
    pub drain_grace: Option<String>,

    /// On shutdown, how long undelivered results may take [env: RUNPOD_WORKER_FLUSH_GRACE] [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Shutdown")]
    pub flush_grace: Option<String>,

    /// Stop at once when standard input ends, because the program that started this worker has ended then. `runpod-endpoint`
    /// sets it for the workers that it starts [env: RUNPOD_WORKER_STOP_WITH_STDIN] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Shutdown")]
    pub stop_with_stdin: Option<String>,

    /// Undelivered bytes above which no more jobs are taken [env: RUNPOD_WORKER_OUTBOX_LIMIT_BYTES] [default: 268435456]
    #[arg(long, value_name = "BYTES", help_heading = "Results")]
    pub outbox_limit_bytes: Option<String>,

    /// Folder in which undelivered results survive a restart of the worker, or `none`. Each worker has a folder of its own in
    /// it. Without the flag it is `runpod-worker` in the user's state folder, or in the temporary folder
    /// [env: RUNPOD_WORKER_SPOOL_DIR]
    #[arg(long, value_name = "FOLDER", help_heading = "Results")]
    pub spool_dir: Option<String>,

    /// Which results are written there: `overdue` for those that the queue does not accept within 250 ms, or 2 s while it accepts
    /// others, or `always` for each one before it is posted [env: RUNPOD_WORKER_SPOOL] [default: overdue]
    #[arg(long, value_name = "WHICH", help_heading = "Results")]
    pub spool: Option<String>,

    /// Where models live: auto, cpu or cuda. With cuda, a missing GPU is an error and never a silent fall-back
    /// [env: RUNPOD_WORKER_DEVICE] [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Handler process")]
    pub device: Option<String>,

    /// Longest time without progress while a model loads [env: RUNPOD_WORKER_LOAD_STALL_TIMEOUT, or RUNPOD_INIT_TIMEOUT in
    /// seconds] [default: 5m]
    #[arg(long, value_name = "TIME", help_heading = "Handler process")]
    pub load_stall_timeout: Option<String>,

    /// When handler processes are replaced.
    #[command(flatten)]
    pub recycling: RecycleArgs,

    /// Fitness checks.
    #[command(flatten)]
    pub checks: CheckArgs,

    /// Measuring and probing the GPUs.
    #[command(flatten)]
    pub gpu: GpuArgs,

    /// Address of /health, /ready and /metrics, or `none`. With 0.0.0.0:8001 they can be read from outside the container
    /// [env: RUNPOD_WORKER_HTTP_BIND] [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDRESS", help_heading = "HTTP server")]
    pub http_bind: Option<String>,

    /// Connections to that address that may be open; when they are, a new one replaces an idle one
    /// [env: RUNPOD_WORKER_HTTP_CONNECTIONS] [default: 64]
    #[arg(long, value_name = "N", help_heading = "HTTP server")]
    pub http_connections: Option<String>,

    /// Metrics and cost.
    #[command(flatten)]
    pub metrics: MetricsArgs,

    /// Logs.
    #[command(flatten)]
    pub logs: LogArgs,

    /// Traces.
    #[command(flatten)]
    pub traces: TraceArgs,

    /// Alerts.
    #[command(flatten)]
    pub alerts: AlertArgs,

    /// Check the configuration, print the effective values, where each comes from and the fixed limits, and exit: 0, or 64
    /// with every mistake
    #[arg(long, help_heading = None::<&'static str>)]
    pub check_config: bool,

    /// The handler program and its arguments [env: RUNPOD_WORKER_HANDLER, for a program without arguments]
    #[arg(last = true, value_name = "HANDLER [ARGS]", help_heading = None::<&'static str>)]
    pub handler: Vec<OsString>,
}
