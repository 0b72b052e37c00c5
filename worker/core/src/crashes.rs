//! Rule: what follows when a handler process has exited. Which job is blamed, which run again, and when the worker gives up.
//!
//! - One job was running: it is the suspect and fails. If the handler is idempotent and the job has not streamed, it is run
//!   once more, alone.
//! - Several jobs were running: each is a suspect and is run once more, alone. The one that crashes its process again fails.
//! - A job that was sent to the process and was not begun is not a suspect, and runs again.
//! - Jobs in a process that the worker killed because of another job are not suspects, and run again.
//! - A process that the worker killed as unresponsive or for a protocol error counts as crashed.
//! - A job may lose its process `lost_run_limit` times without being a suspect. After that it is suspected although it was not
//!   begun, and fails if its process is ended from outside once more.
//! - A job that has streamed is never run again by this worker after a crash, because its reader would see the same items twice.
//!   At a shutdown it is handed back, and only the queue can drop the items that were not read yet.
//! - A process that was asked to end from outside does not make its jobs suspects: they run again or are handed back. A signal
//!   to all processes of a service may reach the handler a moment before the worker, so the worker waits a moment before it
//!   fails such a job.

use runpod_handler_protocol::{ErrorKind, ErrorReport};

use crate::boundary::{DrainCause, Exit, ExitReason, GpuUse, JobId, ProcessId, Report, Time};
use crate::ending::{Extras, Outcome};
use crate::linker;
use crate::states::{Job, JobState, KillCause, Phase};
use crate::worker::Worker;

impl Worker {
    /// A process has exited: settles its jobs and decides about its next start.
    pub(crate) fn process_exited(&mut self, now: Time, id: ProcessId, exit: &Exit) {
        let process = self.process(id);
        let phase = std::mem::replace(&mut process.phase, Phase::Stopped);
        let load_error = process.load_error.take();
        process.last_exit = Some(exit.clone());
        let served = process.served;
        let cause = match &phase {
            // Its last job was still running, so nobody has killed it yet.
            Phase::Retiring { cause: KillCause::Recycled(_), .. } => None,
            Phase::Killing { cause, .. } | Phase::Retiring { cause, .. } => Some(cause.clone()),
            _ => None,
        };
        let asked_to_end = cause.is_none() && self.was_asked_to_end(exit);
        let by_shutdown = asked_to_end && self.lifecycle.is_signalled();
        let expected = by_shutdown || cause.as_ref().is_some_and(|cause| !cause.is_crash());
        self.process(id).fit &= expected;
        self.report(Report::ProcessExited { process: id, exit: exit.clone(), expected });
        if asked_to_end {
            self.settle_interrupted(now, id, exit);
        } else {
            self.settle_jobs(now, id, cause.as_ref(), exit);
        }
        self.process(id).clear();

        if cause == Some(KillCause::Shutdown) || !self.wants_processes() {
            return;
        }
        if let Some(KillCause::Start(reason)) = cause {
            self.start_failed(now, id, reason);
        } else if let Some(reason) = load_error {
            self.start_failed(now, id, reason);
        } else if !served && !asked_to_end {
            let stage = if matches!(phase, Phase::Loading) { "while loading" } else { "before it introduced itself" };
            self.start_failed(now, id, format!("the handler ended with {} {stage}{}", exit.status, hint(exit)));
        } else {
            if asked_to_end {
                self.trouble = Some(ended_from_outside(exit).message);
            } else if cause.is_none() {
                self.trouble = Some(format!("the handler process crashed with {}", exit.status));
            }
            if asked_to_end || !expected {
                self.process(id).crashes_in_a_row += 1;
            }
            if !expected {
                self.note_crash(now, exit);
            }
            let until = now + self.processes[id.0].restart_delay(&self.policy);
            self.process(id).phase = Phase::Backoff { until };
        }
    }

    /// Counts a crash. A worker with too many in a short time is better replaced.
    fn note_crash(&mut self, now: Time, exit: &Exit) {
        self.crashes.push_back(now);
        while self.crashes.front().is_some_and(|crash| now.since(*crash) > self.policy.crash_window) {
            self.crashes.pop_front();
        }
        if self.crashes.len() >= self.policy.crash_limit {
            let reason = format!(
                "the handler crashed {} times within {:?}, last with {}",
                self.crashes.len(),
                self.policy.crash_window,
                exit.status
            );
            self.begin_drain(now, &DrainCause::Unhealthy { check: "crash_loop".into(), reason });
        }
    }

    /// Fails a job whose process exited by itself, now that no shutdown has explained it.
    pub(crate) fn fail_undecided(&mut self, now: Time, id: &JobId) {
        let error = self.jobs.get_mut(id).and_then(|mut job| job.exit_error.take());
        if let Some(error) = error {
            self.fail(now, id, error);
        }
    }

    /// The worker was asked to stop. Jobs whose process has exited by itself a moment before are not blamed.
    pub(crate) fn absolve_undecided(&mut self, now: Time) {
        let undecided = self.jobs.iter().filter(|job| matches!(job.state, JobState::Undecided { .. }));
        for id in undecided.map(|job| job.id.clone()).collect::<Vec<_>>() {
            let error = self.jobs.get_mut(&id).and_then(|mut job| job.exit_error.take());
            let Some(error) = error else { continue };
            self.run_again_or_hand_back(now, &id, &error);
        }
    }

    /// Whether a process that this worker has not killed was asked to end from outside. After a signal to this worker every
    /// exit counts: the handler may have its own way to end at that signal, and may crash on it.
    fn was_asked_to_end(&self, exit: &Exit) -> bool {
        !exit.host_oom && (exit.status.is_end_signal() || self.lifecycle.is_signalled())
    }

