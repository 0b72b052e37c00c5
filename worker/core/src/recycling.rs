//! Replacing handler processes before they become a problem: by number of jobs, by memory, by age, or because a job asked
//! for it. Always between jobs: the process takes none any more, those that it has may finish, and only when it is gone
//! does its successor start, so that two never share a GPU.

use std::collections::BTreeMap;
use std::time::Duration;

use runpod_handler_protocol::records;

use super::effect::Report;
use super::event::DrainCause;
use super::ids::{ProcessId, Time};
use super::policy::{OnRefresh, Policy};
use super::process::{KillCause, Phase, Process};
use super::shutdown::Lifecycle;
use super::snapshot::DeviceMemory;
use super::worker::Worker;

/// Why a healthy process is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecycleReason {
    /// It has run `--max-jobs`.
    Jobs,
    /// It holds more host memory than `--max-rss`.
    HostMemory,
    /// Its tensors hold more device memory between jobs than `--max-vram`.
    DeviceMemory,
    /// It has served for `--max-age`.
    Age,
    /// A job asked for a fresh worker.
    Refresh,
}

impl RecycleReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Jobs, Self::HostMemory, Self::DeviceMemory, Self::Age, Self::Refresh];

    /// The word used in logs and as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "max_jobs",
            Self::HostMemory => "max_rss",
            Self::DeviceMemory => "max_vram",
            Self::Age => "max_age",
            Self::Refresh => "refresh",
        }
    }
}

/// When a process is replaced between jobs; `None` for never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecycleLimits {
    /// Jobs run.
    pub max_jobs: Option<u64>,
    /// Bytes of host memory held.
    pub max_rss: Option<u64>,
    /// Bytes of device memory in tensors when a job is over.
    pub max_vram: Option<u64>,
    /// Time since it began to serve.
    pub max_age: Option<Duration>,
}

/// What a process has used up since it began to serve.
#[derive(Clone, Debug, Default)]
pub(super) struct Wear {
    /// When it began to serve.
    pub since: Time,
    /// Jobs ended.
    pub jobs: u64,
    /// Host memory held, as last seen.
    pub host_bytes: u64,
    /// Device memory after the last job that told.
    pub device: Option<DeviceMemory>,
}

impl Wear {
    /// Notes the end of a job.
    pub(super) fn job_ended(&mut self, figures: &BTreeMap<String, f64>) {
        self.jobs += 1;
        let bytes = |name: &str| figures.get(name).map(|bytes| *bytes as u64);
        if let Some(allocated) = bytes(records::DEVICE_BYTES) {
            let (reserved, peak) = (bytes(records::RESERVED_DEVICE_BYTES), bytes(records::PEAK_DEVICE_BYTES));
            self.device = Some(DeviceMemory { allocated, reserved, peak });
        }
    }

    /// The first limit that is exceeded. A process that has not run a job is never replaced: its successor would be in
    /// the same state, and no job would ever run.
    fn exceeds(&self, limits: &RecycleLimits, now: Time) -> Option<RecycleReason> {
        if self.jobs == 0 {
            return None;
        }
        let over = |held: u64, limit: Option<u64>| limit.is_some_and(|limit| held > limit);
        if limits.max_jobs.is_some_and(|limit| self.jobs >= limit) {
            Some(RecycleReason::Jobs)
        } else if over(self.host_bytes, limits.max_rss) {
            Some(RecycleReason::HostMemory)
        } else if over(self.device.map_or(0, |device| device.allocated), limits.max_vram) {
            Some(RecycleReason::DeviceMemory)
        } else if limits.max_age.is_some_and(|limit| now >= self.since + limit) {
            Some(RecycleReason::Age)
        } else {
            None
        }
    }
}

impl Worker {
    /// Takes worn processes out of service, one at a time, so that the others go on serving.
    pub(super) fn recycle(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            if !self.may_recycle(&self.processes[index]) {
                continue;
            }
            if let Some(reason) = self.processes[index].wear.exceeds(&self.policy.recycle, now) {
                self.replace(now, id, reason);
            }
        }
    }

    /// When the next process grows too old.
    pub(super) fn recycle_deadline(&self) -> Option<Time> {
        let max_age = self.policy.recycle.max_age?;
        let ageing = self.processes.iter().filter(|process| process.wear.jobs > 0 && self.may_recycle(process));
        ageing.map(|process| process.wear.since + max_age).min()
    }

    /// RunPod's `refresh_worker`, and what a job that called `request_refresh` has asked for.
    pub(super) fn refresh(&mut self, now: Time, process: Option<ProcessId>, requested: bool) {
        if self.policy.refresh_worker || (requested && self.policy.on_refresh == OnRefresh::Exit) {
            if matches!(self.lifecycle, Lifecycle::Working) {
                self.begin_drain(now, &DrainCause::Refresh);
            }
        } else if let Some(process) = process.filter(|_| requested) {
            self.leave_soon(now);
            self.replace(now, process, RecycleReason::Refresh);
        }
    }

    fn replace(&mut self, now: Time, id: ProcessId, reason: RecycleReason) {
        if self.processes[id.0].phase != Phase::Serving {
            return;
        }
        let until = self.last_end(now, id);
        self.process(id).phase = Phase::Retiring { cause: KillCause::Recycled(reason), until };
        self.report(Report::ProcessRecycled { process: id, reason });
    }

    /// By when every job of a process is over one way or the other: each is asked to stop at its deadline, and its process
    /// is killed when it does not.
    fn last_end(&self, now: Time, id: ProcessId) -> Time {
        let Policy { cancel_grace, retire_grace, .. } = self.policy;
        let deadlines = self.jobs.values().filter(|job| job.runs_in(id)).map(|job| job.deadline);
        deadlines.max().unwrap_or(now).max(now) + cancel_grace + retire_grace
    }

    fn may_recycle(&self, process: &Process) -> bool {
        let in_change = |other: &Process| {
            other.id != process.id && !matches!(other.phase, Phase::Serving | Phase::Stopped | Phase::GaveUp)
        };
        matches!(self.lifecycle, Lifecycle::Working)
            && process.phase == Phase::Serving
            && !self.processes.iter().any(in_change)
    }
}
