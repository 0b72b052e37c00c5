//! What every replica does once a second: shows that it lives, ends what is over, and looks for hints that were lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_postgres::Client;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::batch_rows;
use super::failure::Failure;
use super::lock::STANDSTILL;
use super::rows;
use super::shared::{Shared, unanswered};
use super::work::Need;
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::job::Position;
use crate::store::request::JobId;
use crate::store::webhook_queue::WebhookDue;

/// Between two rounds; up to a quarter more, so that replicas do not meet.
const INTERVAL: Duration = Duration::from_secs(1);

/// A replica that was not seen for this long is dead: the polls that it held are over, and its webhooks are delivered by another one.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// A replica that was not seen for this long asks no more for the outcome of its last commits.
const GONE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How long it may take to note that, with all that is owed after a standstill.
const BEAT_LIMIT: Duration = Duration::from_secs(30);

/// Records ended in one step, and jobs in one unit.
const MAX_DUE: i64 = 1000;
const UNIT: usize = 200;

/// Steps in which batches are deleted in one round.
const MAX_BATCH_STEPS: usize = 100;

/// Rounds between two lookups of what changes seldom.
const SELDOM: u32 = 5;

const SEEN: &str = "WITH me AS (INSERT INTO replicas VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen) \
    SELECT count(*) FROM replicas WHERE id <> $1 AND seen > $3 - $4";
const DUE: &str = "SELECT endpoint, id FROM jobs WHERE due <= $1 ORDER BY due LIMIT $2";
const SILENT: &str = "SELECT endpoint, id FROM workers WHERE forget_at <= $1 LIMIT $2";
const HELD_ENDPOINTS: &str = "SELECT DISTINCT endpoint FROM jobs WHERE holder IS NOT NULL";
/// Polls of dead replicas, and rows that count none.
const CLOSE_POLLS: &str = "DELETE FROM polls WHERE (jobs <= 0 AND stops <= 0) \
    OR replica NOT IN (SELECT id FROM replicas WHERE seen > $1)";
const ADOPT: &str = "UPDATE jobs SET webhook_owner = $1 WHERE webhook_owner IS NOT NULL AND webhook_owner <> $1 \
    AND webhook_owner NOT IN (SELECT id FROM replicas WHERE seen > $2) RETURNING endpoint, id";
/// The counts of replicas that are gone for good become one row.
const FOLD: &str = "WITH gone AS (DELETE FROM counters WHERE replica <> '' AND replica NOT IN (SELECT id FROM replicas WHERE seen > $1) \
    RETURNING *) INSERT INTO counters SELECT endpoint, '', 0, '', sum(jobs), sum(bytes), sum(streamed), sum(in_queue), sum(in_progress), \
    sum(completed), sum(failed), sum(retried), max(served), max(served_low), sum(mistakes), sum(timeouts) FROM gone GROUP BY endpoint ON CONFLICT (endpoint, replica, lane) \
    DO UPDATE SET jobs = counters.jobs + excluded.jobs, bytes = counters.bytes + excluded.bytes, \
    streamed = counters.streamed + excluded.streamed, in_queue = counters.in_queue + excluded.in_queue, \
    in_progress = counters.in_progress + excluded.in_progress, completed = counters.completed + excluded.completed, \
    failed = counters.failed + excluded.failed, retried = counters.retried + excluded.retried, \
    served = greatest(counters.served, excluded.served), served_low = greatest(counters.served_low, excluded.served_low), \
    mistakes = counters.mistakes + excluded.mistakes, timeouts = counters.timeouts + excluded.timeouts";
const FORGET_REPLICAS: &str = "DELETE FROM replicas WHERE seen <= $1";
const WAITING: &str = "SELECT open.name, (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE endpoint = open.name AND waiting LIMIT polls) AS found) \
    FROM unnest($1::text[], $2::bigint[]) AS open(name, polls) JOIN endpoints ON endpoints.name = open.name AND NOT paused";
