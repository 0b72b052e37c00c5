//! One line.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use tracing::Level;

use crate::printable::{printable, printable_json};

/// Stands before every line of a message but its first: no such line looks like the beginning of another message.
const CONTINUATION: &str = "\n    ";

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub struct LogLine<'a> {
    /// When it was logged.
    pub time: SystemTime,
    /// How severe it is.
    pub level: Level,
    /// The job that it is about.
    pub job: Option<&'a str>,
    /// The worker that logs it; `None` in the endpoint's own log.
    pub worker: Option<&'a str>,
    /// One or more sentences.
    pub message: &'a str,
    /// The data, in the order in which it is printed.
    pub fields: &'a [(&'static str, Value)],
}

impl LogLine<'_> {
    /// The line as text, with its line break: `2026-01-31T12:00:00.250Z INFO   | j-1 | Started. attempt=1`.
    pub fn text(&self) -> String {
        let time = humantime::format_rfc3339_millis(self.time);
        let mut line = format!("{time} {:<7}| ", self.level.as_str());
        if let Some(job) = self.job {
            line.push_str(&printable(job));
            line.push_str(" | ");
        }
        for (number, part) in self.message.lines().enumerate() {
            if number > 0 {
                line.push_str(CONTINUATION);
            }
            line.push_str(&printable(part));
        }
        for (name, value) in self.fields {
            // Writing to a String cannot fail.
            let _ = match value.as_str() {
                Some(text) if !text.contains(needs_quotes) => write!(line, " {name}={}", printable(text)),
                _ => write!(line, " {name}={}", printable(&value.to_string())),
            };
        }
        line.push('\n');
        line
    }

    /// The line as JSON, with its line break. The keys and their order are those of the official Python package, so that the
    /// platform's log views work: `requestId`, `message`, `level`. A `timestamp` comes before them, further fields follow.
    pub fn json(&self) -> String {
        json(&JsonLine { line: self, is_stamped: true })
    }

    /// [`LogLine::json`] without the `timestamp`: RunPod stamps each line itself.
    pub fn json_without_time(&self) -> String {
        json(&JsonLine { line: self, is_stamped: false })
    }
}

fn needs_quotes(letter: char) -> bool {
    letter.is_whitespace() || letter == '"'
}

fn json(line: &JsonLine<'_>) -> String {
    // Strings, numbers and JSON that was parsed before: nothing in it can fail.
    let mut text = printable_json(serde_json::to_string(line).unwrap_or_default());
    text.push('\n');
    text
}

struct JsonLine<'a> {
    line: &'a LogLine<'a>,
    is_stamped: bool,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = self.line;
        let mut map = serializer.serialize_map(None)?;
        if self.is_stamped {
            map.serialize_entry("timestamp", &humantime::format_rfc3339_millis(line.time).to_string())?;
        }
        map.serialize_entry("requestId", &line.job)?;
        map.serialize_entry("message", line.message)?;
        map.serialize_entry("level", line.level.as_str())?;
        if let Some(worker) = line.worker {
            map.serialize_entry("worker", worker)?;
        }
        for (name, value) in line.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn line<'a>(message: &'a str, fields: &'a [(&'static str, Value)]) -> LogLine<'a> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_769_860_800_250);
        LogLine { time, level: Level::INFO, job: Some("j-1"), worker: Some("w-1"), message, fields }
    }

    #[test]
    fn text_has_time_level_job_message_and_fields() {
        let fields = [("attempt", json!(1)), ("reason", json!("two words")), ("kind", json!("oom"))];
        assert_eq!(
            line("Started.", &fields).text(),
            "2026-01-31T12:00:00.250Z INFO   | j-1 | Started. attempt=1 reason=\"two words\" kind=oom\n"
        );
    }

    #[test]
    fn json_has_the_platforms_keys_first() {
        let fields = [("attempt", json!(1))];
        let unstamped = line("Started.", &fields).json_without_time();
        assert_eq!(
            unstamped,
            "{\"requestId\":\"j-1\",\"message\":\"Started.\",\"level\":\"INFO\",\"worker\":\"w-1\",\"attempt\":1}\n"
        );
        let endpoint = LogLine { job: None, worker: None, ..line("Listening.", &[]) }.json();
        assert_eq!(
            endpoint,
            "{\"timestamp\":\"2026-01-31T12:00:00.250Z\",\"requestId\":null,\"message\":\"Listening.\",\"level\":\"INFO\"}\n"
        );
    }

    #[test]
    fn no_text_from_outside_forges_a_line_or_steers_a_terminal() {
        let fields = [("id", json!("a\u{1b}[2J\nERROR  | forged"))];
        let forged =
            LogLine { job: Some("j\r\nWARN   | x"), ..line("one\n2026-01-31T12:00:00.250Z ERROR  | two\r\n", &fields) };
        let text = forged.text();
        let starts = text.lines().filter(|line| !line.starts_with("    ")).count();
        assert_eq!(starts, 1, "{text}");
        assert!(!text.trim_end().contains(|letter: char| letter.is_control() && letter != '\n'), "{text:?}");
        assert_eq!(forged.json().lines().count(), 1);
    }

    #[test]
    fn json_steers_no_terminal_and_keeps_its_meaning() {
        let outside = "\u{9b}31m \u{7f} \u{202e}cba \u{2028}next \u{1b}[2J \u{85} Grüße \\ \"";
        let fields = [("id", json!(outside))];
        let line = LogLine { job: Some(outside), ..line(outside, &fields) }.json();
        assert!(
            line.trim_end().chars().all(|letter| printable(letter.encode_utf8(&mut [0; 4])).len() == letter.len_utf8()),
            "{line:?}"
        );
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert!([&parsed["requestId"], &parsed["message"], &parsed["id"]].into_iter().all(|text| text == outside));
    }
}
