//! The rows that a unit of work needs, locked and put into an empty queue. Jobs are locked first, in the order of their numbers, then
//! batches in theirs, then workers in the order of their keys, so that no two units wait for each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::batch_rows;
use super::failure::Failure;
use super::rows::{self, LoadedWorker, count};
use super::scope::Scope;
use super::work::Work;
use crate::store::batch::BatchId;
use crate::store::clock::Timestamp;
use crate::store::payload::Filed;
use crate::store::queue::{Elsewhere, KeptBatch, Queue};
use crate::store::request::{Digest, JobId};
use crate::store::stream::StreamLeft;
use crate::store::views::Overdue;

/// When no replica could write for this long, workers could not report either. Time stands still then: nothing is over, until leases have
/// got that time on top.
pub(super) const STANDSTILL: Duration = Duration::from_secs(5);

/// Everything that the operations of one unit need.
#[derive(Default)]
pub(super) struct Needs {
    jobs: BTreeSet<JobId>,
    workers: BTreeSet<Arc<str>>,
    /// Workers whose jobs are all needed.
    holders: BTreeSet<Arc<str>>,
    items: BTreeSet<JobId>,
    take: i64,
    overdue: Option<Overdue>,
    purge: i64,
    running: bool,
    keys: BTreeSet<Digest>,
    batches: BTreeSet<BatchId>,
    /// Batches of which all jobs are needed.
    whole_batches: BTreeSet<BatchId>,
    numbers: i32,
    /// The priorities and shares of new jobs.
    shares: BTreeSet<(bool, Arc<str>)>,
    /// There are new jobs without a share.
    unshared: bool,
    /// Jobs that are queued once more, behind others.
    requeued: BTreeSet<JobId>,
    bounds: bool,
    batch_bounds: bool,
    all_workers: bool,
}

impl Needs {
    pub(super) fn of(works: &[Box<dyn Work>]) -> Self {
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
            all.batches.extend(need.batch.clone());
            if need.whole_batch {
                all.whole_batches.extend(need.batch.clone());
            }
            all.take = all.take.saturating_add(count(need.take));
            // One forwarder asks at a time.
            all.overdue = need.overdue.clone().or(all.overdue);
            all.purge = all.purge.saturating_add(count(need.purge));
            all.numbers = all.numbers.saturating_add(i32::try_from(need.numbers).unwrap_or(i32::MAX));
            for (low, share) in &need.shares {
                match share {
                    Some(share) => drop(all.shares.insert((*low, Arc::clone(share)))),
                    None => all.unshared = true,
                }
            }
            if need.numbers > 0 && need.shares.is_empty() {
                all.requeued.extend(need.jobs.iter().cloned());
            }
            all.running |= need.running;
            all.bounds |= need.bounds;
            all.batch_bounds |= need.batch_bounds;
            all.all_workers |= need.all_workers;
        }
        all
    }
}

/// Rows that are locked, as they were; what is not changed need not be written.
#[derive(Default)]
pub(super) struct Found {
    /// `None` for a worker without a row.
    pub(super) workers: BTreeMap<Arc<str>, Option<LoadedWorker>>,
    pub(super) batches: HashMap<u64, KeptBatch>,
    pub(super) streams: HashMap<u64, StreamLeft>,
}

/// Rows that are locked, in an otherwise empty queue.
pub(super) struct Loaded {
    pub(super) queue: Queue<Filed>,
    pub(super) now: Timestamp,
    /// What was due by then is over.
    pub(super) due: Timestamp,
    pub(super) numbers: Vec<u64>,
    pub(super) found: Found,
    /// What the whole endpoint holds, where a bound is to be kept.
    usage: Option<Elsewhere>,
    /// Names under which the jobs are held.
    holders: BTreeSet<Arc<str>>,
    /// The numbers of all jobs.
    jobs: Vec<i64>,
    /// By number, where stream items are needed.
    with_items: Vec<i64>,
}

impl Loaded {
    pub(super) async fn lock(client: &ClientWrapper, place: &Scope<'_>, needs: &Needs) -> Result<Self, Failure> {
        let mut loaded = Self::lock_jobs(client, place, needs).await?;
        loaded.lock_others(client, place, needs).await?;
        if let Some(total) = loaded.usage {
            let (here, (batches, jobs_of_batches)) = (loaded.queue.contents(), loaded.queue.batch_usage());
            let waiting = here.in_queue.saturating_sub(loaded.queue.waiting_of_batches());
            loaded.queue.set_elsewhere(Elsewhere {
                jobs: total.jobs.saturating_sub(here.jobs),
                waiting: total.waiting.saturating_sub(waiting),
                bytes: total.bytes.saturating_sub(here.bytes),
                streamed: total.streamed.saturating_sub(here.streamed),
                batches: total.batches.saturating_sub(batches),
                jobs_of_batches: total.jobs_of_batches.saturating_sub(jobs_of_batches),
            });
        }
        Ok(loaded)
    }

