//! Dead and dying processes: who is killed and when, what becomes of the jobs inside, when the next one starts.
//!
//! The crash policy. One job was running: it is the suspect and fails; if the handler is idempotent and nothing was
//! streamed, it is run once more, alone. Several were running: we cannot know which one did it, so each is run once more,
//! alone; the one that kills its process again fails, the others complete. A job that was sent to a process in the moment
//! of its death and never begun, and jobs in a process that *we* had to kill because of another job, carry no blame and are
//! simply run again. A job that has streamed is never run again: its reader would see the same items twice.

use crate::boundary::{DrainCause, Effect, Exit, ExitReason, JobId, ProcessId, Report, Time, TimeCategory};
use crate::linker;
use crate::states::{JobState, KillCause, Phase};
use crate::worker::Worker;
use runpod_handler_protocol::{ErrorKind, ErrorReport, ToHandler};

impl Worker {
    /// Starts what is due to be started.
    pub(crate) fn start_processes(&mut self, now: Time) {
        if !self.may_start() {
            return;
        }
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            if matches!(process.phase, Phase::Backoff { until } if until <= now) {
                process.start(now, &self.policy);
                let (process, epoch) = (process.id, process.epoch);
                self.report(Report::ProcessStarting { process, epoch });
                self.emit(Effect::Spawn { process, epoch });
            }
        }
    }

    /// Limits of phases, pings, and processes that have gone silent.
    pub(crate) fn expire_processes(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let process = &self.processes[index];
            match process.phase {
                Phase::Spawning { until } | Phase::Handshaking { until } if until <= now => {
                    let reason = format!(
                        "the handler did not introduce itself within {:?}: is it built with runpod-handler-sdk?",
                        self.policy.handshake_timeout
                    );
                    self.kill(now, id, &KillCause::Start(reason));
                }
                Phase::Killing { until, .. } if until <= now => self.cannot_be_reaped(now, id),
                _ if process.is_frozen(now, &self.policy) => self.kill(now, id, &KillCause::Unresponsive),
                _ if process.is_stalled(now) => {
                    let limit = self.policy.load_stall_timeout;
                    let reason = process.load_error.clone();
                    let reason = reason.unwrap_or_else(|| format!("loading made no progress for {limit:?}"));
                    self.kill(now, id, &KillCause::Start(reason));
                }
                _ if process.is_probed_in_vain(now) => self.kill(now, id, &KillCause::DeviceLost),
                _ => {
                    if let Some(seq) = self.processes[index].ping_due(now, &self.policy) {
                        let message = ToHandler::Ping { seq };
                        self.emit(Effect::Send { process: id, message, payload: bytes::Bytes::new() });
                    }
                }
            }
        }
    }

    /// Takes a process out of service. The jobs that it still runs, beside the overdue ones, get a last time limit.
    pub(crate) fn condemn(&mut self, now: Time, id: ProcessId, cause: KillCause) {
        let until = now + self.policy.retire_grace;
        let process = self.process(id);
        if process.is_patient() {
            process.phase = Phase::Retiring { cause, until };
        }
    }

    /// Kills retiring processes that nobody has to wait for any more.
    pub(crate) fn retire(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let Phase::Retiring { cause, until } = self.processes[index].phase.clone() else { continue };
            let over = match cause {
                KillCause::Shutdown => false,
                _ => self.jobs.values().filter(|job| job.runs_in(id)).all(|job| job.is_overdue(now)),
            };
            if over || until <= now {
                self.kill(now, id, &cause);
            }
        }
    }

    /// Kills a process and everything it started, at once.
    pub(crate) fn kill(&mut self, now: Time, id: ProcessId, cause: &KillCause) {
        let until = now + self.policy.reap_timeout;
        let process = self.process(id);
        if !process.phase.is_alive() || matches!(process.phase, Phase::Killing { .. }) {
            return;
        }
        process.phase = Phase::Killing { cause: cause.clone(), until };
        if !matches!(cause, KillCause::Shutdown | KillCause::Recycled(_)) {
            self.report(Report::ProcessKilled { process: id, reason: cause.to_string() });
            self.trouble = Some(cause.trouble());
        }
        self.emit(Effect::Kill { process: id });
    }

    /// A handler that must not be used, and that starting again would not change.
    pub(crate) fn refuse(&mut self, now: Time, id: ProcessId, reason: String) {
        self.process(id).hopeless = true;
        self.kill(now, id, &KillCause::Start(reason));
    }

    /// Nothing is left of this incarnation: settles its jobs and decides about the next one.
    pub(crate) fn process_gone(&mut self, now: Time, id: ProcessId, exit: &Exit) {
        let process = self.process(id);
        let phase = std::mem::replace(&mut process.phase, Phase::Stopped);
        let load_error = process.load_error.take();
        process.last_exit = Some(exit.clone());
        let served = process.served;
        let cause = match &phase {
            // It died while its last job was running, before anyone killed it.
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
            self.start_failed(now, id, format!("the handler ended with {} {stage}{}", exit.status, quote(exit)));
        } else {
            if cause.is_none() {
                self.trouble = Some(format!("the handler process died with {}", exit.status));
            }
            if !expected {
                self.process(id).strikes += 1;
                self.note_crash(now, exit);
            }
            let process = &self.processes[id.0];
            let until = now + process.restart_delay(&self.policy);
            self.process(id).phase = Phase::Backoff { until };
        }
    }

    /// A start has failed for good or for now.
    pub(crate) fn start_failed(&mut self, now: Time, id: ProcessId, reason: String) {
        let attempts = self.policy.start_attempts;
        let process = self.process(id);
        process.failed_starts += 1;
        let give_up = process.hopeless || process.failed_starts >= attempts;
        let delay = self.processes[id.0].restart_delay(&self.policy);
        self.process(id).phase = if give_up { Phase::GaveUp } else { Phase::Backoff { until: now + delay } };
        self.trouble = Some(reason.clone());
        let retry_in = (!give_up).then_some(delay);
        self.report(Report::StartFailed { process: id, reason: reason.clone(), retry_in });
        if give_up {
            self.begin_drain(now, &DrainCause::Unhealthy { check: "handler_start".into(), reason });
        }
    }

    /// Counts a crash; too many in a short time and the worker is better replaced.
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

    /// SIGKILL did not end it. Its jobs are answered all the same; the worker has to go, because the device is not free.
    fn cannot_be_reaped(&mut self, now: Time, id: ProcessId) {
        let exit = Exit { status: ExitReason::Unknown, host_oom: false, last_lines: Vec::new() };
        self.process_gone(now, id, &exit);
        self.process(id).phase = Phase::Stopped;
        let reason = format!("the handler process was killed and is still there after {:?}", self.policy.reap_timeout);
        self.begin_drain(now, &DrainCause::Unhealthy { check: "reap".into(), reason });
    }

    /// What becomes of the jobs that a dead process was running.
    fn settle_jobs(&mut self, now: Time, id: ProcessId, cause: Option<&KillCause>, exit: &Exit) {
        let mut victims: Vec<JobId> =
            self.jobs.values().filter(|job| job.runs_in(id)).map(|job| job.id.clone()).collect();
        victims.sort_by_key(|job| self.jobs.get(job).map(|job| job.taken_at));
        let blamed = cause.is_none_or(|cause| matches!(cause, KillCause::Unresponsive | KillCause::Protocol(_)));
        let several = victims.iter().filter_map(|job| self.jobs.get(job)).filter(|job| job.is_suspect()).count() > 1;
        let idempotent = self.manifest.as_ref().is_some_and(|manifest| manifest.idempotent);
        let error = death(cause, exit);
        // Newest first, because each goes to the head of the queue.
        for id in victims.into_iter().rev() {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if let JobState::Stopping { why, .. } = job.state {
                self.settle_stopped(now, &id, why);
                continue;
            }
            let again = if !blamed {
                true
            } else if job.is_suspect() {
                job.crashes += 1;
                job.alone = true;
                several || (idempotent && job.crashes == 1)
            } else {
                job.lost_starts += 1;
                true
            };
            if job.streamed || !again {
                self.fail(now, &id, error.clone());
                continue;
            }
            job.state = JobState::Queued;
            let wasted = std::mem::take(&mut job.gpu_time);
            self.book(TimeCategory::Failed, wasted);
            self.queue.push_front(id.clone());
            self.counts.retried += 1;
            self.report(Report::JobRetried { job: id, reason: error.message.clone() });
        }
    }
}

/// The error of a job whose process died.
fn death(cause: Option<&KillCause>, exit: &Exit) -> ErrorReport {
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
        None => (ErrorKind::Crashed, format!("the handler process died with {} while it had this job", exit.status)),
    };
    ErrorReport { kind, message, traceback: exit.last_lines.join("\n") }
}

/// The last words of a process, and what to do about those of the linker, for a message of one line.
fn quote(exit: &Exit) -> String {
    let words = exit.last_lines.last().map(|line| format!("; its last words: {line}")).unwrap_or_default();
    let advice = linker::advice(exit).map(|advice| format!("; {advice}")).unwrap_or_default();
    words + &advice
}
