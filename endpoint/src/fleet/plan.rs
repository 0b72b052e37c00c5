//! What the workers of one pool have in common.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runpod_log_line::LogFormat;

use super::error::FleetError;
use super::gpu_sets::Gpus;
use super::ports::HttpPorts;
use super::process::WorkerCommand;
use super::program;
use super::rebuild::Rebuilds;
use crate::balancer::Balancer;
use crate::faults::Faults;
use crate::local::Local;
use crate::secret::Secret;

/// How to start the workers of one pool.
#[derive(Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) endpoint: String,
    /// What the ids of its workers begin with: the endpoint, and the host where several share a queue.
    pub(crate) worker_prefix: String,
    pub(crate) base_url: String,
    pub(crate) worker_key: Option<Secret>,
    /// How long a job may be missing from heartbeats.
    pub(crate) lease: Duration,
    pub(crate) command: WorkerCommand,
    /// With it, workers are started anew when the handler program is built anew.
    pub(crate) rebuilds: Option<Rebuilds>,
    /// Where the workers' own HTTP servers are.
    pub(crate) http_ports: HttpPorts,
    pub(crate) stop_grace: Duration,
    /// Form of the workers' log lines, unless their own environment sets one.
    pub(crate) log_format: LogFormat,
    pub(crate) gpus: Gpus,
    pub(crate) faults: Option<Arc<Faults>>,
    /// Where running workers are listed.
    pub(crate) local: Local,
    /// With it, workers answer HTTP requests that the balancer passes on, and take no jobs.
    pub(crate) balancer: Option<Arc<Balancer>>,
}

impl WorkerPlan {
    /// `runpod-worker <mode> <args> -- <handler>`; the mode is `run` or `serve`.
    pub(crate) fn command(
        program: Option<&Path>,
        mode: &str,
        args: &[OsString],
        handler: &[OsString],
    ) -> Result<WorkerCommand, FleetError> {
        let program = program::worker_program(program)?;
        let args = [&[mode.into()], args, &["--".into()], handler].concat();
        Ok(WorkerCommand { program, args })
    }

    /// The id of the worker in a place.
    pub(crate) fn worker(&self, place: u16) -> String {
        format!("{}-{place}", self.worker_prefix)
    }

    /// `runpod-worker schema -- <handler>`
    pub(crate) fn schema_command(&self, handler: &[OsString]) -> WorkerCommand {
        let args = [&["schema".into(), "--".into()], handler].concat();
        WorkerCommand { program: self.command.program.clone(), args }
    }
}
