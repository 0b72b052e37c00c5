//! What a unit of work writes: arrays, one statement for each table, all of them sent at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deadpool_postgres::ClientWrapper;
use futures_util::future::try_join_all;
use tokio_postgres::types::ToSql;

use super::batch_rows;
use super::failure::Failure;
use super::lock::Found;
use super::rows::{self, LoadedWorker, count, integer, micros};
use super::scope::Scope;
use crate::store::job::Position;
use crate::store::payload::{Filed, Part, Payload};
use crate::store::queue::{Change, Counters, KeptBatch, KeptJob, Queue, Tally};
use crate::store::stream::StreamLeft;
use crate::store::workers::KeptWorker;

const DELETE_JOBS: &str = "DELETE FROM jobs WHERE number = ANY($1::bigint[])";
const DELETE_PAYLOADS: &str = "DELETE FROM payloads WHERE job = ANY($1::bigint[])";
const DELETE_STREAMS: &str = "DELETE FROM streams WHERE job = ANY($1::bigint[])";
const DELETE_CHUNKS: &str = "DELETE FROM chunks WHERE job = ANY($1::bigint[])";
/// Items that were read or dropped. Those before them are dead rows already, and are not looked at.
const CLEAR_CHUNKS: &str = "DELETE FROM chunks USING unnest($1::bigint[], $2::bigint[]) AS read(job, first) \
    WHERE chunks.job = read.job AND chunks.n >= read.first";
const PUT_STREAMS: &str = "INSERT INTO streams SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) \
    ON CONFLICT (job) DO UPDATE SET first_item = excluded.first_item, next_item = excluded.next_item, \
    unread_bytes = excluded.unread_bytes";

/// A delivery stays with the replica that began it.
const PUT_JOBS: &str = "INSERT INTO jobs SELECT number, $1, id, status, waiting, untaken, low, round, place, share, submitted, run_time, holder, \
    due, CASE WHEN webhook THEN $2 END, given_up, idempotency, batch, record, cancelled_elsewhere FROM unnest($3::bigint[], $4::text[], $5::text[], \
    $6::boolean[], $7::boolean[], $8::boolean[], $9::bigint[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[], $14::text[], \
    $15::bigint[], $16::boolean[], $17::boolean[], $18::bytea[], $19::text[], $20::text[], $21::boolean[]) \
    AS new(number, id, status, waiting, untaken, low, round, place, share, submitted, run_time, holder, due, webhook, given_up, \
    idempotency, batch, record, cancelled_elsewhere) \
    ON CONFLICT (number) DO UPDATE SET status = excluded.status, waiting = excluded.waiting, untaken = excluded.untaken, \
    low = excluded.low, round = excluded.round, place = excluded.place, submitted = excluded.submitted, \
    holder = excluded.holder, due = excluded.due, \
    webhook_owner = CASE WHEN excluded.webhook_owner IS NOT NULL THEN coalesce(jobs.webhook_owner, excluded.webhook_owner) END, \
    given_up = excluded.given_up, record = excluded.record, cancelled_elsewhere = excluded.cancelled_elsewhere";
const PUT_PAYLOADS: &str = "INSERT INTO payloads SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[]) \
    ON CONFLICT (job, part) DO UPDATE SET body = excluded.body";
const PUT_CHUNKS: &str = "INSERT INTO chunks SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])";
const PUT_WORKERS: &str = "INSERT INTO workers SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::boolean[], $5::text[]) \
    ON CONFLICT (endpoint, id) DO UPDATE SET forget_at = excluded.forget_at, has_stops = excluded.has_stops, record = excluded.record";
const DELETE_WORKERS: &str = "DELETE FROM workers WHERE endpoint = $1 AND id = ANY($2::text[])";
const DELETE_POLLS: &str = "DELETE FROM polls WHERE endpoint = $1 AND worker = ANY($2::text[])";
const ADD_POLLS: &str = "INSERT INTO polls SELECT $1, worker, $2, jobs, stops \
    FROM unnest($3::text[], $4::int[], $5::int[]) AS new(worker, jobs, stops) ON CONFLICT (endpoint, worker, replica) \
    DO UPDATE SET jobs = polls.jobs + excluded.jobs, stops = polls.stops + excluded.stops";
