//! libtorch for handlers, through `tch`.
//!
//! - [`LoadEnv::device`](crate::LoadEnv::device) chooses the device: `cuda:0` when it works, and never the CPU in place of a
//!   broken GPU. Call it before any other function that uses CUDA: it also loads libtorch's CUDA libraries, to which the program
//!   is not linked, so handlers need no link flags.
//! - [`load_safetensors`] fills a `VarStore` and reports every tensor that does not fit.
//! - [`memory`] reports the allocator's memory and empties its cache.
//! - Slot threads run with gradients off, and with their share of the CPUs: the CPUs that the process may use (by affinity and
//!   cgroup quota), divided by the worker's number of processes and of slots. Set `OMP_NUM_THREADS` to choose another number of
//!   threads, or call `tch::set_num_threads` in `load`. `runpod-worker check` prints the number.
//!
//! Prefer the `f_*` functions of `tch`: the others panic on an error, and a panic costs a reload.

mod architecture;
mod cuda;
mod device;
mod fake_device;
mod fitness;
mod libraries;
pub mod memory;
mod threads;
mod weights;

pub use device::DeviceError;
pub(crate) use fake_device::use_fake_devices;
pub(crate) use fitness::device_checks;
pub(crate) use threads::{CpuShares, limit_threads};
pub use weights::{WeightsError, load_safetensors};

/// Limits the CPU threads of libtorch on this thread, and switches gradients off while the guard is alive.
pub(crate) fn prepare_model_thread(shares: CpuShares) -> tch::NoGradGuard {
    limit_threads(shares);
    tch::no_grad_guard()
}

/// The device that a handler reported, such as `cuda:0`; `None` unless it is the CPU or a CUDA device.
pub(crate) fn parse_device(name: &str) -> Option<tch::Device> {
    if name == "cpu" {
        return Some(tch::Device::Cpu);
    }
    let index = name.strip_prefix("cuda")?;
    index.strip_prefix(':').unwrap_or("0").parse().ok().map(tch::Device::Cuda)
}

/// Computes one number on a GPU and waits for it. Does nothing on the CPU.
pub(crate) fn probe_device(device: tch::Device) -> Result<(), String> {
    if device == tch::Device::Cpu {
        return Ok(());
    }
    let one =
        tch::Tensor::f_ones([1], (tch::Kind::Float, device)).and_then(|one| one.f_add(&one)?.f_double_value(&[0]));
    match one {
        Ok(2.0) => Ok(()),
        Ok(other) => Err(format!("1 + 1 is {other} on {device:?}")),
        Err(error) => Err(crate::text::split_stack(&error.to_string()).0.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::{ErrorKind, HandlerError, panics};

    #[test]
    fn reported_devices_are_parsed() {
        for (name, device) in [
            ("cuda:0", Some(Device::Cuda(0))),
            ("cuda:3", Some(Device::Cuda(3))),
            ("cuda", Some(Device::Cuda(0))),
            ("cpu", Some(Device::Cpu)),
            ("cuda:x", None),
            ("tpu:0", None),
        ] {
            assert_eq!(parse_device(name), device, "{name}");
        }
    }

    #[test]
    fn a_probe_of_the_cpu_succeeds_and_of_a_missing_gpu_fails() {
        assert_eq!(probe_device(Device::Cpu), Ok(()));
        if *cuda::probe() != cuda::Cuda::Usable {
            assert!(probe_device(Device::Cuda(0)).is_err());
        }
    }

    #[test]
    fn gradients_are_off_on_a_slot_thread() {
        let _guard = prepare_model_thread(CpuShares { processes: 1, models_in_each: 1 });
        let weight = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        assert!(!(&weight * 2).requires_grad());
    }

    #[test]
    fn the_cpp_stack_of_a_libtorch_error_goes_into_the_traceback() {
        let matrix = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        let report = HandlerError::from(matrix.f_matmul(&matrix).unwrap_err()).into_report(ErrorKind::InferenceError);
        let message = "Internal torch error: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)";
        assert_eq!((report.kind, report.message.as_str()), (ErrorKind::InferenceError, message));
        assert!(report.traceback.starts_with("Exception raised from"), "{}", report.traceback);

        let panicked = panics::catch("the handler", || matrix.matmul(&matrix)).unwrap_err();
        let report = panicked.into_report(ErrorKind::InferenceError);
        assert!(report.message.ends_with("cannot be multiplied (2x3 and 2x3)"), "{}", report.message);
    }
}
