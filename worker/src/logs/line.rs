//! From what an event carries to the line that is written.

use std::time::SystemTime;

use runpod_log_line::{LogFormat, LogLine};
use tracing::Level;

use super::fields::Fields;

/// One event as a line, with its line break. JSON carries no time: the platform stamps each line when it arrives.
pub(super) fn line(fields: &Fields, format: LogFormat, level: Level, worker_id: &str) -> String {
    let line = form(fields, level, worker_id);
    match format {
        LogFormat::Json => line.json_without_time(),
        LogFormat::Text => line.text(),
    }
}

/// One event as a line of JSON with its time, with its line break.
pub(super) fn stamped_json(fields: &Fields, level: Level, worker_id: &str) -> String {
    form(fields, level, worker_id).json()
}

fn form<'a>(fields: &'a Fields, level: Level, worker_id: &'a str) -> LogLine<'a> {
    LogLine {
        time: SystemTime::now(),
        level,
        job: fields.job.as_deref(),
        worker: Some(worker_id),
        message: &fields.message,
        fields: &fields.others,
    }
}
