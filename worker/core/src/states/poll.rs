//! The poll in flight, and what earlier polls have shown about the queue.

use std::collections::BTreeSet;

use super::absence::Absence;
use crate::boundary::{JobId, PollAnswer, PollBlocker, Time};

/// The worker's requests for jobs.
#[derive(Debug, Default)]
pub(crate) struct Poll {
    /// A poll is in flight.
    pub in_flight: bool,
    /// The poll in flight was asked to end.
    pub aborted: bool,
    /// The queue was polled at least once.
    pub begun: bool,
    /// The next poll may not start earlier.
    pub not_before: Time,
    /// Why `not_before` lies ahead.
    pause: Option<PollBlocker>,
    /// What went wrong with the last poll, if it failed.
    pub failure: Option<String>,
    /// Whether the worker stays away from its queue.
    pub absence: Absence,
    /// When the last poll ended, and its outcome.
    pub last: Option<(Time, &'static str)>,
    /// Jobs that were stopped while the poll in flight may bring them. The stop channel is a connection of its own and
    /// delivers each stop once, so a stop may overtake its job.
    early_stops: BTreeSet<JobId>,
}

impl Poll {
    /// A poll starts.
    pub(crate) fn start(&mut self) {
        self.in_flight = true;
        self.begun = true;
    }

    /// The poll in flight has ended.
    pub(crate) fn ended(&mut self, now: Time, answer: &PollAnswer) {
        self.in_flight = false;
        self.aborted = false;
        self.last = Some((now, answer.outcome()));
        self.not_before = now;
        self.failure = None;
        match answer {
            PollAnswer::Jobs(_) | PollAnswer::Empty => self.pause = None,
            PollAnswer::RateLimited { retry_after } => {
                self.pause = Some(PollBlocker::RateLimited);
                self.not_before = now + *retry_after;
            }
            PollAnswer::Failed { retry_after, reason } => {
                self.failure = Some(reason.clone());
                // A queue that limits requests and then fails is still limited.
                self.pause.get_or_insert(PollBlocker::QueueUnavailable);
                self.not_before = now + *retry_after;
            }
            PollAnswer::Aborted => {}
        }
    }

    /// The pause after a failed poll ends now. One that the queue has asked for by 429 is kept.
    pub(crate) fn end_pause(&mut self, now: Time) {
        if self.pause == Some(PollBlocker::QueueUnavailable) {
            self.not_before = self.not_before.min(now);
        }
    }

    /// Whether the queue's last answer was 429.
    pub(crate) fn is_rate_limited(&self) -> bool {
        self.pause == Some(PollBlocker::RateLimited)
    }

    /// Why the next poll has to wait, if it has to.
    pub(crate) fn pause(&self, now: Time) -> Option<PollBlocker> {
        self.pause.filter(|_| now < self.not_before)
    }

    /// Remembers a stop for a job that the worker does not hold. Without a poll in flight no such job can arrive.
    pub(crate) fn note_early_stop(&mut self, job: &JobId, limit: usize) {
        if self.in_flight && self.early_stops.len() < limit {
            self.early_stops.insert(job.clone());
        }
    }

    /// Whether the job was stopped before it arrived. Each stop counts once.
    pub(crate) fn take_early_stop(&mut self, job: &JobId) -> bool {
        self.early_stops.remove(job)
    }

    /// All jobs of the poll have arrived; stops of other jobs have no job to wait for.
    pub(crate) fn forget_early_stops(&mut self) {
        self.early_stops.clear();
    }
}
