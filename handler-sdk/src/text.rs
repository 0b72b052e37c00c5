//! Small helpers for text that ends up in a log or an error.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

/// At most `max` bytes of `text`, and a note of what is missing.
pub(crate) fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(max)];
    Cow::Owned(format!("{kept}… ({} bytes more)", text.len() - kept.len()))
}

/// One line to stderr, which the worker collects. A closed stderr is not worth dying for.
pub(crate) fn log(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "runpod-handler-sdk: {message}");
}

/// Parts a libtorch message from the C++ stack that libtorch appends: the first is for the caller, the second for the
/// traceback. A Rust panic quotes the message, so its line breaks may be escaped.
pub(crate) fn split_stack(text: &str) -> (&str, &str) {
    const STACK: &str = "Exception raised from ";
    let Some(at) = text.find(STACK) else { return (text, "") };
    let head = &text[..at];
    match head.strip_suffix('\n').or_else(|| head.strip_suffix("\\n")) {
        Some(head) => (head, &text[at..]),
        None => (text, ""),
    }
}
