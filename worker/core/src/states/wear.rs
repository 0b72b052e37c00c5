//! What a handler process has used since it began to serve: the figures that recycling goes by.

use std::collections::BTreeMap;

use runpod_handler_protocol::records;

use crate::boundary::{DeviceMemory, RecycleLimits, RecycleReason, Time};

/// Use of a process since it began to serve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wear {
    /// When it began to serve.
    pub since: Time,
    /// Jobs that have ended in it.
    pub jobs: u64,
    /// Host memory in bytes, as last measured.
    pub host_bytes: u64,
    /// Device memory after the last job that reported it.
    pub device: Option<DeviceMemory>,
}

impl Wear {
    /// Counts a job that has ended, and keeps the device memory that it reported.
    pub(crate) fn job_ended(&mut self, figures: &BTreeMap<String, f64>) {
        self.jobs += 1;
        let bytes = |name: &str| figures.get(name).map(|bytes| *bytes as u64);
        if let Some(allocated) = bytes(records::DEVICE_BYTES) {
            let (reserved, peak) = (bytes(records::RESERVED_DEVICE_BYTES), bytes(records::PEAK_DEVICE_BYTES));
            self.device = Some(DeviceMemory { allocated, reserved, peak });
        }
    }

    /// The first limit that is exceeded. A process that has run no job exceeds none: its successor would be in the same
    /// state, and no job would ever run.
    pub(crate) fn exceeds(&self, limits: &RecycleLimits, now: Time) -> Option<RecycleReason> {
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
