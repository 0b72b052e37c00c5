//! The poll in flight and what is known of the queue.

use super::absence::Leave;
use crate::boundary::{JobId, PollAnswer, Time};
use std::collections::BTreeSet;

/// Stop requests that are kept for jobs still on their way; one poll cannot bring more jobs than this many slots ask for.
const MAX_EARLY_STOPS: usize = 4096;

/// The poll and what is known of the queue.
#[derive(Debug, Default)]
pub(crate) struct Poll {
    /// A poll is under way.
    pub in_flight: bool,
    /// It was told to end.
    pub(crate) aborted: bool,
    /// Earliest next poll.
    pub(crate) not_before: Time,
    /// Whether the worker is away from the queue, or about to be.
    pub leave: Leave,
    /// The queue's last answer was 429.
    pub throttled: bool,
    /// The queue has been asked at least once.
    pub begun: bool,
    /// When the last poll ended, and how.
    pub last: Option<(Time, &'static str)>,
    /// Jobs that the platform stopped while the answer that brings them was on its way. The stop channel is a connection of
    /// its own, and a stop is said once, so it may come first and must not be forgotten. Kept until the poll ends.
    pub(crate) early_stops: BTreeSet<JobId>,
}

impl Poll {
    /// Takes note of a stop request for a job that is not known. Without a poll under way no such job can come.
    pub(crate) fn stopped_early(&mut self, job: &JobId) {
        if self.in_flight && self.early_stops.len() < MAX_EARLY_STOPS {
            self.early_stops.insert(job.clone());
        }
    }

    /// Whether the poll under way was told to end.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// Takes note of how a poll ended.
    pub(crate) fn ended(&mut self, now: Time, answer: &PollAnswer) {
        self.in_flight = false;
        self.aborted = false;
        self.last = Some((now, answer.outcome()));
        match answer {
            PollAnswer::Jobs(_) | PollAnswer::Empty => {
                self.throttled = false;
                self.not_before = now;
            }
            PollAnswer::RateLimited { retry_after } => {
                self.throttled = true;
                self.not_before = now + *retry_after;
            }
            PollAnswer::Failed { retry_after } => self.not_before = now + *retry_after,
            PollAnswer::Aborted => self.not_before = now,
        }
    }
}
