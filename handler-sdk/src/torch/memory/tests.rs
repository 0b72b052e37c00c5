use super::*;
use crate::text::log;
use crate::torch::cuda::{Cuda, probe};

#[test]
fn the_cpu_has_no_device_memory() {
    assert_eq!(stats(Device::Cpu), None);
    empty_cache(Device::Cpu);
    reset_peak(Device::Cpu);
}

#[test]
fn a_device_that_does_not_exist_has_no_statistics_and_does_not_crash() {
    if *probe() == Cuda::Usable {
        log(format_args!("NOT TESTED: a missing GPU, because this machine has one"));
        return;
    }
    // These reach the C++ code, where libtorch finds no accelerator.
    for device in [Device::Cuda(0), Device::Cuda(127)] {
        assert_eq!(stats(device), None);
        empty_cache(device);
        reset_peak(device);
    }
    // The shim cannot express this index.
    assert_eq!(stats(Device::Cuda(1000)), None);
}

#[test]
fn statistics_follow_the_tensors_on_a_gpu() {
    if *probe() != Cuda::Usable {
        log(format_args!("NOT TESTED: a GPU, because this machine has none that works"));
        return;
    }
    let device = Device::Cuda(0);
    let before = tch::Tensor::ones([1024], (tch::Kind::Float, device));
    reset_peak(device);
    let start = stats(device).unwrap();
    let big = tch::Tensor::ones([64, 1024, 1024], (tch::Kind::Float, device));
    let with = stats(device).unwrap();
    assert_eq!(with.allocated - start.allocated, 256 * 1024 * 1024);
    drop(big);
    let after = stats(device).unwrap();
    assert_eq!((after.allocated, after.peak), (start.allocated, with.allocated));
    assert!(after.reserved >= with.allocated, "cached: {after}");
    empty_cache(device);
    assert!(stats(device).unwrap().reserved < after.reserved);
    drop(before);
}

#[test]
fn headers_and_library_have_the_same_version() {
    let (built, loaded) = torch_versions();
    assert_eq!(built, loaded);
    assert_eq!(built[..2], [2, 11]);
}

#[test]
fn a_libtorch_for_cpus_has_no_cuda_description() {
    if *probe() != Cuda::Absent {
        log(format_args!("NOT TESTED: a libtorch for CPUs, because this one has CUDA libraries"));
        return;
    }
    assert_eq!(cuda_config(), "");
}

#[test]
fn cuda_version_numbers_are_split() {
    assert_eq!(cuda_version(12080), Some((12, 8)));
    assert_eq!(cuda_version(11080), Some((11, 8)));
    assert_eq!(cuda_version(0), None);
    assert_eq!(cuda_version(-1), None);
}