/// The first place at which an urgent job waits; where none does, the last one that was given. Beyond the places of low priority a new
/// urgent job would not be seen.
const FIRST: &str = "SELECT name, coalesce(place, (SELECT last_value FROM numbers)), coalesce(round, 0) \
    FROM unnest($1::text[]) AS open(name) LEFT JOIN LATERAL (SELECT round, place FROM jobs \
    WHERE endpoint = name AND waiting AND NOT low ORDER BY low, round, place LIMIT 1) AS waiting ON true";
const CHANGED: &str = "SELECT name, wanted FROM unnest($1::text[], $2::text[]) AS open(name, wanted) \
    LEFT JOIN jobs ON endpoint = name AND id = wanted \
    WHERE id IS NULL OR NOT (waiting OR holder IS NOT NULL) \
    OR coalesce((SELECT unread_bytes > 0 FROM streams WHERE job = number), false)";
const STOPPED: &str = "SELECT name, wanted FROM unnest($1::text[], $2::text[]) AS open(name, wanted) \
    JOIN workers ON endpoint = name AND id = wanted WHERE has_stops";
/// What every user may see of the server. Backups and archives are senders of the log as standbys are, but apply nothing; a user without
/// `pg_read_all_stats` knows them by their programs' names only.
const SERVER: &str = "SELECT (SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE relname = 'jobs'), \
    (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database), current_setting('max_connections')::bigint, \
    (SELECT count(*) FROM pg_stat_replication AS standby JOIN pg_stat_activity AS session USING (pid) WHERE CASE \
    WHEN standby.state IS NULL THEN session.application_name NOT IN ('pg_basebackup', 'pg_receivewal') \
    ELSE standby.state = 'streaming' AND standby.replay_lsn IS NOT NULL END)";
const ENDPOINTS: &str = "SELECT name FROM endpoints";

/// A replica that has stopped. Its turns are free at once.
const LEAVE: &str = "WITH turns AS (DELETE FROM turns WHERE replica = $1) DELETE FROM replicas WHERE id = $1";

/// Runs until the replica leaves, which it shows then: nobody waits for one that has stopped in order.
pub(super) async fn run(shared: Arc<Shared>, host: String, leaving: CancellationToken) {
    let mut round = 0_u32;
    while !leaving.is_cancelled() {
        if let Err(error) = once(&shared, &host, round).await {
            tracing::debug!(%error, "The upkeep of the database has to wait.");
        }
        round = round.wrapping_add(1);
        let jitter = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        leaving.run_until_cancelled(sleep(INTERVAL + INTERVAL * jitter / 1024)).await;
    }
    if let Err(error) = shared.query(LEAVE, &[&shared.replica]).await {
        tracing::debug!(%error, "The other endpoints will notice by themselves that this one has stopped.");
    }
}

/// One round.
pub(super) async fn once(shared: &Arc<Shared>, host: &str, round: u32) -> Result<(), StoreError> {
    let (now, latency, others) = match appear(shared, host).await {
        Ok(seen) => seen,
        Err(Failure::Away(reason)) => {
            shared.note_away(&reason);
            return shared.ready();
        }
        Err(failure @ (Failure::Refused(_) | Failure::Unacceptable(_))) => {
            // A full disk, perhaps: what can be read is still of use.
            shared.note_back();
            if let Failure::Refused(reason) | Failure::Unacceptable(reason) = &failure {
                shared.note_refusal(Some(reason));
            }
            return Err(unanswered(failure));
        }
        // Whatever is in the way may be a change that waits for the standbys.
        Err(Failure::Again) => return shared.ready(),
    };
    shared.note_back();
    shared.note_refusal(None);
    shared.notifier.set_has_others(others > 0);
    {
        let mut figures = shared.figures.lock();
        (figures.latency, figures.replicas) = (latency, others + 1);
    }
    beat(shared, now).await?;
    end_what_is_over(shared, now).await?;
    delete_batches(shared, now).await?;
    look_for_lost_hints(shared).await?;
    if round.is_multiple_of(SELDOM) {
        take_over(shared, now).await?;
        if let Some(row) = shared.query(SERVER, &[]).await?.first() {
            let mut figures = shared.figures.lock();
            let [dead_rows, connections, max_connections, standbys] =
                [0, 1, 2, 3].map(|column| rows::size(row.get(column)));
            (figures.dead_rows, figures.connections) = (dead_rows, connections);
            (figures.max_connections, figures.standbys) = (max_connections, standbys);
        }
        let endpoints: Vec<String> =
            shared.query(ENDPOINTS, &[]).await?.iter().map(|row| row.get::<_, String>(0)).collect();
        shared.locals.lock().retain(|name, local| Arc::strong_count(local) > 1 || endpoints.contains(name));
    }
    Ok(())
}

