//! Rule: a handler process is replaced before it becomes a problem: by its number of jobs, its memory, its age, or because a
//! job asked for it. The process gets no more jobs, those that it runs may finish, and its successor starts only after its
//! exit, so that two never share a GPU.

use crate::boundary::{Policy, ProcessId, RecycleReason, Report, Time};
use crate::states::{KillCause, Phase, Process};
use crate::worker::Worker;

impl Worker {
    /// Takes worn processes out of service, one at a time, so that the others go on serving.
    pub(crate) fn recycle(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            if !self.may_recycle(&self.processes[index]) {
                continue;
            }
            if let Some(reason) = self.processes[index].wear.exceeds(&self.policy.recycle, now) {
                self.replace_process(now, id, reason);
            }
        }
    }

    /// When the next process reaches its age limit.
    pub(crate) fn recycle_deadline(&self) -> Option<Time> {
        let max_age = self.policy.recycle.max_age?;
        let ageing = self.processes.iter().filter(|process| process.wear.jobs > 0 && self.may_recycle(process));
        ageing.map(|process| process.wear.since + max_age).min()
    }

    /// Takes a serving process out of service, to be replaced once its jobs have ended.
    pub(crate) fn replace_process(&mut self, now: Time, id: ProcessId, reason: RecycleReason) {
        if self.processes[id.0].phase != Phase::Serving {
            return;
        }
        let until = self.last_end(now, id);
        self.process(id).phase = Phase::Retiring { cause: KillCause::Recycled(reason), until };
        self.report(Report::ProcessRecycled { process: id, reason });
    }

    /// When the last job of a process has ended at the latest: each job is asked to stop at its deadline, and the process
    /// is killed if the job does not.
    fn last_end(&self, now: Time, id: ProcessId) -> Time {
        let Policy { cancel_grace, retire_grace, .. } = self.policy;
        let deadlines = self.jobs.iter().filter(|job| job.runs_in(id)).map(|job| job.deadline);
        deadlines.max().unwrap_or(now).max(now) + cancel_grace + retire_grace
    }

    fn may_recycle(&self, process: &Process) -> bool {
        let in_change = |other: &Process| {
            other.id != process.id && !matches!(other.phase, Phase::Serving | Phase::Stopped | Phase::GaveUp)
        };
        self.lifecycle.is_working() && process.phase == Phase::Serving && !self.processes.iter().any(in_change)
    }
}
