//! The unit of work: rows are locked and put into an empty queue, the state machine decides, and what changed is written in the same
//! transaction. Jobs are locked first, in the order of their numbers, then workers in the order of their keys, and last the counters
//! of the lane, so that no two units wait for each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;

use super::failure::{Failure, Place};
use super::rows::{self, LoadedWorker};
use super::work::Work;
use super::write::Writes;
use crate::store::clock::Timestamp;
use crate::store::counts::Totals;
use crate::store::job::Position;
use crate::store::payload::Filed;
use crate::store::queue::{Effect, Elsewhere, Queue};
use crate::store::request::{Digest, JobId};

/// What is to be done once the transaction lasts.
#[derive(Debug)]
pub(super) struct Done {
    /// Names the transaction, so that it can be asked for.
    pub(super) token: String,
    pub(super) effects: Vec<Effect>,
    pub(super) totals: Totals,
    /// The first place at which a job waits that did not wait there before.
    pub(super) first_waiting: Option<Position>,
}

/// Everything that the operations of one unit need.
#[derive(Default)]
struct Needs {
    jobs: BTreeSet<JobId>,
    workers: BTreeSet<Arc<str>>,
    /// Workers whose jobs are all needed.
    holders: BTreeSet<Arc<str>>,
    items: BTreeSet<JobId>,
    take: i64,
    purge: i64,
    running: bool,
    keys: BTreeSet<Digest>,
    numbers: i32,
    bounds: bool,
    all_workers: bool,
}

