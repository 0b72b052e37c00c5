//! Logs, traces, alerts, GPUs and host: what is told of the worker, and what must never be.

pub mod alerts;
pub mod gpu;
pub mod host;
mod jobs;
mod log_config;
pub mod logs;
pub mod observer;
mod rate;
pub mod redact;
pub mod report;
pub mod runtime;
mod secret_forms;
pub mod sink;
pub mod traces;
mod writer;

#[cfg(test)]
pub(crate) mod capture;

pub use log_config::{LogConfig, LogFormat};
pub use logs::{LogError, LogGuard, init};
pub use observer::Observer;
pub use sink::{Sink, SinkConfig};
pub use traces::{TraceConfig, TraceError, TraceExport};
