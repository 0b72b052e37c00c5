//! What the server knows of the workers that this program runs itself: which ones run, what they use and log, and what
//! their handler declares. The `fleet` starts and stops them.

mod batching;
mod logs;
mod manifest;
mod registry;
mod usage;
mod worker_figures;

pub use batching::Batching;
pub use logs::{JobLogs, LogLine};
pub use manifest::Manifest;
pub use registry::{Listed, Local, LocalWorker};
pub use usage::{Usage, UsageMeter};
pub use worker_figures::{Figures, Gpu, WorkerFigures};
