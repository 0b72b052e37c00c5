//! Fitness checks of the GPU and of the CUDA libraries, made through libtorch.

use std::time::{Duration, Instant};

use runpod_handler_protocol::{CheckOrder, CheckReport};
use tch::{Device, Kind, Tensor};

use super::cuda::{Cuda, gpu_expected, probe};
use super::threads::{self, CpuShares};
use super::{architecture, libraries, memory};
use crate::text::split_stack;

/// Rows and columns of the benchmark's matrices, as in RunPod's SDK.
const BENCHMARK_SIDE: i64 = 1024;
/// Size of the memory test, in bytes.
const MEMORY_TEST: i64 = 64 * 1024 * 1024;

/// Runs every check of the device, in order. A check that does not apply is reported as skipped.
pub(crate) fn device_checks(order: &CheckOrder, shares: CpuShares) -> Vec<CheckReport> {
    let mut reports = vec![torch_version(), threads::report(shares)];
    if order.device == "cpu" {
        reports.push(libraries::check(&libraries::mapped()));
        reports.push(CheckReport::skipped("cuda", "--device cpu was requested"));
        return reports;
    }
    let cuda = probe();
    // After the probe, so that the list includes the CUDA libraries.
    reports.push(libraries::check(&libraries::mapped()));
    let required = order.device == "cuda" || gpu_expected();
    match cuda {
        Cuda::Usable => {}
        Cuda::Absent | Cuda::Broken(_) if !required => {
            reports.push(CheckReport::skipped("cuda", "this machine has no GPU: the CPU is used"));
            return reports;
        }
        // A libtorch for CPUs is a choice of the user: with `--device auto` the CPU is used.
        Cuda::Absent if order.device == "auto" => {
            reports.push(CheckReport::skipped("cuda", "this libtorch has no CUDA libraries: the CPU is used"));
            return reports;
        }
        Cuda::Absent | Cuda::Broken(_) => {}
    }
    if order.system {
        reports.push(cuda_version(memory::driver_version(), memory::runtime_version(), order.min_cuda));
        if *cuda != Cuda::Absent {
            reports.push(architecture::check(memory::capability(), &memory::cuda_config()));
        }
        reports.push(cuda_init(cuda));
    } else {
        reports.push(CheckReport::skipped("cuda", "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS is set"));
    }
    // Without a working device the remaining checks would only fail for the same reason.
    if *cuda == Cuda::Usable {
        if order.system {
            reports.push(within("gpu_benchmark", order.benchmark_limit_ms, "RUNPOD_GPU_BENCHMARK_TIMEOUT", benchmark));
        }
        if order.gpu_memory {
            let needed = order.min_gpu_memory;
            reports.push(within("gpu_memory", order.gpu_limit_ms, "RUNPOD_GPU_TEST_TIMEOUT", || gpu_memory(needed)));
        } else {
            reports.push(CheckReport::skipped("gpu_memory", "RUNPOD_SKIP_GPU_CHECK is set"));
        }
    }
    reports
}

/// Compares the libtorch that is loaded with the one that the program was built with: its C++ interface changes between
/// versions.
fn torch_version() -> CheckReport {
    let show = |[major, minor, patch]: [u8; 3]| format!("{major}.{minor}.{patch}");
    let (built, loaded) = memory::torch_versions();
    if built == loaded {
        return CheckReport::ok("libtorch", show(loaded));
    }
    CheckReport::failed(
        "libtorch",
        format!("libtorch {} is loaded, but the handler was built with {}", show(loaded), show(built)),
        format!("install libtorch {} in the image, or build the handler with libtorch {}", show(built), show(loaded)),
    )
}

fn cuda_version(driver: Option<(u32, u32)>, runtime: Option<(u32, u32)>, minimum: (u32, u32)) -> CheckReport {
    const NAME: &str = "cuda_version";
    let show = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let Some(driver) = driver else {
        return CheckReport::failed(
            NAME,
            "there is no NVIDIA driver (libcuda.so.1 cannot be loaded)",
            "install the driver on the host and start the container with its GPUs, or choose --device cpu",
        );
    };
    if driver < minimum {
        return CheckReport::failed(
            NAME,
            format!("the driver supports CUDA {}, but at least {} is required", show(driver), show(minimum)),
            "use a host with a newer driver, or lower RUNPOD_MIN_CUDA_VERSION",
        );
    }
    match runtime {
        // Newer libraries run on older drivers of the same major version only.
        Some(runtime) if runtime.0 > driver.0 => CheckReport::failed(
            NAME,
            format!("libtorch was built for CUDA {}, but the driver supports {}", show(runtime), show(driver)),
            "use a host with a newer driver, or a libtorch for an older CUDA",
        ),
        Some(runtime) => CheckReport::ok(NAME, format!("driver {}, libtorch {}", show(driver), show(runtime))),
        None => CheckReport::ok(NAME, format!("driver {}", show(driver))),
    }
}

