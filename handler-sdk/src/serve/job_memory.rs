//! How much memory a job uses, on the host and on the device.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use runpod_handler_protocol::records::{DEVICE_BYTES, PEAK_DEVICE_BYTES, PEAK_HOST_BYTES, RESERVED_DEVICE_BYTES};
use runpod_handler_protocol::{ErrorKind, ErrorReport};

use crate::fake_device::FakeDevice;

/// How long a reading of the peak counts for all slots. To read it costs more than a job that does nothing.
const PEAK_AGE: Duration = Duration::from_millis(10);

/// The files of the kernel about this process.
static FILES: LazyLock<ProcFiles> = LazyLock::new(ProcFiles::open);

/// Measures the memory of one slot's jobs. Peaks are those of the whole process: with several slots, the peak of a job includes
/// the jobs that run beside it.
#[derive(Clone, Debug)]
pub(crate) struct JobMemory {
    #[cfg(feature = "torch")]
    device: tch::Device,
    /// Whether a probe tests the device that the jobs use.
    can_probe: bool,
}

impl JobMemory {
    /// `device` is the device that the handler reported, such as `cuda:0`. A handler that reported none may still use a GPU.
    pub(crate) fn of(device: Option<&str>) -> Self {
        #[cfg(feature = "torch")]
        let known = device.and_then(crate::torch::parse_device);
        #[cfg(not(feature = "torch"))]
        let known = device.filter(|device| *device == "cpu");
        Self {
            #[cfg(feature = "torch")]
            device: known.unwrap_or(tch::Device::Cpu),
            can_probe: known.is_some(),
        }
    }

    /// Resets the peaks at the start of a job, unless another slot may be running one (`alone` is false).
    pub(crate) fn begin(&self, alone: bool) {
        if alone {
            FILES.reset_peak();
            #[cfg(feature = "torch")]
            crate::torch::memory::reset_peak(self.device);
        }
    }

