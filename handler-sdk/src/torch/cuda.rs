//! Finds out, once, what this process can do with CUDA.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Device, Kind, Tensor};

use super::libraries;
use crate::text::split_stack;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cuda {
    /// A tensor was computed on the GPU.
    Usable,
    /// A libtorch for CPUs only.
    Absent,
    /// The library is there and does not work, for this reason.
    Broken(String),
}

/// Loads the CUDA half of libtorch and tries it. libtorch asks for it only once, so it must be loaded before the first
/// question about CUDA.
pub(super) fn probe() -> &'static Cuda {
    static FOUND: OnceLock<Cuda> = OnceLock::new();
    FOUND.get_or_init(|| {
        let Some(path) = libtorch_folder().map(|folder| folder.join("libtorch_cuda.so")) else {
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

/// Whether this machine shows a GPU to this process: a device file of the driver, and not hidden by
/// `CUDA_VISIBLE_DEVICES`.
pub(super) fn gpu_expected() -> bool {
    let hidden = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|list| matches!(list.trim(), "" | "-1"));
    !hidden && ["/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu"].iter().any(|file| Path::new(file).exists())
}

/// Where the libtorch lies that this process runs.
fn libtorch_folder() -> Option<PathBuf> {
    libraries::mapped().iter().find(|path| path.ends_with("libtorch_cpu.so"))?.parent().map(Path::to_owned)
}

#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
fn load(path: &Path) -> Result<(), String> {
    // SAFETY: the initialisers of libtorch_cuda only register its kernels with the libtorch_cpu from the same folder, which
    // is loaded; they are made to be run like this, as Python does. The library is never unloaded, so nothing that it
    // registered can dangle. Global, because later libraries of libtorch look its symbols up.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    // The linker's own words are the source of the error.
    library.map(std::mem::forget).map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
}

/// Computes one number: that finds a missing driver, one that is too old, and a GPU that this libtorch has no kernels for.
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
    fn the_folder_of_the_running_libtorch_is_found() {
        // A call into libtorch, so that the linker keeps it.
        tch::manual_seed(1);
        let folder = libtorch_folder().expect("libtorch_cpu.so is mapped");
        assert!(folder.join("libtorch_cpu.so").exists(), "{}", folder.display());
    }

    #[test]
    fn a_library_that_cannot_be_loaded_is_a_reason_and_not_a_crash() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a library").unwrap();
        let reason = load(file.path()).unwrap_err();
        assert!(reason.contains("file too short") || reason.contains("invalid ELF header"), "{reason}");
    }
}