fn cuda_init(cuda: &Cuda) -> CheckReport {
    const NAME: &str = "cuda_init";
    match cuda {
        Cuda::Usable => CheckReport::ok(NAME, "a tensor was computed on the GPU"),
        Cuda::Absent => CheckReport::failed(
            NAME,
            "this libtorch has no CUDA libraries (libtorch_cuda.so)",
            "use an image with the CUDA libraries, or choose --device auto or cpu",
        ),
        Cuda::Broken(reason) if reason.contains("cannot open shared object file") => CheckReport::failed(
            NAME,
            reason,
            "a CUDA library is missing in the image: build the image on worker-base-cuda, or install libtorch with \
             docker/install-libtorch.sh --variant cuda",
        ),
        Cuda::Broken(reason) if reason.contains("no kernel image") => CheckReport::failed(
            NAME,
            reason,
            "this libtorch has no kernels for this GPU's architecture: use another GPU type, or a libtorch built for it",
        ),
        Cuda::Broken(reason) => {
            CheckReport::failed(NAME, reason, "repair the driver or the image, or choose --device cpu")
        }
    }
}

fn benchmark() -> Result<String, tch::TchError> {
    let matrix = || Tensor::f_rand([BENCHMARK_SIDE, BENCHMARK_SIDE], (Kind::Float, Device::Cuda(0)));
    // Reading the sum waits for the GPU.
    let sum = matrix()?.f_matmul(&matrix()?)?.f_sum(Kind::Float)?.f_double_value(&[])?;
    Ok(format!("{BENCHMARK_SIDE}x{BENCHMARK_SIDE} matrix product, sum {sum:.0}"))
}

/// Writes device memory, reads it back, and compares the free memory with the minimum.
fn gpu_memory(needed: u64) -> Result<String, String> {
    let text = |error: tch::TchError| split_stack(&error.to_string()).0.to_owned();
    let device = Device::Cuda(0);
    let written = Tensor::f_ones([MEMORY_TEST], (Kind::Uint8, device)).map_err(text)?;
    let sum = written.f_sum(Kind::Int64).and_then(|sum| sum.f_int64_value(&[])).map_err(text)?;
    if sum != MEMORY_TEST {
        return Err(format!("the memory is faulty: {MEMORY_TEST} bytes of 1 were written, and their sum is {sum}"));
    }
    drop(written);
    memory::empty_cache(device);
    let stats = memory::stats(device).ok_or("libtorch does not report the device's memory")?;
    if stats.free < needed {
        return Err(format!("{} bytes are free, but at least {needed} are required (--min-gpu-memory)", stats.free));
    }
    Ok(format!("{} MiB of {} MiB free", stats.free >> 20, stats.total >> 20))
}

/// Runs `work` and fails if it takes longer than `limit_ms`; `setting` is the variable with which the limit can be raised.
fn within<E: ToString>(
    name: &str,
    limit_ms: u64,
    setting: &str,
    work: impl FnOnce() -> Result<String, E>,
) -> CheckReport {
    let started = Instant::now();
    let result = work();
    let took = started.elapsed();
    match result {
        Ok(_) if took > Duration::from_millis(limit_ms) => CheckReport::failed(
            name,
            format!("it took {took:.1?}, but the limit is {:?}", Duration::from_millis(limit_ms)),
            format!("the GPU is slow or shared: use another host, or raise {setting}"),
        ),
        Ok(detail) => CheckReport::ok(name, format!("{detail}, in {took:.1?}")),
        Err(error) => {
            let error = error.to_string();
            CheckReport::failed(
                name,
                split_stack(&error).0,
                "the GPU is faulty, or other processes use it: use another host",
            )
        }
    }
}

#[cfg(test)]
mod tests;