    /// Adds the memory of the finished job to the values that its handler recorded.
    pub(crate) fn record(&self, records: &mut BTreeMap<String, f64>) {
        if let Some(peak) = FILES.peak() {
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

    /// Device memory in bytes: now in tensors, now held by the allocator, and the most in tensors since [`JobMemory::begin`].
    fn device_bytes(&self) -> Option<(u64, u64, u64)> {
        #[cfg(feature = "torch")]
        return crate::torch::memory::stats(self.device).map(|stats| (stats.allocated, stats.reserved, stats.peak));
        #[cfg(not(feature = "torch"))]
        None
    }

    /// Recovers from an out-of-memory error: adds the memory statistics to the message, empties the allocator's cache, and turns
    /// the error into a lost device if the device no longer computes.
    pub(crate) fn recover(&self, report: &mut ErrorReport) {
        if report.kind != ErrorKind::Oom {
            return;
        }
        #[cfg(feature = "torch")]
        if let Some(stats) = crate::torch::memory::stats(self.device) {
            report.message.push_str(&format!(" (device memory: {stats})"));
        }
        self.empty_cache();
        if let Err(error) = self.probe() {
            report.kind = ErrorKind::DeviceLost;
            report.message.push_str(&format!("; after that the device no longer worked: {error}"));
        }
    }

    /// Returns the memory that the allocator caches to the device.
    pub(crate) fn empty_cache(&self) {
        #[cfg(feature = "torch")]
        crate::torch::memory::empty_cache(self.device);
    }

    /// Whether a probe shows that the device works, so that an error whose text speaks of a lost device only quotes it. `false`
    /// when the device cannot be probed: a GPU without libtorch, or a device that was not reported.
    pub(crate) fn works(&self) -> bool {
        self.can_probe && self.probe().is_ok()
    }

    /// Computes one number on the device. Does nothing on the CPU.
    pub(crate) fn probe(&self) -> Result<(), String> {
        FakeDevice::probe().map_err(|fault| fault.to_string())?;
        #[cfg(feature = "torch")]
        return crate::torch::probe_device(self.device);
        #[cfg(not(feature = "torch"))]
        Ok(())
    }
}

/// Files of the kernel about this process; `None` for one that cannot be opened. They stay open, because every job needs them.
#[derive(Debug)]
struct ProcFiles {
    status: Option<File>,
    clear_refs: Option<File>,
    /// The last reading of the peak, since it was last reset.
    last_peak: Mutex<Option<(Instant, u64)>>,
}

impl ProcFiles {
    fn open() -> Self {
        let clear_refs = File::options().write(true).open("/proc/self/clear_refs").ok();
        Self { status: File::open("/proc/self/status").ok(), clear_refs, last_peak: Mutex::default() }
    }

    /// Resets the peak of the resident set, which proc(5) describes. Where that is forbidden, the peak is that of the process.
    fn reset_peak(&self) {
        let _ = self.clear_refs.as_ref().map(|file| file.write_at(b"5", 0));
        *self.last_peak.lock() = None;
    }

    /// The peak of the resident set in bytes, read a moment ago at most.
    fn peak(&self) -> Option<u64> {
        let mut last = self.last_peak.lock();
        if let Some((_, peak)) = last.filter(|(read_at, _)| read_at.elapsed() < PEAK_AGE) {
            return Some(peak);
        }
        let peak = self.read_peak()?;
        *last = Some((Instant::now(), peak));
        Some(peak)
    }

    fn read_peak(&self) -> Option<u64> {
        // About 1,500 bytes; what is looked for is in the first half.
        let mut text = [0; 4096];
        let len = self.status.as_ref()?.read_at(&mut text, 0).ok()?;
        peak_host_bytes(&String::from_utf8_lossy(&text[..len]))
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
    fn the_host_peak_is_read_from_the_status_file() {
        assert_eq!(peak_host_bytes("VmPeak:\t  1 kB\nVmHWM:\t   12 kB\nVmRSS:\t 3 kB\n"), Some(12 * 1024));
        assert_eq!(peak_host_bytes("VmRSS:\t 3 kB\n"), None);
    }

    #[test]
    fn on_the_cpu_a_job_has_a_host_peak_and_no_device_memory() {
        let (memory, mut records) = (JobMemory::of(Some("cpu")), BTreeMap::new());
        memory.begin(true);
        memory.record(&mut records);
        assert!(records[PEAK_HOST_BYTES] > 1024.0, "{records:?}");
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(memory.probe(), Ok(()));
    }

    #[test]
    fn a_reading_of_the_peak_counts_for_a_moment_and_not_beyond_a_reset() {
        let files = ProcFiles::open();
        let old = Instant::now().checked_sub(2 * PEAK_AGE);
        *files.last_peak.lock() = Some((Instant::now() + Duration::from_secs(60), 7));
        assert_eq!(files.peak(), Some(7));
        *files.last_peak.lock() = old.map(|read_at| (read_at, 7));
        assert!(files.peak() > Some(1024));
        *files.last_peak.lock() = Some((Instant::now() + Duration::from_secs(60), 7));
        files.reset_peak();
        assert!(files.peak() > Some(1024));
    }

    #[test]
    fn a_device_that_cannot_be_probed_does_not_count_as_working() {
        assert!(JobMemory::of(Some("cpu")).works());
        assert!(!JobMemory::of(None).works());
        assert!(!JobMemory::of(Some("tpu:0")).works());
        if cfg!(not(feature = "torch")) {
            assert!(!JobMemory::of(Some("cuda:0")).works());
        }
    }

    #[test]
    fn recovery_leaves_errors_other_than_oom_alone() {
        let mut report =
            ErrorReport { kind: ErrorKind::InferenceError, message: "no".into(), traceback: String::new() };
        let before = report.clone();
        JobMemory::of(Some("cpu")).recover(&mut report);
        assert_eq!(report, before);
        report.kind = ErrorKind::Oom;
        JobMemory::of(Some("cpu")).recover(&mut report);
        assert_eq!((report.kind, report.message.as_str()), (ErrorKind::Oom, "no"));
    }
}
