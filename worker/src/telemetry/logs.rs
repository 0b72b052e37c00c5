//! The worker's log: one line per event, for the platform (JSON) or for people (text).
//!
//! The JSON keys and their order, the level names and the size limit are those of the official Python package, so that the
//! platform's log views work: `requestId`, `message`, `level`. Further fields follow.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::rate::RateLimit;
use super::sink::{self, Sink, SinkQueue};
pub use super::writer::LogGuard;
use super::writer::{LineQueue, Loss};
use super::{LogConfig, LogFormat, jobs, redact};

/// Target of what handlers print. It is limited where it comes in, per stream.
pub(crate) const HANDLER: &str = "handler";
/// Longest message, in characters; the platform cuts longer ones. The middle is left out.
const MAX_MESSAGE_LEN: usize = 4096;

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another part of the program has set up a log already.
    #[error("a log is already set up in this process: call `telemetry::init` once, before anything else logs")]
    AlreadySet,
    /// The operating system starts no more threads.
    #[error("the thread that writes the log cannot be started: {0}; raise the limit on processes (ulimit -u)")]
    Thread(io::Error),
}

/// Sets up the log of the whole process. The level is for the worker and its handlers; libraries get through from WARN on.
/// Every JSON line carries `worker_id`. What is logged also goes to the `sink`, if there is one.
///
/// Lines are written by a thread of their own, so that a stuck reader cannot hold up the worker. Keep the guard
/// until the program ends: dropping it waits, for a second at most, for the lines that are still to be written.
///
/// # Errors
/// When a log is already set up, or the thread cannot be started.
pub fn init(
    config: &LogConfig,
    worker_id: &str,
    sink: Option<&Sink>,
    out: impl Write + Send + 'static,
) -> Result<LogGuard, LogError> {
    let (format, worker) = (config.format, worker_id.to_owned());
    let limit = Arc::new(RateLimit::new(config.rate));
    let sink = sink.map(Sink::queue);
    let copy = sink.clone();
    let lost = move |loss, count| {
        let message = match loss {
            Loss::Stuck => format!("dropped {count} lines: the log was not read fast enough"),
            Loss::Excess => format!("dropped {count} lines: the worker logs too fast (see --log-rate)"),
        };
        // The sink has the lines that standard output was too slow for.
        if let (Some(sink), Loss::Excess) = (&copy, loss) {
            sink.push(note(message.clone(), &worker));
        }
        Fields { message, ..Fields::default() }.line(format, Level::WARN, &worker)
    };
    let (queue, guard) = LineQueue::start(out, Arc::clone(&limit), lost).map_err(LogError::Thread)?;
    let lines = Lines { format, worker_id: worker_id.to_owned(), limit, sink, writer: move || queue.clone() };
    subscriber(lines, config.level).try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(guard)
}

/// A JSON line with a message of the log about itself.
pub(super) fn note(message: String, worker_id: &str) -> String {
    Fields { message, ..Fields::default() }.json(Level::WARN, worker_id, Some(SystemTime::now()))
}

/// What [`init`] installs.
fn subscriber<W>(lines: Lines<W>, level: LevelFilter) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("runpod_worker", level)
        .with_target(HANDLER, level);
    tracing_subscriber::registry().with(lines.with_filter(filter))
}

/// What [`init`] installs for a program that keeps no limit and logs at level DEBUG, with another destination.
#[cfg(test)]
pub(super) fn plain<W>(format: LogFormat, worker_id: &str, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let limit = Arc::new(RateLimit::new(0));
    let lines = Lines { format, worker_id: worker_id.to_owned(), limit, sink: None, writer };
    subscriber(lines, LevelFilter::DEBUG)
}

/// Writes each event as a line.
struct Lines<W> {
    format: LogFormat,
    worker_id: String,
    limit: Arc<RateLimit>,
    sink: Option<SinkQueue>,
    writer: W,
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
            sink.push(fields.json(level, &self.worker_id, Some(SystemTime::now())));
        }
        let line = fields.line(self.format, level, &self.worker_id);
        // Nowhere is left to complain to when the log itself cannot be written.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(line.as_bytes());
    }
}

