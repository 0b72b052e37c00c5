//! Server-sent events: the overview of an endpoint and the progress of one job.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::state::Console;
use super::wire::{Job, Line, OverviewQuery, Point, Row, Worker};
use crate::api::{ApiError, ReadQuery};
use crate::local::Batching;
use crate::store::{JobFilter, Seen};

/// Time between two reads of the store.
const OVERVIEW_PERIOD: Duration = Duration::from_millis(500);
/// Shortest time between two documents of one job.
const JOB_PERIOD: Duration = Duration::from_millis(100);
/// Length of one wait for a change of the job.
const JOB_WAIT: Duration = Duration::from_secs(10);
/// A stream ends after this time; the page opens a new one.
const MAX_LIFE: Duration = Duration::from_secs(900);

/// Jobs in the overview.
pub(super) const MAX_ROWS: usize = 100;
/// Workers in the overview.
pub(super) const MAX_WORKERS: usize = 100;

/// Events that are sent together.
type Events = Vec<Result<Event, Infallible>>;

/// Events `history` once, then `point`, `jobs` and `workers` whenever they have changed.
pub(super) async fn overview(
    State(console): State<Console>,
    Path(endpoint): Path<String>,
    ReadQuery(query): ReadQuery<OverviewQuery>,
) -> Result<Response, ApiError> {
    let filter = JobFilter { status: query.status, id: query.id, limit: MAX_ROWS };
    let stream_state = Overview { console: console.clone(), endpoint, filter, sent: Sent::default() };
    respond(&console, stream::unfold(stream_state, |state| async move { Some(state.next().await) }))
}

/// A worker, and what the handler processes of a local one run at once: one line each.
#[derive(Serialize)]
struct WorkerCard<'a> {
    #[serde(flatten)]
    worker: Worker<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    batching: Vec<String>,
}

struct Overview {
    console: Console,
    endpoint: String,
    filter: JobFilter,
    sent: Sent,
}

/// What the page has received, so that only changes are sent.
#[derive(Default)]
struct Sent {
    any: bool,
    point_at: Option<Instant>,
    point: String,
    jobs: String,
    workers: String,
}

impl Overview {
    async fn next(mut self) -> (Events, Self) {
        let mut events = Events::new();
        if self.sent.any {
            sleep(OVERVIEW_PERIOD).await;
        } else {
            let points: Vec<_> = self.console.samples.of(&self.endpoint).iter().map(Point::from).collect();
            events.push(Ok(event("history", &encode(&points))));
            self.sent.any = true;
        }
        let store = &self.console.store;
        let origin = store.origin();
        let (Ok(health), Ok(rows), Ok(workers)) = (
            store.health(&self.endpoint).await,
            store.list(&self.endpoint, &self.filter).await,
            store.workers(&self.endpoint, MAX_WORKERS).await,
        ) else {
            // The page keeps what it shows until the store answers again.
            return (events, self);
        };

        let counters = format!("{health:?}");
        let is_due = self.sent.point_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(1));
        if is_due || counters != self.sent.point {
            events.push(Ok(event("point", &encode(&Point::new(SystemTime::now(), &health)))));
            (self.sent.point, self.sent.point_at) = (counters, Some(Instant::now()));
        }
        let rows = encode(&rows.iter().map(|row| Row::new(row, origin)).collect::<Vec<_>>());
        if rows != self.sent.jobs {
            events.push(Ok(event("jobs", &rows)));
            self.sent.jobs = rows;
        }
        let figures = self.console.figures.latest().await;
        let cards = workers.iter().map(Worker::from).map(|worker| {
            let batching =
                figures.get(worker.id).iter().flat_map(|known| &known.batching).map(Batching::summary).collect();
            WorkerCard { worker, batching }
        });
        let workers = encode(&cards.collect::<Vec<_>>());
        if workers != self.sent.workers {
            events.push(Ok(event("workers", &workers)));
            self.sent.workers = workers;
        }
        (events, self)
    }
}

/// Sends the event `job` at once and after every change, `log` with the lines that local workers log about the job, and `gone`
/// when its record has expired.
pub(super) async fn job(
    State(console): State<Console>,
    Path((endpoint, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    // An unknown job is an error of the request, not an event.
    console.store.inspect(&endpoint, &id, Seen::default(), Duration::ZERO).await?;
    let watch = Watch { console: console.clone(), endpoint, id, seen: Seen::default(), logged: 0, is_over: false };
    respond(&console, stream::unfold(watch, |watch| async move { watch.next().await }))
}

struct Watch {
    console: Console,
    endpoint: String,
    id: String,
    seen: Seen,
    /// Number of the next log line.
    logged: u64,
    is_over: bool,
}

impl Watch {
    async fn next(mut self) -> Option<(Events, Self)> {
        if self.is_over {
            return None;
        }
        let is_first = self.seen.revision == 0;
        if !is_first {
            sleep(JOB_PERIOD).await;
        }
        let store = &self.console.store;
        let found = tokio::select! {
            found = store.inspect(&self.endpoint, &self.id, self.seen, JOB_WAIT) => found,
            // The job's document is sent before its log.
            (lines, next) = self.console.local.logs().after(&self.id, self.logged), if !is_first => {
                self.logged = next;
                let lines: Vec<_> = lines.iter().map(Line::from).collect();
                return Some((vec![Ok(event("log", &encode(&lines)))], self));
            }
        };
        let events = match found {
            Ok(record) if record.revision == self.seen.revision && record.items.is_empty() => Events::new(),
            Ok(record) => {
                let next_item = record.first_item + record.items.len() as u64;
                self.seen = Seen { revision: record.revision, items: next_item };
                vec![Ok(event("job", &encode(&Job::new(&record, store.origin(), is_first))))]
            }
            Err(_) => {
                self.is_over = true;
                vec![Ok(event("gone", "{}"))]
            }
        };
        Some((events, self))
    }
}

fn event(name: &str, data: &str) -> Event {
    Event::default().event(name).data(data)
}

fn encode(document: &impl Serialize) -> String {
    // Strings, numbers and JSON that was parsed before: nothing in it can fail.
    serde_json::to_string(document).unwrap_or_else(|_| "null".to_owned())
}

/// The response: it ends when the viewer leaves, after [`MAX_LIFE`], or at shutdown.
fn respond(console: &Console, updates: impl Stream<Item = Events> + Send + 'static) -> Result<Response, ApiError> {
    let permit = Arc::clone(&console.viewers).try_acquire_owned().map_err(|_| ApiError::TooManyViewers)?;
    let shutdown = console.shutdown.clone().cancelled_owned();
    let end = async move {
        tokio::select! {
            () = sleep(MAX_LIFE) => {}
            () = shutdown => {}
        }
    };
    let events = updates.map(stream::iter).flatten().take_until(end).map(move |event| {
        let _held: &OwnedSemaphorePermit = &permit;
        event
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}