    /// Decides about the jobs of a process that was asked to end from outside. None is a suspect, unless this happens to it
    /// again and again.
    fn settle_interrupted(&mut self, now: Time, id: ProcessId, exit: &Exit) {
        let error = ended_from_outside(exit);
        for id in self.lost_jobs(id) {
            let Some(mut job) = self.jobs.get_mut(&id) else { continue };
            let (state, lost_runs) = (job.state, job.lost_runs);
            job.lost_runs += 1;
            drop(job);
            if let JobState::Stopping { why, .. } = state {
                self.finish_stopped(now, &id, why);
            } else if lost_runs >= self.policy.lost_run_limit {
                self.fail(now, &id, error.clone());
            } else {
                self.run_again_or_hand_back(now, &id, &error);
            }
        }
    }

    /// Decides about the jobs that ran in a process when it crashed or was killed.
    fn settle_jobs(&mut self, now: Time, id: ProcessId, cause: Option<&KillCause>, exit: &Exit) {
        let limit = self.policy.lost_run_limit;
        let lost = self.lost_jobs(id);
        let blamed = cause.is_none_or(|cause| matches!(cause, KillCause::Unresponsive | KillCause::Protocol(_)));
        let suspects = lost.iter().filter_map(|job| self.jobs.get(job)).filter(|job| job.is_suspect(limit)).count();
        let idempotent = self.manifest.as_ref().is_some_and(|manifest| manifest.idempotent);
        let by_itself = cause.is_none() && !exit.host_oom && matches!(exit.status, ExitReason::Code(_));
        let error = exit_error(cause, exit);
        for id in lost {
            let Some(gpu_time) = self.jobs.get(&id).map(|job| self.gpu_time_of(job)) else { continue };
            let Some(mut job) = self.jobs.get_mut(&id) else { continue };
            if let JobState::Stopping { why, .. } = job.state {
                drop(job);
                self.finish_stopped(now, &id, why);
                continue;
            }
            let again = if !blamed {
                true
            } else if job.is_suspect(limit) {
                job.crashes += 1;
                suspects > 1 || (idempotent && job.crashes == 1)
            } else {
                job.lost_runs += 1;
                true
            };
            if again && !job.streamed {
                job.runs_alone |= job.crashes > 0;
                drop(job);
                self.run_again(&id, &error);
            } else if by_itself {
                let until = now + self.policy.shutdown_notice;
                job.state = JobState::Undecided { until };
                job.gpu_time = gpu_time;
                job.exit_error = Some(error.clone());
            } else {
                drop(job);
                self.fail(now, &id, error.clone());
            }
        }
    }

    /// The jobs in the slots of a process, newest first, because each may go to the head of the waiting jobs.
    fn lost_jobs(&self, id: ProcessId) -> Vec<JobId> {
        let mut lost: Vec<&Job> = self.jobs.iter().filter(|job| job.runs_in(id)).collect();
        lost.sort_by_key(|job| job.taken_at);
        lost.into_iter().rev().map(|job| job.id.clone()).collect()
    }

    /// A job that is not blamed runs again. One that has streamed is handed back: only the queue can drop the items that its
    /// reader has not read yet.
    fn run_again_or_hand_back(&mut self, now: Time, id: &JobId, error: &ErrorReport) {
        match self.jobs.get(id) {
            Some(job) if job.streamed => self.finish(now, id, Outcome::HandedBack, Extras::default()),
            _ => self.run_again(id, error),
        }
    }

    /// Puts a job whose process has exited at the head of the waiting jobs.
    fn run_again(&mut self, id: &JobId, error: &ErrorReport) {
        let Some(wasted) = self.jobs.get(id).map(|job| self.gpu_time_of(job)) else { return };
        let Some(mut job) = self.jobs.get_mut(id) else { return };
        job.state = JobState::Queued;
        job.gpu_time = std::time::Duration::ZERO;
        drop(job);
        self.account_run(GpuUse::Failed, wasted);
        self.waiting.push_front(id.clone());
        self.counts.retried += 1;
        self.report(Report::JobRetried { job: id.clone(), reason: error.message.clone() });
    }
}

/// The error of a job whose process has exited.
fn exit_error(cause: Option<&KillCause>, exit: &Exit) -> ErrorReport {
    let (kind, message) = match cause {
        Some(KillCause::Unresponsive) => (ErrorKind::Unresponsive, "the handler process stopped answering".to_owned()),
        Some(cause @ KillCause::Protocol(_)) => (ErrorKind::Protocol, cause.to_string()),
        Some(cause) => (ErrorKind::Infra, format!("the handler process was replaced: {cause}")),
        None if exit.host_oom => (
            ErrorKind::Oom,
            format!(
                "the kernel's out-of-memory killer ended the handler process ({}): host memory is full",
                exit.status
            ),
        ),
        None => (ErrorKind::Crashed, format!("the handler process crashed with {} while it ran this job", exit.status)),
    };
    ErrorReport { kind, message, traceback: exit.last_lines.join("\n") }
}

/// The error of a job whose process was asked to end, but not by this worker.
fn ended_from_outside(exit: &Exit) -> ErrorReport {
    let message = format!("the handler process was ended from outside ({})", exit.status);
    ErrorReport { kind: ErrorKind::Crashed, message, traceback: exit.last_lines.join("\n") }
}

/// The last line that a process wrote, and what to do if it comes from the linker, as the end of a message of one line.
fn hint(exit: &Exit) -> String {
    let line = exit.last_lines.last().map(|line| format!("; its last line: {line}")).unwrap_or_default();
    let advice = linker::advice(exit).map(|advice| format!("; {advice}")).unwrap_or_default();
    line + &advice
}
