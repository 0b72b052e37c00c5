//! Text from outside in a message.

/// Longest excerpt in characters.
const LONGEST: usize = 200;

/// The beginning of a text from outside, safe to print, on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let safe = runpod_log_line::printable(text);
    let mut line: String = safe.chars().take(LONGEST).collect();
    if line.len() < safe.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_harmless() {
        assert_eq!(excerpt("text/html\u{202e}\n\u{9b}31m"), r"text/html\u{202e}\n\u{9b}31m");
        assert_eq!(excerpt(&"ä".repeat(201)), "ä".repeat(200) + "…");
        assert_eq!(excerpt(&"ä".repeat(200)), "ä".repeat(200));
    }
}
