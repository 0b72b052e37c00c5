//! Device memory: the statistics of libtorch's caching allocator, and emptying its cache.
//!
//! `tch` does not expose the allocator, so these functions call a small C++ file that is compiled with this crate. On the CPU
//! there are no statistics (`None`), and the other functions do nothing.

use std::fmt;

use tch::Device;

use super::architecture::Capability;

/// Memory of this process on the device, and of the whole device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Used by tensors that exist now.
    pub allocated: u64,
    /// Reserved by the allocator: for tensors and for its cache.
    pub reserved: u64,
    /// The most that tensors used since the last [`reset_peak`].
    pub peak: u64,
    /// Free on the device. The rest is used by this process and by others.
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

/// Returns reserved memory that no tensor uses to the device. The next allocations are slower, so call it after running out of
/// memory and not between jobs.
pub fn empty_cache(device: Device) {
    if index(device).is_some() {
        ffi::empty_cache();
    }
}

/// The memory statistics of a device; `None` for the CPU, and for a GPU that has not been used yet.
pub fn stats(device: Device) -> Option<MemoryStats> {
    ffi::stats(index(device)?)
}

/// Sets [`MemoryStats::peak`] to the memory that is allocated now.
pub fn reset_peak(device: Device) {
    if let Some(index) = index(device) {
        ffi::reset_peak(index);
    }
}

// libtorch caches the answer to its first query about accelerators, so none may be made before the CUDA libraries are loaded.
// A CUDA device exists only after that, so no query is made for the CPU.
fn index(device: Device) -> Option<i8> {
    match device {
        Device::Cuda(index) => i8::try_from(index).ok(),
        _ => None,
    }
}

/// Newest version of CUDA that the driver supports, such as (12, 8); `None` without a driver.
pub(super) fn driver_version() -> Option<(u32, u32)> {
    cuda_version(ffi::driver_version())
}

/// Version of CUDA that libtorch was built with. Call it only after the CUDA libraries are loaded.
pub(super) fn runtime_version() -> Option<(u32, u32)> {
    cuda_version(ffi::runtime_version())
}

/// libtorch's description of how its CUDA libraries were compiled; empty without CUDA.
pub(super) fn cuda_config() -> String {
    ffi::cuda_config()
}

/// The compute capability of the first GPU that is visible to this process, reported by the driver.
pub(super) fn capability() -> Option<Capability> {
    let number = u32::try_from(ffi::capability()).ok().filter(|number| *number > 0)?;
    Some(Capability { major: number / 10, minor: number % 10 })
}

/// Versions (major, minor, patch) of the libtorch that this program was built with and of the one that is loaded.
pub(super) fn torch_versions() -> ([u8; 3], [u8; 3]) {
    let split = |version: u64| {
        let [major, minor, patch, ..] = version.to_be_bytes();
        [major, minor, patch]
    };
    let (built, loaded) = ffi::torch_versions();
    (split(built), split(loaded))
}

/// Makes every allocation of libtorch on the CPU ask `operation` first: 0 lets it succeed, 1 makes it run out of memory, and any other
/// answer reports a lost device. Call it once.
pub(super) fn install_fake_device(operation: extern "C" fn(usize) -> i32) {
    ffi::install_fake_device(operation);
}

fn cuda_version(number: i32) -> Option<(u32, u32)> {
    let number = u32::try_from(number).ok().filter(|number| *number > 0)?;
    Some((number / 1000, number % 1000 / 10))
}

#[expect(unsafe_code, reason = "the only module that calls the C++ shim")]
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
        safe fn runpod_fake_device_install(operation: extern "C" fn(usize) -> i32);
        safe fn runpod_torch_built_version() -> u64;
        safe fn runpod_torch_loaded_version() -> u64;
    }

    pub(super) fn stats(device: i8) -> Option<MemoryStats> {
        let mut raw = RawStats::default();
        // SAFETY: the struct has the layout of the shim's; the shim only writes to it, only during the call, and throws nothing.
        let status = unsafe { runpod_memory_get(device, &raw mut raw) };
        let RawStats { allocated, reserved, peak, free, total } = raw;
        (status == OK).then_some(MemoryStats { allocated, reserved, peak, free, total })
    }

    // The next two ignore failures: the caller could not do anything about them.

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
        // Four times the length of the text of libtorch 2.11.
        let mut text = vec![0; 4096];
        // SAFETY: the shim writes at most `text.len()` bytes, only during the call, and returns how many it wrote.
        let written = unsafe { runpod_cuda_config(text.as_mut_ptr(), text.len()) };
        text.truncate(written);
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(super) fn install_fake_device(operation: extern "C" fn(usize) -> i32) {
        runpod_fake_device_install(operation);
    }

    pub(super) fn torch_versions() -> (u64, u64) {
        (runpod_torch_built_version(), runpod_torch_loaded_version())
    }
}

#[cfg(test)]
mod tests;
