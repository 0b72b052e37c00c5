//! Reads the text of an event stream, cut anywhere, as the specification of server-sent events says: a line ends with a carriage return, a
//! line feed, or both, and an empty line ends an event.

/// A stream may begin with one; it is no part of the first line.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Where a stream stands.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    has_begun: bool,
    /// The line that has not ended yet.
    line: String,
    /// The last line ended with a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// The event that has not ended yet has fields.
    has_fields: bool,
    /// Its data.
    data: Option<String>,
}

impl EventStream {
    /// Whether an event has begun and not ended.
    pub(super) fn is_within_event(&self) -> bool {
        self.has_fields || !self.line.is_empty()
    }

    /// Reads on; the data of each event that ends here and has any.
    pub(super) fn push(&mut self, piece: &str) -> Vec<String> {
        let mut ended = Vec::new();
        for part in piece.split_inclusive(['\r', '\n']) {
            let follows_return = std::mem::replace(&mut self.after_return, part.ends_with('\r'));
            if part == "\n" && follows_return {
                continue;
            }
            match part.strip_suffix(['\r', '\n']) {
                Some(end) => {
                    self.line.push_str(end);
                    let line = std::mem::take(&mut self.line);
                    ended.extend(self.end_line(&line));
                }
                None => self.line.push_str(part),
            }
        }
        ended
    }

    fn end_line(&mut self, line: &str) -> Option<String> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first).unwrap_or(line);
        if line.is_empty() {
            self.has_fields = false;
            return self.data.take();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        // A line that begins with a colon is a comment.
        self.has_fields |= !field.is_empty();
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_whatever_ends_their_lines_and_wherever_they_are_cut() {
        let lines = [
            "\u{feff}: waiting",
            "",
            "event: error",
            "data: {",
            "data:}",
            "",
            "id",
            "",
            "data",
            "data:  2",
            "",
            "data: 3",
        ];
        for end in ["\n", "\r\n", "\r"] {
            let text = lines.join(end);
            for pieces in [vec![&*text], text.split_inclusive(|_| true).collect()] {
                let mut stream = EventStream::default();
                let data: Vec<_> = pieces.into_iter().flat_map(|piece| stream.push(piece)).collect();
                assert_eq!(data, ["{\n}", "\n 2"], "{end:?}");
                assert!(stream.is_within_event());
                assert_eq!(stream.push("\r\n\r\n"), ["3"]);
                assert!(!stream.is_within_event());
            }
        }
    }
}
