//! Names of figures about jobs: those that the SDK records itself, and those of a handler that become metrics.

/// What a handler can say its jobs have worked off: each is summed up in `runpod_job_items_total{unit}`. Figures of other
/// names go to the log only, because the names of metrics must not depend on what a job says.
pub const UNITS: [&str; 4] = ["items", "tokens", "images", "audio_seconds"];

/// Most host memory that the handler process held during the job, in bytes.
pub const PEAK_HOST_BYTES: &str = "peak_host_bytes";
/// Most device memory in tensors during the job, in bytes.
pub const PEAK_DEVICE_BYTES: &str = "peak_device_bytes";
/// Device memory taken by the allocator when the job was over, in bytes: tensors and its cache.
pub const RESERVED_DEVICE_BYTES: &str = "reserved_device_bytes";
/// Device memory still in tensors when the job was over, in bytes. It grows from job to job when something leaks.
pub const DEVICE_BYTES: &str = "device_bytes";
