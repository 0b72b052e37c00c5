//! The two forms of a line.

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
