//! Turns each event into a line, within the rate limit.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::config::LogFormat;
use super::fields::Fields;
use super::line;
use super::rate_limit::RateLimit;
use super::sink::{self, SinkQueue};

/// Target of what handlers print. It is limited where it comes in, per stream.
pub(crate) const HANDLER: &str = "handler";

/// Writes each event as a line.
pub(super) struct Lines<W> {
    pub(super) format: LogFormat,
    pub(super) worker_id: String,
    pub(super) limit: Arc<RateLimit>,
    pub(super) sink: Option<SinkQueue>,
    pub(super) writer: W,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        if target != HANDLER && !self.limit.take(level, Instant::now()) {
            return;
        }
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.inherit(outer);
            }
        }
        event.record(&mut fields);
        fields.tag();
        if let Some(sink) = self.sink.as_ref().filter(|_| target != sink::TARGET) {
            sink.push(line::stamped_json(&fields, level, &self.worker_id));
        }
        let line = line::line(&fields, self.format, level, &self.worker_id);
        // An error of the log itself cannot be logged.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests;
