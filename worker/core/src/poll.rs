//! Rule: when the queue is asked for jobs, and for how many. Jobs are asked for only when they can start.

use std::collections::BTreeSet;

use crate::boundary::{Effect, PollAnswer, PollBlocker, Report, Time};
use crate::states::{Absence, DeliveredJob, Process};
use crate::worker::Worker;

/// How many times longer than the delivery of its result a job must have run, so that jobs are taken while many results wait. More than
/// one, because the time of a run includes the wait for a processor.
const LONG_RUN: u32 = 4;

impl Worker {
    /// Starts a poll, or aborts the one in flight when no job is wanted any more.
    pub(crate) fn update_poll(&mut self, now: Time) {
        let blocker = self.poll_blocker(now);
        if self.poll.in_flight {
            // A drain gives the poll in flight a grace of its own.
            if blocker.is_some_and(|blocker| blocker != PollBlocker::Draining && !blocker.only_delays()) {
                self.abort_poll();
            }
        } else if blocker.is_none() {
            self.poll.start();
            let want = self.free_places().min(self.policy.poll_jobs);
            self.emit(Effect::Poll { want, holding: !self.jobs.is_empty() });
        }
    }

    /// Asks the poll in flight to end.
    pub(crate) fn abort_poll(&mut self) {
        if self.poll.in_flight && !self.poll.aborted {
            self.poll.aborted = true;
            self.emit(Effect::AbortPoll);
        }
    }

    /// The poll in flight has ended: takes in its jobs.
    pub(crate) fn poll_ended(&mut self, now: Time, answer: PollAnswer) {
        self.poll.ended(now, &answer);
        if let PollAnswer::Jobs(jobs) = answer {
            // One answer may name a job twice, and the first of the two may have ended before the second is looked at.
            let mut seen = BTreeSet::new();
            for job in &jobs {
                if seen.insert(&job.id) {
                    self.take(now, job);
                } else {
                    self.report(Report::DuplicateJob { job: job.id.clone() });
                }
            }
        }
        self.poll.forget_early_stops();
    }

    /// When the next poll may start, if only a pause delays it.
    pub(crate) fn poll_deadline(&self) -> Option<Time> {
        let only_a_pause = !self.poll.in_flight && self.poll_blocker(self.poll.not_before).is_none();
        only_a_pause.then_some(self.poll.not_before)
    }

    /// Why no job is asked for at this time; `None` when one is. With several reasons it is the most important one.
    pub(crate) fn poll_blocker(&self, now: Time) -> Option<PollBlocker> {
        if !self.lifecycle.is_working() {
            Some(PollBlocker::Draining)
        } else if !self.is_serving() {
            Some(PollBlocker::NotServing)
        } else if self.outbox_full {
            Some(PollBlocker::OutboxFull)
        } else if self.undelivered.delays_polling() {
            Some(PollBlocker::UndeliveredResults)
        } else if self.has_suspects() {
            Some(PollBlocker::SuspectJobs)
        } else if self.poll.absence != Absence::None {
            Some(PollBlocker::Refreshing)
        } else if let Some(pause) = self.poll.pause(now) {
            Some(pause)
        } else if self.is_delivery_behind() {
            Some(PollBlocker::DeliveryBehind)
        } else if self.free_places() == 0 {
            Some(PollBlocker::NoFreeSlot)
        } else {
            None
        }
    }

    /// Whether a job that may have crashed its process waits for its next run, or is in it.
    pub(crate) fn has_suspects(&self) -> bool {
        self.jobs.totals().suspects > 0
    }

    /// Whether a job that is taken now would only make the line of results longer: many results wait for their turn, and the one that
    /// was delivered last waited for long, compared to the run of its job. Jobs that run for much longer than that are taken: when they
    /// end, the line is gone.
    pub(crate) fn is_delivery_behind(&self) -> bool {
        let DeliveredJob { run_time, delivery_time } = self.delivered_last;
        self.delivery_behind && run_time <= delivery_time * LONG_RUN
    }

    /// How many more jobs can be held: in ready slots, and beyond them up to the prefetch.
    fn free_places(&self) -> usize {
        let ready: usize = self.processes.iter().map(Process::ready_slots).sum();
        (ready + self.policy.prefetch).saturating_sub(self.waiting.len())
    }
}
