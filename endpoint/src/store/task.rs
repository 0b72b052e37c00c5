//! What one program alone must do for an endpoint, of several that share a queue.

use std::time::Duration;

/// A task that is done in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Adding local workers.
    Scaling,
    /// Sending late jobs to another endpoint, and following them there.
    Overflow,
    /// Posting alerts about the queue.
    Alerts,
}

impl Task {
    /// The name in the database.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scaling => "scaling",
            Self::Overflow => "overflow",
            Self::Alerts => "alerts",
        }
    }

    /// How long a turn lasts, unless it is taken again before. A lock that is held would not outlast the decision.
    pub(crate) fn lasts(self) -> Duration {
        match self {
            // Long enough for a worker that is started to be counted by the others.
            Self::Scaling => Duration::from_secs(2),
            // Shorter than a lease: jobs are followed by the next one before they count as lost.
            Self::Overflow | Self::Alerts => Duration::from_secs(10),
        }
    }
}
