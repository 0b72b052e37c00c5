//! How jobs end: with a result, at their deadline, stopped, or handed back. The first outcome wins.

use std::collections::BTreeMap;

use crate::boundary::{Effect, FinalResult, JobCost, JobId, JobStatus, OutboxItem, Report, Time};
use crate::states::{Job, JobState, KillCause, Slot};
use crate::worker::Worker;
use bytes::Bytes;
use runpod_handler_protocol::{CancelReason, ErrorKind, ErrorReport, ToHandler};

/// What decides a job.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// An output.
    Completed(Bytes),
    /// An error.
    Failed(ErrorReport),
    /// Its deadline.
    TimedOut,
    /// The platform.
    Cancelled,
    /// Shutdown.
    HandedBack,
}

/// What came with the outcome.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The handler wants a fresh worker.
    pub(crate) refresh: bool,
    /// Figures recorded by the handler.
    pub(crate) records: BTreeMap<String, f64>,
}

impl Worker {
    /// Decides a job: frees its slot, posts its result, counts and reports it.
    pub(crate) fn finish(&mut self, now: Time, id: &JobId, outcome: Outcome, extras: Extras) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.state == JobState::Delivering {
            return;
        }
        let run_time = job.started_at.map(|started| now.since(started)).unwrap_or_default();
        let stop_time = job.stopping_since.map(|since| now.since(since));
        let (gpu_time, tenant, timeout) = (job.gpu_time, job.tenant.clone(), job.timeout);
        let process = job.place().map(|place| place.process);
        let device = job.place().and_then(|place| self.processes[place.process.0].device.clone());
        self.free_slot(id);
        if let Some(process) = process.map(|id| self.process(id)) {
            process.wear.job_ended(&extras.records);
            process.idle_since = now;
        }
        self.queue.retain(|queued| queued != id);

        let (status, result) = match outcome {
            Outcome::Completed(output) => (JobStatus::Completed, Some(Ok(output))),
            Outcome::Failed(error) => (JobStatus::Failed, Some(Err(error))),
            Outcome::TimedOut => {
                let message = format!("executionTimeout exceeded: the job was not over after {timeout:?}");
                let error = ErrorReport { kind: ErrorKind::Timeout, message, traceback: String::new() };
                (JobStatus::TimedOut, Some(Err(error)))
            }
            Outcome::Cancelled => (JobStatus::Cancelled, None),
            Outcome::HandedBack => (JobStatus::HandedBack, None),
        };
        self.count(status);
        self.book(status.into(), gpu_time);
        let cost = JobCost { gpu_time, dollars: self.price().map(|price| price.of(gpu_time)) };
        let error = result.as_ref().and_then(|result| result.as_ref().err().cloned());
        if let Some(error) = &error {
            *self.failures.entry(error.kind).or_default() += 1;
        }
        self.report(Report::JobFinished {
            job: id.clone(),
            status,
            error,
            run_time,
            tenant,
            stop_time,
            cost,
            device,
            records: extras.records,
        });

