//! What the time of handler processes goes into. Each process stands for one GPU, so this is GPU time, and with a price it
//! is money.
//!
//! Time is booked when its use is known: idle and start-up time at once, the time of a job when the job ends. Several jobs
//! that run in one process at the same time share its time.

use std::time::Duration;

use super::effect::JobStatus;
use super::ids::Time;
use super::process::Phase;
use super::worker::Worker;

/// What a second of a GPU was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Jobs that have completed.
    Useful,
    /// Jobs that have failed or timed out, and runs that were repeated because their process died.
    Failed,
    /// Jobs that were cancelled, or handed back at shutdown.
    Cancelled,
    /// No slot of the process has a model: it is starting, loading, or being replaced.
    WarmUp,
    /// Waiting for a job.
    Idle,
}

impl Use {
    /// All uses, in the order of [`Usage`].
    pub const ALL: [Self; 5] = [Self::Useful, Self::Failed, Self::Cancelled, Self::WarmUp, Self::Idle];

    /// The word used in `/health` and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Useful => "useful",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::WarmUp => "warm_up",
            Self::Idle => "idle",
        }
    }
}

impl From<JobStatus> for Use {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Completed => Self::Useful,
            JobStatus::Failed | JobStatus::TimedOut => Self::Failed,
            JobStatus::Cancelled | JobStatus::HandedBack => Self::Cancelled,
        }
    }
}

/// GPU time since the worker started, by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage([Duration; 5]);

impl Usage {
    /// Time that went into this use.
    pub fn of(&self, what: Use) -> Duration {
        self.0[what as usize]
    }

    /// Time booked so far; what is missing belongs to jobs that still run.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    fn add(&mut self, what: Use, time: Duration) {
        self.0[what as usize] += time;
    }
}

/// What the worker costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Dollars an hour for the whole worker, with all its GPUs.
    pub per_hour: f64,
    /// Processes that share it.
    pub processes: usize,
}

impl Price {
    /// Dollars for this much time of one process.
    pub fn of(self, time: Duration) -> f64 {
        self.per_hour / self.processes.max(1) as f64 / 3600.0 * time.as_secs_f64()
    }
}

/// What one job has used up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobCost {
    /// GPU time of its last run.
    pub gpu_time: Duration,
    /// What that costs, where a price is known.
    pub dollars: Option<f64>,
}

impl Worker {
    /// Books the time since the last event, during which nothing has changed.
    pub(super) fn spend(&mut self, now: Time) {
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
            self.usage.add(if waits { Use::Idle } else { Use::WarmUp }, time);
        }
    }

    /// Books the time of a run that is over.
    pub(super) fn book(&mut self, what: Use, time: Duration) {
        self.usage.add(what, time);
    }

    /// What the worker costs, where that is known.
    pub(super) fn price(&self) -> Option<Price> {
        let per_hour = self.policy.price_per_hour?;
        Some(Price { per_hour, processes: self.policy.processes })
    }
}