    async fn lock_jobs(client: &ClientWrapper, place: &Scope<'_>, needs: &Needs) -> Result<Self, Failure> {
        let endpoint = place.endpoint;
        let [lane, state, next, next_turn, turns, usage, batch_usage, lock, take, late, purge] = [
            client.prepare_cached(rows::LOCK_LANE).await?,
            client.prepare_cached(rows::STATE).await?,
            client.prepare_cached(rows::NUMBERS).await?,
            client.prepare_cached(rows::LAST_ROUND).await?,
            client.prepare_cached(rows::LAST_ROUNDS).await?,
            client.prepare_cached(rows::USAGE).await?,
            client.prepare_cached(batch_rows::USAGE).await?,
            client.prepare_cached(rows::LOCK_JOBS).await?,
            client.prepare_cached(rows::LOCK_NEXT).await?,
            client.prepare_cached(rows::LOCK_OVERDUE).await?,
            client.prepare_cached(rows::LOCK_UNTAKEN).await?,
        ];
        let ids: Vec<&str> = needs.jobs.iter().map(|id| &**id).collect();
        let holders: Vec<&str> = needs.holders.iter().map(|id| &**id).collect();
        let keys: Vec<&[u8]> = needs.keys.iter().map(Digest::as_slice).collect();
        let batches: Vec<&str> = needs.whole_batches.iter().map(|id| &**id).collect();
        let running = needs.running;
        let names_jobs = running || !(ids.is_empty() && holders.is_empty() && keys.is_empty() && batches.is_empty());
        // Requests of batches do not count among the jobs that may wait.
        let bounds_waiting = needs.bounds && place.limits.max_queued.is_some();
        let low: Vec<bool> = needs.shares.iter().map(|(low, _)| *low).collect();
        let shares: Vec<&str> = needs.shares.iter().map(|(_, share)| &**share).collect();
        let requeued: Vec<&str> = needs.requeued.iter().map(|id| &**id).collect();
        let has_turns = !(shares.is_empty() && requeued.is_empty() && batches.is_empty());
        let first = place.floor;
        let (first_low, first_round, first_place) =
            (first.low_priority, rows::integer(first.round), rows::integer(first.number));
        let next_ones: [&(dyn ToSql + Sync); 5] = [&endpoint, &needs.take, &first_low, &first_round, &first_place];
        let overdue = needs.overdue.clone().unwrap_or_default();
        let (after, max) = (rows::micros(overdue.after), count(overdue.max));
        let longest = overdue.run_time.map(rows::micros);
        let except: Vec<&str> = overdue.except.iter().map(|id| &**id).collect();
        // One round trip: each statement is sent before the answer to the one before has come.
        let (_, _, state, numbers, next_turn, turns, usage, batch_usage, named, next, late, untaken) = tokio::try_join!(
            biased;
            client.batch_execute("BEGIN"),
            async { client.query_one(&lane, &[&endpoint, &place.replica, &place.lane]).await },
            async { client.query_one(&state, &[&endpoint]).await },
            optional(needs.numbers > 0, async { client.query(&next, &[&needs.numbers]).await }),
            optional(needs.unshared, async { client.query(&next_turn, &[&endpoint]).await }),
            optional(has_turns, async { client.query(&turns, &[&endpoint, &low, &shares, &requeued, &batches]).await }),
            optional(needs.bounds, async { client.query(&usage, &[&endpoint]).await }),
            optional(needs.batch_bounds || bounds_waiting, async { client.query(&batch_usage, &[&endpoint]).await }),
            optional(names_jobs, async { client.query(&lock, &[&endpoint, &ids, &holders, &keys, &batches, &running]).await }),
            optional(needs.take > 0, async { client.query(&take, &next_ones).await }),
            optional(max > 0, async { client.query(&late, &[&endpoint, &after, &except, &max, &longest]).await }),
            optional(needs.purge > 0, async { client.query(&purge, &[&endpoint, &needs.purge]).await }),
        )?;
        let now = rows::time(state.get("now"));
        let mut loaded = Self {
            queue: Queue::shared(place.limits, now),
            now,
            due: state.get::<_, Option<i64>>("beat").map_or(now, |beat| now.min(rows::time(beat) + STANDSTILL)),
            numbers: numbers.iter().map(|row| rows::natural(row.get(0))).collect(),
            found: Found::default(),
            usage: usage.first().map(|row| rows::usage(row, batch_usage.first())),
            holders: BTreeSet::new(),
            jobs: Vec::new(),
            with_items: Vec::new(),
        };
        loaded.queue.load_paused(state.get("paused"));
        for row in next_turn.iter().chain(&turns) {
            let share = row.get::<_, Option<&str>>("share").map(Arc::from);
            let (last, served) = (rows::natural(row.get("last")), rows::natural(row.get("served")));
            loaded.queue.note_turns(row.get("low"), share, last, served);
        }
        let mut seen = HashSet::new();
        for row in named.iter().chain(&next).chain(&late).chain(&untaken) {
            if seen.insert(row.get::<_, i64>("number")) {
                loaded.put_job(row, needs)?;
            }
        }
        loaded.jobs = seen.into_iter().collect();
        Ok(loaded)
    }

