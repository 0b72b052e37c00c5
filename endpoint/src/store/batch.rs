//! A batch: thousands of jobs with one state, which run when no other job waits.

use std::ops::AddAssign;
use std::sync::Arc;

use super::clock::Timestamp;
use super::status::Status;

/// Batch ids, unique within one endpoint.
pub type BatchId = Arc<str>;

/// The states of a batch. None of them says that it has ended: that is when all of its requests have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// Requests may be added and removed; nothing runs.
    Draft,
    /// Its requests are fixed. They wait, run and end.
    Finalized,
    /// Cancelled, while requests that were taken before run to their end.
    Cancelling,
    /// Cancelled, and nothing of it runs any more.
    Cancelled,
}

impl BatchState {
    pub(crate) const ALL: [Self; 4] = [Self::Draft, Self::Finalized, Self::Cancelling, Self::Cancelled];

    /// The name in the data file.
    pub(crate) fn stored_name(self) -> &'static str {
        match self {
            Self::Draft => "DRAFT",
            Self::Finalized => "FINALIZED",
            Self::Cancelling => "CANCELLING",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The name on the wire. CANCELLED is shown only once nothing of the batch runs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelling => Self::Finalized.stored_name(),
            state => state.stored_name(),
        }
    }
}

/// The requests of a batch by their state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Wait for a worker, or for the batch to be finalized.
    pub waiting: usize,
    /// Held by workers, or waiting to be retried.
    pub in_progress: usize,
    /// Ended with a result.
    pub completed: usize,
    /// Ended with an error, or not within their time.
    pub failed: usize,
    /// Cancelled.
    pub cancelled: usize,
}

impl AddAssign for BatchCounts {
    fn add_assign(&mut self, other: Self) {
        self.waiting += other.waiting;
        self.in_progress += other.in_progress;
        self.completed += other.completed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
    }
}

impl BatchCounts {
    /// The counter of a state.
    pub(crate) fn of(&mut self, status: Status) -> &mut usize {
        match status {
            Status::InQueue => &mut self.waiting,
            Status::InProgress => &mut self.in_progress,
            Status::Completed => &mut self.completed,
            Status::Failed | Status::TimedOut => &mut self.failed,
            Status::Cancelled => &mut self.cancelled,
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.unfinished() + self.completed + self.failed + self.cancelled
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.waiting + self.in_progress
    }
}

/// A batch as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchView {
    /// The batch.
    pub id: BatchId,
    /// What a client has called it.
    pub name: Option<Arc<str>>,
    /// Its state.
    pub state: BatchState,
    /// Its requests.
    pub counts: BatchCounts,
    /// When it was created.
    pub created: Timestamp,
}
