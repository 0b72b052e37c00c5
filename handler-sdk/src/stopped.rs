//! What a running job returns when it must end early or cannot send a chunk.

use runpod_handler_protocol::{ErrorKind, StopReason};

use crate::encode::EncodeError;

/// The job must end: it was cancelled, its deadline has passed, or the worker is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job was stopped: {reason}")]
pub struct Stopped {
    reason: StopReason,
}

impl Stopped {
    pub(crate) fn new(reason: StopReason) -> Self {
        Self { reason }
    }

    /// Why the job must end.
    pub fn reason(&self) -> StopReason {
        self.reason
    }

    pub(crate) fn kind(self) -> ErrorKind {
        match self.reason {
            StopReason::Deadline => ErrorKind::Timeout,
            StopReason::Cancelled | StopReason::Drain => ErrorKind::Cancelled,
        }
    }
}

/// Why a chunk was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The job must end.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The chunk cannot be written as JSON, or is too large.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}
