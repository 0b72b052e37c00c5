//! Reading without a lock: what is committed, in a queue that is thrown away.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Row;

use super::batch_rows;
use super::local::Local;
use super::lock::held_by;
use super::rows::{self, LoadedWorker};
use super::shared::{Shared, unavailable};
use crate::store::batches::BatchRequest;
use crate::store::clock::Timestamp;
use crate::store::counts::{BatchRequests, Ended, Health};
use crate::store::error::StoreError;
use crate::store::payload::{Filed, Payload};
use crate::store::queue::{KeptBatch, MAX_FRONT, Queue};
use crate::store::request::{JobId, Request};
use crate::store::views::{
    CancelElsewhere, GivenUp, HistoryPage, HistoryQuery, JobFilter, JobRow, JobView, Load, MAX_SEARCHED, Page,
};
use crate::store::workers::OVERFLOW;

/// Waiting jobs counted at most: no scaler asks for that many workers.
const MAX_COUNTED: i64 = 10_000;

/// Jobs looked at for one page of a search. Their records come over the network.
const MAX_SEARCHED_AT_ONCE: i64 = 2000;

/// Ended jobs that are looked at to make room for one job.
const MAX_MAKE_ROOM: i64 = 100;

/// A record that this program cannot read.
pub(super) fn unreadable(error: &serde_json::Error) -> StoreError {
    tracing::error!(%error, "A record in the database cannot be read. Is a newer version running?");
    unavailable("a record cannot be read")
}

/// An endpoint as `/health` shows it, with all of its workers in a queue of their own.
pub(super) struct LookedAt {
    pub(super) health: Health,
    pub(super) ended: Ended,
    pub(super) now: Timestamp,
    pub(super) queue: Queue<Filed>,
}

impl Shared {
    /// The job in a queue of its own; `None` when there is none, or its record has expired.
    pub(super) async fn look(&self, endpoint: &str, id: &str) -> Result<Option<Queue<Filed>>, StoreError> {
        let rows = self.query(rows::JOB, &[&endpoint, &id]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let now = rows::time(row.get("now"));
        let queue = self.queue_of(endpoint, now, &rows)?;
        Ok((!queue.is_expired(now, id)).then_some(queue))
    }

    /// The same with its unread stream items.
    pub(super) async fn look_with_items(&self, endpoint: &str, id: &str) -> Result<Option<Queue<Filed>>, StoreError> {
        let Some(mut queue) = self.look(endpoint, id).await? else { return Ok(None) };
        let Some(snapshot) = queue.snapshot(id) else { return Ok(None) };
        let number = rows::integer(snapshot.number);
        let found = self.query(rows::STREAM, &[&number]).await?;
        if let Some(row) = found.first() {
            queue.load_stream(snapshot.number, rows::stream(row));
        }
        let items = found.iter().filter_map(|row| row.get::<_, Option<String>>("body")).map(rows::payload);
        let items = items.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(&error))?;
        queue.load_items(snapshot.number, items);
        Ok(Some(queue))
    }

    /// The job as readers see it, without the text of its output.
    pub(super) async fn look_view(&self, endpoint: &str, id: &str) -> Result<Option<JobView<Filed>>, StoreError> {
        Ok(self.look(endpoint, id).await?.and_then(|queue| queue.view(id)))
    }

    fn queue_of(&self, endpoint: &str, now: Timestamp, rows: &[Row]) -> Result<Queue<Filed>, StoreError> {
        let mut queue = Queue::shared(self.setup.limits_of(endpoint), now);
        for row in rows {
            queue.load_job(row.get("record")).map_err(|error| unreadable(&error))?;
        }
        Ok(queue)
    }

    /// Unfinished jobs, the waiting ones first and in order.
    pub(super) async fn look_pending(&self, endpoint: &str, max: usize) -> Result<Vec<JobView<Filed>>, StoreError> {
        let rows = self.query(rows::PENDING, &[&endpoint, &rows::count(max)]).await?;
        let queue = self.queue_of(endpoint, Timestamp::ZERO, &rows)?;
        Ok(rows.iter().filter_map(|row| queue.view(row.get("id"))).collect())
    }

    /// The newest jobs that pass a filter.
    pub(super) async fn look_list(&self, endpoint: &str, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let exact = self.query(rows::JOB, &[&endpoint, &filter.id]).await?;
        let rows = if exact.is_empty() {
            let [searched, limit] = [MAX_SEARCHED, filter.limit].map(rows::count);
            let status = filter.status.map(|status| status.name());
            self.query(rows::LIST, &[&endpoint, &searched, &status, &filter.id, &limit]).await?
        } else {
            exact
        };
        let queue = self.queue_of(endpoint, Timestamp::ZERO, &rows)?;
        let listed = queue.list(filter).into_iter();
        Ok(listed.map(without_output).collect())
    }

