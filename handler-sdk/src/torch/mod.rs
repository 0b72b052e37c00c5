//! libtorch for handlers, through `tch`.
//!
//! - [`LoadEnv::device`](crate::LoadEnv::device) chooses the device: `cuda:0` when it works, never the CPU instead of a GPU
//!   that should have worked. Call it before anything else that asks about CUDA: it also loads the CUDA half of libtorch,
//!   which the program is not linked to, so no handler needs link flags.
//! - [`load_safetensors`] fills a `VarStore` and names everything that does not fit.
//! - Slot threads run with gradients off.
//!
//! Prefer the `f_*` functions of `tch`: the others panic on an error, and a panic costs a reload.

mod cuda;
mod device;
mod weights;

pub use device::DeviceError;
pub use weights::{WeightsError, load_safetensors};

/// Gradients are off for as long as the guard lives; with several slots each gets its share of the cores.
pub(crate) fn prepare_slot_thread(slots: u32) -> tch::NoGradGuard {
    if slots > 1 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = (cores / slots as usize).max(1);
        tch::set_num_threads(i32::try_from(share).unwrap_or(i32::MAX));
    }
    tch::no_grad_guard()
}
