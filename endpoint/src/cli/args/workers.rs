//! The flags of local workers.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::parse::{idle_timeout, stop_grace};
use crate::fleet::{GpuChoice, ScalerRule};

/// How workers are started, scaled and ended.
#[derive(Debug, Args)]
#[command(next_help_heading = "Local workers")]
pub struct WorkerArgs {
    /// Number of workers to keep running: sets --workers-min and --workers-max
    #[arg(long, value_name = "N", conflicts_with_all = ["workers_min", "workers_max"], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// Workers that always run; 0 lets all leave when there is nothing to do
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=64))]
    pub workers_min: u16,
    /// Workers that run at most; without it the larger of --workers-min and 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers_max: Option<u16>,
    /// When to add workers: queue-delay=TIME, once a job has waited that long, or request-count=N, one for N jobs
    #[arg(long, default_value = "queue-delay=4s", value_name = "RULE")]
    pub scaler: ScalerRule,
    /// A worker beyond the minimum leaves after this time without a job
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = idle_timeout)]
    pub idle_timeout: Duration,
    /// How long workers may finish their jobs when this program is stopped or a worker is no longer needed
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = stop_grace)]
    pub stop_grace: Duration,
    /// GPUs to share out to workers as CUDA_VISIBLE_DEVICES: auto, none or a list like 0,1
    #[arg(long, default_value = "auto", value_name = "LIST")]
    pub gpus: GpuChoice,
    /// GPUs for each worker
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub gpus_per_worker: u8,
    /// The runpod-worker program; without it the one beside this program, then the one on PATH
    #[arg(long, value_name = "PATH")]
    pub worker_bin: Option<PathBuf>,
    /// An argument for `runpod-worker run`; repeat for more
    #[arg(long = "worker-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub worker_args: Vec<OsString>,
    /// Port of the first worker's own HTTP server, the next worker gets the next port; 0 lets the system choose. If the default is in
    /// use, the ports after it are taken
    #[arg(long, default_value_t = 8001, value_name = "PORT")]
    pub worker_http_port: u16,
}

impl WorkerArgs {
    /// The least and the largest number of workers.
    pub(crate) fn bounds(&self) -> (u16, u16) {
        match self.workers {
            Some(workers) => (workers, workers),
            None => (self.workers_min, self.workers_max.unwrap_or(self.workers_min.max(1))),
        }
    }
}
