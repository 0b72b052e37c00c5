//! Names of the figures that the SDK records about every job, beside those of the handler.

/// Most host memory that the handler process held during the job, in bytes.
pub const PEAK_HOST_BYTES: &str = "peak_host_bytes";
/// Most device memory in tensors during the job, in bytes.
pub const PEAK_DEVICE_BYTES: &str = "peak_device_bytes";
/// Device memory taken by the allocator when the job was over, in bytes: tensors and its cache.
pub const RESERVED_DEVICE_BYTES: &str = "reserved_device_bytes";
/// Device memory still in tensors when the job was over, in bytes. It grows from job to job when something leaks.
pub const DEVICE_BYTES: &str = "device_bytes";
