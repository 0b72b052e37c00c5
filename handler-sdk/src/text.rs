//! Small helpers for the text of logs and errors.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

/// At most the first `max` bytes of `text`, followed by a note of how many bytes were cut.
pub(crate) fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(max)];
    Cow::Owned(format!("{kept}… ({} bytes more)", text.len() - kept.len()))
}

/// Writes one line to stderr, which the worker collects. A closed stderr is ignored.
pub(crate) fn log(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "runpod-handler-sdk: {message}");
}

/// Splits a libtorch message into the part for the caller and the C++ stack that libtorch appends. A Rust panic quotes the
/// message, so its line breaks may be escaped.
pub(crate) fn split_stack(text: &str) -> (&str, &str) {
    const STACK: &str = "Exception raised from ";
    let Some(at) = text.find(STACK) else { return (text, "") };
    let head = &text[..at];
    match head.strip_suffix('\n').or_else(|| head.strip_suffix("\\n")) {
        Some(head) => (head, &text[at..]),
        None => (text, ""),
    }
}
