//! Detects, once, whether this process can use CUDA.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Device, Kind, Tensor};

use super::libraries;
use crate::text::split_stack;

/// Whether this process can use CUDA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cuda {
    /// A tensor was computed on the GPU.
    Usable,
    /// The loaded libtorch is one for CPUs only.
    Absent,
    /// The CUDA libraries exist but do not work, for this reason.
    Broken(String),
}

/// Loads libtorch's CUDA libraries and computes a tensor. libtorch caches the answer to its first query about CUDA, so they must
/// be loaded before it.
pub(super) fn probe() -> &'static Cuda {
    static DETECTED: OnceLock<Cuda> = OnceLock::new();
    DETECTED.get_or_init(|| {
        let Some(path) = libtorch_dir().map(|dir| dir.join("libtorch_cuda.so")) else {
            return Cuda::Absent;
        };
        if !path.exists() {
            return Cuda::Absent;
        }
        match load(&path) {
            Ok(()) => try_tensor(),
            Err(reason) => Cuda::Broken(format!("libtorch_cuda.so cannot be loaded: {reason}")),
        }
    })
}

/// Whether this process should see a GPU: the driver's device file exists, and `CUDA_VISIBLE_DEVICES` does not hide all GPUs.
pub(super) fn gpu_expected() -> bool {
    let hidden = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|list| matches!(list.trim(), "" | "-1"));
    !hidden && ["/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu"].iter().any(|file| Path::new(file).exists())
}

/// The directory of the libtorch that this process has loaded.
fn libtorch_dir() -> Option<PathBuf> {
    libraries::mapped().iter().find(|path| path.ends_with("libtorch_cpu.so"))?.parent().map(Path::to_owned)
}

#[expect(unsafe_code, reason = "loading a library runs its initializers")]
fn load(path: &Path) -> Result<(), String> {
    // SAFETY: the initializers of libtorch_cuda only register its kernels with the libtorch_cpu of the same directory, which is
    // already loaded. PyTorch loads the library in the same way. It is never unloaded, so what it registers stays valid.
    // RTLD_GLOBAL, because other libraries of libtorch look up its symbols.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    // The linker's message is the source of the error.
    library.map(std::mem::forget).map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
}

/// Computes one number. That detects a missing or outdated driver, and a GPU for which this libtorch has no kernels.
fn try_tensor() -> Cuda {
    match Tensor::f_ones([1], (Kind::Float, Device::Cuda(0))).and_then(|one| one.f_double_value(&[0])) {
        Ok(_) => Cuda::Usable,
        Err(error) => Cuda::Broken(split_stack(&error.to_string()).0.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_the_loaded_libtorch_is_found() {
        // Without a call into libtorch the linker would drop it.
        tch::manual_seed(1);
        let dir = libtorch_dir().expect("libtorch_cpu.so is mapped");
        assert!(dir.join("libtorch_cpu.so").exists(), "{}", dir.display());
    }

    #[test]
    fn a_library_that_cannot_be_loaded_gives_a_reason_and_does_not_crash() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a library").unwrap();
        let reason = load(file.path()).unwrap_err();
        assert!(reason.contains("file too short") || reason.contains("invalid ELF header"), "{reason}");
    }
}
