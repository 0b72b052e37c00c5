//! Tells memory exhaustion and a lost device from other errors by their text: libtorch reports all of them as one type.

use runpod_handler_protocol::ErrorKind;

/// Device memory, or the host's, is used up. The process lives on.
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

/// After these the CUDA context is dead: CUDA's documentation asks for the process to be ended and started again.
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

/// The kind that `text` gives away, if any.
pub(crate) fn classify(text: &str) -> Option<ErrorKind> {
    let text = text.to_ascii_lowercase();
    let holds = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
    // A CUDA text is asked for, so that "unknown error" from elsewhere does not cost a process.
    let from_cuda = ["cuda error", "cuda driver error", "cublas_status", "cudnn_status", "nvrtc"]
        .iter()
        .any(|word| text.contains(word));
    if from_cuda && holds(DEVICE_LOST) {
        return Some(ErrorKind::DeviceLost);
    }
    holds(OOM).then_some(ErrorKind::Oom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_libtorch_and_cuda() {
        let oom = Some(ErrorKind::Oom);
        let lost = Some(ErrorKind::DeviceLost);
        let table = [
            (
                oom,
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.06 GiB is \
                 free. Process 4711 has 78.04 GiB memory in use. Of the allocated memory 76.00 GiB is allocated by PyTorch, \
                 and 1.13 GiB is reserved by PyTorch but unallocated.",
            ),
            (
                oom,
                "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
            ),
            (oom, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            (oom, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            (oom, "CUDA driver error: out of memory"),
            (
                oom,
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to \
                 allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)",
            ),
            (
                lost,
                "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
            ),
            (lost, "CUDA error: device-side assert triggered"),
            (lost, "CUDA error: unspecified launch failure"),
            (lost, "CUDA error: uncorrectable ECC error encountered"),
            (lost, "CUDA error: misaligned address"),
            (lost, "CUDA error: the launch timed out and was terminated"),
            (lost, "CUDA error: unknown error"),
            (lost, "CUDA driver error: unknown error"),
            (lost, "CUDA error: an illegal instruction was encountered"),
            (lost, "CUDA error: operation not supported on global/shared address space"),
            (lost, "CUDA error: invalid program counter"),
            (lost, "CUDA error: hardware stack error"),
            (lost, "CUDA error: uncorrectable NVLink error detected during the execution"),
            (lost, "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error"),
            (lost, "CUDA error: driver shutting down"),
            (lost, "CUDA error: all CUDA-capable devices are busy or unavailable"),
            (lost, "CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
            (None, "CUDA error: no kernel image is available for execution on the device"),
            (None, "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"),
            (None, "CUDA error: invalid configuration argument"),
            (None, "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
            (None, "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
            (None, "CUDA error: peer access is not supported between these two devices"),
            (None, "upstream said: unknown error"),
            (None, "the printer is busy or unavailable"),
            (None, "the robot reports a misaligned address label"),
        ];
        for (expected, text) in table {
            assert_eq!(classify(text), expected, "{text}");
        }
    }
}
