//! The documents that the console's page reads. Times are milliseconds since 1970.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::samples::Sample;
use crate::local::LogLine;
use crate::store::{
    Health, JobDetails, JobRow, Payload, Status, Timestamp, Transition, WorkerState, WorkerView, storable,
};

/// Bytes of one payload that are shown; the client API returns all of it.
const MAX_SHOWN: usize = 1 << 20;
/// Bytes of unread stream items in one document: the last ones. Each page that is open holds a document.
const MAX_ITEM_BYTES: usize = 4 << 20;

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn epoch_millis(at: SystemTime) -> u64 {
    millis(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Query of the overview: which jobs to list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OverviewQuery {
    pub(super) status: Option<Status>,
    #[serde(deserialize_with = "searched")]
    pub(super) id: String,
}

/// A text that is looked for, as every store can look for it.
pub(super) fn searched<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| storable(text.trim()).as_ref().to_owned())
}

/// One point of the charts.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Point {
    at: u64,
    completed: u64,
    failed: u64,
    in_progress: usize,
    in_queue: usize,
    retried: u64,
    paused: bool,
    idle: usize,
    initializing: usize,
    running: usize,
    throttled: usize,
    unhealthy: usize,
    lost: usize,
}

impl Point {
    pub(super) fn new(at: SystemTime, health: &Health) -> Self {
        Self {
            at: epoch_millis(at),
            completed: health.completed,
            failed: health.failed,
            in_progress: health.in_progress,
            in_queue: health.in_queue,
            retried: health.retried,
            paused: health.paused,
            idle: health.workers.idle,
            initializing: health.workers.initializing,
            running: health.workers.running,
            throttled: health.workers.throttled,
            unhealthy: health.workers.unhealthy,
            lost: health.workers.lost,
        }
    }
}

impl From<&Sample> for Point {
    fn from(sample: &Sample) -> Self {
        Self::new(sample.at, &sample.health)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row<'a> {
    id: &'a str,
    status: Status,
    submitted_at: u64,
    delay: Option<u64>,
    execution: Option<u64>,
    worker: Option<&'a str>,
    retries: u32,
}

impl<'a> Row<'a> {
    pub(super) fn new(row: &'a JobRow, origin: SystemTime) -> Self {
        let view = &row.view;
        Self {
            id: &view.id,
            status: view.status,
            submitted_at: epoch_millis(origin + row.submitted),
            delay: view.attempt.delay.map(millis),
            execution: view.attempt.execution.map(millis),
            worker: view.attempt.worker.as_deref(),
            retries: view.attempt.retries,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Worker<'a> {
    pub(super) id: &'a str,
    state: &'static str,
    jobs: usize,
    silent_seconds: u64,
    /// A second process uses its id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl<'a> From<&'a WorkerView> for Worker<'a> {
    fn from(worker: &'a WorkerView) -> Self {
        let state = match worker.state {
            WorkerState::Initializing => "initializing",
            WorkerState::Idle => "idle",
            WorkerState::Standby => "standby",
            WorkerState::Running => "running",
            WorkerState::Throttled => "throttled",
            WorkerState::Unhealthy => "unhealthy",
            WorkerState::Lost => "lost",
            WorkerState::Leaving => "leaving",
        };
        // In steps of ten: otherwise the list of idle workers would be sent every second.
        let silent_seconds = worker.silent_for.as_secs() / 10 * 10;
        Self { id: &worker.id, state, jobs: worker.jobs, silent_seconds, duplicate: worker.has_duplicate }
    }
}

/// A payload, or the beginning of a large one, as text.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Shown<'a> {
    Whole(&'a RawValue),
    Cut { cut: String, bytes: usize },
}

impl<'a> From<&'a Payload> for Shown<'a> {
    fn from(payload: &'a Payload) -> Self {
        let text = payload.get();
        if text.len() <= MAX_SHOWN {
            return Self::Whole(payload);
        }
        let end = (0..=MAX_SHOWN).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        Self::Cut { cut: text[..end].to_owned(), bytes: text.len() }
    }
}

/// A log line of a job.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    at: u64,
    level: &'a str,
    text: &'a str,
}

impl<'a> From<&'a LogLine> for Line<'a> {
    fn from(line: &'a LogLine) -> Self {
        Self { at: epoch_millis(line.at), level: &line.level, text: &line.text }
    }
}

#[derive(Debug, Serialize)]
struct Step<'a> {
    status: Status,
    at: u64,
    worker: Option<&'a str>,
}

/// Everything about one job.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Job<'a> {
    id: &'a str,
    now: u64,
    status: Status,
    delay: Option<u64>,
    execution: Option<u64>,
    worker: Option<&'a str>,
    retries: u32,
    input: Option<Shown<'a>>,
    output: Option<Shown<'a>>,
    error: Option<&'a str>,
    history: Vec<Step<'a>>,
    first_item: u64,
    items: Vec<Shown<'a>>,
}

/// How many of the last items have at most `max` bytes in all, as they are shown.
fn last_within(items: &[Payload], max: usize) -> usize {
    let mut left = max;
    let fits = |item: &&Payload| {
        let bytes = item.get().len().min(MAX_SHOWN);
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    };
    items.iter().rev().take_while(fits).count()
}

impl<'a> Job<'a> {
    /// The input never changes and is sent once, with the first document.
    pub(super) fn new(record: &'a JobDetails, origin: SystemTime, is_first: bool) -> Self {
        let view = &record.view;
        let skipped = record.items.len() - last_within(&record.items, MAX_ITEM_BYTES);
        let at = |at: Timestamp| epoch_millis(origin + at);
        let step = |step: &'a Transition| Step {
            status: step.status,
            at: at(step.at),
            worker: step.worker.as_ref().map(Arc::as_ref),
        };
        Self {
            id: &view.id,
            now: epoch_millis(SystemTime::now()),
            status: view.status,
            delay: view.attempt.delay.map(millis),
            execution: view.attempt.execution.map(millis),
            worker: view.attempt.worker.as_deref(),
            retries: view.attempt.retries,
            input: is_first.then(|| Shown::from(&record.input)),
            output: view.ending.output.as_ref().map(Shown::from),
            error: view.ending.error.as_deref(),
            history: record.history.iter().map(step).collect(),
            first_item: record.first_item + skipped as u64,
            items: record.items[skipped..].iter().map(Shown::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_items_the_last_ones_are_shown() {
        let item = |bytes: usize| Payload::from(RawValue::from_string("7".repeat(bytes)).unwrap());
        assert_eq!(last_within(&[], 10), 0);
        assert_eq!(last_within(&[item(5), item(5)], 10), 2);
        assert_eq!(last_within(&[item(1), item(8), item(5), item(5)], 10), 2);
        assert_eq!(
            last_within(&[item(1), item(4 * MAX_SHOWN)], MAX_SHOWN),
            1,
            "a large item is cut, and counts as it is shown"
        );
    }
}
