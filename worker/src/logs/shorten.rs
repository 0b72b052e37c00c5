//! Cuts texts to the length that the platform shows.

use std::borrow::Cow;

use super::limits::MAX_TEXT_LEN;

/// At most [`MAX_TEXT_LEN`] characters of `text`: its beginning and its end, with a note between.
pub(super) fn shorten(text: &str) -> Cow<'_, str> {
    // Most texts are short enough even in bytes, and need no counting.
    if text.len() <= MAX_TEXT_LEN {
        return Cow::Borrowed(text);
    }
    let len = text.chars().count();
    if len <= MAX_TEXT_LEN {
        return Cow::Borrowed(text);
    }
    // 64 characters are enough for the note with any number in it.
    let kept = (MAX_TEXT_LEN - 64) / 2;
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
        assert!(short.chars().count() <= MAX_TEXT_LEN);
        assert!(short.starts_with("ää") && short.ends_with("zz") && !short.contains("MIDDLE"));
        assert!(short.contains("[5974 characters left out]"), "{short}");
        let exact = "ä".repeat(MAX_TEXT_LEN);
        assert_eq!(shorten(&exact), exact);
    }
}