impl Needs {
    fn of(works: &[Box<dyn Work>]) -> Self {
        let mut all = Self::default();
        for need in works.iter().map(|work| work.need()) {
            all.jobs.extend(need.jobs.iter().cloned());
            all.workers.extend(need.worker.clone());
            if need.held {
                all.holders.extend(need.worker.clone());
            }
            if need.items {
                all.items.extend(need.jobs.iter().cloned());
            }
            all.keys.extend(&need.keys);
            all.take = all.take.saturating_add(count(need.take));
            all.purge = all.purge.saturating_add(count(need.purge));
            all.numbers = all.numbers.saturating_add(i32::try_from(need.numbers).unwrap_or(i32::MAX));
            all.running |= need.running;
            all.bounds |= need.bounds;
            all.all_workers |= need.all_workers;
        }
        all
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Runs the operations in one transaction. `sent` is filled in when the outcome can be unknown from then on.
pub(super) async fn run(
    client: &ClientWrapper,
    place: &Place<'_>,
    works: &mut [Box<dyn Work>],
    sent: &mut Option<Done>,
) -> Result<(), Failure> {
    let needs = Needs::of(works);
    let mut loaded = Loaded::lock_jobs(client, place, &needs).await?;
    loaded.lock_workers(client, place, &needs).await?;
    let Loaded { mut queue, now, due, numbers, workers, .. } = loaded;
    let before = queue.contents();
    queue.tick(due);
    queue.give_numbers(numbers);
    for work in works.iter_mut() {
        work.decide(&mut queue, now);
    }
    let token = uuid::Uuid::new_v4().to_string();
    let writes = Writes::of(&mut queue, &workers, before)?;
    let done =
        Done { token, effects: queue.take_effects(), totals: queue.totals(), first_waiting: writes.first_waiting() };
    if writes.is_empty() {
        client.batch_execute("ROLLBACK").await?;
        *sent = Some(done);
        return Ok(());
    }
    writes.prepare(client).await?;
    let token = sent.insert(done).token.clone();
    writes.commit(client, place, &token).await?;
    Ok(())
}

/// Rows that are locked, in an otherwise empty queue.
struct Loaded {
    queue: Queue<Filed>,
    now: Timestamp,
    /// What was due by then is over.
    due: Timestamp,
    numbers: Vec<u64>,
    /// Names under which the jobs are held.
    holders: BTreeSet<Arc<str>>,
    /// By number, where stream items are needed.
    with_items: Vec<i64>,
    /// The workers that are locked: as they were, or `None` where there was none.
    workers: BTreeMap<Arc<str>, Option<LoadedWorker>>,
}

impl Loaded {
    async fn lock_jobs(client: &ClientWrapper, place: &Place<'_>, needs: &Needs) -> Result<Self, Failure> {
        let endpoint = place.endpoint;
        let [lane, state, next, usage, lock, take, purge, running] = [
            client.prepare_cached(rows::LOCK_LANE).await?,
            client.prepare_cached(rows::STATE).await?,
            client.prepare_cached(rows::NUMBERS).await?,
            client.prepare_cached(rows::USAGE).await?,
            client.prepare_cached(rows::LOCK_JOBS).await?,
            client.prepare_cached(rows::LOCK_NEXT).await?,
            client.prepare_cached(rows::LOCK_UNTAKEN).await?,
            client.prepare_cached(rows::LOCK_RUNNING).await?,
        ];
        let ids: Vec<&str> = needs.jobs.iter().map(|id| &**id).collect();
        let holders: Vec<&str> = needs.holders.iter().map(|id| &**id).collect();
        let keys: Vec<&[u8]> = needs.keys.iter().map(Digest::as_slice).collect();
        let names_jobs = !(ids.is_empty() && holders.is_empty() && keys.is_empty());
        let (low, floor) = (place.floor.low_priority, rows::integer(place.floor.number));
        // One round trip: each statement is sent before the answer to the one before has come.
        let (_, _, state, numbers, usage, named, next, untaken, running) = tokio::try_join!(
            biased;
            client.batch_execute("BEGIN"),
            async { client.query_one(&lane, &[&endpoint, &place.replica, &place.lane]).await },
            async { client.query_one(&state, &[&endpoint]).await },
            optional(needs.numbers > 0, async { client.query(&next, &[&needs.numbers]).await }),
            optional(needs.bounds, async { client.query(&usage, &[&endpoint]).await }),
            optional(names_jobs, async { client.query(&lock, &[&endpoint, &ids, &holders, &keys]).await }),
            optional(needs.take > 0, async { client.query(&take, &[&endpoint, &needs.take, &low, &floor]).await }),
            optional(needs.purge > 0, async { client.query(&purge, &[&endpoint, &needs.purge]).await }),
            optional(needs.running, async { client.query(&running, &[&endpoint]).await }),
        )?;
        let now = rows::time(state.get("now"));
        let mut loaded = Self {
            queue: Queue::shared(place.limits, now),
            now,
            due: state.get::<_, Option<i64>>("beat").map_or(now, |beat| now.min(rows::time(beat) + STANDSTILL)),
            numbers: numbers.iter().map(|row| rows::natural(row.get(0))).collect(),
            holders: BTreeSet::new(),
            with_items: Vec::new(),
            workers: BTreeMap::new(),
        };
        loaded.queue.load_paused(state.get("paused"));
        let mut seen = HashSet::new();
        for row in named.iter().chain(&next).chain(&untaken).chain(&running) {
            if seen.insert(row.get::<_, i64>("number")) {
                loaded.put_job(row, needs)?;
            }
        }
        if let Some(usage) = usage.first() {
            let (total, here) = (rows::usage(usage), loaded.queue.contents());
            loaded.queue.set_elsewhere(Elsewhere {
                jobs: total.jobs.saturating_sub(here.jobs),
                waiting: total.waiting.saturating_sub(here.in_queue),
                bytes: total.bytes.saturating_sub(here.bytes),
                streamed: total.streamed.saturating_sub(here.streamed),
            });
        }
        Ok(loaded)
    }

    fn put_job(&mut self, row: &Row, needs: &Needs) -> Result<(), Failure> {
        let number: i64 = row.get("number");
        if needs.items.contains(row.get::<_, &str>("id")) {
            self.with_items.push(number);
        }
        let (next, unread) = (rows::natural(row.get("next_item")), rows::size(row.get("unread_bytes")));
        self.holders.extend(self.queue.load_job(row.get("record"), next, unread)?);
        Ok(())
    }

    async fn lock_workers(&mut self, client: &ClientWrapper, place: &Place<'_>, needs: &Needs) -> Result<(), Failure> {
        let names: BTreeSet<_> = needs.workers.iter().chain(&self.holders).cloned().collect();
        if names.is_empty() && self.with_items.is_empty() {
            return Ok(());
        }
        let endpoint = place.endpoint;
        let [lock, find, held, items] = [
            client.prepare_cached(rows::LOCK_WORKERS).await?,
            client.prepare_cached(rows::WORKERS).await?,
            client.prepare_cached(rows::HELD).await?,
            client.prepare_cached(rows::ITEMS).await?,
        ];
        let texts: Vec<&str> = names.iter().map(|name| &**name).collect();
        let (_, found, held, items) = tokio::try_join!(
            biased;
            async { client.query(&lock, &[&endpoint, &texts]).await },
            async { client.query(&find, &[&endpoint, &texts, &needs.all_workers]).await },
            async { client.query(&held, &[&endpoint, &texts, &needs.all_workers]).await },
            optional(!self.with_items.is_empty(), async { client.query(&items, &[&self.with_items]).await }),
        )?;
        let mut held_by = held_by(&held);
        self.workers = names.into_iter().map(|name| (name, None)).collect();
        for row in &found {
            let worker = LoadedWorker::of(row);
            let held = held_by.remove(&worker.id).unwrap_or_default();
            self.queue.load_worker(&worker.id, &worker.record, worker.polls, held)?;
            if let Some(known) = self.workers.get_mut(&worker.id) {
                *known = Some(worker);
            }
        }
        // A job that was taken between the two steps is not locked.
        if needs.holders.iter().any(|holder| !self.queue.held_elsewhere(holder).is_empty()) {
            return Err(Failure::Again);
        }
        let mut streams: HashMap<i64, Vec<_>> = HashMap::new();
        for row in &items {
            streams.entry(row.get(0)).or_default().push(rows::payload(row.get(1))?);
        }
        for (number, items) in streams {
            self.queue.load_items(rows::natural(number), items);
        }
        Ok(())
    }
}

/// The ids of jobs by their holders.
pub(super) fn held_by(found: &[Row]) -> HashMap<Arc<str>, HashSet<JobId>> {
    let mut held: HashMap<Arc<str>, HashSet<JobId>> = HashMap::new();
    for row in found {
        held.entry(Arc::from(row.get::<_, &str>(0))).or_default().insert(Arc::from(row.get::<_, &str>(1)));
    }
    held
}

async fn optional(
    wanted: bool,
    query: impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    if wanted { query.await } else { Ok(Vec::new()) }
}

/// Whether the lane's last transaction is this one. Waits until a transaction in doubt has ended.
pub(super) async fn was_committed(client: &ClientWrapper, place: &Place<'_>, token: &str) -> Result<bool, Failure> {
    let [lock, find] = [client.prepare_cached(rows::LOCK_LANE).await?, client.prepare_cached(rows::TOKEN).await?];
    client.query_one(&lock, &[&place.endpoint, &place.replica, &place.lane]).await?;
    let found = client.query_opt(&find, &[&place.endpoint, &place.replica, &place.lane]).await?;
    Ok(found.is_some_and(|row| row.get::<_, &str>(0) == token))
}

/// When no replica could write for this long, workers could not report either. Time stands still then: nothing is over, until leases have
/// got that time on top.
pub(super) const STANDSTILL: Duration = Duration::from_secs(5);

/// How long one unit may take before its connection counts as lost.
pub(super) const UNIT_LIMIT: Duration = Duration::from_secs(15);
