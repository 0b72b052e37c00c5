//! What every replica does once a second: shows that it lives, ends what is over, and looks for hints that were lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Object};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::lock::STANDSTILL;
use super::lost_hints::look_for_lost_hints;
use super::overdue;
use super::rows;
use super::shared::{DOES_NOT_ANSWER, Shared, unanswered};
use super::takeover::{DEAD_AFTER, Takeover};
use super::work::Need;
use crate::store::error::StoreError;

/// Between two rounds; up to a quarter more, so that replicas do not meet.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long it may take to note that this replica could write, the extension of leases after a standstill included.
const BEAT_LIMIT: Duration = Duration::from_secs(30);

/// The transaction that does so is idle while leases are extended by others.
const BEGIN_BEAT: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '35s'";

/// How long a database that is silent is asked for the reason.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Rounds between two lookups of what changes seldom.
const SELDOM: u32 = 5;

const SEEN: &str = "WITH me AS (INSERT INTO replicas VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen) \
    SELECT count(*) FROM replicas WHERE id <> $1 AND seen > $3 - $4";
const HELD_ENDPOINTS: &str = "SELECT DISTINCT endpoint FROM jobs WHERE holder IS NOT NULL";
/// What every user may see of the server. Backups and archives are senders of the log as standbys are, but apply nothing; a user without
/// `pg_read_all_stats` knows them by their programs' names only.
const SERVER: &str = "SELECT (SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE relname = 'jobs'), \
    (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database), current_setting('max_connections')::bigint, \
    (SELECT count(*) FROM pg_stat_replication AS standby JOIN pg_stat_activity AS session USING (pid) WHERE CASE \
    WHEN standby.state IS NULL THEN session.application_name NOT IN ('pg_basebackup', 'pg_receivewal') \
    ELSE standby.state = 'streaming' AND standby.replay_lsn IS NOT NULL END)";
/// Sessions of this user that wait for a standby.
const WAITS_FOR_STANDBYS: &str = "SELECT current_setting('synchronous_standby_names') FROM pg_stat_activity \
    WHERE usename = current_user AND wait_event = 'SyncRep' LIMIT 1";
const ENDPOINTS: &str = "SELECT name FROM endpoints";

/// A replica that has stopped. Its turns are free at once.
const LEAVE: &str = "WITH turns AS (DELETE FROM turns WHERE replica = $1) DELETE FROM replicas WHERE id = $1";

/// The upkeep of one replica.
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    host: String,
    round: u32,
    takeover: Takeover,
    /// After the standstill since this moment, the leases of these endpoints have been extended.
    extended: (i64, HashSet<String>),
    /// What went wrong in the last round.
    wrong: Option<String>,
}

impl Upkeep {
    pub(super) fn new(shared: &Arc<Shared>, host: String) -> Self {
        let (shared, takeover) = (Arc::clone(shared), Takeover::default());
        Self { shared, host, round: 0, takeover, extended: (0, HashSet::new()), wrong: None }
    }

    /// Runs until the replica leaves, which it shows then: nobody waits for one that has stopped in order.
    pub(super) async fn run(mut self, leaving: CancellationToken) {
        while !leaving.is_cancelled() {
            let outcome = self.once().await;
            self.note(outcome);
            let jitter = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
            leaving.run_until_cancelled(sleep(INTERVAL + INTERVAL * jitter / 1024)).await;
        }
        if let Err(error) = self.shared.query(LEAVE, &[&self.shared.replica]).await {
            tracing::debug!(%error, "The other endpoints will notice by themselves that this one has stopped.");
        }
    }

    /// One line for each change, unless the database is away, which has a line of its own.
    fn note(&mut self, outcome: Result<(), StoreError>) {
        let wrong = outcome.err().map(|error| error.to_string());
        if let Some(error) = &wrong {
            if self.shared.ready().is_ok() && self.wrong != wrong {
                tracing::warn!(
                    error,
                    "A part of the upkeep of the database has to wait. It is tried again each second."
                );
            } else {
                tracing::debug!(error, "The upkeep of the database has to wait.");
            }
        }
        self.wrong = wrong;
    }

