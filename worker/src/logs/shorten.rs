//! Cuts texts to the length that the platform shows.

use std::borrow::Cow;

/// Longest text of a log line, in characters: the platform cuts longer messages.
pub(super) const MAX_MESSAGE_LEN: usize = 4096;

/// At most [`MAX_MESSAGE_LEN`] characters of `text`: its beginning and its end, with a note between.
pub(super) fn shorten(text: &str) -> Cow<'_, str> {
    // Most texts are short enough even in bytes, and need no counting.
    if text.len() <= MAX_MESSAGE_LEN {
        return Cow::Borrowed(text);
    }
    let len = text.chars().count();
    if len <= MAX_MESSAGE_LEN {
        return Cow::Borrowed(text);
    }
    // 64 characters are enough for the note with any number in it.
    let kept = (MAX_MESSAGE_LEN - 64) / 2;
    let position = |index| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (&text[..position(kept)], &text[position(len - kept)..]);
    Cow::Owned(format!("{head} … [{} characters left out] … {tail}", len - 2 * kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_lose_their_middle() {
        let text = format!("{}{}{}", "ä".repeat(5000), "MIDDLE", "z".repeat(5000));
        let short = shorten(&text);
        assert!(short.chars().count() <= MAX_MESSAGE_LEN);
        assert!(short.starts_with("ää") && short.ends_with("zz") && !short.contains("MIDDLE"));
        assert!(short.contains("[5974 characters left out]"), "{short}");
        let exact = "ä".repeat(MAX_MESSAGE_LEN);
        assert_eq!(shorten(&exact), exact);
    }
}
