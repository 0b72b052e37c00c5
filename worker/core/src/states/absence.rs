//! Whether the worker stays away from its queue.

use crate::boundary::Time;

/// Where the worker is in this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It polls.
    #[default]
    None,
    /// It waits until it holds nothing: what it holds may be the result that says `stopPod`.
    Due {
        /// A queue that does not take that result keeps it from polling only for so long; `None` once the queue has it.
        patience: Option<Time>,
    },
    /// It is away.
    Until(Time),
}
