//! Runs workers beside the server, as the platform would: same program, same environment variables. What is known of them
//! is kept in `local`.

mod error;
mod gpu_sets;
mod output;
mod plan;
mod pool;
mod ports;
mod process;
mod program;
mod rebuild;
mod restart;
mod scaler;
mod schema;
mod supervisor;

pub use error::FleetError;
pub use gpu_sets::GpuChoice;
pub(crate) use gpu_sets::Gpus;
pub(crate) use plan::WorkerPlan;
pub(crate) use pool::{Pool, run_pools};
pub(crate) use ports::HttpPorts;
pub(crate) use rebuild::Rebuilds;
pub(crate) use scaler::ScaleSettings;
pub use scaler::ScalerRule;
pub(crate) use schema::keep_schema;
pub(crate) use supervisor::StopSignals;
