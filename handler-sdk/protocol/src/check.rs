//! Fitness checks: the order to run them, and their reports.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of processes and of slots where an older worker does not send one.
pub(crate) fn one() -> u32 {
    1
}

/// Which fitness checks to run, and their limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOrder {
    /// Id of the worker on the platform, for logs and error reports.
    pub worker_id: String,
    /// Number of slots that a process will have, each with a model of its own.
    #[serde(default = "one")]
    pub slots: u32,
    /// The device that the operator requested: `auto`, `cpu` or `cuda`.
    pub device: String,
    /// Whether to check CUDA's version, function and speed; false with `RUNPOD_SKIP_AUTO_SYSTEM_CHECKS`.
    pub system: bool,
    /// Whether to check the device's memory; false with `RUNPOD_SKIP_GPU_CHECK`.
    pub gpu_memory: bool,
    /// Lowest CUDA version that the driver must support: major and minor.
    pub min_cuda: (u32, u32),
    /// Bytes that must be free on the device; 0 for no minimum.
    pub min_gpu_memory: u64,
    /// Longest permitted time of the benchmark, in milliseconds.
    pub benchmark_limit_ms: u64,
    /// Longest permitted time of the memory test, in milliseconds.
    pub gpu_limit_ms: u64,
}

/// Outcome of a fitness check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// The check passed.
    Ok,
    /// The check failed: the worker must take no jobs.
    Failed,
    /// The check does not apply, or was switched off.
    Skipped,
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

/// Report of one fitness check; a list of reports is the payload of [`ToSupervisor::Checked`](crate::ToSupervisor::Checked).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Short name, such as `memory`.
    pub name: String,
    /// Outcome.
    pub status: CheckStatus,
    /// What the check found, or why it was skipped.
    pub detail: String,
    /// What to do about a failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl CheckReport {
    /// Report of a check that passed.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Ok, detail, "")
    }

    /// Report of a check that failed, with what to do about it.
    pub fn failed(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Failed, detail, fix)
    }

    /// Report of a check that was skipped, with the reason.
    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Skipped, reason, "")
    }

    fn new(name: impl Into<String>, status: CheckStatus, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), status, detail: detail.into(), fix: fix.into() }
    }

    /// Whether the check failed, so that the worker must take no jobs.
    pub fn is_failure(&self) -> bool {
        self.status == CheckStatus::Failed
    }

    /// What was found and what to do about it, in one line.
    pub fn reason(&self) -> String {
        if self.fix.is_empty() { self.detail.clone() } else { format!("{}: {}", self.detail, self.fix) }
    }
}
