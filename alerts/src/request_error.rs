//! The text of a request that failed. Every program of this workspace uses it.

use std::error::Error;
use std::fmt::Write as _;

/// Returns the error with all its causes on one line, such as `error sending request: connection refused`. The URL is left
/// out: it may hold secrets.
pub fn request_error_text(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
