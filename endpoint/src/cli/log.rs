//! The server's log: lines on standard error, in the form that the worker uses too.

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use runpod_log_line::{LineQueue, LogFormat, LogGuard, LogLine};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::args::LogArgs;

/// Starts the log of the whole process. Libraries are logged from WARN on. `filter`, the value of `RUST_LOG`, replaces the level if
/// it is given and can be read.
///
/// Lines are written by a thread of their own, so that a reader that is stuck cannot hold up requests. Keep the guard until the
/// program ends: dropping it waits, for a second at most, for the lines that are still to be written.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start(args: LogArgs, filter: Option<&str>) -> io::Result<LogGuard> {
    let level = args.log_level;
    // The pool of connections warns of each one that is replaced; that the database is away has a line of its own.
    let own = || {
        let libraries = level.min(LevelFilter::WARN);
        EnvFilter::new(format!("{libraries},deadpool.postgres=error,runpod_endpoint={level},runpod_alerts={level}"))
    };
    let filter = filter.and_then(|filter| EnvFilter::try_new(filter).ok()).unwrap_or_else(own);
    let format: LogFormat = args.log_format.into();
    let (queue, guard) = LineQueue::start(io::stderr(), move |count| dropped_line(format, count), || None)?;
    let lines = Lines { format, queue };
    // It fails only if a log exists, which then is as good.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    Ok(guard)
}

fn dropped_line(format: LogFormat, count: u64) -> String {
    let message = format!("Dropped {count} lines: the log was not read fast enough.");
    Fields { message, ..Fields::default() }.line(format, Level::WARN)
}

/// Writes each event as a line.
struct Lines {
    format: LogFormat,
    queue: LineQueue,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = fields.line(self.format, *event.metadata().level());
        // A full queue drops and counts the line.
        let _ = self.queue.clone().write_all(line.as_bytes());
    }
}

/// What an event carries.
#[derive(Debug, Default)]
struct Fields {
    job: Option<String>,
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn line(&self, format: LogFormat, level: Level) -> String {
        let line = LogLine {
            time: SystemTime::now(),
            level,
            job: self.job.as_deref(),
            worker: None,
            message: &self.message,
            fields: &self.others,
        };
        match format {
            LogFormat::Json => line.json(),
            LogFormat::Text => line.text(),
        }
    }

    fn set_text(&mut self, name: &'static str, text: String) {
        match name {
            "message" => self.message = text,
            "job" => self.job = Some(text),
            _ => self.others.push((name, Value::String(text))),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field.name(), format!("{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }
}
