//! The life of the worker: working, draining, closing, over.

use crate::boundary::Time;

/// The phase of the worker's life.
#[derive(Clone, Debug)]
pub(crate) enum Lifecycle {
    /// It takes and runs jobs.
    Working,
    /// It takes no jobs; those that it holds may finish.
    Draining {
        /// Why it is unhealthy, if that is the cause.
        unhealthy: Option<String>,
        /// When the poll in flight is aborted.
        poll_until: Time,
        /// When running jobs are asked to stop; `None` when only their own deadlines count.
        cancel_at: Option<Time>,
        /// Running jobs were asked to stop.
        cancelled: bool,
        /// A signal has asked the worker to stop. The same signal may have reached the handler processes.
        signalled: bool,
        /// A second signal came.
        aborted: bool,
    },
    /// No job runs; processes exit and results are delivered.
    Closing {
        /// Why it is unhealthy, if that is the cause.
        unhealthy: Option<String>,
        /// When the worker exits although results are undelivered.
        flush_until: Time,
    },
    /// It has exited.
    Over {
        /// Why it was unhealthy, if that was the cause.
        unhealthy: Option<String>,
    },
}

impl Lifecycle {
    /// Whether no shutdown has begun.
    pub(crate) fn is_working(&self) -> bool {
        matches!(self, Self::Working)
    }

    /// Whether no job can be run any more.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Closing { .. } | Self::Over { .. })
    }

    /// Whether a signal has asked the worker to stop while jobs run.
    pub(crate) fn is_signalled(&self) -> bool {
        matches!(self, Self::Draining { signalled: true, .. })
    }

    /// Why the worker is unhealthy, if it is.
    pub(crate) fn unhealthy_reason(&self) -> Option<&str> {
        match self {
            Self::Draining { unhealthy, .. } | Self::Closing { unhealthy, .. } | Self::Over { unhealthy } => {
                unhealthy.as_deref()
            }
            Self::Working => None,
        }
    }
}