    /// One round. A part that fails keeps no other one from being done.
    ///
    /// # Errors
    /// The first one.
    pub(super) async fn once(&mut self) -> Result<(), StoreError> {
        let shared = &Arc::clone(&self.shared);
        let (now, latency, others) = match appear(shared, &self.host).await {
            Ok(seen) => seen,
            Err(Failure::Away(reason)) => {
                let is_silent = *reason == *DOES_NOT_ANSWER;
                let why = if is_silent { why_silent(shared).await } else { None };
                shared.note_away(&why.unwrap_or(reason));
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
        // Nothing is over before what is held has got more time.
        self.beat(now).await?;
        let outcome = overdue::end_jobs(shared, now).await;
        let outcome = outcome.and(overdue::forget_workers(shared, now).await);
        let outcome = outcome.and(overdue::delete_batches(shared, now).await);
        let outcome = outcome.and(look_for_lost_hints(shared).await);
        let is_seldom = self.round.is_multiple_of(SELDOM);
        self.round = self.round.wrapping_add(1);
        if !is_seldom {
            return outcome;
        }
        shared.room.regain();
        outcome.and(self.takeover.run(shared, now).await).and(look_at_the_server(shared).await)
    }

    /// Notes that somebody could write. After a standstill, jobs that are held get more time first: whoever looks meanwhile waits here.
    async fn beat(&mut self, now: i64) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let beaten = shared.connected(BEAT_LIMIT, async |client| {
            let steady = "UPDATE beat SET at = greatest(at, $1::bigint) WHERE at > $1::bigint - $2::bigint";
            if client.execute(steady, &[&now, &rows::micros(STANDSTILL)]).await? > 0 {
                return Ok(Ok(()));
            }
            client.batch_execute(BEGIN_BEAT).await?;
            let outcome = self.after_standstill(client, now).await;
            let end = if matches!(outcome, Ok(Ok(()))) { "COMMIT" } else { "ROLLBACK" };
            client.batch_execute(end).await?;
            outcome
        });
        beaten.await.map_err(unanswered)?
    }

    async fn after_standstill(&mut self, client: &Client, now: i64) -> Result<Result<(), StoreError>, Failure> {
        client.execute("INSERT INTO beat (at) VALUES ($1) ON CONFLICT DO NOTHING", &[&now]).await?;
        let since = client.query_one("SELECT at FROM beat FOR UPDATE", &[]).await?.get(0);
        if now - since > rows::micros(STANDSTILL)
            && let Err(error) = self.extend_leases(since, now).await
        {
            return Ok(Err(error));
        }
        client.execute("UPDATE beat SET at = $1", &[&now]).await?;
        Ok(Ok(()))
    }

    /// Once for each endpoint: when one of them is in the way, the others are not extended again with the next try.
    async fn extend_leases(&mut self, since: i64, now: i64) -> Result<(), StoreError> {
        let gap = rows::time(now - since);
        if self.extended.0 != since {
            tracing::warn!(?gap, "The database has stood still. Jobs that workers hold get that time on top.");
            self.extended = (since, HashSet::new());
        }
        for row in self.shared.query(HELD_ENDPOINTS, &[]).await? {
            let endpoint: String = row.get(0);
            if self.extended.1.contains(&endpoint) {
                continue;
            }
            let local = self.shared.local(&endpoint);
            let need = Need { running: true, ..Need::default() };
            self.shared.run(&local, need, move |queue, _| queue.extend_leases(gap)).await?;
            self.extended.1.insert(endpoint);
        }
        Ok(())
    }
}

/// Shows that this replica lives; returns the database's time, how long that took, and how many other replicas there are. Asked
/// although the database is known to be away, this is how it is found to be back: a server that can be read but waits for its standbys
/// is of no use.
async fn appear(shared: &Shared, host: &str) -> Result<(i64, Duration, usize), Failure> {
    let asked = Instant::now();
    let now = shared.query_once(rows::CLOCK, &[]).await?;
    let latency = asked.elapsed();
    let now = now.first().map(|row| row.get(0)).unwrap_or_default();
    let others = shared.query_once(SEEN, &[&shared.replica, &host, &now, &rows::micros(DEAD_AFTER)]).await?;
    Ok((now, latency, others.first().map(|row| rows::size(row.get(0))).unwrap_or_default()))
}

/// Whether a server that can be read waits for its standbys; the reason says for which. What is known of it stays current meanwhile.
async fn why_silent(shared: &Shared) -> Option<Arc<str>> {
    let (client, _place) = timeout(LOOK_LIMIT, shared.client()).await.ok()?.ok()?;
    let Ok(Ok(waits)) = timeout(LOOK_LIMIT, client.query(WAITS_FOR_STANDBYS, &[])).await else {
        // Nobody else gets it.
        drop(Object::take(client));
        return None;
    };
    let names: String = waits.first()?.get(0);
    if let Err(error) = look_at_figures(shared).await {
        tracing::debug!(?error, "The figures of the database are not known.");
    }
    Some(format!("it waits for a standby, and none of synchronous_standby_names = '{names}' answers").into())
}

async fn look_at_figures(shared: &Shared) -> Result<(), Failure> {
    let found = shared.query_once(SERVER, &[]).await?;
    let Some(row) = found.first() else { return Ok(()) };
    let mut figures = shared.figures.lock();
    let [dead_rows, connections, max_connections, standbys] = [0, 1, 2, 3].map(|column| rows::size(row.get(column)));
    (figures.dead_rows, figures.connections) = (dead_rows, connections);
    (figures.max_connections, figures.standbys) = (max_connections, standbys);
    Ok(())
}

/// Its figures, and which endpoints there still are.
async fn look_at_the_server(shared: &Shared) -> Result<(), StoreError> {
    look_at_figures(shared).await.map_err(unanswered)?;
    let endpoints: Vec<String> =
        shared.query(ENDPOINTS, &[]).await?.iter().map(|row| row.get::<_, String>(0)).collect();
    shared.locals.lock().retain(|name, local| Arc::strong_count(local) > 1 || endpoints.contains(name));
    Ok(())
}
