//! Recognizes out-of-memory and lost-device errors by their text, because libtorch reports all errors as one type.

use runpod_handler_protocol::ErrorKind;

/// Texts of errors about exhausted memory, of the device or the host. The process can go on.
const OOM: &[&str] = &[
    "cuda out of memory",
    "cuda error: out of memory",
    "cuda driver error: out of memory",
    "hip out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cufft_alloc_failed",
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "std::bad_alloc",
];

/// Texts of errors after which the CUDA context is lost: by CUDA's documentation the process must exit and start again.
const DEVICE_LOST: &[&str] = &[
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "hardware stack error",
    "uncorrectable ecc error encountered",
    "uncorrectable nvlink error",
    "the launch timed out and was terminated",
    "unknown error",
    "driver shutting down",
    "busy or unavailable",
    "invalid access of peer gpu memory over nvlink",
];

/// The kind of error that `text` shows, if it shows one.
pub(crate) fn classify(text: &str) -> Option<ErrorKind> {
    let text = text.to_ascii_lowercase();
    let contains = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
    // Only texts of CUDA count, so that an "unknown error" of another library does not cost a process.
    let from_cuda = ["cuda error", "cuda driver error", "cublas_status", "cudnn_status", "nvrtc"]
        .iter()
        .any(|word| text.contains(word));
    if from_cuda && contains(DEVICE_LOST) {
        return Some(ErrorKind::DeviceLost);
    }
    contains(OOM).then_some(ErrorKind::Oom)
}

#[cfg(test)]
mod tests;