    /// Searches jobs, from the newest on.
    pub(super) async fn look_search(&self, endpoint: &str, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        let before = query.before.map_or(i64::MAX, rows::integer);
        let rows = self.query(rows::OLDER, &[&endpoint, &before, &MAX_SEARCHED_AT_ONCE]).await?;
        let HistoryPage { rows: found, mut next } = self.queue_of(endpoint, Timestamp::ZERO, &rows)?.search(query);
        if i64::try_from(rows.len()).is_ok_and(|looked_at| looked_at == MAX_SEARCHED_AT_ONCE) {
            next = next.or(rows.last().map(|row| rows::natural(row.get("number"))));
        }
        Ok(HistoryPage { rows: found.into_iter().map(without_output).collect(), next })
    }

    /// The jobs that still have to be cancelled at another endpoint.
    pub(super) async fn look_cancels_elsewhere(&self, endpoint: &str) -> Result<Vec<CancelElsewhere>, StoreError> {
        let rows = self.query(rows::CANCELLED_ELSEWHERE, &[&endpoint]).await?;
        Ok(self.queue_of(endpoint, Timestamp::ZERO, &rows)?.cancels_elsewhere())
    }

    /// Some requests of a batch, in the order in which they were added.
    pub(super) async fn look_batch_requests(
        &self,
        endpoint: &str,
        batch: KeptBatch,
        offset: i64,
        limit: i64,
    ) -> Result<Page<BatchRequest<Filed>>, StoreError> {
        let id = Arc::clone(&batch.record.id);
        let rows = self.query(batch_rows::JOBS, &[&endpoint, &&*id, &offset, &limit]).await?;
        let mut queue = self.queue_of(endpoint, Timestamp::ZERO, &rows)?;
        queue.load_batches([batch]);
        queue.batch_requests(&id, 0, rows.len())
    }

    /// Ended jobs that may make room for another one.
    pub(super) async fn look_ended(&self, local: &Local) -> Result<Vec<JobId>, StoreError> {
        let any = local.limits.retention.is_some();
        let rows = self.query(rows::ENDED, &[&&*local.name, &any, &MAX_MAKE_ROOM]).await?;
        Ok(rows.iter().map(|row| Arc::from(row.get::<_, &str>(0))).collect())
    }

    /// The failed jobs, newest first.
    pub(super) async fn look_failed(
        &self,
        endpoint: &str,
        offset: i64,
        limit: i64,
    ) -> Result<Page<JobRow>, StoreError> {
        let rows = self.query(rows::FAILED, &[&endpoint, &offset, &limit]).await?;
        let total = self.query(rows::COUNT_FAILED, &[&endpoint]).await?;
        let page = self.queue_of(endpoint, Timestamp::ZERO, &rows)?.failed(0, rows.len());
        Ok(Page { entries: page.entries.into_iter().map(without_output).collect(), total: first_count(&total) })
    }

    /// The webhooks that were given up, those of the newest jobs first.
    pub(super) async fn look_given_up(
        &self,
        endpoint: &str,
        offset: i64,
        limit: i64,
    ) -> Result<Page<GivenUp>, StoreError> {
        let rows = self.query(rows::GIVEN_UP, &[&endpoint, &offset, &limit]).await?;
        let total = self.query(rows::COUNT_GIVEN_UP, &[&endpoint]).await?;
        let page = self.queue_of(endpoint, Timestamp::ZERO, &rows)?.given_up(0, rows.len());
        Ok(Page { total: first_count(&total), ..page })
    }

    /// The counters of `/health`, and all workers.
    pub(super) async fn look_health(&self, endpoint: &str) -> Result<LookedAt, StoreError> {
        let (usage, workers, held) = tokio::try_join!(
            async { self.query(rows::USAGE, &[&endpoint]).await },
            async { self.query(rows::ALL_WORKERS, &[&endpoint]).await },
            async { self.query(rows::ALL_HELD, &[&endpoint]).await },
        )?;
        let Some(usage) = usage.first() else { return Err(unavailable("it counts nothing")) };
        let now = rows::time(usage.get("now"));
        let mut queue = Queue::shared(self.setup.limits_of(endpoint), now);
        queue.load_paused(usage.get("paused"));
        load_workers(&mut queue, &workers, &held)?;
        let natural = |column| rows::natural(usage.get(column));
        let elsewhere = held.iter().filter(|row| row.get("waits")).count();
        let health = Health {
            completed: natural("completed"),
            failed: natural("failed"),
            retried: natural("retried"),
            in_queue: rows::size(usage.get("in_queue")) + elsewhere,
            in_progress: rows::size(usage.get("in_progress")).saturating_sub(elsewhere),
            elsewhere,
            ..queue.health(now)
        };
        let (mistakes, timeouts) = (natural("mistakes"), natural("timeouts"));
        let ended = Ended { completed: health.completed, failed: health.failed, mistakes, timeouts };
        Ok(LookedAt { health, ended, now, queue })
    }

    /// Whether a worker's request changes nothing worth a transaction.
    pub(super) async fn admits_quietly(
        &self,
        endpoint: &str,
        worker: &str,
        instance: Option<&str>,
    ) -> Result<bool, StoreError> {
        let found = self.query(rows::WORKERS, &[&endpoint, &vec![worker]]).await?;
        let now = found.first().map(|row| rows::time(row.get("now"))).unwrap_or_default();
        let mut queue = Queue::shared(self.setup.limits_of(endpoint), now);
        load_workers(&mut queue, &found, &[])?;
        Ok(queue.admits_quietly(now, worker, instance))
    }

