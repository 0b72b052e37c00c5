//! Filling slots and asking for more: a job is asked for only when a slot is ready for it.

use std::time::Duration;

use crate::boundary::{Effect, JobId, OutboxItem, Report, SlotRef, TakenJob, Time};
use crate::ending::{Extras, Outcome};
use crate::states::{Job, JobState, Leave, Lifecycle, Slot};
use crate::worker::Worker;
use runpod_handler_protocol::{ErrorKind, ErrorReport, ToHandler};

impl Worker {
    /// Takes in a job that the queue has handed out. Whatever is wrong with it, it gets an answer.
    pub(crate) fn take(&mut self, now: Time, taken: &TakenJob) {
        if self.jobs.contains_key(&taken.id) {
            self.report(Report::DuplicateJob { job: taken.id.clone() });
            return;
        }
        if matches!(self.lifecycle, Lifecycle::Closing { .. } | Lifecycle::Over { .. }) {
            // Never acknowledged in a heartbeat, so the queue gives it to another worker.
            self.report(Report::JobRejected { job: taken.id.clone() });
            return;
        }
        if let Some(result) = self.recent.get(&taken.id).cloned() {
            let mut job = Job::new(taken, bytes::Bytes::new(), now, self.policy.job_timeout);
            job.state = JobState::Delivering;
            self.jobs.insert(taken.id.clone(), job);
            self.report(Report::DuplicateJob { job: taken.id.clone() });
            self.emit(Effect::Deliver { job: taken.id.clone(), item: OutboxItem::Final(result) });
            return;
        }
        self.report(Report::JobTaken { job: taken.id.clone(), tenant: taken.tenant.clone() });
        if self.poll.early_stops.remove(&taken.id) {
            let job = Job::new(taken, bytes::Bytes::new(), now, self.policy.job_timeout);
            self.jobs.insert(taken.id.clone(), job);
            self.finish(now, &taken.id, Outcome::Cancelled, Extras::default());
            return;
        }
        match &taken.body {
            Ok(body) => {
                let job = Job::new(taken, body.clone(), now, self.policy.job_timeout);
                self.jobs.insert(taken.id.clone(), job);
                self.queue.push_back(taken.id.clone());
            }
            Err(reason) => {
                let job = Job::new(taken, bytes::Bytes::new(), now, self.policy.job_timeout);
                self.jobs.insert(taken.id.clone(), job);
                let error =
                    ErrorReport { kind: ErrorKind::Protocol, message: reason.clone(), traceback: String::new() };
                self.fail(now, &taken.id, error);
            }
        }
    }

    /// The jobs of a poll are all here; what was stopped and did not come is not on its way any more.
    pub(crate) fn forget_early_stops(&mut self) {
        self.poll.early_stops.clear();
    }

    /// Gives queued jobs to ready slots.
    pub(crate) fn assign(&mut self, now: Time) {
        while let Some((job, place)) = self.next_assignment() {
            self.queue.retain(|id| *id != job);
            self.run(now, &job, place);
        }
    }

    /// The next job to start and where. A job that runs alone gets a process without any other job, and everything else
    /// waits until it is over.
    fn next_assignment(&self) -> Option<(JobId, SlotRef)> {
        let alone = |id: &&JobId| self.jobs.get(*id).is_some_and(|job| job.alone);
        if self.has_suspects() {
            if self.jobs.values().any(|job| job.alone && job.place().is_some()) {
                return None;
            }
            let job = self.queue.iter().find(alone)?;
            let quiet = self.processes.iter().filter(|process| process.is_quiet());
            let place = quiet
                .flat_map(|process| process.ready_slots().map(|slot| SlotRef { process: process.id, slot }))
                .next()?;
            return Some((job.clone(), place));
        }
        let job = self.queue.front()?;
        // The process with the fewest jobs, so that several GPUs share the work.
        let place = self
            .processes
            .iter()
            .filter_map(|process| process.ready_slots().next().map(|slot| (process, slot)))
            .min_by_key(|(process, _)| process.slots.iter().filter(|slot| slot.job().is_some()).count())
            .map(|(process, slot)| SlotRef { process: process.id, slot })?;
        Some((job.clone(), place))
    }

    fn run(&mut self, now: Time, id: &JobId, place: SlotRef) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.attempt += 1;
        job.state = JobState::Assigned(place);
        job.started_at = Some(now);
        job.gpu_time = Duration::ZERO;
        let message = ToHandler::Run {
            job: id.as_str().to_owned(),
            attempt: job.attempt,
            slot: place.slot,
            deadline_ms: u64::try_from(job.deadline.since(now).as_millis()).unwrap_or(u64::MAX),
            traceparent: job.traceparent.clone(),
        };
        let payload = job.body.clone();
        let report = Report::JobStarted { job: id.clone(), attempt: job.attempt, waited: now.since(job.taken_at) };
        self.process(place.process).slots[place.slot as usize] = Slot::Busy(id.clone());
        self.report(report);
        self.emit(Effect::Send { process: place.process, message, payload });
    }

    /// Starts a poll, or ends one that is no longer wanted.
    pub(crate) fn direct_poll(&mut self, now: Time) {
        if self.poll.in_flight {
            if !self.may_poll() && matches!(self.lifecycle, Lifecycle::Working) {
                self.abort_poll();
            }
            return;
        }
        let want = self.wanted();
        if want > 0 && self.poll.not_before <= now {
            self.poll.in_flight = true;
            self.poll.begun = true;
            self.emit(Effect::Poll { want, holding: !self.jobs.is_empty() });
        }
    }

    pub(crate) fn abort_poll(&mut self) {
        if self.poll.in_flight && !self.poll.aborted {
            self.poll.aborted = true;
            self.emit(Effect::AbortPoll);
        }
    }

    /// When the next poll may start, if one is wanted.
    pub(crate) fn poll_deadline(&self) -> Option<Time> {
        (!self.poll.in_flight && self.wanted() > 0).then_some(self.poll.not_before)
    }

    /// How many more jobs can be started at once, plus the prefetch.
    fn wanted(&self) -> usize {
        if !self.may_poll() {
            return 0;
        }
        let ready: usize = self.processes.iter().map(|process| process.ready_slots().count()).sum();
        (ready + self.policy.prefetch).saturating_sub(self.queue.len())
    }

    /// Whether taking a job is right at all: something serves, nothing is suspect, results can leave.
    fn may_poll(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Working)
            && !self.outbox_full
            && !self.leftovers.pending()
            && !self.has_suspects()
            && self.poll.leave == Leave::None
            && self.is_serving()
    }

    fn has_suspects(&self) -> bool {
        self.jobs.values().any(|job| job.alone && job.state != JobState::Delivering)
    }
}
