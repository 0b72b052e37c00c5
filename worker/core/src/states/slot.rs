//! One slot: a thread of the handler process with a model of its own, running at most one job.

use crate::boundary::{JobId, Time};

/// State of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Its process is not up.
    #[default]
    Absent,
    /// Building its model, for the first time or again after a panic.
    Loading {
        /// Without a sign of progress by then, the process is replaced.
        stalls_at: Time,
    },
    /// Waiting for a job.
    Ready,
    /// Without a job, computing one number to see whether its device still works.
    Probing {
        /// Without an answer by then, it does not.
        until: Time,
    },
    /// Running a job.
    Busy(JobId),
    /// Running a job that was asked to stop and has not returned.
    Lingering(JobId),
}

impl Slot {
    /// The job that it runs.
    pub(crate) fn job(&self) -> Option<&JobId> {
        match self {
            Self::Busy(job) | Self::Lingering(job) => Some(job),
            Self::Absent | Self::Loading { .. } | Self::Ready | Self::Probing { .. } => None,
        }
    }
}
