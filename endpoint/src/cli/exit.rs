//! Exit statuses.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; the job is COMPLETED.
    Success,
    /// Not done; the job is FAILED or TIMED_OUT.
    Failure,
    /// The job is CANCELLED.
    Cancelled,
    /// The command line or the configuration must be changed first (`EX_USAGE`).
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Cancelled => 3,
            Exit::Usage => 64,
        })
    }
}
