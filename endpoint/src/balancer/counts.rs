//! What `/metrics` shows of the requests.

use std::ops::AddAssign;

use crate::store::Distribution;

/// Classes of status, from 1xx on.
pub(crate) const CLASSES: usize = 5;

/// What was counted since the start of the program.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestTotals {
    /// Answers that have begun, by class of status.
    pub(crate) answers: [u64; CLASSES],
    /// How long requests waited for a worker, whether they got one or not.
    pub(crate) wait: Distribution,
    /// From the arrival of a request to the last byte of its answer. WebSockets are left out.
    pub(crate) duration: Distribution,
}

/// The requests of one endpoint, or of several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestFigures {
    pub(crate) totals: RequestTotals,
    /// Requests that wait for a worker.
    pub(crate) waiting: usize,
    /// Requests at workers, open WebSockets included.
    pub(crate) in_progress: usize,
}

impl AddAssign for RequestFigures {
    fn add_assign(&mut self, other: Self) {
        self.totals.answers.iter_mut().zip(other.totals.answers).for_each(|(sum, more)| *sum += more);
        self.totals.wait += other.totals.wait;
        self.totals.duration += other.totals.duration;
        self.waiting += other.waiting;
        self.in_progress += other.in_progress;
    }
}
