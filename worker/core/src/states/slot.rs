//! One slot: a thread of the handler process with its own model, which runs at most one job.

use crate::boundary::{JobId, Time};

/// State of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Its process does not run.
    #[default]
    Absent,
    /// It loads its model, for the first time or again after a panic.
    Loading {
        /// When the process is killed, unless there is progress before.
        stalls_at: Time,
    },
    /// It waits for a job.
    Ready,
    /// It has no job and computes one number, to see whether its device still works.
    Probing {
        /// When the device counts as lost, unless the answer comes before.
        until: Time,
    },
    /// It runs a job.
    Busy(JobId),
    /// It runs a job that was asked to stop.
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