const SET_PAUSED: &str = "UPDATE endpoints SET paused = $2 WHERE name = $1";
const COUNT: &str = "INSERT INTO counters VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
    ON CONFLICT (endpoint, replica, lane) DO UPDATE SET token = excluded.token, jobs = counters.jobs + excluded.jobs, \
    bytes = counters.bytes + excluded.bytes, streamed = counters.streamed + excluded.streamed, \
    in_queue = counters.in_queue + excluded.in_queue, in_progress = counters.in_progress + excluded.in_progress, \
    completed = counters.completed + excluded.completed, failed = counters.failed + excluded.failed, \
    retried = counters.retried + excluded.retried, served = greatest(counters.served, excluded.served), \
    served_low = greatest(counters.served_low, excluded.served_low), mistakes = counters.mistakes + excluded.mistakes, \
    timeouts = counters.timeouts + excluded.timeouts";

/// What a job brings with it from another store, beside its record.
pub(super) struct MovedTexts {
    pub(super) number: u64,
    pub(super) payloads: Vec<(Part, Payload)>,
    pub(super) items: Vec<(u64, Payload)>,
}

/// Everything that one unit changes.
#[derive(Default)]
pub(super) struct Writes {
    /// Jobs that are gone.
    gone: Vec<i64>,
    /// Jobs whose stream items are gone, and the first of these items.
    cleared: Vec<(i64, i64)>,
    streams: Vec<(i64, StreamLeft)>,
    jobs: Vec<KeptJob>,
    payloads: Vec<(i64, i16, Payload)>,
    chunks: Vec<(i64, i64, Payload)>,
    workers: Vec<KeptWorker>,
    forgotten: Vec<Arc<str>>,
    batches: Vec<KeptBatch>,
    gone_batches: Vec<i64>,
    polls: Vec<(Arc<str>, i32, i32)>,
    counted: [i64; 12],
    /// The endpoint is paused from now on, or no longer.
    paused: Option<bool>,
}

impl Writes {
    /// What the queue has changed since its rows were put in.
    pub(super) fn of(queue: &mut Queue<Filed>, found: &Found, before: Tally) -> Result<Self, Failure> {
        let (mut gone, mut touched) = (BTreeSet::new(), BTreeSet::new());
        let (mut cleared, mut streamed) = (BTreeSet::new(), BTreeSet::new());
        let (mut payloads, mut chunks, mut gone_batches) = (Vec::new(), Vec::new(), Vec::new());
        for change in queue.take_changes().map(|changes| changes.list).unwrap_or_default() {
            match change {
                Change::Job { record, payloads: fresh } => {
                    let number = integer(record.number);
                    touched.insert(record.number);
                    payloads.extend(fresh.into_iter().map(|(part, text)| (number, rows::part(part), text)));
                }
                Change::StreamItem { job, number, item } => {
                    streamed.insert(job);
                    chunks.push((integer(job), integer(number), item));
                }
                Change::StreamItemsGone { job } => {
                    streamed.insert(job);
                    cleared.insert(job);
                    chunks.retain(|(other, ..)| *other != integer(job));
                }
                Change::Gone { job } => {
                    gone.insert(integer(job));
                }
                // Its counts change without a note, so all that were put in are looked at.
                Change::Batch(_) => {}
                Change::BatchGone { batch } => gone_batches.push(integer(batch)),
            }
        }
        payloads.retain(|(job, ..)| !gone.contains(job));
        chunks.retain(|(job, ..)| !gone.contains(job));
        cleared.retain(|job| !gone.contains(&integer(*job)));
        let first = |job: &u64| found.streams.get(job).map(|stream| (integer(*job), integer(stream.first)));
        let standing = |job: u64| Some((integer(job), queue.kept_stream(job)?));
        let streams = streamed.into_iter().filter_map(standing).collect();
        let mut jobs = Vec::with_capacity(touched.len());
        for number in touched {
            jobs.extend(queue.kept_job(number)?);
        }
        let mut writes = Self {
            gone: gone.into_iter().collect(),
            cleared: cleared.iter().filter_map(first).collect(),
            streams,
            jobs,
            payloads: last_of_each(payloads),
            chunks,
            gone_batches,
            ..Self::default()
        };
        let changed = queue.kept_batches().filter(|(number, batch)| found.batches.get(number) != Some(batch));
        writes.batches = changed.map(|(_, batch)| batch).collect();
        for (id, loaded) in &found.workers {
            writes.note_worker(id, loaded.as_ref(), queue.kept_worker(id)?);
        }
        let after = queue.contents();
        writes.counted = counted(before, after);
        writes.paused = (before.paused != after.paused).then_some(after.paused);
        Ok(writes)
    }

