//! The worker: takes jobs from a RunPod-style queue, runs them in a handler process, delivers the results.
#![forbid(unsafe_code)]

pub mod config;
pub mod core;
pub mod heartbeat;
pub mod metrics;
pub mod outbox;
pub mod queue;
pub mod retry;
