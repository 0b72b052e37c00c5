//! Server-sent events from the stream items of a job.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::super::app::App;
use super::caller::CancelOnDrop;
use super::event_text::EventText;
use super::failure::Failure;
use crate::store::Payload;

/// Length of one wait for items. Until the first one has passed, a failure is the status of the response; after that the response
/// begins, and comments keep it alive while the job waits for a worker.
const STEP: Duration = Duration::from_secs(30);
const COMMENT: &str = ": waiting\n\n";

/// Answers with the events of a job.
pub(super) async fn answer(app: App, endpoint: String, id: Arc<str>, cancel_on_drop: CancelOnDrop) -> Response {
    let mut reader = EventReader {
        app,
        endpoint,
        id,
        _cancel_on_drop: cancel_on_drop,
        events: EventText::default(),
        has_streamed: false,
        ended: false,
    };
    let begin = match reader.begin().await {
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
    events: EventText,
    has_streamed: bool,
    ended: bool,
}

impl EventReader {
    /// What is sent first: all that has come until the first event is complete. If that one is an error, nothing is sent.
    async fn begin(&mut self) -> Result<String, Failure> {
        let ends = Instant::now() + STEP;
        let mut text = String::new();
        loop {
            text.push_str(&self.read(ends.saturating_duration_since(Instant::now())).await?);
            match self.events.first_data() {
                Some(data) => return Failure::of_output(data).map_or(Ok(text), Err),
                None if self.ended || Instant::now() >= ends => return Ok(text),
                None => {}
            }
        }
    }

    fn into_stream(self, begin: String) -> impl Stream<Item = Result<String, Infallible>> {
        let rest = stream::unfold(self, |mut reader| async move {
            if reader.ended {
                return None;
            }
            let text = reader.read(STEP).await.unwrap_or_else(|failure| {
                reader.ended = true;
                let mut text = String::new();
                reader.events.finish(&mut text);
                text + &failure.event()
            });
            Some((Ok(text), reader))
        });
        stream::once(async { Ok(begin) }).chain(rest)
    }

    /// The next events, or a comment that keeps the connection alive.
    async fn read(&mut self, wait: Duration) -> Result<String, Failure> {
        let (status, items) = tokio::select! {
            drained = self.app.store.drain(&self.endpoint, &self.id, wait) => drained?,
            () = self.app.shutdown.cancelled() => return Err(Failure::shutting_down()),
        };
        self.has_streamed |= !items.is_empty();
        let mut text = String::new();
        for item in &items {
            self.events.push(&mut text, item);
        }
        if status.is_terminal() {
            self.ended = true;
            self.finish(&mut text).await?;
        } else if items.is_empty() && !self.events.is_within_event() {
            text.push_str(COMMENT);
        }
        Ok(text)
    }

    /// What follows the last item.
    async fn finish(&mut self, text: &mut String) -> Result<(), Failure> {
        let job = self.app.store.view(&self.endpoint, &self.id, None).await.map_err(Failure::from);
        let output = job.and_then(|job| Failure::of_job(&job).map_or(Ok(job.ending.output), Err));
        if !self.has_streamed {
            // The handler does not stream: its result is what would have been streamed.
            for item in output?.iter().flat_map(items_of) {
                self.events.push(text, &item);
            }
            self.events.finish(text);
        } else {
            self.events.finish(text);
            if let Err(failure) = output {
                // Without the end that clients expect, so that those which ignore the error notice.
                text.push_str(&failure.event());
                return Ok(());
            }
        }
        self.events.done(text);
        Ok(())
    }
}

/// The items of a result: those of a list, otherwise the result itself. `null` is none.
fn items_of(output: &Payload) -> Vec<Payload> {
    match serde_json::from_str::<Option<Vec<Box<RawValue>>>>(output.get()) {
        Ok(items) => items.unwrap_or_default().into_iter().map(Payload::from).collect(),
        Err(_) => vec![Payload::clone(output)],
    }
}
