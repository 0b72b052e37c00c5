//! The worker: takes jobs from a RunPod-style queue, runs them in a handler process, delivers the results.
#![forbid(unsafe_code)]

pub mod core;
pub mod http;
pub mod metrics;
pub mod process;
pub mod telemetry;
