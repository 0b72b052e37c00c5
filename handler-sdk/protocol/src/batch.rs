//! What a handler that runs several jobs at once reports about its batches and steps.
//!
//! The reports are for people: the worker shows them and decides nothing by them. They are sent only to a worker whose Hello asks
//! for them, so handlers and workers of different releases go together.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A batch that a model begins to run. Its jobs are reported as started before. A batch that failed and runs again in parts is no
/// new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReport {
    /// The model that runs it.
    pub model: u32,
    /// Number of jobs in it.
    pub jobs: u32,
    /// Sum of their costs, in the handler's own unit.
    pub cost: u64,
    /// Why it has no more jobs.
    pub closed_by: ClosedBy,
    /// The limits in force.
    #[serde(flatten)]
    pub limits: LimitsNow,
}

/// The steps that a model has taken since its last report. A model that steps reports about once a second, and when its last job
/// has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The model.
    pub model: u32,
    /// Number of steps.
    pub steps: u64,
    /// Number of jobs that each step advanced, added up.
    pub advanced: u64,
    /// The time in which it took them, in milliseconds.
    pub millis: u64,
    /// Sum of the costs of the jobs that run now.
    pub cost: u64,
    /// The limits in force.
    #[serde(flatten)]
    pub limits: LimitsNow,
}

/// The limits of cost and wait. A limit that is absent does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsNow {
    /// The most that the jobs which run at once may cost now: less than `max_cost` after running out of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// The most that they may ever cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<u64>,
    /// How long a job may wait for others although the model is idle, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wait_ms: Option<u64>,
}

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedBy {
    /// It has as many jobs as a batch may have.
    Full,
    /// Another job would exceed the cost budget.
    Cost,
    /// The other jobs that waited have another key.
    Key,
    /// Its oldest job has waited for others as long as allowed.
    WaitOver,
    /// The model was idle and took every job that waited.
    Idle,
}

impl ClosedBy {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Full, Self::Cost, Self::Key, Self::WaitOver, Self::Idle];

    /// The word on the wire, in `/health` and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Cost => "cost",
            Self::Key => "key",
            Self::WaitOver => "wait_over",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
