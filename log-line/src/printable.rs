//! Text from outside, made safe to print.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns the text with every character escaped that would move a cursor, break a line, change the direction of writing or start
/// a terminal sequence. The result is one line.
///
/// ```
/// assert_eq!(runpod_log_line::printable("red\u{1b}[31m\nINFO | forged"), r"red\u{1b}[31m\nINFO | forged");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(must_be_escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if must_be_escaped(letter) {
            safe.extend(letter.escape_default());
        } else {
            safe.push(letter);
        }
    }
    Cow::Owned(safe)
}

/// Returns JSON with the same characters written as escapes (`\u009b`): it means the same, and a terminal does not act on it.
/// Whatever else JSON has to escape is escaped already, and these characters stand only inside its strings.
pub(crate) fn printable_json(json: String) -> String {
    if !json.contains(must_be_escaped) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for letter in json.chars() {
        if must_be_escaped(letter) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(letter));
        } else {
            safe.push(letter);
        }
    }
    safe
}

/// Control characters of ASCII and Latin-1 (C0, DEL, C1), the line separators of Unicode, and the characters that reorder text.
fn must_be_escaped(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_of_every_script_is_left_alone() {
        for text in ["", "plain", "Grüße", "日本語", "שלום", "a\u{301} 🚲"] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_or_a_reader_is_left() {
        for (bad, safe) in [
            ("\r\n", r"\r\n"),
            ("\u{7}\u{8}\u{7f}", r"\u{7}\u{8}\u{7f}"),
            ("\u{1b}]0;title\u{9c}", r"\u{1b}]0;title\u{9c}"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("a\u{202e}b\u{2066}c\u{200f}", r"a\u{202e}b\u{2066}c\u{200f}"),
            ("one\u{2028}two\u{2029}three\u{85}", r"one\u{2028}two\u{2029}three\u{85}"),
        ] {
            assert_eq!(printable(bad), safe);
        }
    }
}
