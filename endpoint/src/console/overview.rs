//! The overview and one job as JSON documents, for clients that poll, such as `runpod-endpoint top`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

use super::events::{MAX_ROWS, MAX_WORKERS};
use super::state::Console;
use super::wire::{Job, OverviewQuery, Point, Row, Worker, millis};
use crate::api::{ApiError, ReadQuery};
use crate::local::{Batching, Gpu, Usage};
use crate::store::{JobFilter, Seen};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Overview<'a> {
    counters: Point,
    /// How long the oldest job has waited, in milliseconds.
    oldest_wait: Option<u64>,
    jobs: Vec<Row<'a>>,
    workers: Vec<WorkerLine<'a>>,
}

/// A worker, with its resource usage if it runs on this machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkerLine<'a> {
    #[serde(flatten)]
    worker: Worker<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_percent: Option<f64>,
    #[serde(skip_serializing_if = "<[Gpu]>::is_empty")]
    gpus: &'a [Gpu],
    #[serde(skip_serializing_if = "<[Batching]>::is_empty")]
    batching: &'a [Batching],
}

/// Counters, newest jobs and workers.
pub(super) async fn overview(
    State(console): State<Console>,
    Path(endpoint): Path<String>,
    ReadQuery(query): ReadQuery<OverviewQuery>,
) -> Result<Response, ApiError> {
    let store = &console.store;
    let filter = JobFilter { status: query.status, id: query.id, limit: MAX_ROWS };
    let observation = store.observe(&endpoint).await?;
    let rows = store.list(&endpoint, &filter).await?;
    let workers = store.workers(&endpoint, MAX_WORKERS).await?;
    let (usage, figures) = tokio::join!(usage(&console), console.figures.latest());
    let line = |worker| {
        let Worker { id, .. } = &worker;
        let (usage, figures) = (usage.get(*id), figures.get(*id));
        WorkerLine {
            cpu_percent: usage.map(|usage| usage.cpu_percent),
            memory_percent: usage.map(|usage| usage.memory_percent),
            gpus: figures.map(|figures| &*figures.gpus).unwrap_or_default(),
            batching: figures.map(|figures| &*figures.batching).unwrap_or_default(),
            worker,
        }
    };
    let document = Overview {
        counters: Point::new(SystemTime::now(), &observation.health),
        oldest_wait: observation.oldest_wait.map(millis),
        jobs: rows.iter().map(|row| Row::new(row, store.origin())).collect(),
        workers: workers.iter().map(Worker::from).map(line).collect(),
    };
    Ok(Json(document).into_response())
}

/// Everything about one job. Its stream items stay unread.
pub(super) async fn job(
    State(console): State<Console>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let record = console.store.inspect(&endpoint, &id, Seen::default(), Duration::ZERO).await?;
    Ok(Json(Job::new(&record, console.store.origin(), true)).into_response())
}

async fn usage(console: &Console) -> BTreeMap<String, Usage> {
    let local = console.local.clone();
    // It reads files: not on the async runtime's threads.
    let measured = tokio::task::spawn_blocking(move || {
        let workers = local.ids().into_iter().filter_map(|id| local.measure(&id));
        workers.filter_map(|worker| Some((worker.id, worker.usage?))).collect()
    });
    measured.await.unwrap_or_default()
}
