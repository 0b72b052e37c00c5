//! Rule: what follows when a handler process has exited. Which job is blamed, which run again, and when the worker gives up.
//!
//! - One job was running: it is the suspect and fails. If the handler is idempotent and the job has not streamed, it is run
//!   once more, alone.
//! - Several jobs were running: each is a suspect and is run once more, alone. The one that crashes its process again fails.
//! - A job that was sent to the process and was not begun is not a suspect, and runs again.
//! - Jobs in a process that the worker killed because of another job are not suspects, and run again.
//! - A job that has streamed is never run again, because its reader would see the same items twice.

use runpod_handler_protocol::{ErrorKind, ErrorReport};

use crate::boundary::{DrainCause, Exit, JobId, ProcessId, Report, Time, TimeCategory};
use crate::linker;
use crate::states::{JobState, KillCause, Phase};
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
        let expected = cause.as_ref().is_some_and(|cause| !cause.is_crash());
        self.process(id).fit &= expected;
        self.report(Report::ProcessExited { process: id, exit: exit.clone(), expected });
        self.settle_jobs(now, id, cause.as_ref(), exit);
        self.process(id).clear();

        if cause == Some(KillCause::Shutdown) || !self.wants_processes() {
            return;
        }
        if let Some(KillCause::Start(reason)) = cause {
            self.start_failed(now, id, reason);
        } else if let Some(reason) = load_error {
            self.start_failed(now, id, reason);
        } else if !served {
            let stage = if matches!(phase, Phase::Loading) { "while loading" } else { "before it introduced itself" };
            self.start_failed(now, id, format!("the handler ended with {} {stage}{}", exit.status, hint(exit)));
        } else {
            if cause.is_none() {
                self.trouble = Some(format!("the handler process crashed with {}", exit.status));
            }
            if !expected {
                self.process(id).crashes_in_a_row += 1;
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

    /// Decides about the jobs that ran in a process when it exited.
    fn settle_jobs(&mut self, now: Time, id: ProcessId, cause: Option<&KillCause>, exit: &Exit) {
        let limit = self.policy.lost_start_limit;
        let mut lost: Vec<JobId> = self.jobs.values().filter(|job| job.runs_in(id)).map(|job| job.id.clone()).collect();
        lost.sort_by_key(|job| self.jobs.get(job).map(|job| job.taken_at));
        let blamed = cause.is_none_or(|cause| matches!(cause, KillCause::Unresponsive | KillCause::Protocol(_)));
        let suspects = lost.iter().filter_map(|job| self.jobs.get(job)).filter(|job| job.is_suspect(limit)).count();
        let idempotent = self.manifest.as_ref().is_some_and(|manifest| manifest.idempotent);
        let error = exit_error(cause, exit);
        // Newest first, because each goes to the head of the queue.
        for id in lost.into_iter().rev() {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if let JobState::Stopping { why, .. } = job.state {
                self.finish_stopped(now, &id, why);
                continue;
            }
            let again = if !blamed {
                true
            } else if job.is_suspect(limit) {
                job.crashes += 1;
                job.runs_alone = true;
                suspects > 1 || (idempotent && job.crashes == 1)
            } else {
                job.lost_starts += 1;
                true
            };
            if again && !job.streamed {
                self.run_again(&id, &error);
            } else {
                self.fail(now, &id, error.clone());
            }
        }
    }

    /// Puts a job whose process has exited at the head of the queue.
    fn run_again(&mut self, id: &JobId, error: &ErrorReport) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.state = JobState::Queued;
        let wasted = std::mem::take(&mut job.gpu_time);
        self.account_run(TimeCategory::Failed, wasted);
        self.queue.push_front(id.clone());
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

/// The last line that a process wrote, and what to do if it comes from the linker, as the end of a message of one line.
fn hint(exit: &Exit) -> String {
    let line = exit.last_lines.last().map(|line| format!("; its last line: {line}")).unwrap_or_default();
    let advice = linker::advice(exit).map(|advice| format!("; {advice}")).unwrap_or_default();
    line + &advice
}
