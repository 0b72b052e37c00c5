//! Passes the handler's `tracing` events on to the worker's log.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write as _};

use runpod_handler_protocol::LogLine;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Environment variable with the log level of the worker; the SDK drops events below it.
const LEVEL: &str = "RUNPOD_WORKER_LOG_LEVEL";
/// Name of the span around each job, and of its field.
const JOB: &str = "job";

/// A layer that sends `tracing` events to the worker's log, with their level and job.
///
/// [`serve`](crate::serve()) installs it unless the program has already set a subscriber; in that case add the layer to that
/// subscriber. An event on a thread of your own belongs to the job if it is inside the job's span: call
/// `let span = tracing::Span::current()` in `run`, and `span.in_scope(..)` on the thread.
///
/// ```no_run,standalone_crate
/// use tracing_subscriber::layer::SubscriberExt as _;
/// use tracing_subscriber::util::SubscriberInitExt as _;
///
/// tracing_subscriber::registry().with(runpod_handler_sdk::LogLayer::new()).init();
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLayer(());

impl LogLayer {
    /// A layer that passes on every event.
    pub fn new() -> Self {
        Self(())
    }
}

/// Installs the layer unless the program has already set a subscriber.
pub(crate) fn install() {
    let level = std::env::var(LEVEL).ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let _ = tracing_subscriber::registry().with(LogLayer::new().with_filter(level)).try_init();
}

/// The span around a job's events. Its level is ERROR, so that every filter keeps it.
pub(crate) fn job_span(job: &str) -> Span {
    tracing::error_span!(target: env!("CARGO_CRATE_NAME"), JOB, job)
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields { is_job: is_job(span.metadata()), ..Fields::default() };
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
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.text.push_str(&outer.text);
                fields.job = fields.job.or_else(|| outer.job.clone());
            }
        }
        let Fields { job, message, text, .. } = fields;
        let metadata = event.metadata();
        let message = format!("{message}{text}").trim_start().to_owned();
        let line = LogLine { level: metadata.level().to_string(), job, target: metadata.target().to_owned(), message };
        let mut stderr = io::stderr().lock();
        // A closed stderr is ignored.
        let _ = if stderr.is_terminal() {
            writeln!(stderr, "{:<5} {}: {}", line.level, line.target, line.message)
        } else {
            stderr.write_all(line.to_line().as_bytes())
        };
    }
}

fn is_job(metadata: &tracing::Metadata<'_>) -> bool {
    metadata.name() == JOB && metadata.target() == env!("CARGO_CRATE_NAME")
}

/// The fields of an event or a span.
#[derive(Debug, Default)]
struct Fields {
    /// Whether this is the span of a job.
    is_job: bool,
    job: Option<String>,
    message: String,
    /// The other fields: ` name=value` for each.
    text: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.text, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            JOB if self.is_job => self.job = Some(value.to_owned()),
            "message" => self.message.push_str(value),
            _ => self.record_debug(field, &value),
        }
    }
}
