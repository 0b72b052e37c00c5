//! Which device the model lives on.

use tch::Device;

use super::cuda::{Cuda, gpu_expected, probe};
use crate::LoadEnv;
use crate::text::log;

/// The device that was asked for cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A word that is no device.
    #[error("device {request:?} is not known: use auto, cpu or cuda")]
    Unknown {
        /// What was asked for.
        request: String,
    },
    /// `cuda` was asked for.
    #[error(
        "--device cuda was asked for, but {reason}: use a machine with a GPU and an image with the CUDA libraries, or choose \
         --device cpu"
    )]
    NoCuda {
        /// Why there is none.
        reason: String,
    },
    /// `auto` found a GPU that should work and does not.
    #[error(
        "this machine has a GPU, but it cannot be used: {reason}; repair driver or image, or choose --device cpu to run \
         without it"
    )]
    Broken {
        /// Why not.
        reason: String,
    },
}

impl LoadEnv {
    /// The device to put the model on, by what the operator asked for:
    ///
    /// - `cpu`: the CPU.
    /// - `cuda`: the first GPU that this process sees, or an error.
    /// - `auto`: the first GPU. The CPU only where libtorch has no CUDA half or the machine shows no GPU: a GPU that is there
    ///   and does not work is an error, not a reason to run a hundred times slower.
    ///
    /// Also tells the worker, which shows it.
    ///
    /// # Errors
    /// [`DeviceError`], whose text names the reason and what to do.
    pub fn device(&self) -> Result<Device, DeviceError> {
        let device = choose(self.requested_device(), probe, gpu_expected())?;
        self.report_device(match device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        });
        Ok(device)
    }
}

fn choose(request: &str, probe: impl FnOnce() -> &'static Cuda, gpu_expected: bool) -> Result<Device, DeviceError> {
    let why_not = |cuda: &Cuda| match cuda {
        Cuda::Broken(reason) => reason.clone(),
        Cuda::Usable | Cuda::Absent => "this libtorch has no CUDA half (libtorch_cuda.so)".to_owned(),
    };
    match request {
        "cpu" => Ok(Device::Cpu),
        "cuda" => match probe() {
            Cuda::Usable => Ok(Device::Cuda(0)),
            cuda => Err(DeviceError::NoCuda { reason: why_not(cuda) }),
        },
        "auto" => match probe() {
            Cuda::Usable => Ok(Device::Cuda(0)),
            Cuda::Broken(reason) if gpu_expected => Err(DeviceError::Broken { reason: reason.clone() }),
            cuda => {
                log(format_args!("device auto: the CPU, because {}", why_not(cuda)));
                Ok(Device::Cpu)
            }
        },
        _ => Err(DeviceError::Unknown { request: request.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::text::log;

    static BROKEN: LazyLock<Cuda> = LazyLock::new(|| Cuda::Broken("the driver is too old".to_owned()));

    #[test]
    fn never_the_cpu_instead_of_a_gpu_that_should_work() {
        let reason = || "the driver is too old".to_owned();
        let no_half = || "this libtorch has no CUDA half (libtorch_cuda.so)".to_owned();
        let (usable, absent, broken): (&'static Cuda, &'static Cuda, &'static Cuda) =
            (&Cuda::Usable, &Cuda::Absent, &BROKEN);
        let table = [
            ("auto", usable, true, Ok(Device::Cuda(0))),
            ("auto", usable, false, Ok(Device::Cuda(0))),
            ("auto", absent, false, Ok(Device::Cpu)),
            ("auto", absent, true, Ok(Device::Cpu)),
            ("auto", broken, false, Ok(Device::Cpu)),
            ("auto", broken, true, Err(DeviceError::Broken { reason: reason() })),
            ("cuda", usable, true, Ok(Device::Cuda(0))),
            ("cuda", absent, true, Err(DeviceError::NoCuda { reason: no_half() })),
            ("cuda", broken, false, Err(DeviceError::NoCuda { reason: reason() })),
            ("gpu", usable, true, Err(DeviceError::Unknown { request: "gpu".to_owned() })),
        ];
        for (request, cuda, gpu_expected, expected) in table {
            assert_eq!(choose(request, || cuda, gpu_expected), expected, "{request} {cuda:?} {gpu_expected}");
        }
    }

    #[test]
    fn cpu_does_not_even_look_for_cuda() {
        assert_eq!(choose("cpu", || panic!("looked"), true), Ok(Device::Cpu));
    }

    #[test]
    fn without_a_gpu_auto_is_the_cpu_and_cuda_an_error() {
        if gpu_expected() {
            log(format_args!("NOT TESTED: a missing GPU, for this machine has one"));
            return;
        }
        let env = LoadEnv::for_tests("auto");
        assert_eq!(env.device(), Ok(Device::Cpu));
        assert_eq!(env.device_in_use().unwrap(), Some("cpu"));
        let error = LoadEnv::for_tests("cuda").device().unwrap_err();
        assert!(matches!(error, DeviceError::NoCuda { .. }), "{error}");
        eprintln!("{error}");
    }
}