    /// Jobs that were put into a queue from elsewhere, with the workers that hold them.
    pub(super) fn moved(queue: &Queue<Filed>, moved: Vec<MovedTexts>, holders: &[Arc<str>]) -> Result<Self, Failure> {
        let mut writes = Self { counted: counted(Tally::default(), queue.contents()), ..Self::default() };
        for MovedTexts { number, payloads, items } in moved {
            writes.jobs.extend(queue.kept_job(number)?);
            let job = integer(number);
            writes.payloads.extend(payloads.into_iter().map(|(part, text)| (job, rows::part(part), text)));
            if !items.is_empty() {
                writes.streams.extend(queue.kept_stream(number).map(|stream| (job, stream)));
            }
            writes.chunks.extend(items.into_iter().map(|(n, item)| (job, integer(n), item)));
        }
        for id in holders {
            writes.note_worker(id, None, queue.kept_worker(id)?);
        }
        Ok(writes)
    }

    /// Nothing but batches.
    pub(super) fn batches(batches: Vec<KeptBatch>) -> Self {
        Self { batches, ..Self::default() }
    }

    /// Nothing but what an endpoint has that outlives its jobs.
    pub(super) fn counters(counters: Counters) -> Self {
        let Counters { completed, failed, retried, .. } = counters;
        let counted = [0, 0, 0, 0, 0, integer(completed), integer(failed), integer(retried), 0, 0, 0, 0];
        Self { counted, paused: Some(counters.paused), ..Self::default() }
    }

    fn note_worker(&mut self, id: &Arc<str>, loaded: Option<&LoadedWorker>, kept: Option<KeptWorker>) {
        let Some(kept) = kept else {
            if loaded.is_some() {
                self.forgotten.push(Arc::clone(id));
            }
            return;
        };
        let was = loaded.map(|loaded| loaded.polls).unwrap_or_default();
        let delta = |now: usize, was: usize| {
            let [now, was] = [now, was].map(|count| i32::try_from(count).unwrap_or(i32::MAX));
            now - was
        };
        if kept.polls != was {
            let (jobs, stops) = (delta(kept.polls.jobs, was.jobs), delta(kept.polls.stops, was.stops));
            self.polls.push((Arc::clone(id), jobs, stops));
        }
        if loaded.is_none_or(|loaded| loaded.record != kept.record) {
            self.workers.push(kept);
        }
    }

    /// The first place of the jobs that wait now.
    pub(super) fn first_waiting(&self) -> Option<Position> {
        let waiting = self.jobs.iter().map(|job| &job.keys).filter(|keys| keys.waiting);
        waiting.map(|keys| Position { low_priority: keys.low_priority, round: keys.round, number: keys.place }).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gone.is_empty()
            && self.streams.is_empty()
            && self.jobs.is_empty()
            && self.workers.is_empty()
            && self.forgotten.is_empty()
            && self.polls.is_empty()
            && self.batches.is_empty()
            && self.gone_batches.is_empty()
            && self.paused.is_none()
    }

    /// Has every statement known to the server, so that all can be sent at once.
    pub(super) async fn prepare(&self, client: &ClientWrapper) -> Result<(), Failure> {
        for statement in [
            DELETE_JOBS,
            DELETE_PAYLOADS,
            DELETE_STREAMS,
            DELETE_CHUNKS,
            CLEAR_CHUNKS,
            PUT_JOBS,
            PUT_PAYLOADS,
            PUT_STREAMS,
            PUT_CHUNKS,
            PUT_WORKERS,
            DELETE_WORKERS,
            DELETE_POLLS,
            ADD_POLLS,
            batch_rows::PUT,
            batch_rows::DELETE,
            SET_PAUSED,
            COUNT,
            rows::PAYLOADS,
        ] {
            client.prepare_cached(statement).await?;
        }
        Ok(())
    }

    /// Writes everything and commits, in one round trip.
    pub(super) async fn commit(&self, client: &ClientWrapper, place: &Scope<'_>, token: &str) -> Result<(), Failure> {
        let end = async { Ok(client.batch_execute("COMMIT").await?) };
        tokio::try_join!(biased; self.send(client, place, token), end)?;
        Ok(())
    }

