//! Rule: how a handler process is taken out of service and killed.

use std::collections::BTreeSet;

use crate::boundary::{DrainCause, Effect, Exit, ExitReason, ProcessId, Report, Time};
use crate::states::{Job, JobState, KillCause, Phase};
use crate::worker::Worker;

impl Worker {
    /// Takes a process that must be killed out of service. The other jobs that it runs get the retire grace to finish.
    pub(crate) fn retire_process(&mut self, now: Time, id: ProcessId, cause: KillCause) {
        let until = now + self.policy.retire_grace;
        let process = self.process(id);
        if process.job_deadlines_apply() {
            process.phase = Phase::Retiring { cause, until };
        }
    }

    /// Kills the retiring processes whose limit has passed, and those whose jobs cannot finish. A process that was asked to shut
    /// down exits by itself within its limit.
    pub(crate) fn retire(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let Phase::Retiring { cause, until } = self.processes[index].phase.clone() else { continue };
            let finished = match cause {
                KillCause::Shutdown => false,
                _ => !self.can_finish_a_job(now, id),
            };
            if finished || until <= now {
                self.kill(now, id, &cause);
            }
        }
    }

    /// Whether a job in this process can still finish. One that was asked to stop and has not done so within its grace cannot, and
    /// neither can those that the same model runs: they are in the hands of the same user code. Jobs that such a process has not
    /// begun are not waited for, because they run again unharmed.
    fn can_finish_a_job(&self, now: Time, id: ProcessId) -> bool {
        let runs_several = self.processes[id.0].runs_several_jobs();
        // An older SDK does not say which model runs a job. With a single one there is no doubt.
        let only_model = (self.models(id) == 1).then_some(0);
        let model_of = |job: &Job| if runs_several { job.model.or(only_model) } else { None };
        let here = || self.jobs.iter().filter(|job| job.runs_in(id));
        let stuck: BTreeSet<u32> = here().filter(|job| job.is_overdue(now)).filter_map(model_of).collect();
        let is_stuck = |job: &Job| job.is_overdue(now) || model_of(job).is_some_and(|model| stuck.contains(&model));
        let is_begun = |job: &Job| !(runs_several && matches!(job.state, JobState::Assigned(_)) && !stuck.is_empty());
        here().any(|job| is_begun(job) && !is_stuck(job))
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
