//! Why local workers cannot run.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::store::StoreError;

/// Why local workers cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
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
        /// The error of the system.
        #[source]
        error: std::io::Error,
    },
    /// The worker exited with status 64: starting it again would end the same way.
    #[error("the worker refuses its configuration (exit status 64): fix what it printed above and start again")]
    Configuration,
    /// One worker wants more GPUs than there are.
    #[error(
        "--gpus-per-worker {per_worker}: this machine has only {found}; lower it, or leave GPUs alone with --gpus none"
    )]
    TooFewGpus {
        /// GPUs of this machine.
        found: usize,
        /// What one worker wants.
        per_worker: usize,
    },
    /// Another program uses a port of the workers.
    #[error("--worker-http-port: port {0} is in use; stop the program that uses it, choose another first port, or 0")]
    PortTaken(u16),
    /// No port for a worker behind a load balancer.
    #[error("no free port for a worker: {0}; end programs that hold ports, or start fewer workers")]
    NoPort(#[source] std::io::Error),
    /// The store refused to note the worker.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FleetError {
    /// Whether starting may succeed later: this machine has no room for one more process at the moment.
    pub(crate) fn is_temporary(&self) -> bool {
        let (Self::Spawn { error, .. } | Self::NoPort(error)) = self else { return false };
        let full = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
        error.raw_os_error().is_some_and(|code| full.iter().any(|errno| errno.raw_os_error() == code))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn a_full_machine_is_temporary_and_a_missing_program_is_not() {
        let passes = |error| FleetError::Spawn { program: "worker".to_owned(), error }.is_temporary();
        assert!(passes(Error::from_raw_os_error(Errno::AGAIN.raw_os_error())));
        assert!(passes(Error::from_raw_os_error(Errno::MFILE.raw_os_error())));
        assert!(!passes(Error::from_raw_os_error(Errno::NOENT.raw_os_error())));
        assert!(!FleetError::Configuration.is_temporary());
    }
}
