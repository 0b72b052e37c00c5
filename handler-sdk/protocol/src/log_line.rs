//! The line on stderr by which the SDK passes a `tracing` event of the handler on to the worker.
//!
//! Log events are written to stderr instead of being sent as frames, because a written line survives a crash. A line that
//! begins with [`LOG_MARK`] is a log event; every other line is plain text.

use serde::{Deserialize, Serialize};

/// First byte of a line that is a [`LogLine`]: the record separator of JSON text sequences (RFC 7464).
pub const LOG_MARK: u8 = 0x1e;
/// Longest line, in bytes with the mark.
pub const MAX_LOG_LINE: usize = 16 * 1024;
/// Longest message, in bytes. Escaping can turn each byte into six.
const MAX_MESSAGE: usize = 2 * 1024;
/// Longest job id, target and level, in bytes.
const MAX_NAME: usize = 256;

/// One log event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: String,
    /// Id of the job that it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Its source, such as a module path.
    pub target: String,
    /// The text, followed by the fields of the event.
    pub message: String,
}

impl LogLine {
    /// The event as one line with its line break. Fields that are too long are cut.
    pub fn to_line(&self) -> String {
        let Self { level, job, target, message } = self;
        let line = LogLine {
            level: cut(level, MAX_NAME),
            job: job.as_deref().map(|job| cut(job, MAX_NAME)),
            target: cut(target, MAX_NAME),
            message: cut(message, MAX_MESSAGE),
        };
        // A struct of strings always has a JSON form.
        let json = serde_json::to_string(&line).unwrap_or_default();
        format!("{}{json}\n", char::from(LOG_MARK))
    }

    /// Reads a line, with or without its line break; `None` when it is plain text.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(char::from(LOG_MARK))?.trim_end()).ok()
    }
}

fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(max)];
    format!("{kept}… ({} more bytes)", text.len() - kept.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> LogLine {
        LogLine { level: "WARN".into(), job: Some("j-1".into()), target: "my_handler".into(), message: message.into() }
    }

    #[test]
    fn an_event_is_one_line_and_survives_writing_and_reading() {
        let event = line("two\nlines \u{1e} and a \"quote\"");
        let text = event.to_line();
        assert_eq!(
            text,
            "\u{1e}{\"level\":\"WARN\",\"job\":\"j-1\",\"target\":\"my_handler\",\"message\":\"two\\nlines \\u001e and a \\\"quote\\\"\"}\n"
        );
        assert_eq!(LogLine::parse(&text), Some(event));
        assert_eq!(LogLine::parse("{\"level\":\"WARN\"}"), None);
        assert_eq!(LogLine::parse("\u{1e}half of {"), None);
    }

    #[test]
    fn the_longest_event_fits_in_a_line_whatever_its_text() {
        for text in ["x", "\u{1}", "ä", "\"", "🦀"] {
            let mut event = line(&text.repeat(100_000));
            event.job = Some(text.repeat(100_000));
            event.target = text.repeat(100_000);
            let line = event.to_line();
            assert!(line.len() <= MAX_LOG_LINE, "{} bytes of {text:?}", line.len());
            assert!(LogLine::parse(&line).is_some());
        }
    }
}
