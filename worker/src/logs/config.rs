//! Settings of the log.

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

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, as RunPod's log views expect it.
    Json,
    /// Text for people.
    Text,
}

impl LogFormat {
    /// The word used in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}
