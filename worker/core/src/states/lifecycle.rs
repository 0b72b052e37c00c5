//! The worker's own life: working, draining, closing, over.

use crate::boundary::Time;

/// The worker's own life.
#[derive(Clone, Debug)]
pub(crate) enum Lifecycle {
    /// Taking and running jobs.
    Working,
    /// Taking none; those it has may finish.
    Draining {
        /// Why it is unhealthy, if that is the reason.
        unhealthy: Option<String>,
        /// When the poll in flight is given up.
        poll_until: Time,
        /// When running jobs are asked to stop; `None` lets each of them have its own time.
        cancel_at: Option<Time>,
        /// They have been.
        cancelled: bool,
        /// A second signal came.
        hurried: bool,
    },
    /// No job runs; processes exit and results leave.
    Closing {
        /// Why it is unhealthy, if that is the reason.
        unhealthy: Option<String>,
        /// When undelivered results are left behind.
        flush_until: Time,
    },
    /// Nothing is left.
    Over {
        /// Why it was unhealthy, if that was the reason.
        unhealthy: Option<String>,
    },
}

impl Lifecycle {
    /// Why the worker is unhealthy.
    pub(crate) fn unhealthy_reason(&self) -> Option<&str> {
        match self {
            Self::Draining { unhealthy, .. } | Self::Closing { unhealthy, .. } | Self::Over { unhealthy } => {
                unhealthy.as_deref()
            }
            Self::Working => None,
        }
    }
}
