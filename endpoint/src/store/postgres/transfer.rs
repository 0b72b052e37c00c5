//! A database as one end of a move: empty at first and filled in one transaction, or read to its end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Pool};
use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connect::{self, APPLICATION, DatabaseUrl};
use super::database_error::DatabaseError;
use super::failure::Failure;
use super::scope::Scope;
use super::takeover::DEAD_AFTER;
use super::write::{MovedTexts, Writes};
use super::{batch_rows, rows, schema};
use crate::store::batch::BatchCounts;
use crate::store::job::{Position, Record, State};
use crate::store::limits::Limits;
use crate::store::moved::{MovedEndpoint, MovedJob, STEP_BYTES, STEP_JOBS};
use crate::store::payload::{Part, Payload};
use crate::store::queue::{Counters, KeptBatch, Queue, Turn, read_record};
use crate::store::text::storable;

/// The endpoint that has shown itself last, within `$1` microseconds, and whether any has a connection.
const RUNNING: &str = "SELECT host, EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = $2 \
    AND pid <> pg_backend_pid()) AS is_connected FROM replicas \
    WHERE seen > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $1::bigint ORDER BY seen DESC LIMIT 1";
/// Nobody else writes until the end of the transaction.
const LOCK_TABLES: &str =
    "LOCK TABLE endpoints, jobs, batches, payloads, streams, chunks, workers, counters IN EXCLUSIVE MODE";
const COUNT: &str = "SELECT count(*) FROM jobs";
const ADD_ENDPOINT: &str = "INSERT INTO endpoints (name) VALUES ($1) ON CONFLICT DO NOTHING";
const LAST_NUMBER: &str = "SELECT last_value FROM numbers";
const SET_LAST_NUMBER: &str = "SELECT setval('numbers', greatest($1::bigint, 1))";
/// The time until somebody serves from the database is added to every lease, as after a standstill.
const BEAT: &str = "INSERT INTO beat (at) VALUES ($1) ON CONFLICT (one) DO UPDATE SET at = excluded.at";
const ENDPOINTS: &str = "SELECT name, paused, coalesce(sum(completed), 0)::bigint, coalesce(sum(failed), 0)::bigint, \
    coalesce(sum(retried), 0)::bigint FROM endpoints LEFT JOIN counters ON endpoint = name GROUP BY name ORDER BY min(endpoints.number)";
const JOBS: &str = "SELECT number, coalesce(next_item, 0) AS next_item, record FROM jobs LEFT JOIN streams ON job = number \
    WHERE endpoint = $1 AND number > $2 ORDER BY number LIMIT $3";
const PAYLOADS: &str = "SELECT job, part, body FROM payloads WHERE job = ANY($1::bigint[])";

/// One transaction that keeps every endpoint away from the database.
struct Session {
    url: DatabaseUrl,
    client: Client,
    _pool: Pool,
}

impl Session {
    async fn begin(url: &DatabaseUrl) -> Result<Self, DatabaseError> {
        let pool = connect::pool(url, connect::tls()?)?;
        let client = connect::first(&pool, url).await?;
        let session = Self { url: url.clone(), client, _pool: pool };
        Ok(session)
    }

    /// Waits for an endpoint that is about to start; refuses when one runs.
    async fn lock(&self) -> Result<(), DatabaseError> {
        // Before the locks, which would hold up an endpoint that runs, and after them, when none can start any more.
        self.client.batch_execute("BEGIN").await.map_err(|error| self.url.explain(&error))?;
        self.query(schema::LOCK, &[]).await?;
        self.refuse_running().await?;
        self.client.batch_execute(LOCK_TABLES).await.map_err(|error| self.url.explain(&error))?;
        self.refuse_running().await
    }

    /// An endpoint without a connection was killed, or has lost it for a moment: it gets the time after which it counts as dead.
    async fn refuse_running(&self) -> Result<(), DatabaseError> {
        loop {
            match self.query(RUNNING, &[&rows::micros(DEAD_AFTER), &APPLICATION]).await?.first() {
                None => return Ok(()),
                Some(row) if row.get("is_connected") => return Err(DatabaseError::InUse(row.get("host"))),
                Some(_) => sleep(Duration::from_millis(500)).await,
            }
        }
    }

    async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, DatabaseError> {
        let statement = self.client.prepare_cached(sql).await.map_err(|error| self.url.explain(&error))?;
        self.client.query(&statement, values).await.map_err(|error| self.url.explain(&error))
    }