    /// Writes everything as one part of a longer transaction.
    pub(super) async fn write(&self, client: &ClientWrapper, place: &Scope<'_>) -> Result<(), Failure> {
        self.prepare(client).await?;
        self.send(client, place, "").await
    }

    async fn send(&self, client: &ClientWrapper, place: &Scope<'_>, token: &str) -> Result<(), Failure> {
        let Self { gone, jobs, payloads, chunks, workers, forgotten, gone_batches, polls, counted, paused, .. } = self;
        let (endpoint, replica) = (place.endpoint, place.replica);
        let job = Columns::of(jobs);
        let body = Bodies::of(payloads.iter().map(|(job, part, text)| (*job, *part, text)));
        let chunk = Bodies::of(chunks.iter().map(|(job, n, text)| (*job, *n, text)));
        let (cleared, first): (Vec<i64>, Vec<i64>) = self.cleared.iter().copied().unzip();
        let streams: Vec<i64> = self.streams.iter().map(|(job, _)| *job).collect();
        let first_item: Vec<i64> = self.streams.iter().map(|(_, stream)| integer(stream.first)).collect();
        let next_item: Vec<i64> = self.streams.iter().map(|(_, stream)| integer(stream.next)).collect();
        let unread: Vec<i64> = self.streams.iter().map(|(_, stream)| count(stream.bytes)).collect();
        let worker_ids: Vec<&str> = workers.iter().map(|worker| &*worker.id).collect();
        let forget_at: Vec<i64> = workers.iter().map(|worker| micros(worker.forget_at)).collect();
        let has_stops: Vec<bool> = workers.iter().map(|worker| worker.has_stops).collect();
        let worker_records: Vec<&str> = workers.iter().map(|worker| &*worker.record).collect();
        let forgotten: Vec<&str> = forgotten.iter().map(|id| &**id).collect();
        let polling: Vec<&str> = polls.iter().map(|(id, ..)| &**id).collect();
        let job_polls: Vec<i32> = polls.iter().map(|(_, jobs, _)| *jobs).collect();
        let stop_polls: Vec<i32> = polls.iter().map(|(.., stops)| *stops).collect();
        let [n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12] = counted;
        let statements: [(bool, &str, &[&(dyn ToSql + Sync)]); 16] = [
            (!gone.is_empty(), DELETE_JOBS, &[gone]),
            (!gone.is_empty(), DELETE_PAYLOADS, &[gone]),
            (!gone.is_empty(), DELETE_STREAMS, &[gone]),
            (!gone.is_empty(), DELETE_CHUNKS, &[gone]),
            (!cleared.is_empty(), CLEAR_CHUNKS, &[&cleared, &first]),
            (
                !jobs.is_empty(),
                PUT_JOBS,
                &[
                    &endpoint,
                    &replica,
                    &job.number,
                    &job.id,
                    &job.status,
                    &job.waiting,
                    &job.untaken,
                    &job.low,
                    &job.round,
                    &job.place,
                    &job.share,
                    &job.submitted,
                    &job.run_time,
                    &job.holder,
                    &job.due,
                    &job.webhook,
                    &job.given_up,
                    &job.idempotency,
                    &job.batch,
                    &job.record,
                    &job.cancelled_elsewhere,
                ],
            ),
            (!payloads.is_empty(), PUT_PAYLOADS, &[&body.job, &body.key, &body.text]),
            (!chunks.is_empty(), PUT_CHUNKS, &[&chunk.job, &chunk.key, &chunk.text]),
            (!streams.is_empty(), PUT_STREAMS, &[&streams, &first_item, &next_item, &unread]),
            (!workers.is_empty(), PUT_WORKERS, &[&endpoint, &worker_ids, &forget_at, &has_stops, &worker_records]),
            (!forgotten.is_empty(), DELETE_WORKERS, &[&endpoint, &forgotten]),
            (!forgotten.is_empty(), DELETE_POLLS, &[&endpoint, &forgotten]),
            (!polls.is_empty(), ADD_POLLS, &[&endpoint, &replica, &polling, &job_polls, &stop_polls]),
            (!gone_batches.is_empty(), batch_rows::DELETE, &[gone_batches]),
            (paused.is_some(), SET_PAUSED, &[&endpoint, &paused.unwrap_or_default()]),
            (
                true,
                COUNT,
                &[&endpoint, &replica, &place.lane, &token, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12],
            ),
        ];
        let sent = statements.into_iter().filter(|(wanted, ..)| *wanted).map(|(_, sql, values)| async move {
            let statement = client.prepare_cached(sql).await?;
            client.execute(&statement, values).await.map(|_| ())
        });
        // Polled in their order, so they are sent in it.
        tokio::try_join!(
            biased;
            async {
                match self.batches.is_empty() {
                    true => Ok(()),
                    false => batch_rows::put(client, endpoint, &self.batches).await,
                }
            },
            try_join_all(sent),
        )?;
        Ok(())
    }
}

