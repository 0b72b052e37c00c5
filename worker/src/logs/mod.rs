//! The worker's log: one line per event, on stdout and, if asked for, over HTTP, free of secrets.

#[cfg(test)]
pub(crate) mod capture;
mod config;
mod fields;
mod init;
mod job_tags;
mod layer;
pub(crate) mod limits;
mod line;
mod rate_limit;
pub mod redact;
pub(crate) mod report;
mod shorten;
mod sink;

pub use config::{LogConfig, LogFormat};
pub use init::{LogError, init};
pub(crate) use job_tags::{JobTags, close_job, open_job};
pub(crate) use layer::HANDLER;
pub use runpod_log_line::LogGuard;
pub use sink::{Sink, SinkConfig};