    /// A single integer.
    async fn number(&self, sql: &str) -> Result<u64, DatabaseError> {
        Ok(self.query(sql, &[]).await?.first().map(|row| rows::natural(row.get(0))).unwrap_or_default())
    }

    fn failed(failure: Failure) -> DatabaseError {
        match failure {
            Failure::Again => DatabaseError::Busy,
            Failure::Refused(reason) | Failure::Unacceptable(reason) | Failure::Away(reason) => {
                DatabaseError::Other(reason.to_string())
            }
        }
    }
}

/// A database without jobs. Whatever is added is there once [`commit`](Self::commit) has succeeded, all of it or nothing.
pub(crate) struct DatabaseTarget {
    session: Session,
    now: i64,
    /// The last number that was given so far: jobs of all endpoints share one order.
    last_number: u64,
    /// Added to the numbers of the endpoint at hand.
    base: u64,
    name: String,
    /// Its batches, with the counts of the jobs that were added.
    batches: BTreeMap<u64, KeptBatch>,
    /// How far the shares of its queue are with the jobs that were added.
    turns: Vec<Turn>,
}

impl DatabaseTarget {
    /// Creates the tables if there are none.
    ///
    /// # Errors
    /// When the database cannot be used, is in use, or holds jobs already.
    pub(crate) async fn begin(url: &DatabaseUrl) -> Result<Self, DatabaseError> {
        let session = Session::begin(url).await?;
        schema::migrate(&session.client, url).await?;
        session.lock().await?;
        let jobs = session.number(COUNT).await?;
        if jobs > 0 {
            return Err(DatabaseError::NotEmpty(jobs));
        }
        let now = session.number(rows::CLOCK).await?;
        let last_number = session.number(LAST_NUMBER).await?;
        Ok(Self {
            session,
            now: rows::integer(now),
            last_number,
            base: 0,
            name: String::new(),
            batches: BTreeMap::new(),
            turns: Vec::new(),
        })
    }

    /// Adds an endpoint. Its jobs follow before the next one.
    pub(crate) async fn add_endpoint(&mut self, moved: &MovedEndpoint) -> Result<(), DatabaseError> {
        self.name.clone_from(&moved.name);
        self.base = self.last_number;
        self.turns.clear();
        self.last_number += moved.counters.last_number;
        for mut record in moved.batches.iter().cloned() {
            record.number += self.base;
            record.name = record.name.map(|name| storable(&name));
            self.batches.insert(record.number, KeptBatch { record, counts: BatchCounts::default() });
        }
        self.session.query(ADD_ENDPOINT, &[&moved.name]).await?;
        self.write(&Writes::counters(moved.counters)).await
    }

    /// Adds jobs of the endpoint that was added last. Leases and the life of records begin anew, as when a file is opened.
    pub(crate) async fn add_jobs(&mut self, jobs: Vec<MovedJob>) -> Result<(), DatabaseError> {
        let now = rows::time(self.now);
        let mut queue = Queue::shared(Limits::default(), now);
        self.batches.values().for_each(|batch| queue.restore_batch(batch.record.clone()));
        let (mut texts, mut holders) = (Vec::with_capacity(jobs.len()), BTreeSet::new());
        for MovedJob { mut record, payloads, items } in jobs {
            record.number += self.base;
            record.position.number += self.base;
            record.request.share = record.request.share.map(|share| storable(&share));
            if let State::Running(run) = &record.state {
                holders.extend([Arc::clone(&run.worker), Arc::clone(&run.poller)]);
            }
            texts.push(MovedTexts { number: record.number, payloads, items: items.clone() });
            queue.restore(now, record, items);
        }
        for Turn { low_priority, share, last } in self.turns.drain(..) {
            queue.note_turns(low_priority, share, last, 0);
        }
        queue.restored();
        self.turns = queue.turns();
        for (number, KeptBatch { counts, .. }) in queue.kept_batches() {
            if let Some(batch) = self.batches.get_mut(&number) {
                batch.counts += counts;
            }
        }
        let holders: Vec<_> = holders.into_iter().collect();
        let writes = Writes::moved(&queue, texts, &holders).map_err(Session::failed)?;
        self.write(&writes).await
    }

    /// Adds what is known of the endpoint once all its jobs are there.
    pub(crate) async fn end_endpoint(&mut self) -> Result<(), DatabaseError> {
        let batches = std::mem::take(&mut self.batches);
        self.write(&Writes::batches(batches.into_values().collect())).await
    }

