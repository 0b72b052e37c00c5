//! Figures of the worker's GPUs, from their driver. All of them are optional: without a driver there are none, and a figure that a
//! card or a container does not give is absent, never zero. GPUs are not matched by process id, because process ids mean nothing
//! inside a container. The driver's management library opens no CUDA context.

mod figures;
mod gpus;
mod memory_floor;
mod nvml;
mod sampler;
mod slowdown;
mod visible;

pub use figures::{Gpu, GpuFigures, GpuReader, XidErrors};
pub use gpus::Gpus;
pub use sampler::{GpuSampler, GpuSettings, spawn};
pub use visible::VisibleDevices;
