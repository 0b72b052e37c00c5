//! Logs, GPUs and host: what is told of the worker, and what must never be.

pub mod gpu;
pub mod host;
pub mod logs;
pub mod redact;
pub mod report;
pub mod runtime;
mod writer;

#[cfg(test)]
pub(crate) mod capture;

pub use logs::{LogError, LogGuard, init};
