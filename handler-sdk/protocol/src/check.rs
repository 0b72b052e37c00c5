//! Fitness checks as they travel.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What to check, and what is good enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOrder {
    /// Id of the worker on the platform, for logs and error reports.
    pub worker_id: String,
    /// `auto`, `cpu` or `cuda`: what the operator asked for.
    pub device: String,
    /// Check the CUDA version, that CUDA works and how fast it computes (not with `RUNPOD_SKIP_AUTO_SYSTEM_CHECKS`).
    pub system: bool,
    /// Check the device's memory (not with `RUNPOD_SKIP_GPU_CHECK`).
    pub gpu_memory: bool,
    /// Oldest CUDA that the driver may support, major and minor.
    pub min_cuda: (u32, u32),
    /// Bytes that must be free on the device; 0 for any.
    pub min_gpu_memory: u64,
    /// Longest time for the benchmark, in milliseconds.
    pub benchmark_limit_ms: u64,
    /// Longest time for the memory test, in milliseconds.
    pub gpu_limit_ms: u64,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// All is well.
    Ok,
    /// No job must be taken.
    Failed,
    /// There is nothing to check, or it was asked not to.
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

/// What one check found; a list of them is the payload of [`ToSupervisor::Checked`](crate::ToSupervisor::Checked).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Short name, such as `memory`.
    pub name: String,
    /// How it went.
    pub status: CheckStatus,
    /// What was found, or why it was skipped.
    pub detail: String,
    /// What to do about a failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl CheckReport {
    /// A check that went well.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Ok, detail, "")
    }

    /// A check that failed, and what to do about it.
    pub fn failed(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Failed, detail, fix)
    }

    /// A check that was not made, and why.
    pub fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Skipped, why, "")
    }

    fn new(name: impl Into<String>, status: CheckStatus, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), status, detail: detail.into(), fix: fix.into() }
    }

    /// Whether it keeps the worker from taking jobs.
    pub fn is_failure(&self) -> bool {
        self.status == CheckStatus::Failed
    }

    /// What was found and what to do, in one line.
    pub fn reason(&self) -> String {
        if self.fix.is_empty() { self.detail.clone() } else { format!("{}: {}", self.detail, self.fix) }
    }
}
