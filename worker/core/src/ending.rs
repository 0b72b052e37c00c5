//! Rule: how jobs end. With a result, at their deadline, cancelled, or handed back; the first outcome wins.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ErrorReport, StopReason, ToHandler};

use crate::boundary::{Effect, FinalResult, JobCost, JobId, JobStatus, OutboxItem, Report, Time};
use crate::states::{Job, JobState, KillCause, Slot};
use crate::worker::Worker;

/// What decides a job.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The handler returned an output.
    Completed(Bytes),
    /// The handler returned an error, or its process exited.
    Failed(ErrorReport),
    /// Its deadline has passed.
    TimedOut,
    /// A client has cancelled it.
    Cancelled,
    /// It goes back to the queue, unfinished.
    HandedBack,
}

impl Outcome {
    /// The status that is counted, and the result to post, if there is one.
    fn into_result(self, timeout: Duration) -> (JobStatus, Option<Result<Bytes, ErrorReport>>) {
        match self {
            Self::Completed(output) => (JobStatus::Completed, Some(Ok(output))),
            Self::Failed(error) => (JobStatus::Failed, Some(Err(error))),
            Self::TimedOut => {
                let message = format!("executionTimeout exceeded: the job was not over after {timeout:?}");
                let error = ErrorReport { kind: ErrorKind::Timeout, message, traceback: String::new() };
                (JobStatus::TimedOut, Some(Err(error)))
            }
            Self::Cancelled => (JobStatus::Cancelled, None),
            Self::HandedBack => (JobStatus::HandedBack, None),
        }
    }
}

