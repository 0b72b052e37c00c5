//! What client commands print about a job.

use serde_json::value::RawValue;

use super::exit::Exit;
use super::http::Job;
use super::output::Output;
use crate::store::Status;

pub(super) fn print_end(job: &Job, reply: &str, as_json: bool, output: &mut Output) -> Exit {
    if as_json {
        output.line(reply.trim_end());
    } else {
        print_result(job, output);
    }
    exit_for(job.status)
}

pub(super) fn print_result(job: &Job, output: &mut Output) {
    if let Some(value) = &job.output {
        print_value(value, output);
    }
    note_failure(job, output);
}

pub(super) fn note_failure(job: &Job, output: &mut Output) {
    if let Some(error) = &job.error {
        output.note(&format!("{}: {}", job.status.name(), plain(error)));
    }
}

pub(super) fn print_value(value: &RawValue, output: &mut Output) {
    output.line(&plain(value));
}

/// A JSON string without its quotes; any other JSON as it is.
pub(super) fn plain(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

pub(super) fn exit_for(status: Status) -> Exit {
    match status {
        Status::Failed | Status::TimedOut => Exit::Failure,
        Status::Cancelled => Exit::Cancelled,
        Status::Completed | Status::InQueue | Status::InProgress => Exit::Success,
    }
}
