//! Rule: which waiting job runs next, and in which slot.

use runpod_handler_protocol::ToHandler;

use crate::boundary::{Effect, JobId, Report, SlotRef, Time};
use crate::states::{JobState, Slot};
use crate::worker::Worker;

impl Worker {
    /// Sends waiting jobs to ready slots.
    pub(crate) fn assign(&mut self, now: Time) {
        while let Some((job, slot)) = self.next_assignment() {
            if self.waiting.front() == Some(&job) {
                self.waiting.pop_front();
            } else {
                self.waiting.retain(|id| *id != job);
            }
            self.run(now, &job, slot);
        }
    }

    /// The next job to start and its slot. Suspects go first, one at a time, each in a process without any other job; all
    /// other jobs wait until the last suspect has ended.
    fn next_assignment(&self) -> Option<(JobId, SlotRef)> {
        if self.has_suspects() { self.next_suspect() } else { self.next_in_line() }
    }

    fn next_suspect(&self) -> Option<(JobId, SlotRef)> {
        if self.jobs.totals().suspects_in_slots > 0 {
            return None;
        }
        let job = self.waiting.iter().find(|id| self.jobs.get(id).is_some_and(|job| job.runs_alone))?;
        let mut idle = self.processes.iter().filter(|process| process.is_idle());
        let slot = idle.find_map(|process| Some(SlotRef { process: process.id, slot: process.ready_slot()? }))?;
        Some((job.clone(), slot))
    }

    fn next_in_line(&self) -> Option<(JobId, SlotRef)> {
        let job = self.waiting.front()?;
        // The process with the fewest jobs, so that all GPUs share the work.
        let ready = self.processes.iter().filter_map(|process| Some((process, process.ready_slot()?)));
        let (process, slot) = ready.min_by_key(|(process, _)| process.slots.busy())?;
        Some((job.clone(), SlotRef { process: process.id, slot }))
    }

    fn run(&mut self, now: Time, id: &JobId, slot: SlotRef) {
        let share = self.process(slot.process).share;
        let Some(mut job) = self.jobs.get_mut(id) else { return };
        job.attempt += 1;
        job.model = None;
        job.state = JobState::Assigned(slot);
        job.started_at = Some(now);
        job.share_at_start = share;
        let message = ToHandler::Run {
            job: id.as_str().to_owned(),
            attempt: job.attempt,
            slot: slot.slot,
            deadline_ms: u64::try_from(job.deadline.since(now).as_millis()).unwrap_or(u64::MAX),
            traceparent: job.traceparent.clone(),
        };
        let payload = job.body.clone();
        let report = Report::JobStarted { job: id.clone(), attempt: job.attempt, waited: now.since(job.taken_at) };
        drop(job);
        self.process(slot.process).slots.set(slot.slot, Slot::Busy(id.clone()));
        self.report(report);
        self.emit(Effect::Send { process: slot.process, message, payload });
    }
}
