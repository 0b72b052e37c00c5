//! Chooses the device that holds the model.

use tch::Device;

use super::cuda::{Cuda, gpu_expected, probe};
use crate::load_env::LoadEnv;
use crate::text::log;

/// Why the requested device cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The name is not one of `auto`, `cpu` and `cuda`.
    #[error("the device {request:?} is not known: use auto, cpu or cuda")]
    Unknown {
        /// The requested device.
        request: String,
    },
    /// `cuda` was requested and cannot be used.
    #[error(
        "--device cuda was requested, but {reason}: use a machine with a GPU and an image with the CUDA libraries, or choose \
         --device cpu"
    )]
    NoCuda {
        /// Why CUDA cannot be used.
        reason: String,
    },
    /// `auto` was requested, and the machine has a GPU that does not work.
    #[error(
        "this machine has a GPU, but it cannot be used: {reason}; repair the driver or the image, or choose --device cpu to run \
         without it"
    )]
    Broken {
        /// Why it does not work.
        reason: String,
    },
}

impl LoadEnv {
    /// The device for the model, by the operator's request:
    ///
    /// - `cpu`: the CPU.
    /// - `cuda`: the first GPU that is visible to this process, or an error.
    /// - `auto`: the first GPU; the CPU only if libtorch has no CUDA libraries or the machine has no GPU. A GPU that does not work
    ///   is an error, because the CPU would be about a hundred times slower.
    ///
    /// Also reports the device to the worker, as [`report_device`](Self::report_device) does.
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
    let reason_of = |cuda: &Cuda| match cuda {
        Cuda::Broken(reason) => reason.clone(),
        Cuda::Usable | Cuda::Absent => "this libtorch has no CUDA libraries (libtorch_cuda.so)".to_owned(),
    };
    match request {
        "cpu" => Ok(Device::Cpu),
        "cuda" => match probe() {
            Cuda::Usable => Ok(Device::Cuda(0)),
            cuda => Err(DeviceError::NoCuda { reason: reason_of(cuda) }),
        },
        "auto" => match probe() {
            Cuda::Usable => Ok(Device::Cuda(0)),
            Cuda::Broken(reason) if gpu_expected => Err(DeviceError::Broken { reason: reason.clone() }),
            cuda => {
                log(format_args!("device auto: the CPU is used, because {}", reason_of(cuda)));
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
    fn auto_never_chooses_the_cpu_in_place_of_a_broken_gpu() {
        let reason = || "the driver is too old".to_owned();
        let no_half = || "this libtorch has no CUDA libraries (libtorch_cuda.so)".to_owned();
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
    fn the_cpu_is_chosen_without_probing_cuda() {
        assert_eq!(choose("cpu", || panic!("probed"), true), Ok(Device::Cpu));
    }

    #[test]
    fn without_a_gpu_auto_chooses_the_cpu_and_cuda_fails() {
        if gpu_expected() {
            log(format_args!("NOT TESTED: a missing GPU, because this machine has one"));
            return;
        }
        let env = LoadEnv::for_tests("auto");
        assert_eq!(env.device(), Ok(Device::Cpu));
        assert_eq!(env.device_in_use().unwrap(), Some("cpu"));
        let error = LoadEnv::for_tests("cuda").device().unwrap_err();
        assert!(matches!(error, DeviceError::NoCuda { .. }), "{error}");
    }
}
