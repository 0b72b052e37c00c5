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
