//! What the time of handler processes goes into. Each process stands for one GPU, so this is GPU time, and with a price it
//! is money.
//!
//! Time is booked when its use is known: idle and start-up time at once, the time of a job when the job ends. Several jobs
//! that run in one process at the same time share its time.

use crate::boundary::{Price, Time, TimeCategory};
use crate::states::Phase;
use crate::worker::Worker;
use std::time::Duration;

impl Worker {
    /// Books the time since the last event, during which nothing has changed.
    pub(crate) fn spend(&mut self, now: Time) {
        let time = now.since(self.spent_until);
        self.spent_until = now;
        if time.is_zero() {
            return;
        }
        for process in &self.processes {
            let busy = process.slots.iter().filter_map(|slot| slot.job()).count();
            if busy > 0 {
                let share = time / u32::try_from(busy).unwrap_or(u32::MAX);
                for id in process.slots.iter().filter_map(|slot| slot.job()) {
                    if let Some(job) = self.jobs.get_mut(id) {
                        job.gpu_time += share;
                    }
                }
                continue;
            }
            let waits = match process.phase {
                Phase::Serving | Phase::Retiring { .. } => process.has_model(),
                Phase::Stopped | Phase::GaveUp => true,
                _ => false,
            };
            self.gpu_time.add(if waits { TimeCategory::Idle } else { TimeCategory::WarmUp }, time);
        }
    }

    /// Books the time of a run that is over.
    pub(crate) fn book(&mut self, category: TimeCategory, time: Duration) {
        self.gpu_time.add(category, time);
    }

    /// What the worker costs, where that is known.
    pub(crate) fn price(&self) -> Option<Price> {
        let per_hour = self.policy.price_per_hour?;
        Some(Price { per_hour, processes: self.policy.processes })
    }
}
