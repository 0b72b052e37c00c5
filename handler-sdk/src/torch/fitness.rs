//! Checks of the GPU and of the libraries around it, as far as libtorch can tell.

use std::time::{Duration, Instant};

use runpod_handler_protocol::{CheckOrder, CheckReport};
use tch::{Device, Kind, Tensor};

use super::cuda::{Cuda, gpu_expected, probe};
use super::{architecture, libraries, memory};
use crate::text::split_stack;

/// Side of the matrices of the benchmark, as in RunPod's SDK.
const BENCHMARK_SIDE: i64 = 1024;
/// Bytes that the memory test writes and reads back.
const MEMORY_TEST: i64 = 64 * 1024 * 1024;

/// Every check of the device, in order; those that do not apply say so.
pub(crate) fn device_checks(order: &CheckOrder) -> Vec<CheckReport> {
    let mut reports = vec![torch_version()];
    if order.device == "cpu" {
        reports.push(libraries::check(&libraries::mapped()));
        reports.push(CheckReport::skipped("cuda", "--device cpu was asked for"));
        return reports;
    }
    let cuda = probe();
    // Only now, so that the CUDA half is in the list too.
    reports.push(libraries::check(&libraries::mapped()));
    let required = order.device == "cuda" || gpu_expected();
    match cuda {
        Cuda::Usable => {}
        Cuda::Absent | Cuda::Broken(_) if !required => {
            reports.push(CheckReport::skipped("cuda", "this machine shows no GPU: the CPU is used"));
            return reports;
        }
        // `--device auto` with a libtorch for CPUs is a choice; the SDK uses the CPU then.
        Cuda::Absent if order.device == "auto" => {
            reports.push(CheckReport::skipped("cuda", "this libtorch has no CUDA half: the CPU is used"));
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
    // Without a working device the rest would only repeat the reason.
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

/// libtorch as the program was built with it and as it is now. C++ gives no promise between versions.
fn torch_version() -> CheckReport {
    let show = |[major, minor, patch]: [u8; 3]| format!("{major}.{minor}.{patch}");
    let (built, loaded) = memory::torch_versions();
    if built == loaded {
        return CheckReport::ok("libtorch", show(loaded));
    }
    CheckReport::failed(
        "libtorch",
        format!("libtorch {} is loaded, the handler was built with {}", show(loaded), show(built)),
        format!("put libtorch {} into the image, or build the handler with the other one", show(built)),
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
            format!("the driver supports CUDA {}, at least {} is asked for", show(driver), show(minimum)),
            "use a host with a newer driver, or lower RUNPOD_MIN_CUDA_VERSION",
        );
    }
    match runtime {
        // Within a major version newer libraries run on older drivers; across, they do not.
        Some(runtime) if runtime.0 > driver.0 => CheckReport::failed(
            NAME,
            format!("libtorch was built for CUDA {}, the driver supports {}", show(runtime), show(driver)),
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
            "this libtorch has no CUDA half (libtorch_cuda.so)",
            "use an image with the CUDA libraries, or choose --device auto or cpu",
        ),
        Cuda::Broken(reason) if reason.contains("cannot open shared object file") => CheckReport::failed(
            NAME,
            reason,
            "the image lacks a CUDA library: build it on worker-base-cuda, or install libtorch with \
             docker/install-libtorch.sh --variant cuda",
        ),
        Cuda::Broken(reason) if reason.contains("no kernel image") => CheckReport::failed(
            NAME,
            reason,
            "this libtorch has no kernels for this GPU's architecture: use another GPU type, or a libtorch built for it",
        ),
        Cuda::Broken(reason) => CheckReport::failed(NAME, reason, "repair driver or image, or choose --device cpu"),
    }
}

fn benchmark() -> Result<String, tch::TchError> {
    let matrix = || Tensor::f_rand([BENCHMARK_SIDE, BENCHMARK_SIDE], (Kind::Float, Device::Cuda(0)));
    // Reading the sum waits for the GPU.
    let sum = matrix()?.f_matmul(&matrix()?)?.f_sum(Kind::Float)?.f_double_value(&[])?;
    Ok(format!("{BENCHMARK_SIDE}x{BENCHMARK_SIDE} matrix product, sum {sum:.0}"))
}

/// Writes memory, reads it back, and sees how much is free.
fn gpu_memory(needed: u64) -> Result<String, String> {
    let text = |error: tch::TchError| split_stack(&error.to_string()).0.to_owned();
    let device = Device::Cuda(0);
    let written = Tensor::f_ones([MEMORY_TEST], (Kind::Uint8, device)).map_err(text)?;
    let sum = written.f_sum(Kind::Int64).and_then(|sum| sum.f_int64_value(&[])).map_err(text)?;
    if sum != MEMORY_TEST {
        return Err(format!("memory does not hold what was written: {sum} of {MEMORY_TEST} bytes came back"));
    }
    drop(written);
    memory::empty_cache(device);
    let stats = memory::stats(device).ok_or("libtorch does not show the device's memory")?;
    if stats.free < needed {
        return Err(format!("{} bytes are free, at least {needed} are asked for (--min-gpu-memory)", stats.free));
    }
    Ok(format!("{} MiB of {} MiB free", stats.free >> 20, stats.total >> 20))
}

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
            format!("it took {took:.1?}, the limit is {:?}", Duration::from_millis(limit_ms)),
            format!("the GPU is slow or shared: use another host, or raise {setting}"),
        ),
        Ok(detail) => CheckReport::ok(name, format!("{detail}, in {took:.1?}")),
        Err(error) => {
            let error = error.to_string();
            CheckReport::failed(name, split_stack(&error).0, "the GPU is faulty or used by others: use another host")
        }
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_protocol::CheckStatus;

    use super::*;
    use crate::text::log;

    fn order(device: &str) -> CheckOrder {
        CheckOrder {
            worker_id: "w".into(),
            device: device.into(),
            system: true,
            gpu_memory: true,
            min_cuda: (11, 8),
            min_gpu_memory: 0,
            benchmark_limit_ms: 60_000,
            gpu_limit_ms: 60_000,
        }
    }

    fn statuses(reports: &[CheckReport]) -> Vec<(&str, CheckStatus)> {
        reports.iter().map(|report| (report.name.as_str(), report.status)).collect()
    }

    #[test]
    fn driver_libtorch_and_minimum_must_fit() {
        let table = [
            (Some((12, 8)), Some((12, 6)), None),
            (Some((12, 4)), Some((12, 8)), None),
            (Some((13, 0)), Some((12, 8)), None),
            (Some((11, 8)), None, None),
            (None, Some((12, 8)), Some("no NVIDIA driver")),
            (Some((11, 4)), None, Some("at least 11.8")),
            (Some((12, 8)), Some((13, 0)), Some("built for CUDA 13.0")),
        ];
        for (driver, runtime, problem) in table {
            let report = cuda_version(driver, runtime, (11, 8));
            assert_eq!(report.is_failure(), problem.is_some(), "{report:?}");
            assert!(problem.is_none_or(|words| report.detail.contains(words)), "{report:?}");
            assert_eq!(report.fix.is_empty(), problem.is_none(), "{report:?}");
        }
    }

    #[test]
    fn a_missing_kernel_is_a_matter_of_architecture() {
        let reason = "CUDA error: no kernel image is available for execution on the device";
        let report = cuda_init(&Cuda::Broken(reason.to_owned()));
        assert!(report.is_failure() && report.fix.contains("architecture"), "{report:?}");
    }

    #[test]
    fn a_missing_library_is_a_matter_of_the_image() {
        let reason = "libtorch_cuda.so cannot be loaded: libcudnn.so.9: cannot open shared object file: No such file";
        let report = cuda_init(&Cuda::Broken(reason.to_owned()));
        assert!(report.is_failure() && report.fix.contains("worker-base-cuda"), "{report:?}");
        assert!(report.detail.contains("libcudnn.so.9"), "{report:?}");
    }

    #[test]
    fn work_that_takes_too_long_or_fails_is_a_failure() {
        let slow = within("x", 0, "LIMIT", || Ok::<_, String>(String::new()));
        assert!(slow.is_failure() && slow.fix.contains("LIMIT"), "{slow:?}");
        let broken = within("x", 1000, "LIMIT", || Err("ECC"));
        assert!(broken.is_failure() && broken.detail == "ECC", "{broken:?}");
        assert!(!within("x", 60_000, "LIMIT", || Ok::<_, String>(String::new())).is_failure());
    }

    #[test]
    fn without_a_gpu_only_cuda_is_a_failure() {
        if gpu_expected() {
            log(format_args!("NOT TESTED: a missing GPU, for this machine has one"));
            return;
        }
        let (ok, skipped) = (CheckStatus::Ok, CheckStatus::Skipped);
        for device in ["cpu", "auto"] {
            let reports = device_checks(&order(device));
            assert_eq!(statuses(&reports), [("libtorch", ok), ("libraries", ok), ("cuda", skipped)]);
            assert!(reports[1].detail.contains("libtorch_cpu.so"), "{reports:?}");
        }
        let reports = device_checks(&order("cuda"));
        assert!(reports.iter().any(CheckReport::is_failure), "{reports:?}");
    }

    #[test]
    fn on_a_gpu_everything_passes() {
        if *probe() != Cuda::Usable {
            log(format_args!("NOT TESTED: a GPU, for this machine has none that works"));
            return;
        }
        let reports = device_checks(&order("cuda"));
        assert!(reports.iter().all(|report| report.status == CheckStatus::Ok), "{reports:?}");
        let greedy = CheckOrder { min_gpu_memory: u64::MAX, ..order("cuda") };
        assert!(device_checks(&greedy).iter().any(CheckReport::is_failure));
    }
}
