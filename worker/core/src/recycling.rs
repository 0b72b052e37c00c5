//! Replacing handler processes before they become a problem: by number of jobs, by memory, by age, or because a job asked
//! for it. Always between jobs: the process takes none any more, those that it has may finish, and only when it is gone
//! does its successor start, so that two never share a GPU.

use crate::boundary::{DrainCause, OnRefresh, Policy, ProcessId, RecycleReason, Report, Time};
use crate::states::{KillCause, Lifecycle, Phase, Process};
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
                self.replace(now, id, reason);
            }
        }
    }

    /// When the next process grows too old.
    pub(crate) fn recycle_deadline(&self) -> Option<Time> {
        let max_age = self.policy.recycle.max_age?;
        let ageing = self.processes.iter().filter(|process| process.wear.jobs > 0 && self.may_recycle(process));
        ageing.map(|process| process.wear.since + max_age).min()
    }

    /// RunPod's `refresh_worker`, and what a job that called `request_refresh` has asked for.
    pub(crate) fn refresh(&mut self, now: Time, process: Option<ProcessId>, requested: bool) {
        if self.policy.refresh_worker || (requested && self.policy.on_refresh == OnRefresh::Exit) {
            if matches!(self.lifecycle, Lifecycle::Working) {
                self.begin_drain(now, &DrainCause::Refresh);
            }
        } else if let Some(process) = process.filter(|_| requested) {
            self.leave_soon(now);
            self.replace(now, process, RecycleReason::Refresh);
        }
    }

    fn replace(&mut self, now: Time, id: ProcessId, reason: RecycleReason) {
        if self.processes[id.0].phase != Phase::Serving {
            return;
        }
        let until = self.last_end(now, id);
        self.process(id).phase = Phase::Retiring { cause: KillCause::Recycled(reason), until };
        self.report(Report::ProcessRecycled { process: id, reason });
    }

    /// By when every job of a process is over one way or the other: each is asked to stop at its deadline, and its process
    /// is killed when it does not.
    fn last_end(&self, now: Time, id: ProcessId) -> Time {
        let Policy { cancel_grace, retire_grace, .. } = self.policy;
        let deadlines = self.jobs.values().filter(|job| job.runs_in(id)).map(|job| job.deadline);
        deadlines.max().unwrap_or(now).max(now) + cancel_grace + retire_grace
    }

    fn may_recycle(&self, process: &Process) -> bool {
        let in_change = |other: &Process| {
            other.id != process.id && !matches!(other.phase, Phase::Serving | Phase::Stopped | Phase::GaveUp)
        };
        matches!(self.lifecycle, Lifecycle::Working)
            && process.phase == Phase::Serving
            && !self.processes.iter().any(in_change)
    }
}