/// What an event or a span carries, already free of secrets.
#[derive(Debug, Default)]
struct Fields {
    /// The field `job`.
    job: Option<String>,
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn inherit(&mut self, outer: &Self) {
        if outer.job.is_some() {
            self.job.clone_from(&outer.job);
        }
        for (name, value) in &outer.others {
            self.set(name, value.clone());
        }
    }

    fn set(&mut self, name: &'static str, value: Value) {
        match self.others.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.others.push((name, value)),
        }
    }

    fn set_text(&mut self, name: &'static str, text: &str) {
        // Cleaned before it is cut: half a secret would not be recognised.
        let text = shorten(&redact::clean(text)).into_owned();
        match name {
            "job" => self.job = Some(text),
            "message" => self.message = text,
            _ => self.set(name, Value::String(text)),
        }
    }

    /// Adds what is known of the job.
    fn tag(&mut self) {
        let Some(tags) = self.job.as_deref().and_then(jobs::tags) else { return };
        if let Some(batch) = tags.batch {
            self.message = shorten(&format!("[batchId={batch}] {}", self.message)).into_owned();
        }
        if let Some(trace_id) = tags.trace_id {
            self.set("trace_id", Value::String(trace_id));
        }
    }

    fn line(&self, format: LogFormat, level: Level, worker_id: &str) -> String {
        match format {
            LogFormat::Json => self.json(level, worker_id, None),
            LogFormat::Text => self.text(level) + "\n",
        }
    }

    fn json(&self, level: Level, worker_id: &str, time: Option<SystemTime>) -> String {
        let mut line = serde_json::to_string(&JsonLine { fields: self, level, worker_id, time }).unwrap_or_default();
        line.push('\n');
        line
    }

    fn text(&self, level: Level) -> String {
        let mut line = format!("{:<7}| ", level.as_str());
        if let Some(job) = &self.job {
            line.push_str(job);
            line.push_str(" | ");
        }
        line.push_str(&self.message);
        for (name, value) in &self.others {
            // Writing to a String cannot fail.
            let _ = match value.as_str() {
                Some(text) if !text.contains(|c: char| c.is_whitespace() || c == '"') => write!(line, " {name}={text}"),
                _ => write!(line, " {name}={value}"),
            };
        }
        line
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field.name(), &format!("{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }
}

/// One event as JSON, keys in the platform's order.
struct JsonLine<'a> {
    fields: &'a Fields,
    level: Level,
    worker_id: &'a str,
    /// The platform stamps each line when it comes; other receivers want to be told.
    time: Option<SystemTime>,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(time) = self.time {
            map.serialize_entry("timestamp", &humantime::format_rfc3339_millis(time).to_string())?;
        }
        map.serialize_entry("requestId", &self.fields.job)?;
        map.serialize_entry("message", &self.fields.message)?;
        map.serialize_entry("level", self.level.as_str())?;
        map.serialize_entry("worker", self.worker_id)?;
        for (name, value) in &self.fields.others {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// At most [`MAX_MESSAGE_LEN`] characters of `text`: its beginning and its end, with a note between.
fn shorten(text: &str) -> Cow<'_, str> {
    // Most texts are short enough even in bytes, and need no counting.
    if text.len() <= MAX_MESSAGE_LEN {
        return Cow::Borrowed(text);
    }
    let len = text.chars().count();
    if len <= MAX_MESSAGE_LEN {
        return Cow::Borrowed(text);
    }
    // 64 characters are enough for the note with any number in it.
    let kept = (MAX_MESSAGE_LEN - 64) / 2;
    let position = |index| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (&text[..position(kept)], &text[position(len - kept)..]);
    Cow::Owned(format!("{head} … [{} characters left out] … {tail}", len - 2 * kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::capture::Capture;

    #[test]
    fn json_lines_have_the_platforms_keys_first() {
        let (log, _guard) = Capture::start(LogFormat::Json, "w-1");
        tracing::info!(job = "j-1", process = 0, stream = "stderr", ratio = 0.5, ok = true, "Grüße \"x\"\nzwei");
        tracing::warn!("no job");
        assert_eq!(
            log.text(),
            concat!(
                r#"{"requestId":"j-1","message":"Grüße \"x\"\nzwei","level":"INFO","worker":"w-1","process":0,"#,
                r#""stream":"stderr","ratio":0.5,"ok":true}"#,
                "\n",
                r#"{"requestId":null,"message":"no job","level":"WARN","worker":"w-1"}"#,
                "\n",
            )
        );
    }

    #[test]
    fn text_lines_name_the_job_when_there_is_one() {
        let (log, _guard) = Capture::start(LogFormat::Text, "w-1");
        tracing::error!(job = %"j-1", code = 3, reason = "two words", kind = "oom", "It broke.");
        tracing::debug!("plain");
        assert_eq!(log.text(), "ERROR  | j-1 | It broke. code=3 reason=\"two words\" kind=oom\nDEBUG  | plain\n");
    }

    #[test]
    fn spans_lend_their_job_and_fields_to_events() {
        let (log, _guard) = Capture::start(LogFormat::Text, "w-1");
        let span = tracing::info_span!("job", job = "j-2", attempt = 1, phase = tracing::field::Empty);
        span.record("phase", "gpu");
        span.in_scope(|| {
            tracing::info!("inherited");
            tracing::info!(job = "j-3", attempt = 2, "own");
        });
        tracing::info!("outside");
        assert_eq!(
            log.text(),
            "INFO   | j-2 | inherited attempt=1 phase=gpu\nINFO   | j-3 | own attempt=2 phase=gpu\nINFO   | outside\n"
        );
    }

    #[test]
    fn secrets_are_masked_in_messages_and_fields_even_across_the_cut() {
        redact::add("s3cr3t-value");
        let (log, _guard) = Capture::start(LogFormat::Json, "w-1");
        tracing::info!(url = "http://x/?k=s3cr3t-value", error = ?"s3cr3t-value", "key s3cr3t-value");
        for offset in 2000..2032 {
            tracing::info!("{}s3cr3t-value{}", "x".repeat(offset), "y".repeat(4000));
        }
        assert!(!log.text().contains("s3cr3t"), "{}", log.text());
        assert!(log.text().starts_with(r#"{"requestId":null,"message":"key ***","#));
    }

    #[test]
    fn long_messages_lose_their_middle() {
        let text = format!("{}{}{}", "ä".repeat(5000), "MIDDLE", "z".repeat(5000));
        let short = shorten(&text);
        assert!(short.chars().count() <= MAX_MESSAGE_LEN);
        assert!(short.starts_with("ää") && short.ends_with("zz") && !short.contains("MIDDLE"));
        assert!(short.contains("[5974 characters left out]"), "{short}");
        let exact = "ä".repeat(MAX_MESSAGE_LEN);
        assert_eq!(shorten(&exact), exact);
    }

    #[test]
    fn lines_of_a_job_carry_its_batch_and_its_trace() {
        let tags = jobs::JobTags { batch: Some("b-7".to_owned()), trace_id: Some("0af7".to_owned()) };
        jobs::open("j-tagged", tags);
        let (log, _guard) = Capture::start(LogFormat::Json, "w-1");
        tracing::info!(job = "j-tagged", "Started.");
        tracing::info!(job = "j-tagged", "{}", "x".repeat(9000));
        jobs::close("j-tagged");
        tracing::info!(job = "j-tagged", "over");
        let text = log.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"requestId":"j-tagged","message":"[batchId=b-7] Started.","level":"INFO","worker":"w-1","trace_id":"0af7"}"#
        );
        let long: Value = serde_json::from_str(lines[1]).unwrap();
        let message = long["message"].as_str().unwrap();
        assert!(message.starts_with("[batchId=b-7] xxx") && message.chars().count() <= MAX_MESSAGE_LEN, "{message}");
        assert!(!lines[2].contains("b-7") && !lines[2].contains("0af7"));
    }

    #[test]
    fn libraries_are_quiet_below_warn() {
        let (log, _guard) = Capture::start(LogFormat::Text, "w-1");
        tracing::info!(target: "hyper::client", "noise");
        tracing::warn!(target: "hyper::client", "trouble");
        tracing::debug!(target: "handler", "from the handler");
        assert_eq!(log.text(), "WARN   | trouble\nDEBUG  | from the handler\n");
    }
}
