//! Rule: where the time of handler processes goes.
//!
//! Every moment of every process is accounted for once. Idle and start-up time is added at once; the time of a job is added
//! when the job ends, because its use is not known before. Jobs that run in one process at the same time share its time
//! equally. A process adds up the share of one job; what a job has received is the difference between its end and its start.

use std::time::Duration;

use crate::boundary::{GpuUse, Price, Time};
use crate::states::{Job, Phase, Process};
use crate::worker::Worker;

impl Worker {
    /// Accounts for the time since the last event. The state has not changed meanwhile.
    pub(crate) fn account_time(&mut self, now: Time) {
        let time = now.since(self.accounted_until);
        self.accounted_until = now;
        if time.is_zero() {
            return;
        }
        for process in &mut self.processes {
            let busy = process.slots.busy();
            if busy == 0 {
                self.gpu_time.add(idle_use(process), time);
                continue;
            }
            process.share += time / u32::try_from(busy).unwrap_or(u32::MAX);
        }
    }

    /// The share of its process's time that a job has received in its last run.
    pub(crate) fn gpu_time_of(&self, job: &Job) -> Duration {
        match job.slot() {
            Some(slot) => self.processes[slot.process.0].share.saturating_sub(job.share_at_start),
            None => job.gpu_time,
        }
    }

    /// Adds the time of a run that is over.
    pub(crate) fn account_run(&mut self, gpu_use: GpuUse, time: Duration) {
        self.gpu_time.add(gpu_use, time);
    }

    /// The price of the worker, if known.
    pub(crate) fn price(&self) -> Option<Price> {
        let per_hour = self.policy.price_per_hour?;
        Some(Price { per_hour, processes: self.policy.processes })
    }
}

/// What the time of a process is used for that runs no job.
fn idle_use(process: &Process) -> GpuUse {
    match process.phase {
        Phase::Serving | Phase::Retiring { .. } if process.slots.any_loaded() => GpuUse::Idle,
        Phase::Stopped | Phase::GaveUp => GpuUse::Idle,
        _ => GpuUse::WarmUp,
    }
}
