//! GPU time by what it was good for, and what it costs.

use super::report::JobStatus;
use std::time::Duration;

/// What a second of a GPU was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeCategory {
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

impl TimeCategory {
    /// All uses, in the order of [`GpuTime`].
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

impl From<JobStatus> for TimeCategory {
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
pub struct GpuTime([Duration; 5]);

impl GpuTime {
    /// Time that went into this use.
    pub fn of(&self, what: TimeCategory) -> Duration {
        self.0[what as usize]
    }

    /// Time booked so far; what is missing belongs to jobs that still run.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, what: TimeCategory, time: Duration) {
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
