//! Names of recorded values about jobs: those that the SDK records, and those of a handler that become metrics.

/// Names under which a handler records how much work a job did; the metric `runpod_job_items_total{unit}` adds them up. Values
/// of other names appear only in the log, because jobs must not create new metrics.
pub const UNITS: [&str; 4] = ["items", "tokens", "images", "audio_seconds"];

/// Number of jobs in the batch that the job was part of.
pub const BATCH_ITEMS: &str = "batch_items";
/// How long the job waited in the handler process for its batch, in seconds.
pub const BATCH_WAIT_SECONDS: &str = "batch_wait_seconds";
/// Peak host memory of the handler process during the job, in bytes.
pub const PEAK_HOST_BYTES: &str = "peak_host_bytes";
/// Peak device memory of tensors during the job, in bytes.
pub const PEAK_DEVICE_BYTES: &str = "peak_device_bytes";
/// Device memory that the allocator held at the end of the job, in bytes: tensors and its cache.
pub const RESERVED_DEVICE_BYTES: &str = "reserved_device_bytes";
/// Device memory of tensors at the end of the job, in bytes. It grows from job to job when there is a leak.
pub const DEVICE_BYTES: &str = "device_bytes";
