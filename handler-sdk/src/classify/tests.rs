use super::*;

#[test]
fn texts_of_libtorch_and_cuda_show_the_kind() {
    let oom = Some(ErrorKind::Oom);
    let lost = Some(ErrorKind::DeviceLost);
    let table = [
        (
            oom,
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.06 GiB is \
             free. Process 4711 has 78.04 GiB memory in use. Of the allocated memory 76.00 GiB is allocated by PyTorch, \
             and 1.13 GiB is reserved by PyTorch but unallocated.",
        ),
        (oom, "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
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
