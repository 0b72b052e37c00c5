//! Rule: how a handler process is taken out of service and killed.

use std::time::Duration;

use crate::boundary::{DrainCause, Effect, Exit, ExitReason, ProcessId, Report, Time};
use crate::states::{KillCause, Phase};
use crate::worker::Worker;

impl Worker {
    /// Takes a process that must be killed out of service. The other jobs that it runs get the retire grace to finish, unless
    /// they are in the hands of the same user code as the job that did not stop: then they cannot finish.
    pub(crate) fn retire_process(&mut self, now: Time, id: ProcessId, cause: KillCause) {
        let runs_together = self.policy.slots == 1 && self.process(id).runs_jobs_together();
        let grace =
            if cause == KillCause::Overdue && runs_together { Duration::ZERO } else { self.policy.retire_grace };
        let until = now + grace;
        let process = self.process(id);
        if process.job_deadlines_apply() {
            process.phase = Phase::Retiring { cause, until };
        }
    }

    /// Kills the retiring processes whose limit has passed, and those that run no job but overdue ones. A process that was
    /// asked to shut down exits by itself within its limit.
    pub(crate) fn retire(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let Phase::Retiring { cause, until } = self.processes[index].phase.clone() else { continue };
            let finished = match cause {
                KillCause::Shutdown => false,
                _ => self.jobs.iter().filter(|job| job.runs_in(id)).all(|job| job.is_overdue(now)),
            };
            if finished || until <= now {
                self.kill(now, id, &cause);
            }
        }
    }

    /// Kills a process and everything that it started, at once.
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

    /// SIGKILL did not end the process. Its jobs are answered all the same. The worker exits, because the device is not
    /// free.
    pub(crate) fn cannot_be_reaped(&mut self, now: Time, id: ProcessId) {
        let exit = Exit { status: ExitReason::Unknown, host_oom: false, last_lines: Vec::new() };
        self.process_exited(now, id, &exit);
        self.process(id).phase = Phase::Stopped;
        let reason = format!("the handler process was killed and is still there after {:?}", self.policy.reap_timeout);
        self.begin_drain(now, &DrainCause::Unhealthy { check: "reap".into(), reason });
    }
}
