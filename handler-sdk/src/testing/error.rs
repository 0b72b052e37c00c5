//! Why a test has no result.

use std::io;
use std::time::Duration;

use runpod_handler_protocol::{ErrorKind, ErrorReport, FrameError};

use crate::serve::{EXIT_DEVICE_LOST, EXIT_LOAD_FAILED};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// The model could not be built.
    #[error("the handler did not load: {}{}", .0.message, trace(.0))]
    Load(ErrorReport),
    /// The job failed; the report is the one that the caller would receive.
    #[error("the job failed as {}: {}{}", .0.kind.as_str(), .0.message, trace(.0))]
    Failed(ErrorReport),
    /// The handler ended, as its process would, before the job was over. The worker would start it again, as
    /// [`Harness::restart`](super::Harness::restart) does.
    #[error("the handler ended with exit status {status} ({}) before it answered", meaning(*.status))]
    Exited {
        /// The exit status of its process.
        status: u8,
    },
    /// The job is still running. The worker kills the process of a job that goes on for too long after it was told to stop.
    #[error("the job was still running after {waited:?}")]
    StillRunning {
        /// How long the test has waited.
        waited: Duration,
    },
    /// The job completed, and did not do before what the test waited for.
    #[error("the job completed before it did what the test waited for")]
    NotSeen,
    /// The harness does not know the job: it is of another harness, or its result was given out already.
    #[error("there is no such job: `run` and `wait` give out each result once")]
    UnknownJob,
    /// The socket between test and handler failed.
    #[error("no answer from the handler: {0}")]
    Io(#[from] io::Error),
    /// The handler sent something that is not a message.
    #[error("the handler's message cannot be read: {0}")]
    Protocol(String),
}

impl TestError {
    /// The kind of the failure, if the handler failed.
    pub fn kind(&self) -> Option<ErrorKind> {
        self.report().map(|report| report.kind)
    }

    /// The error as the caller receives it, if the handler failed.
    pub fn report(&self) -> Option<&ErrorReport> {
        match self {
            Self::Load(report) | Self::Failed(report) => Some(report),
            _ => None,
        }
    }
}

fn trace(report: &ErrorReport) -> String {
    if report.traceback.is_empty() { String::new() } else { format!("\n{}", report.traceback) }
}

fn meaning(status: u8) -> &'static str {
    match status {
        EXIT_DEVICE_LOST => "its device is lost",
        EXIT_LOAD_FAILED => "its model cannot be loaded",
        0 => "as after a shutdown",
        _ => "the connection ended",
    }
}

impl From<FrameError> for TestError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}
