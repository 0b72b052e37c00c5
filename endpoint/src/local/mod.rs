//! What the server knows of the workers that this program runs itself: which ones run, what they use and log, and what
//! their handler declares. The `fleet` starts and stops them.

mod gpu_figures;
mod logs;
mod manifest;
mod registry;
mod usage;

pub use gpu_figures::{Gpu, GpuFigures};
pub use logs::{JobLogs, LogLine};
pub use manifest::Manifest;
pub use registry::{Listed, Local, LocalWorker};
pub use usage::{Usage, UsageMeter};
