//! Logs and traces: their form, what the core's reports look like in them, and what must never stand in them.

mod jobs;
pub mod logs;
pub mod observer;
mod rate;
pub mod redact;
pub mod report;
mod secret_forms;
pub mod sink;
pub mod traces;
mod writer;

#[cfg(test)]
pub(crate) mod capture;

pub use logs::{LogError, LogGuard, init};
pub use observer::Observer;
pub use sink::{Sink, SinkConfig};
pub use traces::{TraceConfig, TraceError, TraceExport};