        let posted = result.is_some();
        let item = match result {
            Some(result) => {
                let streamed = self.manifest.as_ref().is_some_and(|manifest| manifest.streams);
                let stop_pod = extras.refresh || self.policy.refresh_worker;
                let cost = self.policy.cost_in_result.then_some(cost);
                let result = FinalResult { result, streamed, stop_pod, cost };
                // Said once: what comes of it has happened when the job is handed out again.
                self.recent.keep(id, &FinalResult { stop_pod: false, ..result.clone() });
                if let Some(job) = self.jobs.get_mut(id) {
                    job.state = JobState::Delivering;
                    job.stop_pod = stop_pod;
                    job.body = Bytes::new();
                }
                OutboxItem::Final(result)
            }
            None => {
                self.jobs.remove(id);
                OutboxItem::Discard
            }
        };
        self.emit(Effect::Deliver { job: id.clone(), item });
        if posted {
            self.refresh(now, process, extras.refresh);
        }
    }

    pub(crate) fn fail(&mut self, now: Time, id: &JobId, error: ErrorReport) {
        self.finish(now, id, Outcome::Failed(error), Extras::default());
    }

    fn count(&mut self, status: JobStatus) {
        match status {
            JobStatus::Completed => self.counts.completed += 1,
            JobStatus::Failed => self.counts.failed += 1,
            JobStatus::TimedOut => {
                self.counts.failed += 1;
                self.counts.timed_out += 1;
            }
            JobStatus::Cancelled => self.counts.cancelled += 1,
            JobStatus::HandedBack => self.counts.handed_back += 1,
        }
    }

    fn free_slot(&mut self, id: &JobId) {
        let Some(place) = self.jobs.get(id).and_then(Job::place) else { return };
        let slot = &mut self.process(place.process).slots[place.slot as usize];
        if slot.job() == Some(id) {
            *slot = Slot::Ready;
        }
    }

    /// The platform wants a job stopped. Ids that are already decided are ignored; those that are not held may be on their
    /// way.
    pub(crate) fn stop_requested(&mut self, now: Time, id: &JobId) {
        match self.jobs.get_mut(id).map(|job| &mut job.state) {
            Some(JobState::Queued) => self.finish(now, id, Outcome::Cancelled, Extras::default()),
            Some(JobState::Assigned(_) | JobState::Running(_)) => self.ask_to_stop(now, id, CancelReason::Stopped),
            // Whatever else was going to end it: the platform no longer wants to hear of it.
            Some(JobState::Stopping { why, .. }) => *why = CancelReason::Stopped,
            Some(JobState::Delivering) => {}
            None if self.recent.get(id).is_some() => {}
            None => self.poll.stopped_early(id),
        }
    }

    /// Asks a running job to stop at its next cancellation point; its process is killed when it does not.
    pub(crate) fn ask_to_stop(&mut self, now: Time, id: &JobId, why: CancelReason) {
        let kill_at = now + self.policy.cancel_grace;
        let Some(job) = self.jobs.get_mut(id) else { return };
        let Some(place) = job.place() else { return };
        job.state = JobState::Stopping { place, why, kill_at };
        job.stopping_since = Some(now);
        let message = ToHandler::Cancel { job: id.as_str().to_owned(), attempt: job.attempt, reason: why };
        self.process(place.process).slots[place.slot as usize] = Slot::Lingering(id.clone());
        self.report(Report::JobStopping { job: id.clone(), reason: why.to_string() });
        self.emit(Effect::Send { process: place.process, message, payload: Bytes::new() });
    }

    /// Ends a job that was asked to stop and is now over without a result of its own.
    pub(crate) fn settle_stopped(&mut self, now: Time, id: &JobId, why: CancelReason) {
        let outcome = match why {
            CancelReason::Deadline => Outcome::TimedOut,
            CancelReason::Stopped => Outcome::Cancelled,
            CancelReason::Drain => Outcome::HandedBack,
        };
        self.finish(now, id, outcome, Extras::default());
    }

    /// Deadlines of jobs: queued ones time out, running ones are asked to stop, overdue ones cost their process.
    pub(crate) fn expire_jobs(&mut self, now: Time) {
        let due: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| self.watches(job) && job.next_deadline().is_some_and(|deadline| deadline <= now))
            .map(|job| job.id.clone())
            .collect();
        for id in due {
            match self.jobs.get(&id).map(|job| job.state) {
                Some(JobState::Queued) => self.finish(now, &id, Outcome::TimedOut, Extras::default()),
                Some(JobState::Assigned(_) | JobState::Running(_)) => {
                    self.ask_to_stop(now, &id, CancelReason::Deadline);
                }
                Some(JobState::Stopping { place, .. }) => self.condemn(now, place.process, KillCause::Overdue),
                Some(JobState::Delivering) | None => {}
            }
        }
    }

    /// Whether a job's own deadline still matters. Once its process is being replaced, that has a limit of its own.
    pub(crate) fn watches(&self, job: &Job) -> bool {
        !matches!(job.state, JobState::Stopping { place, .. } if !self.processes[place.process.0].is_patient())
    }
}
