//! Device memory: what libtorch's caching allocator holds, and giving its cache back.
//!
//! `tch` has no view of the allocator, so this goes through a small C++ file compiled with this crate. On the CPU there is
//! nothing to see: figures are `None` and the rest does nothing.

use std::fmt;

use tch::Device;

use super::architecture::Capability;

/// Device memory of this process and of the whole device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In tensors that are alive.
    pub allocated: u64,
    /// Taken from the device by the allocator: tensors and its cache.
    pub reserved: u64,
    /// Most that was ever in tensors since the last [`reset_peak`].
    pub peak: u64,
    /// Free on the device, whoever uses the rest.
    pub free: u64,
    /// Size of the device's memory.
    pub total: u64,
}

impl fmt::Display for MemoryStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes / (1024 * 1024);
        write!(
            f,
            "{} MiB allocated in tensors, {} MiB reserved by the allocator, {} MiB of {} MiB free on the device",
            mib(self.allocated),
            mib(self.reserved),
            mib(self.free),
            mib(self.total)
        )
    }
}

/// Gives memory that no tensor uses back to the device. Costs time at the next allocations; worth it after running out of
/// memory, not between jobs.
pub fn empty_cache(device: Device) {
    if index(device).is_some() {
        ffi::empty_cache();
    }
}

/// The figures of a device; `None` for the CPU, and for a GPU that nothing has been put on yet.
pub fn stats(device: Device) -> Option<MemoryStats> {
    ffi::stats(index(device)?)
}

/// Lets [`MemoryStats::peak`] start again from what is allocated now.
pub fn reset_peak(device: Device) {
    if let Some(index) = index(device) {
        ffi::reset_peak(index);
    }
}

// libtorch must not be asked about accelerators before the CUDA half is loaded: it remembers the answer. Whoever has a CUDA
// device has loaded it, so nothing is asked for the CPU.
fn index(device: Device) -> Option<i8> {
    match device {
        Device::Cuda(index) => i8::try_from(index).ok(),
        _ => None,
    }
}

/// Newest CUDA that the driver supports, such as (12, 8); `None` without a driver.
pub(super) fn driver_version() -> Option<(u32, u32)> {
    cuda_version(ffi::driver_version())
}

/// The CUDA that libtorch was built with. Ask only once the CUDA half is loaded.
pub(super) fn runtime_version() -> Option<(u32, u32)> {
    cuda_version(ffi::runtime_version())
}

/// What libtorch says about how its CUDA half was compiled; empty without one.
pub(super) fn cuda_config() -> String {
    ffi::cuda_config()
}

/// The compute capability of the first GPU that this process sees, by the driver's word.
pub(super) fn capability() -> Option<Capability> {
    let number = u32::try_from(ffi::capability()).ok().filter(|number| *number > 0)?;
    Some(Capability { major: number / 10, minor: number % 10 })
}

/// libtorch as it was when this program was built, and as it is loaded: major, minor, patch.
pub(super) fn torch_versions() -> ([u8; 3], [u8; 3]) {
    let split = |version: u64| {
        let [major, minor, patch, ..] = version.to_be_bytes();
        [major, minor, patch]
    };
    let (built, loaded) = ffi::torch_versions();
    (split(built), split(loaded))
}

fn cuda_version(number: i32) -> Option<(u32, u32)> {
    let number = u32::try_from(number).ok().filter(|number| *number > 0)?;
    Some((number / 1000, number % 1000 / 10))
}

#[expect(unsafe_code, reason = "the C++ shim is called here and nowhere else")]
mod ffi {
    use super::MemoryStats;

    const OK: i32 = 0;

    /// `runpod_memory_stats` of shim/accelerator.cpp.
    #[repr(C)]
    #[derive(Default)]
    struct RawStats {
        allocated: u64,
        reserved: u64,
        peak: u64,
        free: u64,
        total: u64,
    }

    unsafe extern "C" {
        fn runpod_memory_get(device: i8, out: *mut RawStats) -> i32;
        safe fn runpod_memory_empty_cache() -> i32;
        safe fn runpod_memory_reset_peak(device: i8) -> i32;
        safe fn runpod_cuda_runtime_version() -> i32;
        safe fn runpod_cuda_driver_version() -> i32;
        safe fn runpod_cuda_capability() -> i32;
        fn runpod_cuda_config(out: *mut u8, size: usize) -> usize;
        safe fn runpod_torch_built_version() -> u64;
        safe fn runpod_torch_loaded_version() -> u64;
    }

