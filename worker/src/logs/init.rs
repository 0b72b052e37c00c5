//! Sets up the log of the process.

use std::io::{self, Write};
use std::sync::Arc;

use runpod_log_line::{LineQueue, LogGuard};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::config::LogConfig;
#[cfg(test)]
use super::config::LogFormat;
use super::fields::Fields;
use super::layer::{HANDLER, Lines};
use super::line::line;
use super::rate_limit::RateLimit;
use super::sink::Sink;

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another part of the program has set up a log already.
    #[error("a log is already set up in this process: call `logs::init` once, before anything else logs")]
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
    let own_line = move |message| line(&Fields::of_message(message), format, Level::WARN, &worker);
    let dropped_line = {
        let own_line = own_line.clone();
        // Not for the sink: it has the lines that standard output was too slow for.
        move |count| own_line(format!("Dropped {count} lines: the log was not read fast enough."))
    };
    let excess_line = {
        let (limit, sink) = (Arc::clone(&limit), sink.clone());
        move || {
            let count = Some(limit.take_dropped()).filter(|count| *count > 0)?;
            let message = format!("Dropped {count} lines: the worker logs too fast. See --log-rate.");
            if let Some(sink) = &sink {
                sink.push_note(message.clone());
            }
            Some(own_line(message))
        }
    };
    let (queue, guard) = LineQueue::start(out, dropped_line, excess_line).map_err(LogError::Thread)?;
    let lines = Lines { format, worker_id: worker_id.to_owned(), limit, sink, writer: move || queue.clone() };
    subscriber(lines, config.level).try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(guard)
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