    fn put_job(&mut self, row: &Row, needs: &Needs) -> Result<(), Failure> {
        let number: i64 = row.get("number");
        if needs.items.contains(row.get::<_, &str>("id")) {
            self.with_items.push(number);
        }
        self.holders.extend(self.queue.load_job(row.get("record"))?);
        Ok(())
    }

    /// What the jobs belong to.
    async fn lock_others(&mut self, client: &ClientWrapper, place: &Scope<'_>, needs: &Needs) -> Result<(), Failure> {
        let names: BTreeSet<_> = needs.workers.iter().chain(&self.holders).cloned().collect();
        let mut batches = self.queue.named_batches();
        batches.extend(needs.batches.iter().cloned());
        if names.is_empty() && batches.is_empty() && self.jobs.is_empty() {
            return Ok(());
        }
        let endpoint = place.endpoint;
        let (find, held) = match needs.all_workers {
            true => (rows::ALL_WORKERS, rows::ALL_HELD),
            false => (rows::WORKERS, rows::HELD),
        };
        let [lock_batches, lock, find, held, streams, items] = [
            client.prepare_cached(batch_rows::LOCK).await?,
            client.prepare_cached(rows::LOCK_WORKERS).await?,
            client.prepare_cached(find).await?,
            client.prepare_cached(held).await?,
            client.prepare_cached(rows::STREAMS).await?,
            client.prepare_cached(rows::ITEMS).await?,
        ];
        let texts: Vec<&str> = names.iter().map(|name| &**name).collect();
        let ids: Vec<&str> = batches.iter().map(|id| &**id).collect();
        let of_workers: &[&(dyn ToSql + Sync)] = if needs.all_workers { &[&endpoint] } else { &[&endpoint, &texts] };
        let (batches, _, found, held, streams, items) = tokio::try_join!(
            biased;
            optional(!ids.is_empty(), async { client.query(&lock_batches, &[&endpoint, &ids]).await }),
            async { client.query(&lock, &[&endpoint, &texts]).await },
            async { client.query(&find, of_workers).await },
            async { client.query(&held, of_workers).await },
            optional(!self.jobs.is_empty(), async { client.query(&streams, &[&self.jobs]).await }),
            optional(!self.with_items.is_empty(), async { client.query(&items, &[&self.with_items]).await }),
        )?;
        self.put_batches(&batches, needs)?;
        let mut held_by = held_by(&held);
        self.found.workers = names.into_iter().map(|name| (name, None)).collect();
        for row in &found {
            let worker = LoadedWorker::of(row);
            let held = held_by.remove(&worker.id).unwrap_or_default();
            self.queue.load_worker(&worker.id, &worker.record, worker.polls, held)?;
            if let Some(known) = self.found.workers.get_mut(&worker.id) {
                *known = Some(worker);
            }
        }
        // A job that was taken between the two steps is not locked.
        if needs.holders.iter().any(|holder| !self.queue.held_elsewhere(holder).is_empty()) {
            return Err(Failure::Again);
        }
        for row in &streams {
            let (number, stream) = (rows::natural(row.get("job")), rows::stream(row));
            self.queue.load_stream(number, stream);
            self.found.streams.insert(number, stream);
        }
        let mut unread: HashMap<i64, Vec<_>> = HashMap::new();
        for row in &items {
            unread.entry(row.get(0)).or_default().push(rows::payload(row.get(1))?);
        }
        for (number, items) in unread {
            self.queue.load_items(rows::natural(number), items);
        }
        Ok(())
    }

    fn put_batches(&mut self, found: &[Row], needs: &Needs) -> Result<(), Failure> {
        let batches = found.iter().map(batch_rows::batch).collect::<Result<Vec<_>, _>>()?;
        self.found.batches = batches.iter().map(|batch| (batch.record.number, batch.clone())).collect();
        self.queue.load_batches(batches);
        // Jobs that came or went between the two steps are not locked.
        match needs.whole_batches.iter().all(|id| self.queue.has_whole_batch(id)) {
            true => Ok(()),
            false => Err(Failure::Again),
        }
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
