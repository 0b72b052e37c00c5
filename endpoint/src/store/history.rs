//! The states that a job went through.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::status::Status;

/// Changes of state kept for one job. The first ones stay; of later ones the newest replaces the last.
const MAX_TRANSITIONS: usize = 64;

/// A job entered a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The state. A job that goes back to the queue is `IN_QUEUE` here, although clients keep seeing `IN_PROGRESS`.
    pub status: Status,
    /// When.
    pub at: Timestamp,
    /// The worker that took it.
    pub worker: Option<Arc<str>>,
}

/// The part of a job that only observers need.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    /// Grows with every change of the job.
    pub(crate) revision: u64,
    transitions: Vec<Transition>,
}

impl History {
    /// Notes a change, which may or may not be one of the state.
    pub(crate) fn note(&mut self, next: Transition) {
        self.revision += 1;
        if let Some(last) = self.transitions.last_mut().filter(|last| last.status == next.status) {
            // A job taken under the placeholder name becomes known as its worker's own.
            last.worker = next.worker;
            return;
        }
        if self.transitions.len() == MAX_TRANSITIONS {
            self.transitions.pop();
        }
        self.transitions.push(next);
    }

    pub(crate) fn transitions(&self) -> &[Transition] {
        &self.transitions
    }
}