fn micros(time: Duration) -> i64 {
    rows::micros(time)
}

/// Shows that this replica lives; returns the database's time, how long that took, and how many other replicas there are. Asked
/// although the database is known to be away, this is how it is found to be back: a server that can be read but waits for its standbys
/// is of no use.
async fn appear(shared: &Shared, host: &str) -> Result<(i64, Duration, usize), Failure> {
    let asked = Instant::now();
    let now = shared.query_once(rows::CLOCK, &[]).await?;
    let latency = asked.elapsed();
    let now = now.first().map(|row| row.get(0)).unwrap_or_default();
    let others = shared.query_once(SEEN, &[&shared.replica, &host, &now, &micros(DEAD_AFTER)]).await?;
    Ok((now, latency, others.first().map(|row| rows::size(row.get(0))).unwrap_or_default()))
}

/// Notes that somebody could write. After a standstill, jobs that are held get more time first: whoever looks meanwhile waits here.
async fn beat(shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
    let beaten = shared.connected(BEAT_LIMIT, async |client| {
        let steady = "UPDATE beat SET at = greatest(at, $1::bigint) WHERE at > $1::bigint - $2::bigint";
        if client.execute(steady, &[&now, &micros(STANDSTILL)]).await? > 0 {
            return Ok(Ok(()));
        }
        client.batch_execute("BEGIN").await?;
        let outcome = after_standstill(shared, client, now).await;
        let end = if matches!(outcome, Ok(Ok(()))) { "COMMIT" } else { "ROLLBACK" };
        client.batch_execute(end).await?;
        outcome
    });
    beaten.await.map_err(unanswered)?
}

async fn after_standstill(shared: &Arc<Shared>, client: &Client, now: i64) -> Result<Result<(), StoreError>, Failure> {
    client.execute("INSERT INTO beat (at) VALUES ($1) ON CONFLICT DO NOTHING", &[&now]).await?;
    let gap = now - client.query_one("SELECT at FROM beat FOR UPDATE", &[]).await?.get::<_, i64>(0);
    if gap > micros(STANDSTILL)
        && let Err(error) = extend_leases(shared, rows::time(gap)).await
    {
        return Ok(Err(error));
    }
    client.execute("UPDATE beat SET at = $1", &[&now]).await?;
    Ok(Ok(()))
}

async fn extend_leases(shared: &Arc<Shared>, gap: Timestamp) -> Result<(), StoreError> {
    tracing::warn!(?gap, "The database has stood still. Jobs that workers hold get that time on top.");
    for row in shared.query(HELD_ENDPOINTS, &[]).await? {
        let local = shared.local(row.get(0));
        let need = Need { running: true, ..Need::default() };
        shared.run(&local, need, move |queue, _| queue.extend_leases(gap)).await?;
    }
    Ok(())
}

/// Jobs whose time is over, and workers that were silent for long. The state machine decides what becomes of them, as before every
/// operation.
async fn end_what_is_over(shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
    loop {
        let due = shared.query(DUE, &[&now, &MAX_DUE]).await?;
        let mut by_endpoint: BTreeMap<String, Vec<JobId>> = BTreeMap::new();
        for row in &due {
            by_endpoint.entry(row.get(0)).or_default().push(Arc::from(row.get::<_, &str>(1)));
        }
        for (endpoint, ids) in by_endpoint {
            let local = shared.local(&endpoint);
            for ids in ids.chunks(UNIT) {
                let need = Need { jobs: ids.to_vec(), ..Need::default() };
                shared.run(&local, need, |_, _| ()).await?;
            }
        }
        if due.len() < usize::try_from(MAX_DUE).unwrap_or_default() {
            break;
        }
    }
    let silent = shared.query(SILENT, &[&now, &MAX_DUE]).await?;
    let forget = silent.iter().map(|row| {
        let local = shared.local(row.get(0));
        async move { shared.run(&local, Need::worker(row.get(1)), |_, _| ()).await }
    });
    join_all(forget).await.into_iter().collect()
}

