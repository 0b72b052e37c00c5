//! Server-sent events from the stream items of a job.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::value::RawValue;

use super::super::app::App;
use super::caller::CancelOnDrop;
use super::failure::Failure;

/// Length of one wait for items. Until the first one has passed, a failure is the status of the response; after that the response
/// begins, and comments keep it alive while the job waits for a worker.
const STEP: Duration = Duration::from_secs(30);
const DONE: &str = "data: [DONE]";
/// Between two events.
const GAP: &str = "\n\n";
const COMMENT: &str = ": waiting\n\n";

/// Answers with the events of a job.
pub(super) async fn answer(app: App, endpoint: String, id: Arc<str>, cancel_on_drop: CancelOnDrop) -> Response {
    let mut reader = EventReader {
        app,
        endpoint,
        id,
        _cancel_on_drop: cancel_on_drop,
        has_streamed: false,
        is_text: false,
        end: String::new(),
        is_done: false,
        ended: false,
    };
    let begin = match reader.read().await {
        Ok(begin) => begin,
        Err(failure) => return failure.into_response(),
    };
    let body = Body::from_stream(reader.into_stream(begin));
    ([("content-type", "text/event-stream"), ("cache-control", "no-cache")], body).into_response()
}

struct EventReader {
    app: App,
    endpoint: String,
    id: Arc<str>,
    _cancel_on_drop: CancelOnDrop,
    has_streamed: bool,
    /// Whether the items are the text of an event stream.
    is_text: bool,
    /// The end of that text, if it does not end an event.
    end: String,
    is_done: bool,
    ended: bool,
}

impl EventReader {
    fn into_stream(self, begin: String) -> impl Stream<Item = Result<String, Infallible>> {
        let rest = stream::unfold(self, |mut reader| async move {
            if reader.ended {
                return None;
            }
            let text = reader.read().await.unwrap_or_else(|failure| {
                reader.ended = true;
                failure.event()
            });
            Some((Ok(text), reader))
        });
        stream::once(async { Ok(begin) }).chain(rest)
    }

    /// The next events, or a comment that keeps the connection alive.
    async fn read(&mut self) -> Result<String, Failure> {
        let (status, items) = tokio::select! {
            drained = self.app.store.drain(&self.endpoint, &self.id, STEP) => drained?,
            () = self.app.shutdown.cancelled() => return Err(Failure::shutting_down()),
        };
        let is_first = !self.has_streamed;
        if let Some(failure) = items.first().filter(|_| is_first).and_then(|item| Failure::of_output(item.get())) {
            return Err(failure);
        }
        self.has_streamed |= !items.is_empty();
        let mut text = String::new();
        for item in &items {
            self.push(&mut text, item);
        }
        if status.is_terminal() {
            self.ended = true;
            self.finish(&mut text).await?;
        } else if items.is_empty() && self.end.is_empty() {
            text.push_str(COMMENT);
        }
        Ok(text)
    }

    /// Inference servers yield JSON, or the text of an event stream, cut anywhere.
    fn push(&mut self, text: &mut String, item: &RawValue) {
        let piece: Option<String> = serde_json::from_str(item.get()).ok();
        match piece.filter(|piece| self.is_text || piece.trim_start().starts_with("data:")) {
            Some(piece) => {
                self.is_text = true;
                text.push_str(&piece);
                self.note_end(&piece);
            }
            None => text.push_str(&event(item)),
        }
    }

    fn note_end(&mut self, piece: &str) {
        self.end.push_str(piece);
        self.is_done |= self.end.contains(DONE);
        if self.end.ends_with(GAP) {
            self.end.clear();
        } else {
            self.end.drain(..self.end.floor_char_boundary(self.end.len().saturating_sub(DONE.len())));
        }
    }

    /// What follows the last item.
    async fn finish(&mut self, text: &mut String) -> Result<(), Failure> {
        let job = self.app.store.view(&self.endpoint, &self.id, None).await.map_err(Failure::from);
        let output = job.and_then(|job| Failure::of_job(&job).map_or(Ok(job.ending.output), Err));
        if !self.has_streamed {
            // The handler does not stream: its result is the only event.
            if let Some(output) = output?.filter(|output| output.get().starts_with('{')) {
                if let Some(failure) = Failure::of_output(output.get()) {
                    return Err(failure);
                }
                text.push_str(&event(&output));
            }
        } else {
            if !self.end.is_empty() {
                text.push_str(GAP);
            }
            if let Err(failure) = output {
                // Without the end that clients expect, so that those which ignore the error notice.
                text.push_str(&failure.event());
                return Ok(());
            }
        }
        if !self.is_done {
            text.push_str(DONE);
            text.push_str(GAP);
        }
        Ok(())
    }
}

/// An event with this JSON. Line breaks of pretty-printed JSON would end it; JSON strings contain none.
fn event(json: &RawValue) -> String {
    format!("data: {}\n\n", json.get().replace(['\n', '\r'], " "))
}
