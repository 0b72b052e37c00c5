//! The real binaries, started as a user would start them.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what is not there fails the test")]

mod bad_input;
mod balancing;
mod batches;
mod chaos;
mod concurrent;
mod database;
mod defaults;
mod deploy;
mod dev;
mod documents;
mod drain;
mod endpoint_guide;
mod failures;
mod files;
mod gpu;
mod gpu_bench;
mod gpu_figures;
mod lifecycle;
mod logs;
mod metrics;
mod network;
mod packaging;
mod readme;
mod real_days;
mod replicas;
mod scaffold;
mod scale_out;
mod scale_out_guide;
mod secrets;
mod serve;
mod spool;
mod startup;
mod steps;
mod tools;
mod traces;
mod upkeep;
mod voice_activity;
