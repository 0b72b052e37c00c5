//! Rule: where the time of handler processes goes.
//!
//! Every moment of every process is accounted for once. Idle and start-up time is added at once; the time of a job is added
//! when the job ends, because its use is not known before. Jobs that run in one process at the same time share its time
//! equally.

use std::time::Duration;

use crate::boundary::{GpuUse, Price, Time};
use crate::states::{Phase, Process};
use crate::worker::Worker;

impl Worker {
    /// Accounts for the time since the last event. The state has not changed meanwhile.
    pub(crate) fn account_time(&mut self, now: Time) {
        let time = now.since(self.accounted_until);
        self.accounted_until = now;
        if time.is_zero() {
            return;
        }
        for process in &self.processes {
            let busy = process.busy_slots();
            if busy == 0 {
                self.gpu_time.add(idle_use(process), time);
                continue;
            }
            let share = time / u32::try_from(busy).unwrap_or(u32::MAX);
            for id in process.slots.iter().filter_map(|slot| slot.job()) {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.gpu_time += share;
                }
            }
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
        Phase::Serving | Phase::Retiring { .. } if process.has_model() => GpuUse::Idle,
        Phase::Stopped | Phase::GaveUp => GpuUse::Idle,
        _ => GpuUse::WarmUp,
    }
}
