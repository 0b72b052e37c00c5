//! GPU time by use, and its price.

use std::time::Duration;

use super::report::JobStatus;

/// What the time of a handler process was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GpuUse {
    /// Jobs that have completed.
    Useful,
    /// Jobs that have failed or timed out, and runs that were lost because their process exited.
    Failed,
    /// Jobs that were cancelled, or went back to the queue unfinished.
    Cancelled,
    /// No slot of the process has a model: the process is starting, loading or being replaced.
    WarmUp,
    /// Waiting for a job.
    Idle,
}

impl GpuUse {
    /// All of them, in declaration order.
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

impl From<JobStatus> for GpuUse {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Completed => Self::Useful,
            JobStatus::Failed | JobStatus::TimedOut => Self::Failed,
            JobStatus::Cancelled | JobStatus::HandedBack => Self::Cancelled,
        }
    }
}

/// GPU time since the worker started, by use. One handler process stands for one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuTime([Duration; 5]);

impl GpuTime {
    /// The time of one use.
    pub fn of(&self, gpu_use: GpuUse) -> Duration {
        self.0[gpu_use as usize]
    }

    /// The time of all uses. The time of jobs that still run is not part of it yet.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, gpu_use: GpuUse, time: Duration) {
        self.0[gpu_use as usize] += time;
    }
}

/// The price of the worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Dollars an hour for the worker with all its GPUs.
    pub per_hour: f64,
    /// Handler processes that share the price.
    pub processes: usize,
}

impl Price {
    /// The price of this much time of one process, in dollars.
    pub fn of(self, time: Duration) -> f64 {
        self.per_hour / self.processes.max(1) as f64 / 3600.0 * time.as_secs_f64()
    }
}

/// What one job costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobCost {
    /// GPU time of its last run.
    pub gpu_time: Duration,
    /// Its price in dollars, if the price of the worker is known.
    pub dollars: Option<f64>,
}