    pub(super) fn stats(device: i8) -> Option<MemoryStats> {
        let mut raw = RawStats::default();
        // SAFETY: the struct is laid out as in the shim, which only writes to it, during the call, and lets no exception out.
        let status = unsafe { runpod_memory_get(device, &raw mut raw) };
        let RawStats { allocated, reserved, peak, free, total } = raw;
        (status == OK).then_some(MemoryStats { allocated, reserved, peak, free, total })
    }

    // A failure of the next three changes nothing that anyone could act on.

    pub(super) fn empty_cache() {
        let _ = runpod_memory_empty_cache();
    }

    pub(super) fn reset_peak(device: i8) {
        let _ = runpod_memory_reset_peak(device);
    }

    pub(super) fn runtime_version() -> i32 {
        runpod_cuda_runtime_version()
    }

    pub(super) fn driver_version() -> i32 {
        runpod_cuda_driver_version()
    }

    pub(super) fn capability() -> i32 {
        runpod_cuda_capability()
    }

    pub(super) fn cuda_config() -> String {
        // A page is four times what libtorch 2.11 says.
        let mut text = vec![0; 4096];
        // SAFETY: the shim writes at most as many bytes as it is told, during the call, and answers how many.
        let written = unsafe { runpod_cuda_config(text.as_mut_ptr(), text.len()) };
        text.truncate(written);
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(super) fn torch_versions() -> (u64, u64) {
        (runpod_torch_built_version(), runpod_torch_loaded_version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::log;
    use crate::torch::cuda::{Cuda, probe};

    #[test]
    fn on_the_cpu_there_is_nothing_to_see() {
        assert_eq!(stats(Device::Cpu), None);
        empty_cache(Device::Cpu);
        reset_peak(Device::Cpu);
    }

    #[test]
    fn a_device_that_does_not_exist_is_an_answer_and_not_a_crash() {
        if *probe() == Cuda::Usable {
            log(format_args!("NOT TESTED: a missing GPU, for this machine has one"));
            return;
        }
        // Straight into C++, where libtorch finds no accelerator.
        for device in [Device::Cuda(0), Device::Cuda(127)] {
            assert_eq!(stats(device), None);
            empty_cache(device);
            reset_peak(device);
        }
        // Out of the shim's range.
        assert_eq!(stats(Device::Cuda(1000)), None);
    }

    #[test]
    fn figures_follow_the_tensors_on_a_gpu() {
        if *probe() != Cuda::Usable {
            log(format_args!("NOT TESTED: a GPU, for this machine has none that works"));
            return;
        }
        let device = Device::Cuda(0);
        let before = tch::Tensor::ones([1024], (tch::Kind::Float, device));
        reset_peak(device);
        let start = stats(device).unwrap();
        let big = tch::Tensor::ones([64, 1024, 1024], (tch::Kind::Float, device));
        let with = stats(device).unwrap();
        assert_eq!(with.allocated - start.allocated, 256 * 1024 * 1024);
        drop(big);
        let after = stats(device).unwrap();
        assert_eq!((after.allocated, after.peak), (start.allocated, with.allocated));
        assert!(after.reserved >= with.allocated, "cached: {after}");
        empty_cache(device);
        assert!(stats(device).unwrap().reserved < after.reserved);
        drop(before);
    }

    #[test]
    fn headers_and_library_are_of_one_version() {
        let (built, loaded) = torch_versions();
        assert_eq!(built, loaded);
        assert_eq!(built[..2], [2, 11]);
    }

    #[test]
    fn a_libtorch_for_cpus_was_compiled_for_no_gpu() {
        if *probe() != Cuda::Absent {
            eprintln!("SKIPPED: this libtorch has a CUDA half");
            return;
        }
        assert_eq!(cuda_config(), "");
    }

    #[test]
    fn cuda_numbers_are_split() {
        assert_eq!(cuda_version(12080), Some((12, 8)));
        assert_eq!(cuda_version(11080), Some((11, 8)));
        assert_eq!(cuda_version(0), None);
        assert_eq!(cuda_version(-1), None);
    }
}
