//! The text of an event stream from what a handler yields: JSON, one event each, or text that is an event stream already, cut anywhere.

use serde_json::value::RawValue;

use super::super::json as wire_json;
use super::event_stream::{BYTE_ORDER_MARK, EventStream};
use crate::store::Payload;

/// What begins a line of an event stream.
const FIELDS: [&str; 5] = ["data:", "event:", "id:", "retry:", ":"];
/// The data of the event that ends a stream.
const DONE: &str = "[DONE]";
/// Between two events.
const GAP: &str = "\n\n";

/// Writes items as events.
#[derive(Debug, Default)]
pub(super) struct EventText {
    /// The items so far, while they are texts too short to tell whether they are an event stream.
    undecided: Vec<Payload>,
    /// Whether the items are the text of an event stream.
    is_text: bool,
    /// All that was written.
    stream: EventStream,
    is_done: bool,
    /// The data of the first event that has any.
    first_data: Option<String>,
}

impl EventText {
    /// Whether nothing can be sent between the last item and the next one.
    pub(super) fn is_within_event(&self) -> bool {
        self.stream.is_within_event()
    }

    /// The data of the first event that has any; `None` while that event is not complete.
    pub(super) fn first_data(&self) -> Option<&str> {
        self.first_data.as_deref()
    }

    pub(super) fn push(&mut self, text: &mut String, item: &Payload) {
        let piece = text_of(item);
        let Some(piece) = piece else {
            self.finish(text);
            return self.write(text, &event(item));
        };
        if self.is_text {
            return self.write(text, &piece);
        }
        self.undecided.push(item.clone());
        let begin: String = self.undecided.iter().filter_map(text_of).collect();
        let line = begin.trim_start_matches(|letter: char| letter.is_whitespace() || letter == BYTE_ORDER_MARK);
        if FIELDS.iter().any(|field| line.starts_with(field)) {
            self.is_text = true;
            self.undecided.clear();
            self.write(text, &begin);
        } else if !FIELDS.iter().any(|field| field.starts_with(line)) {
            self.give_up(text);
        }
    }

    /// What follows the last item, and the last text before something else: the end of an event that is still open.
    pub(super) fn finish(&mut self, text: &mut String) {
        self.give_up(text);
        if self.is_within_event() {
            self.write(text, GAP);
        }
    }

    /// The end that clients expect, unless the handler has sent it.
    pub(super) fn done(&mut self, text: &mut String) {
        if !self.is_done {
            self.write(text, &format!("data: {DONE}{GAP}"));
        }
    }

    /// The texts are no event stream: each is an event of its own.
    fn give_up(&mut self, text: &mut String) {
        for item in std::mem::take(&mut self.undecided) {
            self.write(text, &event(&item));
        }
    }

    fn write(&mut self, text: &mut String, piece: &str) {
        text.push_str(piece);
        for data in self.stream.push(piece) {
            self.is_done |= data == DONE;
            self.first_data.get_or_insert(data);
        }
    }
}

/// The text that an item is.
fn text_of(item: &Payload) -> Option<String> {
    item.get().starts_with('"').then(|| wire_json::read(item.get()).ok()).flatten()
}

/// An event with this JSON. Line breaks of pretty-printed JSON would end it; JSON strings contain none.
fn event(json: &RawValue) -> String {
    format!("data: {}\n\n", json.get().replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;

    fn begun(items: &[&str]) -> (EventText, String) {
        let (mut events, mut text) = (EventText::default(), String::new());
        for item in items {
            events.push(&mut text, &to_raw_value(item).unwrap().into());
        }
        events.finish(&mut text);
        (events, text)
    }

    fn written(items: &[&str]) -> String {
        begun(items).1
    }

    /// The same with its end.
    fn answered(items: &[&str]) -> String {
        let (mut events, mut text) = begun(items);
        events.done(&mut text);
        text
    }

    #[test]
    fn text_is_an_event_stream_by_how_it_begins_however_it_is_cut() {
        for text in [
            "data: 1\n\n",
            "event: a\ndata: 1\n\n",
            ": hello\n\ndata: 1\n\n",
            "id: 7\ndata: 1\n\n",
            "\r\ndata: 1\n\n",
            "\u{feff}data: 1\n\n",
        ] {
            let pieces: Vec<_> = text.split_inclusive(|_| true).collect();
            assert_eq!(written(&pieces), text);
            assert_eq!(written(&[text]), text);
        }
    }

    #[test]
    fn a_text_that_is_not_unicode_is_text_too() {
        let (mut events, mut text) = (EventText::default(), String::new());
        let item = RawValue::from_string(r#""data: caf\udce9\n\n""#.to_owned()).unwrap();
        events.push(&mut text, &item.into());
        assert_eq!(text, "data: caf\u{fffd}\n\n");
    }

    #[test]
    fn other_texts_are_events_of_their_own() {
        assert_eq!(written(&["", "da", "dada"]), "data: \"\"\n\ndata: \"da\"\n\ndata: \"dada\"\n\n");
        assert_eq!(written(&["d"]), "data: \"d\"\n\n");
    }

    #[test]
    fn the_end_is_sent_once_however_the_lines_of_the_handler_end() {
        for end in ["\n", "\r\n", "\r"] {
            for done in ["data: [DONE]", "data:[DONE]"] {
                let stream = format!("data: 1{end}{end}{done}{end}{end}");
                let pieces: Vec<_> = stream.split_inclusive(|_| true).collect();
                assert_eq!(answered(&pieces), stream);
                assert_eq!(answered(&[stream.trim_end()]), format!("{}\n\n", stream.trim_end()));
            }
        }
        let quoted = "data: {\"text\": \"data: [DONE]\"}\n\n";
        assert_eq!(answered(&[quoted]), format!("{quoted}data: [DONE]\n\n"), "a text with these words is no end");
    }

    #[test]
    fn comments_fit_between_events_however_their_lines_end() {
        for (text, is_within) in [
            ("data: 1\r\n\r\n", false),
            ("data: 1\r\r", false),
            ("data: 1\n\n: hello\r\n", false),
            ("data: 1\r\n", true),
            ("data: 1\r\n\r\nda", true),
        ] {
            let (mut events, mut written) = (EventText::default(), String::new());
            events.push(&mut written, &to_raw_value(text).unwrap().into());
            assert_eq!(events.is_within_event(), is_within, "{text:?}");
        }
    }
}
