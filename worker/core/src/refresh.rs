//! Staying away from a queue that was told `stopPod` by a worker which replaces only its handler.
//!
//! A queue that honours `stopPod` takes the worker for gone, and gives its name nothing until it has seen a new one: a name
//! that holds no job and has not polled for a while, as it is with a container that was replaced. A worker that polled sooner
//! would be taken for the old one, and each such poll begins the queue's wait anew.

use crate::boundary::{JobId, Time};
use crate::states::{JobState, Leave};
use crate::worker::Worker;
use std::time::Duration;

/// How long the worker is away.
const AWAY: Duration = Duration::from_secs(5);

impl Worker {
    /// A job has asked for a fresh worker. Its result, which says so, is about to be posted.
    pub(crate) fn leave_soon(&mut self, now: Time) {
        if !self.policy.queue_recycles {
            return;
        }
        // A queue that was told already is stayed away from, whatever becomes of this result.
        let patience = match self.poll.leave {
            Leave::Due { patience: None } => None,
            _ => Some(now + self.policy.undelivered_grace),
        };
        self.poll.leave = Leave::Due { patience };
    }

    /// The queue has the result of a job. If that said `stopPod`, the queue takes this worker for gone from now on.
    pub(crate) fn leave_with(&mut self, job: &JobId) {
        let says_so = self.jobs.get(job).is_some_and(|job| job.stop_pod && job.state == JobState::Delivering);
        if says_so && self.policy.queue_recycles {
            self.poll.leave = Leave::Due { patience: None };
        }
    }

    /// Moves on when nothing is held any more, or time is up.
    pub(crate) fn leave_or_return(&mut self, now: Time) {
        match self.poll.leave {
            Leave::Due { .. } if self.jobs.is_empty() && !self.poll.in_flight => {
                self.poll.leave = Leave::Until(now + AWAY);
            }
            Leave::Due { patience: Some(until) } | Leave::Until(until) if now >= until => {
                self.poll.leave = Leave::None;
            }
            Leave::None | Leave::Due { .. } | Leave::Until(_) => {}
        }
    }

    /// When time is up.
    pub(crate) fn leave_deadline(&self) -> Option<Time> {
        match self.poll.leave {
            Leave::None => None,
            Leave::Due { patience } => patience,
            Leave::Until(until) => Some(until),
        }
    }
}
