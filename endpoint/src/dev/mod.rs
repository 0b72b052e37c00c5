//! Runs workers beside the server, as the platform would: same program, same environment variables.

mod find;
mod gpus;
mod manifest;
mod output;
mod pool;
mod restart;
mod scaler;
mod spawn;
mod supervisor;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runpod_log_line::LogFormat;
use rustix::io::Errno;
use tokio::task::JoinSet;

use crate::faults::Faults;
use crate::local::Local;
use crate::secret::Secret;
use crate::store::{Store, StoreError};
use spawn::WorkerCommand;

pub use gpus::GpuChoice;
pub(crate) use gpus::Gpus;
pub(crate) use manifest::learn;
pub(crate) use pool::Pool;
pub(crate) use scaler::ScaleSettings;
pub use scaler::ScalerRule;
pub(crate) use supervisor::StopSignals;

/// Why `dev` ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// No worker program anywhere.
    #[error(
        "runpod-worker was not found beside this program nor on PATH: build it (cargo build -p runpod-worker) or name it with --worker-bin"
    )]
    WorkerNotFound,
    /// `--worker-bin` names nothing.
    #[error("--worker-bin {}: no such file; check the path", .0.display())]
    NoSuchWorker(PathBuf),
    /// The system refused to start it.
    #[error("cannot start {program}: {error}; check that it is executable and built for this machine")]
    Spawn {
        /// Which program.
        program: String,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The worker says that starting it again is useless.
    #[error("the worker refuses its configuration (exit status 64): fix what it printed above and start again")]
    Configuration,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DevError {
    /// Whether the same may succeed a moment later: this machine has no room for one more process now.
    pub(crate) fn is_passing(&self) -> bool {
        let Self::Spawn { error, .. } = self else { return false };
        let full = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
        error.raw_os_error().is_some_and(|code| full.iter().any(|errno| errno.raw_os_error() == code))
    }
}

/// What every worker of one `dev` has in common.
#[derive(Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) endpoint: String,
    pub(crate) base_url: String,
    pub(crate) worker_key: Option<Secret>,
    pub(crate) command: WorkerCommand,
    /// Port of the first worker's own HTTP server.
    pub(crate) http_port: u16,
    pub(crate) stop_grace: Duration,
    /// Form of the workers' log lines, unless their own environment sets one.
    pub(crate) log_format: LogFormat,
    pub(crate) gpus: Gpus,
    pub(crate) faults: Option<Arc<Faults>>,
    /// Where running workers are listed.
    pub(crate) local: Local,
}

impl WorkerPlan {
    /// `runpod-worker run <args> -- <handler>`
    pub(crate) fn command(
        program: Option<&Path>,
        args: &[OsString],
        handler: &[OsString],
    ) -> Result<WorkerCommand, DevError> {
        let program = find::worker_program(program)?;
        let args = [&["run".into()], args, &["--".into()], handler].concat();
        Ok(WorkerCommand { program, args })
    }

    /// `runpod-worker schema -- <handler>`
    pub(crate) fn schema_command(&self, handler: &[OsString]) -> WorkerCommand {
        let args = [&["schema".into(), "--".into()], handler].concat();
        WorkerCommand { program: self.command.program.clone(), args }
    }
}

/// Runs the workers of all pools until told to stop. The first one that cannot work at all ends them all.
pub(crate) async fn run_pools(pools: Vec<Pool>, store: Arc<dyn Store>, stop: StopSignals) -> Result<(), DevError> {
    let mut running = JoinSet::new();
    for pool in pools {
        running.spawn(pool.run(Arc::clone(&store), stop.clone()));
    }
    let mut outcome = Ok(());
    while let Some(ended) = running.join_next().await {
        if let Ok(Err(error)) = ended {
            stop.soon.cancel();
            outcome = outcome.and(Err(error));
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn a_full_machine_is_waited_for_and_a_missing_program_is_not() {
        let passes = |error| DevError::Spawn { program: "worker".to_owned(), error }.is_passing();
        assert!(passes(Error::from_raw_os_error(Errno::AGAIN.raw_os_error())));
        assert!(passes(Error::from_raw_os_error(Errno::MFILE.raw_os_error())));
        assert!(!passes(Error::from_raw_os_error(Errno::NOENT.raw_os_error())));
        assert!(!DevError::Configuration.is_passing());
    }
}