/// Batches whose life is over, with their jobs. What is put in of them is deleted by the state machine, as before every operation.
async fn delete_batches(shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
    for _ in 0..MAX_BATCH_STEPS {
        let due = shared.query(batch_rows::DUE, &[&now, &MAX_DUE]).await?;
        let Some(row) = due.first() else { return Ok(()) };
        let local = shared.local(row.get(0));
        let jobs = row.get::<_, Vec<&str>>("jobs").into_iter().map(Arc::from).collect();
        let need = Need { jobs, batch: Some(Arc::from(row.get::<_, &str>("id"))), ..Need::default() };
        shared.run(&local, need, |_, _| ()).await?;
    }
    Ok(())
}

/// What a dead replica has left behind.
async fn take_over(shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
    let alive_since = now - micros(DEAD_AFTER);
    shared.query(CLOSE_POLLS, &[&alive_since]).await?;
    let gone_since = now - micros(GONE_AFTER);
    shared.query(FOLD, &[&gone_since]).await?;
    shared.query(FORGET_REPLICAS, &[&gone_since]).await?;
    for row in shared.query(ADOPT, &[&shared.replica, &alive_since]).await? {
        let (endpoint, job): (&str, &str) = (row.get(0), row.get(1));
        let Some(webhook) = shared.look(endpoint, job).await?.and_then(|queue| queue.webhook(job)) else { continue };
        let (endpoint, job) = (endpoint.to_owned(), Arc::from(job));
        shared.setup.webhooks.push(WebhookDue { endpoint, job, url: webhook.url, end_number: webhook.end_number });
    }
    Ok(())
}

/// Wakes whoever waits for something that is there already.
async fn look_for_lost_hints(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let locals: Vec<_> = shared.locals.lock().values().cloned().collect();
    let (mut names, mut polls) = (Vec::new(), Vec::new());
    let (mut readers, mut stops) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for local in &locals {
        let waiting = local.waiting_takes.load(Ordering::Relaxed);
        if waiting > 0 {
            names.push(&*local.name);
            polls.push(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
        for (keys, open) in
            [(local.wakers.job_readers.keys(), &mut readers), (local.wakers.stop_polls.keys(), &mut stops)]
        {
            for key in keys {
                open.0.push(&*local.name);
                open.1.push(key.to_string());
            }
        }
        local.wakers.supervisors.wake_all();
    }
    if !names.is_empty() {
        for row in shared.query(WAITING, &[&names, &polls]).await? {
            let Some(local) = shared.find(row.get(0)) else { continue };
            for _ in 0..row.get::<_, i64>(1) {
                local.wakers.jobs_waiting.notify_one();
            }
        }
        for row in shared.query(FIRST, &[&names]).await? {
            let Some(local) = shared.find(row.get(0)) else { continue };
            let (round, number) = (rows::natural(row.get(2)), rows::natural(row.get(1)));
            let first = Position { low_priority: false, round, number };
            local.floor.lock().note(Instant::now(), first);
        }
    }
    if !readers.0.is_empty() {
        for row in shared.query(CHANGED, &[&readers.0, &readers.1]).await? {
            if let Some(local) = shared.find(row.get(0)) {
                local.wakers.job_readers.wake(row.get(1));
            }
        }
    }
    if !stops.0.is_empty() {
        for row in shared.query(STOPPED, &[&stops.0, &stops.1]).await? {
            if let Some(local) = shared.find(row.get(0)) {
                local.wakers.stop_polls.wake(row.get(1));
            }
        }
    }
    Ok(())
}
