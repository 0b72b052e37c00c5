//! Absence from the queue after a job has asked for a fresh worker.

use crate::boundary::Time;

/// Whether the worker stays away from its queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It polls.
    #[default]
    None,
    /// It does not poll until it holds no job. One of them may be the job whose result carries `stopPod`.
    Pending {
        /// When it polls again although the queue has not accepted that result; `None` once the queue has it.
        until: Option<Time>,
    },
    /// It does not poll before this time.
    Until(Time),
}