    /// # Errors
    /// When nothing was added, or it is unknown whether it was.
    pub(crate) async fn commit(self) -> Result<(), DatabaseError> {
        self.session.query(SET_LAST_NUMBER, &[&rows::integer(self.last_number)]).await?;
        let now = self.session.number(rows::CLOCK).await?;
        self.session.query(BEAT, &[&rows::integer(now)]).await?;
        self.session.client.batch_execute("COMMIT").await.map_err(|error| {
            let reason = connect::reason(&error);
            DatabaseError::Other(format!(
                "whether the jobs are there is unknown ({reason}): import again, which is refused if they are"
            ))
        })
    }

    async fn write(&self, writes: &Writes) -> Result<(), DatabaseError> {
        // The counts of replicas that are gone, and webhooks that the next one delivers.
        let floor = Position { low_priority: false, round: 0, number: 0 };
        let place = Scope { endpoint: &self.name, limits: Limits::default(), replica: "", floor, lane: 0 };
        writes.write(&self.session.client, &place).await.map_err(Session::failed)
    }
}

/// A database that nobody changes meanwhile.
pub(crate) struct DatabaseSource {
    session: Session,
}

impl DatabaseSource {
    /// # Errors
    /// When the database cannot be used, or is in use.
    pub(crate) async fn begin(url: &DatabaseUrl) -> Result<Self, DatabaseError> {
        let session = Session::begin(url).await?;
        if schema::version(&session.client, url).await?.is_none() {
            return Err(DatabaseError::NoTables);
        }
        schema::migrate(&session.client, url).await?;
        session.lock().await?;
        Ok(Self { session })
    }

    /// How many jobs there are.
    pub(crate) async fn job_count(&self) -> Result<u64, DatabaseError> {
        self.session.number(COUNT).await
    }

    /// The endpoints in the order in which they came into being.
    pub(crate) async fn endpoints(&self) -> Result<Vec<MovedEndpoint>, DatabaseError> {
        // Numbers are unique for all endpoints, and so for each.
        let last_number = self.session.number(LAST_NUMBER).await?;
        let mut endpoints = Vec::new();
        for row in self.session.query(ENDPOINTS, &[]).await? {
            let number = |column| rows::natural(row.get(column));
            let (completed, failed, retried) = (number(2), number(3), number(4));
            let counters = Counters { last_number, completed, failed, retried, paused: row.get(1) };
            let name: String = row.get(0);
            let mut batches = Vec::new();
            for row in self.session.query(batch_rows::ALL, &[&name]).await? {
                batches.push(batch_rows::batch(&row).map_err(Session::failed)?.record);
            }
            endpoints.push(MovedEndpoint { name, counters, batches });
        }
        Ok(endpoints)
    }

    /// The next jobs of an endpoint after one, in the order of their numbers.
    pub(crate) async fn jobs(&self, endpoint: &str, after: u64) -> Result<Vec<MovedJob>, DatabaseError> {
        let unreadable = |error: serde_json::Error| Session::failed(error.into());
        let found = self.session.query(JOBS, &[&endpoint, &rows::integer(after), &STEP_JOBS]).await?;
        let (mut records, mut numbers, mut bytes) = (Vec::new(), Vec::new(), 0);
        for row in &found {
            let record = read_record(row.get("record")).map_err(unreadable)?;
            bytes += MovedJob::bytes(&record);
            if bytes > STEP_BYTES && !records.is_empty() {
                break;
            }
            numbers.push(rows::integer(record.number));
            records.push((record, rows::natural(row.get("next_item"))));
        }
        let mut payloads: HashMap<i64, Vec<(Part, Payload)>> = HashMap::new();
        for row in self.session.query(PAYLOADS, &[&numbers]).await? {
            let Some(part) = Part::ALL.into_iter().find(|part| rows::part(*part) == row.get::<_, i16>(1)) else {
                continue;
            };
            payloads.entry(row.get(0)).or_default().push((part, rows::payload(row.get(2)).map_err(unreadable)?));
        }
        let mut items: HashMap<i64, Vec<Payload>> = HashMap::new();
        for row in self.session.query(rows::ITEMS, &[&numbers]).await? {
            items.entry(row.get(0)).or_default().push(rows::payload(row.get(1)).map_err(unreadable)?);
        }
        let job = |(record, next_item): (Record<usize>, u64)| {
            let number = rows::integer(record.number);
            let unread = items.remove(&number).unwrap_or_default();
            let first = next_item.saturating_sub(unread.len() as u64);
            MovedJob {
                payloads: payloads.remove(&number).unwrap_or_default(),
                items: (first..).zip(unread).collect(),
                record,
            }
        };
        Ok(records.into_iter().map(job).collect())
    }
}
