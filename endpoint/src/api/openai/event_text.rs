//! The text of an event stream from what a handler yields: JSON, one event each, or text that is an event stream already, cut anywhere.

use serde_json::value::RawValue;

use crate::store::Payload;

/// What begins a line of an event stream.
const FIELDS: [&str; 5] = ["data:", "event:", "id:", "retry:", ":"];
const DONE: &str = "data: [DONE]";
/// Between two events.
const GAP: &str = "\n\n";

/// Writes items as events.
#[derive(Debug, Default)]
pub(super) struct EventText {
    /// The items so far, while they are texts too short to tell whether they are an event stream.
    undecided: Vec<Payload>,
    /// Whether the items are the text of an event stream.
    is_text: bool,
    /// The end of that text, if it does not end an event.
    end: String,
    is_done: bool,
}

impl EventText {
    /// Whether nothing can be sent between the last item and the next one.
    pub(super) fn is_within_event(&self) -> bool {
        !self.end.is_empty()
    }

    pub(super) fn push(&mut self, text: &mut String, item: &Payload) {
        let piece: Option<String> = serde_json::from_str(item.get()).ok();
        let Some(piece) = piece else {
            self.give_up(text);
            return text.push_str(&event(item));
        };
        if self.is_text {
            return self.push_text(text, &piece);
        }
        self.undecided.push(item.clone());
        let begin: String =
            self.undecided.iter().filter_map(|item| serde_json::from_str::<String>(item.get()).ok()).collect();
        let line = begin.trim_start();
        if FIELDS.iter().any(|field| line.starts_with(field)) {
            self.is_text = true;
            self.undecided.clear();
            self.push_text(text, &begin);
        } else if !FIELDS.iter().any(|field| field.starts_with(line)) {
            self.give_up(text);
        }
    }

    /// What follows the last item.
    pub(super) fn finish(&mut self, text: &mut String) {
        self.give_up(text);
        if !self.end.is_empty() {
            self.end.clear();
            text.push_str(GAP);
        }
    }

    /// The end that clients expect, unless the handler has sent it.
    pub(super) fn done(&mut self, text: &mut String) {
        if !std::mem::replace(&mut self.is_done, true) {
            text.push_str(DONE);
            text.push_str(GAP);
        }
    }

    /// The texts are no event stream: each is an event of its own.
    fn give_up(&mut self, text: &mut String) {
        for item in std::mem::take(&mut self.undecided) {
            text.push_str(&event(&item));
        }
    }

    fn push_text(&mut self, text: &mut String, piece: &str) {
        text.push_str(piece);
        self.end.push_str(piece);
        self.is_done |= self.end.contains(DONE);
        if self.end.ends_with(GAP) {
            self.end.clear();
        } else {
            self.end.drain(..self.end.floor_char_boundary(self.end.len().saturating_sub(DONE.len())));
        }
    }
}

/// An event with this JSON. Line breaks of pretty-printed JSON would end it; JSON strings contain none.
fn event(json: &RawValue) -> String {
    format!("data: {}\n\n", json.get().replace(['\n', '\r'], " "))
}

/// The data of the first event that has any; `None` while that event is not complete.
pub(super) fn first_data(text: &str) -> Option<String> {
    let mut data: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        match line.trim_end_matches('\r') {
            "" if !data.is_empty() => return Some(data.join("\n")),
            line => data.extend(line.strip_prefix("data:").map(|data| data.strip_prefix(' ').unwrap_or(data))),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;

    fn written(items: &[&str]) -> String {
        let (mut events, mut text) = (EventText::default(), String::new());
        for item in items {
            events.push(&mut text, &to_raw_value(item).unwrap().into());
        }
        events.finish(&mut text);
        text
    }

    #[test]
    fn text_is_an_event_stream_by_how_it_begins_however_it_is_cut() {
        for text in
            ["data: 1\n\n", "event: a\ndata: 1\n\n", ": hello\n\ndata: 1\n\n", "id: 7\ndata: 1\n\n", "\r\ndata: 1\n\n"]
        {
            let pieces: Vec<_> = text.split_inclusive(|_| true).collect();
            assert_eq!(written(&pieces), text);
            assert_eq!(written(&[text]), text);
        }
    }

    #[test]
    fn other_texts_are_events_of_their_own() {
        assert_eq!(written(&["", "da", "dada"]), "data: \"\"\n\ndata: \"da\"\n\ndata: \"dada\"\n\n");
        assert_eq!(written(&["d"]), "data: \"d\"\n\n");
    }

    #[test]
    fn the_first_data_is_found_once_its_event_is_complete() {
        assert_eq!(first_data("data: 1\n"), None);
        assert_eq!(first_data(": waiting\n\nevent: error\ndata: {\ndata:}\n\ndata: 2\n\n").as_deref(), Some("{\n}"));
        assert_eq!(first_data("data: 1\r\n\r\n").as_deref(), Some("1"));
    }
}
