//! The worker: takes jobs from a RunPod-style queue, runs them in a handler process, delivers the results.
#![forbid(unsafe_code)]

pub mod app;
pub mod base;
pub mod checks;
pub mod cli;
pub mod commands;
pub mod config;
pub use runpod_worker_core as core;
pub mod direct;
pub mod dispatcher;
pub mod heartbeat;
pub mod http;
pub mod metrics;
pub mod outbox;
mod parent;
pub mod process;
pub mod queue;
pub mod telemetry;
