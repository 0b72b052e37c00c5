//! The handler's `tracing` events on their way to the worker's log.

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

/// How the worker says which events it would not log anyway.
const LEVEL: &str = "RUNPOD_WORKER_LOG_LEVEL";
/// The span around each job, and its field.
const JOB: &str = "job";

/// Sends `tracing` events to the worker's log, with their level and the job that they belong to.
///
/// [`serve`](crate::serve) installs it by itself, unless the program has set a subscriber up before: then add this layer to it.
/// Events on threads of your own belong to the job when they are inside its span: `let span = tracing::Span::current()` in
/// `run`, and `span.in_scope(..)` there.
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
    /// A layer that passes on everything it is given.
    pub fn new() -> Self {
        Self(())
    }
}

/// Sends events to the worker's log unless the program has other plans for them.
pub(crate) fn install() {
    let level = std::env::var(LEVEL).ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let _ = tracing_subscriber::registry().with(LogLayer::new().with_filter(level)).try_init();
}

/// The span that a job's events are in. As important as an error: whatever is logged, the job belongs to it.
pub(crate) fn job_span(job: &str) -> Span {
    tracing::error_span!(target: env!("CARGO_CRATE_NAME"), JOB, job)
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields { job_allowed: is_job(span.metadata()), ..Fields::default() };
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
        // A closed stderr is not worth dying for.
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

/// What an event or a span carries.
#[derive(Debug, Default)]
struct Fields {
    /// This is the span of a job.
    job_allowed: bool,
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
            JOB if self.job_allowed => self.job = Some(value.to_owned()),
            "message" => self.message.push_str(value),
            _ => self.record_debug(field, &value),
        }
    }
}
