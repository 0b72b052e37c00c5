//! What a handler process has reported about the jobs that it runs at once.

use std::time::Duration;

use runpod_handler_protocol::{BatchReport, LimitsNow, StepReport};

/// Batches of a handler process since it was started, or steps of one that advances its jobs step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchingView {
    /// Most jobs that a model runs at once.
    pub max_jobs: u32,
    /// The limits of cost and wait, as last reported.
    pub limits: Option<LimitsNow>,
    /// Jobs in user code.
    pub running: usize,
    /// Jobs that the process has, and that wait in it for a batch or for room.
    pub waiting: usize,
    /// Its batches.
    pub batches: BatchTotals,
    /// Its steps.
    pub steps: StepTotals,
}

/// The batches that a process has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTotals {
    /// Number of batches.
    pub count: u64,
    /// Jobs in all of them.
    pub jobs: u64,
    /// The last one.
    pub last: Option<BatchReport>,
}

impl BatchTotals {
    /// Jobs in a batch on average; `None` before the first one.
    pub fn mean_jobs(&self) -> Option<f64> {
        (self.count > 0).then(|| self.jobs as f64 / self.count as f64)
    }
}

/// The steps that a process has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// Number of steps.
    pub count: u64,
    /// Jobs that each step advanced, added up.
    pub advanced: u64,
    /// The last report.
    pub last: Option<StepReport>,
}

impl StepTotals {
    /// Jobs that a step advanced on average; `None` before the first one.
    pub fn mean_jobs(&self) -> Option<f64> {
        (self.count > 0).then(|| self.advanced as f64 / self.count as f64)
    }

    /// Steps a second, as last reported; `None` before the first report.
    pub fn per_second(&self) -> Option<f64> {
        let last = self.last?;
        let time = Duration::from_millis(last.millis).as_secs_f64();
        (time > 0.0).then(|| last.steps as f64 / time)
    }
}