/// What the handler sends along with an outcome.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The handler asks for a fresh worker.
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
        let (gpu_time, tenant, timeout) = (self.gpu_time_of(job), job.tenant.clone(), job.timeout);
        let process = job.slot().map(|slot| slot.process);
        let device = process.and_then(|process| self.processes[process.0].device.clone());
        let was_queued = job.state == JobState::Queued;
        self.free_slot(id);
        if let Some(process) = process.map(|id| self.process(id)) {
            process.wear.job_ended(&extras.records);
            process.idle_since = now;
        }
        if was_queued {
            self.waiting.retain(|queued| queued != id);
        }

        let (status, result) = outcome.into_result(timeout);
        self.count(status);
        self.account_run(status.into(), gpu_time);
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

        let Some(result) = result else {
            self.emit(Effect::Deliver { job: id.clone(), item: OutboxItem::Discard });
            // The stop may belong to an earlier run under this id; if so, the queue gives the job out again.
            self.emit(Effect::HandBack { job: id.clone() });
            self.close_job(now, id);
            return;
        };
        self.post_result(now, id, result, cost, extras.refresh);
        self.refresh(now, process, extras.refresh);
    }

    /// Removes a job from the table. If the queue has handed it out again meanwhile, it is taken in anew.
    pub(crate) fn close_job(&mut self, now: Time, id: &JobId) {
        let Some(job) = self.jobs.remove(id) else { return };
        self.ended.insert(id);
        if let Some(taken) = job.taken_again {
            self.take(now, &taken);
        }
    }

    /// Fails a job with this error.
    pub(crate) fn fail(&mut self, now: Time, id: &JobId, error: ErrorReport) {
        self.finish(now, id, Outcome::Failed(error), Extras::default());
    }

    /// Decides a job that was asked to stop and has ended without a result of its own.
    pub(crate) fn finish_stopped(&mut self, now: Time, id: &JobId, why: StopReason) {
        let outcome = match why {
            StopReason::Deadline => Outcome::TimedOut,
            StopReason::Cancelled => Outcome::Cancelled,
            StopReason::Drain => Outcome::HandedBack,
        };
        self.finish(now, id, outcome, Extras::default());
    }

    /// The queue wants a job stopped. A job whose result is decided is left alone. One that is not held may still arrive,
    /// unless it has ended here: then the stop is late, and must not hit a retry that is on its way under the same id.
    pub(crate) fn stop_requested(&mut self, now: Time, id: &JobId) {
        let Some(mut job) = self.jobs.get_mut(id) else {
            if !self.ended.contains(id) {
                self.poll.note_early_stop(id, self.policy.early_stop_limit);
            }
            return;
        };
        if job.taken_again.take().is_some() {
            drop(job);
            self.emit(Effect::HandBack { job: id.clone() });
            return;
        }
        // Whatever else was going to end it, the queue does not want its result any more.
        if let JobState::Stopping { why, .. } = &mut job.state {
            *why = StopReason::Cancelled;
        }
        let state = job.state;
        drop(job);
        match state {
            JobState::Queued | JobState::Undecided { .. } => {
                self.finish(now, id, Outcome::Cancelled, Extras::default());
            }
            JobState::Assigned(_) | JobState::Running(_) => self.ask_to_stop(now, id, StopReason::Cancelled),
            JobState::Stopping { .. } | JobState::Delivering => {}
        }
    }

    /// Asks a running job to stop. Its process is killed if the job does not stop within the cancel grace.
    pub(crate) fn ask_to_stop(&mut self, now: Time, id: &JobId, why: StopReason) {
        let kill_at = now + self.policy.cancel_grace;
        let Some(mut job) = self.jobs.get_mut(id) else { return };
        let Some(slot) = job.slot() else { return };
        job.state = JobState::Stopping { slot, why, kill_at };
        job.stopping_since = Some(now);
        let message = ToHandler::Stop { job: id.as_str().to_owned(), attempt: job.attempt, reason: why };
        drop(job);
        self.process(slot.process).slots.set(slot.slot, Slot::Lingering(id.clone()));
        self.report(Report::JobStopping { job: id.clone(), reason: why.to_string() });
        self.emit(Effect::Send { process: slot.process, message, payload: Bytes::new() });
    }

    /// Deadlines of jobs: waiting ones time out, running ones are asked to stop, and one that does not stop costs its
    /// process.
    pub(crate) fn expire_jobs(&mut self, now: Time) {
        let due = self.jobs.due(now).filter(|job| self.job_deadline_applies(job)).map(|job| job.id.clone());
        let due: Vec<JobId> = due.collect();
        for id in due {
            match self.jobs.get(&id).map(|job| job.state) {
                Some(JobState::Queued) => self.finish(now, &id, Outcome::TimedOut, Extras::default()),
                Some(JobState::Assigned(_) | JobState::Running(_)) => {
                    self.ask_to_stop(now, &id, StopReason::Deadline);
                }
                Some(JobState::Stopping { slot, .. }) => self.retire_process(now, slot.process, KillCause::Overdue),
                Some(JobState::Undecided { .. }) => self.fail_undecided(now, &id),
                Some(JobState::Delivering) | None => {}
            }
        }
    }

    /// Whether the next deadline of a job counts. A job that was asked to stop in a process that is being replaced ends with
    /// that process.
    pub(crate) fn job_deadline_applies(&self, job: &Job) -> bool {
        !matches!(job.state, JobState::Stopping { slot, .. } if !self.processes[slot.process.0].job_deadlines_apply())
    }

    fn post_result(&mut self, now: Time, id: &JobId, result: Result<Bytes, ErrorReport>, cost: JobCost, refresh: bool) {
        let streamed = self.manifest.as_ref().is_some_and(|manifest| manifest.streams);
        let stop_pod = refresh || self.policy.refresh_worker;
        let cost = self.policy.cost_in_result.then_some(cost);
        let result = FinalResult { result, streamed, stop_pod, cost };
        // A result that is delivered again, later, does not ask for another fresh worker.
        self.recent.keep(id, &FinalResult { stop_pod: false, ..result.clone() });
        if let Some(mut job) = self.jobs.get_mut(id) {
            job.state = JobState::Delivering;
            job.decided_at = Some(now);
            job.stop_pod = stop_pod;
            job.failed = result.result.is_err();
            job.body = Bytes::new();
        }
        self.emit(Effect::Deliver { job: id.clone(), item: OutboxItem::Final(result) });
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
        let Some(slot) = self.jobs.get(id).and_then(Job::slot) else { return };
        let models = self.models(slot.process);
        let process = self.process(slot.process);
        if process.slots.job(slot.slot) == Some(id) {
            let state = process.freed_slot(slot.slot, models);
            process.slots.set(slot.slot, state);
        }
    }
}