    /// Whether a worker that asked to be replaced holds no job.
    pub(super) async fn is_refreshing(&self, endpoint: &str, worker: &str) -> Result<bool, StoreError> {
        let one = vec![worker];
        let (found, held) = tokio::try_join!(async { self.query(rows::WORKERS, &[&endpoint, &one]).await }, async {
            self.query(rows::HELD, &[&endpoint, &one]).await
        },)?;
        let mut queue = Queue::shared(self.setup.limits_of(endpoint), Timestamp::ZERO);
        load_workers(&mut queue, &found, &held)?;
        Ok(queue.is_refreshing(worker))
    }

    /// The requests of batches that have not ended.
    pub(super) async fn look_unended(&self, endpoint: &str) -> Result<BatchRequests, StoreError> {
        let usage = self.query(batch_rows::USAGE, &[&endpoint]).await?;
        Ok(usage.first().map(batch_rows::requests).unwrap_or_default())
    }

    /// How long the first urgent job has waited.
    pub(super) async fn look_oldest(&self, endpoint: &str, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let rows = self.query(rows::FIRST, &[&endpoint, &rows::count(MAX_FRONT)]).await?;
        let queue = self.queue_of(endpoint, now, &rows)?;
        Ok(queue.observe(now).oldest_wait)
    }

    /// What a scaler decides on.
    pub(super) async fn look_load(&self, endpoint: &str) -> Result<Load, StoreError> {
        let LookedAt { health, now, queue, .. } = self.look_health(endpoint).await?;
        let workers = queue.workers(now, usize::MAX);
        let low = first_count(&self.query(rows::HELD_LOW, &[&endpoint]).await?);
        let held = health.in_progress + health.elsewhere;
        let in_progress = held.saturating_sub(queue.held_elsewhere(OVERFLOW).len() + low);
        if health.paused {
            // What is not given out needs no worker.
            return Ok(Load { waiting: 0, oldest: None, in_progress, background: low > 0, workers });
        }
        let waiting = first_count(&self.query(rows::URGENT, &[&endpoint, &MAX_COUNTED]).await?);
        let background = low > 0 || self.look_unended(endpoint).await?.waiting > 0;
        let oldest = self.look_oldest(endpoint, now).await?;
        Ok(Load { waiting, oldest, in_progress, background, workers })
    }

    /// The text of payloads; `None` for what is no longer there.
    pub(super) async fn load(&self, contents: Vec<Filed>) -> Result<Vec<Option<Payload>>, StoreError> {
        let (mut jobs, mut parts) = (Vec::new(), Vec::new());
        for content in &contents {
            if let Filed::Stored { number, part, .. } = content {
                jobs.push(rows::integer(*number));
                parts.push(rows::part(*part));
            }
        }
        let mut texts: HashMap<(i64, i16), Payload> = HashMap::with_capacity(jobs.len());
        if !jobs.is_empty() {
            for row in self.query(rows::PAYLOADS, &[&jobs, &parts]).await? {
                let text = rows::payload(row.get(2)).map_err(|error| unreadable(&error))?;
                texts.insert((row.get(0), row.get(1)), text);
            }
        }
        let text = |content| match content {
            Filed::Fresh(payload) => Some(payload),
            Filed::Stored { number, part, .. } => texts.get(&(rows::integer(number), rows::part(part))).map(Arc::clone),
        };
        Ok(contents.into_iter().map(text).collect())
    }

    /// A job with the text of its output.
    pub(super) async fn with_output(&self, view: JobView<Filed>) -> Result<JobView, StoreError> {
        let output: Vec<_> = view.ending.output.iter().cloned().collect();
        let loaded = self.load(output).await?.into_iter().flatten().next();
        Ok(view.and_then(|_| loaded))
    }

    /// Requests with the text of their payloads; `None` for one that is gone.
    pub(super) async fn with_payloads(
        &self,
        requests: Vec<Request<Filed>>,
    ) -> Result<Vec<Option<Request>>, StoreError> {
        let contents = requests.iter().flat_map(Request::payloads).cloned().collect();
        let mut loaded = self.load(contents).await?.into_iter();
        Ok(requests.into_iter().map(|request| request.loaded(&mut loaded)).collect())
    }
}

fn without_output(row: JobRow<Filed>) -> JobRow {
    JobRow { view: row.view.and_then(|_| None), submitted: row.submitted }
}

pub(super) fn first_count(rows: &[Row]) -> usize {
    rows.first().map(|row| rows::size(row.get(0))).unwrap_or_default()
}

/// Puts workers with the jobs that they hold into a queue.
fn load_workers(queue: &mut Queue<Filed>, found: &[Row], held: &[Row]) -> Result<(), StoreError> {
    let mut held = held_by(held);
    for row in found {
        let worker = LoadedWorker::of(row);
        let held = held.remove(&worker.id).unwrap_or_default();
        let loaded = queue.load_worker(&worker.id, &worker.record, worker.polls, held);
        loaded.map_err(|error| unreadable(&error))?;
    }
    Ok(())
}
