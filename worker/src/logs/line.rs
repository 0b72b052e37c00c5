//! The form of a log line: JSON for the platform, text for people.
//!
//! The JSON keys and their order, the level names and the size limit are those of the official Python package, so that the
//! platform's log views work: `requestId`, `message`, `level`. Further fields follow.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};
use tracing::Level;

use super::config::LogFormat;
use super::fields::Fields;

/// One event as a line, with its line break.
pub(super) fn line(fields: &Fields, format: LogFormat, level: Level, worker_id: &str) -> String {
    match format {
        LogFormat::Json => json(fields, level, worker_id, None),
        LogFormat::Text => text(fields, level) + "\n",
    }
}

/// One event as a line of JSON, with its line break.
pub(super) fn json(fields: &Fields, level: Level, worker_id: &str, time: Option<SystemTime>) -> String {
    let mut line = serde_json::to_string(&JsonLine { fields, level, worker_id, time }).unwrap_or_default();
    line.push('\n');
    line
}

fn text(fields: &Fields, level: Level) -> String {
    let mut line = format!("{:<7}| ", level.as_str());
    if let Some(job) = &fields.job {
        line.push_str(job);
        line.push_str(" | ");
    }
    line.push_str(&fields.message);
    for (name, value) in &fields.others {
        // Writing to a String cannot fail.
        let _ = match value.as_str() {
            Some(text) if !text.contains(|c: char| c.is_whitespace() || c == '"') => write!(line, " {name}={text}"),
            _ => write!(line, " {name}={value}"),
        };
    }
    line
}

/// One event as JSON, keys in the platform's order.
struct JsonLine<'a> {
    fields: &'a Fields,
    level: Level,
    worker_id: &'a str,
    /// The platform stamps each line when it comes; other receivers want to be told.
    time: Option<SystemTime>,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(time) = self.time {
            map.serialize_entry("timestamp", &humantime::format_rfc3339_millis(time).to_string())?;
        }
        map.serialize_entry("requestId", &self.fields.job)?;
        map.serialize_entry("message", &self.fields.message)?;
        map.serialize_entry("level", self.level.as_str())?;
        map.serialize_entry("worker", self.worker_id)?;
        for (name, value) in &self.fields.others {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
