//! What a handler process prints, as lines of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use runpod_handler_protocol::LogLine;
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use super::limits::LAST_LINES;
use super::output::{Output, read_lines};
use super::running_jobs::RunningJobs;
use crate::logs::{HANDLER, redact};

/// Where lines come from.
pub(super) struct Source {
    /// `stdout` or `stderr`.
    pub(super) name: &'static str,
    pub(super) process: usize,
    pub(super) jobs: RunningJobs,
    /// Lines per second; 0 for no limit.
    pub(super) rate: u32,
    /// Where the last lines are kept.
    pub(super) last_lines: Option<LastLines>,
    pub(super) stop: CancellationToken,
}

/// Logs each line until end-of-file or `stop`.
pub(super) async fn log_output(stream: impl AsyncRead + Unpin, source: Source) {
    let Source { name, process, jobs, rate, last_lines, stop } = source;
    let keep = |line: &str, is_state: bool| {
        if let Some(lines) = &last_lines {
            lines.push(line, is_state);
        }
    };
    read_lines(stream, stop, rate, |output| match output {
        Output::Line(line) => match LogLine::parse(&line) {
            Some(event) => {
                keep(&event.message, false);
                log_event(&event, process, &jobs);
            }
            None => {
                keep(&line, false);
                tracing::info!(target: HANDLER, job = jobs.only_one(), process, stream = name, "{line}");
            }
        },
        Output::State(state) => {
            keep(&state, true);
            tracing::info!(target: HANDLER, job = jobs.only_one(), process, stream = name, "{state}");
        }
        Output::Excess(line) => keep(&LogLine::parse(&line).map_or(line, |event| event.message), false),
        Output::ExcessState(state) => keep(&state, true),
        Output::Dropped(count) => {
            tracing::warn!(target: HANDLER, process, stream = name, "Dropped {count} lines: the handler logs too fast. See --log-rate.");
        }
    })
    .await;
}

/// An event of the handler, with its own level and job.
fn log_event(event: &LogLine, process: usize, jobs: &RunningJobs) {
    let LogLine { level, job, target: module, message } = event;
    let job = job.clone().or_else(|| jobs.only_one());
    match level.as_str() {
        "ERROR" => tracing::error!(target: HANDLER, job, process, module, "{message}"),
        "WARN" => tracing::warn!(target: HANDLER, job, process, module, "{message}"),
        "DEBUG" => tracing::debug!(target: HANDLER, job, process, module, "{message}"),
        "TRACE" => tracing::trace!(target: HANDLER, job, process, module, "{message}"),
        _ => tracing::info!(target: HANDLER, job, process, module, "{message}"),
    }
}

/// The last lines of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct LastLines(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    /// The last one is the state of a line that the next state overwrites.
    ends_with_state: bool,
}

impl LastLines {
    fn push(&self, line: &str, is_state: bool) {
        let Lines { lines, ends_with_state } = &mut *self.0.lock();
        if std::mem::replace(ends_with_state, is_state) {
            lines.pop_back();
        } else if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        // They end up in error reports, which go to whoever sent the job.
        lines.push_back(redact::clean(line).into_owned());
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().lines).into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_latest_state_of_a_progress_bar_that_prints_too_fast_is_kept_for_reports() {
        let (mut writer, stream) = tokio::io::duplex(1024);
        let last_lines = LastLines::default();
        let source = Source {
            name: "stderr",
            process: 0,
            jobs: RunningJobs::default(),
            rate: 1,
            last_lines: Some(last_lines.clone()),
            stop: CancellationToken::new(),
        };
        let task = tokio::spawn(log_output(stream, source));
        for (pause, bytes) in [(500, "\r1%"), (700, "\na\n\r2%"), (400, "\r3%\n")] {
            sleep(Duration::from_millis(pause)).await;
            writer.write_all(bytes.as_bytes()).await.unwrap();
        }
        drop(writer);
        task.await.unwrap();
        assert_eq!(last_lines.take(), ["1%", "a", "3%"]);
    }
}
