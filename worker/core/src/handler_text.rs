//! Texts that come from a handler, made safe to show.

use runpod_handler_protocol::{ErrorKind, ErrorReport};

/// Longest text of a handler that `/health` and `/ready` show, in characters.
const MAX_TEXT: usize = 256;

/// The first line of a text that a handler has sent, shortened.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(MAX_TEXT).collect()
}

/// The error in a payload. An error that cannot be read is an error, too.
pub(crate) fn read_error(payload: &[u8]) -> ErrorReport {
    serde_json::from_slice(payload).unwrap_or_else(|error| ErrorReport {
        kind: ErrorKind::Protocol,
        message: format!("the handler reported a failure that cannot be read: {error}"),
        traceback: String::new(),
    })
}
