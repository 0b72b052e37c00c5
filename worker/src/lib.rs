//! The worker: takes jobs from a RunPod-style queue, runs them in a handler process, delivers the results.
#![forbid(unsafe_code)]

pub mod alerts;
pub mod app;
pub mod base;
pub mod checks;
pub mod cli;
pub mod commands;
pub mod config;
pub mod direct;
pub mod dispatcher;
pub mod heartbeat;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod observer;
pub mod outbox;
mod parent;
pub mod process;
pub mod queue;
pub mod sensors;
pub mod traces;
