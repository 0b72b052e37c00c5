//! What a job has written so far: whole characters, and nothing of a stop word.

/// Collects the bytes of tokens, and gives out the text that is certain.
#[derive(Debug)]
pub struct Written {
    stop_words: Vec<String>,
    /// Bytes that cannot be given out yet.
    held: Vec<u8>,
    /// Everything that was given out.
    text: String,
    is_stopped: bool,
}

impl Written {
    /// A text that ends before any of these words.
    pub fn new(stop_words: Vec<String>) -> Self {
        let stop_words = stop_words.into_iter().filter(|word| !word.is_empty()).collect();
        Self { stop_words, held: Vec::new(), text: String::new(), is_stopped: false }
    }

    /// Adds the bytes of a token. Returns the text that became certain: not half a character, and not what may be the beginning
    /// of a stop word.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let held = &self.held;
        let find = |word: &String| held.windows(word.len()).position(|window| window == word.as_bytes());
        if let Some(end) = self.stop_words.iter().filter_map(find).min() {
            self.is_stopped = true;
            self.held.truncate(end);
            return self.release(end);
        }
        let may_begin = |start: &usize| self.stop_words.iter().any(|word| word.as_bytes().starts_with(&held[*start..]));
        let certain = (0..held.len()).find(may_begin).unwrap_or(held.len());
        let whole = match std::str::from_utf8(&held[..certain]) {
            // A character that began may be completed by the next token.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => certain,
        };
        self.release(whole)
    }

    /// The rest of the text, when no token follows.
    pub fn finish(&mut self) -> String {
        let rest = if self.is_stopped { 0 } else { self.held.len() };
        self.release(rest)
    }

    /// Whether a stop word was written.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Everything that was given out.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn release(&mut self, bytes: usize) -> String {
        let bytes: Vec<u8> = self.held.drain(..bytes).collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.text.push_str(&text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(stop_words: &[&str], tokens: &[&[u8]]) -> (Vec<String>, bool) {
        let mut written = Written::new(stop_words.iter().map(|&word| word.to_owned()).collect());
        let mut pieces: Vec<String> = tokens.iter().map(|token| written.push(token)).collect();
        pieces.push(written.finish());
        assert_eq!(written.text(), pieces.concat());
        (pieces, written.is_stopped())
    }

    #[test]
    fn a_character_comes_when_it_is_whole() {
        let rocket = "🚀".as_bytes();
        assert_eq!(
            written(&[], &[b"a", &rocket[..2], &rocket[2..]]),
            (["a", "", "🚀", ""].map(String::from).into(), false)
        );
        assert_eq!(written(&[], &[&rocket[..2]]).0.concat(), "\u{fffd}", "the text ended inside a character");
        assert_eq!(written(&[], &[b"a\xffb"]).0.concat(), "a\u{fffd}b", "no character begins with this byte");
    }

    #[test]
    fn nothing_of_a_stop_word_comes() {
        let pieces = |pieces: &[&str]| pieces.iter().map(|&piece| piece.to_owned()).collect::<Vec<_>>();
        assert_eq!(written(&["END"], &[b"the E", b"ND"]), (pieces(&["the ", "", ""]), true));
        assert_eq!(written(&["END"], &[b"the E", b"vening"]), (pieces(&["the ", "Evening", ""]), false));
        assert_eq!(
            written(&["END"], &[b"the EN"]),
            (pieces(&["the ", "EN"]), false),
            "the text ended before the stop word"
        );
        assert_eq!(written(&["b", "ab"], &[b"xab"]), (pieces(&["x", ""]), true), "the first one counts");
    }
}