/// The last one of several texts for the same place.
fn last_of_each(payloads: Vec<(i64, i16, Payload)>) -> Vec<(i64, i16, Payload)> {
    let by_place: BTreeMap<_, _> = payloads.into_iter().map(|(job, part, text)| ((job, part), text)).collect();
    by_place.into_iter().map(|((job, part), text)| (job, part, text)).collect()
}

/// What is added to the counters of the lane; the rounds that were served take the place of what is less.
fn counted(before: Tally, after: Tally) -> [i64; 12] {
    let delta = |before: usize, after: usize| count(after) - count(before);
    let [served, served_low] = after.served;
    [
        delta(before.jobs, after.jobs),
        delta(before.bytes, after.bytes),
        delta(before.streamed, after.streamed),
        delta(before.in_queue, after.in_queue),
        delta(before.in_progress, after.in_progress),
        integer(after.completed - before.completed),
        integer(after.failed - before.failed),
        integer(after.retried - before.retried),
        integer(served),
        integer(served_low),
        integer(after.mistakes - before.mistakes),
        integer(after.timeouts - before.timeouts),
    ]
}

/// Jobs, column by column.
#[derive(Default)]
struct Columns<'a> {
    number: Vec<i64>,
    id: Vec<&'a str>,
    status: Vec<&'static str>,
    waiting: Vec<bool>,
    untaken: Vec<bool>,
    low: Vec<bool>,
    round: Vec<i64>,
    place: Vec<i64>,
    share: Vec<Option<&'a str>>,
    submitted: Vec<i64>,
    run_time: Vec<i64>,
    holder: Vec<Option<&'a str>>,
    due: Vec<i64>,
    webhook: Vec<bool>,
    record: Vec<&'a str>,
    given_up: Vec<bool>,
    cancelled_elsewhere: Vec<bool>,
    idempotency: Vec<Option<&'a [u8]>>,
    batch: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &'a [KeptJob]) -> Self {
        let mut columns = Self::default();
        for KeptJob { number, record, keys } in jobs {
            columns.number.push(integer(*number));
            columns.id.push(&keys.id);
            columns.status.push(keys.status.name());
            columns.waiting.push(keys.waiting);
            columns.untaken.push(keys.untaken);
            columns.low.push(keys.low_priority);
            columns.round.push(integer(keys.round));
            columns.place.push(integer(keys.place));
            columns.share.push(keys.share.as_deref());
            columns.submitted.push(micros(keys.submitted));
            columns.run_time.push(micros(keys.run_time));
            columns.holder.push(keys.holder.as_deref());
            columns.due.push(micros(keys.due));
            columns.webhook.push(keys.webhook_due);
            columns.record.push(record);
            columns.given_up.push(keys.given_up);
            columns.cancelled_elsewhere.push(keys.cancelled_elsewhere);
            columns.idempotency.push(keys.idempotency.as_ref().map(|key| key.as_slice()));
            columns.batch.push(keys.batch.as_deref());
        }
        columns
    }
}

/// Texts, column by column.
struct Bodies<'a, K> {
    job: Vec<i64>,
    key: Vec<K>,
    text: Vec<&'a str>,
}

impl<'a, K> Bodies<'a, K> {
    fn of(bodies: impl Iterator<Item = (i64, K, &'a Payload)>) -> Self {
        let mut columns = Self { job: Vec::new(), key: Vec::new(), text: Vec::new() };
        for (job, key, text) in bodies {
            columns.job.push(job);
            columns.key.push(key);
            columns.text.push(text.get());
        }
        columns
    }
}
