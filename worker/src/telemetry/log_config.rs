//! How the log is written.

use tracing::level_filters::LevelFilter;

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For machines or for people.
    pub format: LogFormat,
    /// What is not worth logging.
    pub level: LevelFilter,
    /// Lines a second, of each level and of each stream of a handler; 0 for no limit.
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
