//! What a job costs in memory, on the host and on the device.

use std::collections::BTreeMap;
use std::fs;

use runpod_handler_protocol::records::{DEVICE_BYTES, PEAK_DEVICE_BYTES, PEAK_HOST_BYTES, RESERVED_DEVICE_BYTES};
use runpod_handler_protocol::{ErrorKind, ErrorReport};

/// The memory that one slot's jobs use. Peaks are those of the whole process: with several slots a job's peak includes
/// what ran beside it.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    #[cfg(feature = "torch")]
    device: tch::Device,
    /// Whether a probe says something about the device that jobs run on.
    can_be_tried: bool,
}

impl Memory {
    /// `device` as the handler has reported it, such as `cuda:0`. One that reported none may use a GPU all the same.
    pub(crate) fn of(device: Option<&str>) -> Self {
        #[cfg(feature = "torch")]
        let known = device.and_then(crate::torch::parse_device);
        #[cfg(not(feature = "torch"))]
        let known = device.filter(|device| *device == "cpu");
        Self {
            #[cfg(feature = "torch")]
            device: known.unwrap_or(tch::Device::Cpu),
            can_be_tried: known.is_some(),
        }
    }

    /// A job begins: peaks start again. `alone` when no other slot can be in the middle of one.
    pub(crate) fn begin(&self, alone: bool) {
        if alone {
            // Documented in proc(5): 5 resets the peak of the resident set. Where that is forbidden the peak is the
            // process's.
            let _ = fs::write("/proc/self/clear_refs", "5");
            #[cfg(feature = "torch")]
            crate::torch::memory::reset_peak(self.device);
        }
    }

    /// The job is over: adds its figures to those of the handler.
    pub(crate) fn record(&self, records: &mut BTreeMap<String, f64>) {
        if let Some(peak) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(peak_host_bytes) {
            records.insert(PEAK_HOST_BYTES.to_owned(), peak as f64);
        }
        if let Some((allocated, reserved, peak)) = self.device_bytes() {
            for (name, bytes) in
                [(DEVICE_BYTES, allocated), (RESERVED_DEVICE_BYTES, reserved), (PEAK_DEVICE_BYTES, peak)]
            {
                records.insert(name.to_owned(), bytes as f64);
            }
        }
    }

    /// Device memory in tensors and in the allocator now, and the most in tensors since [`Memory::begin`].
    fn device_bytes(&self) -> Option<(u64, u64, u64)> {
        #[cfg(feature = "torch")]
        return crate::torch::memory::stats(self.device).map(|stats| (stats.allocated, stats.reserved, stats.peak));
        #[cfg(not(feature = "torch"))]
        None
    }

    /// After the device ran out of memory: the error names the figures, the allocator's cache is given back, and a device
    /// that no longer computes is reported as lost.
    pub(crate) fn recover(&self, report: &mut ErrorReport) {
        if report.kind != ErrorKind::Oom {
            return;
        }
        #[cfg(feature = "torch")]
        {
            if let Some(stats) = crate::torch::memory::stats(self.device) {
                report.message.push_str(&format!(" (device memory: {stats})"));
            }
            crate::torch::memory::empty_cache(self.device);
        }
        if let Err(error) = self.probe() {
            report.kind = ErrorKind::DeviceLost;
            report.message.push_str(&format!("; afterwards the device did not work: {error}"));
        }
    }

    /// Whether the device is seen to be in order, so that an error whose text speaks of a lost one only quotes it. Where
    /// nothing can be tried, which is a GPU without libtorch and a device that nobody named, the text is believed.
    pub(crate) fn works(&self) -> bool {
        self.can_be_tried && self.probe().is_ok()
    }

    /// Computes one number on the device. Nothing to try on the CPU.
    pub(crate) fn probe(&self) -> Result<(), String> {
        #[cfg(feature = "torch")]
        return crate::torch::probe_device(self.device);
        #[cfg(not(feature = "torch"))]
        Ok(())
    }
}

/// `VmHWM` of `/proc/self/status`, in bytes.
fn peak_host_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_the_host_is_found() {
        assert_eq!(peak_host_bytes("VmPeak:\t  1 kB\nVmHWM:\t   12 kB\nVmRSS:\t 3 kB\n"), Some(12 * 1024));
        assert_eq!(peak_host_bytes("VmRSS:\t 3 kB\n"), None);
    }

    #[test]
    fn on_the_cpu_a_job_has_a_host_peak_and_no_device_figures() {
        let (memory, mut records) = (Memory::of(Some("cpu")), BTreeMap::new());
        memory.begin(true);
        memory.record(&mut records);
        assert!(records[PEAK_HOST_BYTES] > 1024.0, "{records:?}");
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(memory.probe(), Ok(()));
    }

    #[test]
    fn a_device_that_cannot_be_tried_is_not_said_to_work() {
        assert!(Memory::of(Some("cpu")).works());
        assert!(!Memory::of(None).works());
        assert!(!Memory::of(Some("tpu:0")).works());
        if cfg!(not(feature = "torch")) {
            assert!(!Memory::of(Some("cuda:0")).works());
        }
    }

    #[test]
    fn an_error_that_is_no_oom_is_left_alone() {
        let mut report =
            ErrorReport { kind: ErrorKind::InferenceError, message: "no".into(), traceback: String::new() };
        let before = report.clone();
        Memory::of(Some("cpu")).recover(&mut report);
        assert_eq!(report, before);
        report.kind = ErrorKind::Oom;
        Memory::of(Some("cpu")).recover(&mut report);
        assert_eq!((report.kind, report.message.as_str()), (ErrorKind::Oom, "no"));
    }
}
