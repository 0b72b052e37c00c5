use runpod_handler_protocol::CheckStatus;

use super::*;
use crate::text::log;

const ONE: CpuShares = CpuShares { processes: 1, models_in_each: 1 };

fn order(device: &str) -> CheckOrder {
    CheckOrder {
        worker_id: "w".into(),
        slots: 1,
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
fn the_driver_must_support_the_minimum_and_the_cuda_of_libtorch() {
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
fn the_fix_for_a_missing_kernel_names_the_architecture() {
    let reason = "CUDA error: no kernel image is available for execution on the device";
    let report = cuda_init(&Cuda::Broken(reason.to_owned()));
    assert!(report.is_failure() && report.fix.contains("architecture"), "{report:?}");
}

#[test]
fn the_fix_for_a_missing_library_names_the_image() {
    let reason = "libtorch_cuda.so cannot be loaded: libcudnn.so.9: cannot open shared object file: No such file";
    let report = cuda_init(&Cuda::Broken(reason.to_owned()));
    assert!(report.is_failure() && report.fix.contains("worker-base-cuda"), "{report:?}");
    assert!(report.detail.contains("libcudnn.so.9"), "{report:?}");
}

#[test]
fn a_check_that_takes_too_long_or_returns_an_error_fails() {
    let slow = within("x", 0, "LIMIT", || Ok::<_, String>(String::new()));
    assert!(slow.is_failure() && slow.fix.contains("LIMIT"), "{slow:?}");
    let broken = within("x", 1000, "LIMIT", || Err("ECC"));
    assert!(broken.is_failure() && broken.detail == "ECC", "{broken:?}");
    assert!(!within("x", 60_000, "LIMIT", || Ok::<_, String>(String::new())).is_failure());
}

#[test]
fn without_a_gpu_only_the_checks_for_cuda_fail() {
    if gpu_expected() {
        log(format_args!("NOT TESTED: a missing GPU, because this machine has one"));
        return;
    }
    let (ok, skipped) = (CheckStatus::Ok, CheckStatus::Skipped);
    for device in ["cpu", "auto"] {
        let reports = device_checks(&order(device), ONE);
        assert_eq!(statuses(&reports), [("libtorch", ok), ("threads", ok), ("libraries", ok), ("cuda", skipped)]);
        assert!(reports[2].detail.contains("libtorch_cpu.so"), "{reports:?}");
    }
    let reports = device_checks(&order("cuda"), ONE);
    assert!(reports.iter().any(CheckReport::is_failure), "{reports:?}");
}

#[test]
fn on_a_gpu_every_check_passes() {
    if *probe() != Cuda::Usable {
        log(format_args!("NOT TESTED: a GPU, because this machine has none that works"));
        return;
    }
    let reports = device_checks(&order("cuda"), ONE);
    assert!(reports.iter().all(|report| report.status == CheckStatus::Ok), "{reports:?}");
    let greedy = CheckOrder { min_gpu_memory: u64::MAX, ..order("cuda") };
    assert!(device_checks(&greedy, ONE).iter().any(CheckReport::is_failure));
}
