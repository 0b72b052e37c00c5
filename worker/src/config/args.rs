//! The flags of `run`. They are kept as text: one place reads flags, environment and defaults, and reports all mistakes at once.

use std::ffi::OsString;

use super::runtime::RuntimeArgs;
use super::upkeep::UpkeepArgs;

/// Flags of `run`. Each wins over its environment variable, which wins over the default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Jobs that each handler process runs at the same time. More than one overlaps CPU work; it does not split a GPU
    /// [env: RUNPOD_WORKER_SLOTS] [default: 1]
    #[arg(long, value_name = "N")]
    pub slots: Option<String>,

    /// Handler processes; one per GPU [env: RUNPOD_WORKER_PROCESSES] [default: 1]
    #[arg(long, value_name = "N")]
    pub processes: Option<String>,

    /// Jobs to hold ready beyond the free slots. They start sooner, and wait here instead of going to another worker
    /// [env: RUNPOD_WORKER_PREFETCH] [default: 0]
    #[arg(long, value_name = "N")]
    pub prefetch: Option<String>,

    /// Where models live: auto, cpu or cuda. With cuda, a missing GPU is an error and never a silent fall-back
    /// [env: RUNPOD_WORKER_DEVICE] [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,

    /// Longest run of a job that brings no limit of its own, such as 90s or 10m [env: RUNPOD_WORKER_JOB_TIMEOUT]
    /// [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub job_timeout: Option<String>,

    /// How long a cancelled or overdue job may go on before its process is killed [env: RUNPOD_WORKER_CANCEL_GRACE]
    /// [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub cancel_grace: Option<String>,

    /// On shutdown, how long running jobs may go on before they are cancelled [env: RUNPOD_WORKER_DRAIN_GRACE]
    /// [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub drain_grace: Option<String>,

    /// On shutdown, how long undelivered results may take [env: RUNPOD_WORKER_FLUSH_GRACE] [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub flush_grace: Option<String>,

    /// Longest time without progress while a model loads [env: RUNPOD_WORKER_LOAD_STALL_TIMEOUT, or RUNPOD_INIT_TIMEOUT in
    /// seconds] [default: 5m]
    #[arg(long, value_name = "TIME")]
    pub load_stall_timeout: Option<String>,

    /// Address of /health, /ready and /metrics, or `none`. Use 0.0.0.0:8001 to be seen from outside the container
    /// [env: RUNPOD_WORKER_HTTP_BIND] [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDRESS")]
    pub http_bind: Option<String>,

    /// Undelivered bytes above which no more jobs are taken [env: RUNPOD_WORKER_OUTBOX_LIMIT_BYTES] [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    pub outbox_limit_bytes: Option<String>,

    /// Folder in which undelivered results survive a restart of the worker, below which each worker has a folder of its own;
    /// or `none` [env: RUNPOD_WORKER_SPOOL_DIR] [default: runpod-worker in the user's state folder, or in the temporary one]
    #[arg(long, value_name = "FOLDER")]
    pub spool_dir: Option<String>,

    /// Which results are written there: `overdue`, those that the queue does not accept within 250 ms, or `always`, each
    /// one before it is posted [env: RUNPOD_WORKER_SPOOL] [default: overdue]
    #[arg(long, value_name = "WHICH")]
    pub spool: Option<String>,

    /// json, text, or auto: json when RUNPOD_ENDPOINT_ID is set [env: RUNPOD_WORKER_LOG_FORMAT] [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// trace, debug, info, warn, error or off [env: RUNPOD_WORKER_LOG_LEVEL, RUNPOD_LOG_LEVEL or RUNPOD_DEBUG_LEVEL]
    /// [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Checks, recycling, refreshing, probes.
    #[command(flatten)]
    pub upkeep: UpkeepArgs,

    /// What is measured.
    #[command(flatten)]
    pub runtime: RuntimeArgs,

    /// Check the configuration, print the effective values and where each comes from, and exit: 0, or 64 with every mistake
    #[arg(long)]
    pub check_config: bool,

    /// The handler program and its arguments [env: RUNPOD_WORKER_HANDLER, for a program without arguments]
    #[arg(last = true, value_name = "HANDLER [ARGS]")]
    pub handler: Vec<OsString>,
}
