//! Settings of the log.

pub use runpod_log_line::LogFormat;
use tracing::level_filters::LevelFilter;

/// Form, level and rate of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Form of a line.
    pub format: LogFormat,
    /// The least severe level that is logged.
    pub level: LevelFilter,
    /// Lines per second, of each level and of each stream of a handler; 0 for no limit.
    pub rate: u32,
}
