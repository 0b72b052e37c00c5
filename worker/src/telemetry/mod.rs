//! Logs: their format, what the core's reports look like in them, and what must never stand in them. Alerts.

pub mod alerts;
pub mod logs;
pub mod redact;
pub mod report;
mod writer;

#[cfg(test)]
pub(crate) mod capture;

pub use logs::{LogError, LogGuard, init};
