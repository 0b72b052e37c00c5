//! What dead replicas have left behind: polls that they held, webhooks that they were to deliver, and what they have counted.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;

use super::rows;
use super::shared::{Shared, unanswered};
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::queue::Queue;
use crate::store::webhook_queue::WebhookDue;

/// A replica that was not seen for this long is dead: the polls that it held are over, and its webhooks are delivered by another one.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(10);

/// A replica that was not seen for this long asks no more for the outcome of its last commits.
const GONE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Webhooks taken over in one step, and steps in one round.
const MAX_ADOPTED: i64 = 200;
const MAX_STEPS: usize = 5;

/// Polls of dead replicas, and rows that count none. What a unit has locked is left for the next round.
const CLOSE_POLLS: &str = "DELETE FROM polls WHERE ctid IN (SELECT ctid FROM polls WHERE (jobs <= 0 AND stops <= 0) \
    OR replica NOT IN (SELECT id FROM replicas WHERE seen > $1) FOR UPDATE SKIP LOCKED)";
/// Jobs whose webhooks a dead replica was to deliver.
const ORPHANS: &str = "SELECT number FROM jobs WHERE webhook_owner IS NOT NULL AND webhook_owner <> $1 \
    AND webhook_owner NOT IN (SELECT id FROM replicas WHERE seen > $2) ORDER BY number LIMIT $3";
/// Those that are still nobody's, or this replica's since the last try.
const ADOPT: &str = "UPDATE jobs SET webhook_owner = $1 WHERE number = ANY(ARRAY(SELECT number FROM jobs WHERE number = ANY($3::bigint[]) \
    AND webhook_owner IS NOT NULL AND (webhook_owner = $1 OR webhook_owner NOT IN (SELECT id FROM replicas WHERE seen > $2)) \
    ORDER BY number FOR UPDATE)) RETURNING endpoint, id, record";
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
/// What is left of endpoints that made room for others, once it counts nothing.
const FORGET_COUNTERS: &str = "DELETE FROM counters WHERE replica = '' AND endpoint NOT IN (SELECT name FROM endpoints) \
    AND jobs = 0 AND bytes = 0 AND streamed = 0 AND in_queue = 0 AND in_progress = 0";
const FORGET_REPLICAS: &str = "DELETE FROM replicas WHERE seen <= $1";

/// Takes over from the dead.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    /// The numbers of jobs that a statement was sent for. Until it is answered, nobody may know that their webhooks are due here.
    adopting: Vec<i64>,
}

impl Takeover {
    pub(super) async fn run(&mut self, shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
        let alive_since = now - rows::micros(DEAD_AFTER);
        shared.query(CLOSE_POLLS, &[&alive_since]).await?;
        let gone_since = now - rows::micros(GONE_AFTER);
        for statement in [FOLD, FORGET_REPLICAS] {
            shared.query(statement, &[&gone_since]).await?;
        }
        shared.query(FORGET_COUNTERS, &[]).await?;
        self.adopt(shared, now, alive_since).await
    }

    async fn adopt(&mut self, shared: &Arc<Shared>, now: i64, alive_since: i64) -> Result<(), StoreError> {
        for _ in 0..MAX_STEPS {
            if self.adopting.is_empty() {
                let orphans = shared.query(ORPHANS, &[&shared.replica, &alive_since, &MAX_ADOPTED]).await?;
                self.adopting = orphans.iter().map(|row| row.get(0)).collect();
            }
            if self.adopting.is_empty() {
                break;
            }
            let adopted = shared.query_once(ADOPT, &[&shared.replica, &alive_since, &self.adopting]).await;
            let adopted = adopted.map_err(unanswered)?;
            self.adopting.clear();
            adopted.iter().for_each(|row| push(shared, rows::time(now), row));
        }
        Ok(())
    }
}

/// Has a webhook delivered by this replica.
fn push(shared: &Shared, now: Timestamp, row: &Row) {
    let (endpoint, job): (&str, &str) = (row.get("endpoint"), row.get("id"));
    let mut queue = Queue::shared(shared.setup.limits_of(endpoint), now);
    if let Err(error) = queue.load_job(row.get("record")) {
        tracing::error!(%error, job, "The webhook of a job cannot be taken over: its record cannot be read. Is a newer version running?");
        return;
    }
    let Some(webhook) = queue.webhook(job) else { return };
    let (endpoint, job) = (endpoint.to_owned(), Arc::from(job));
    shared.setup.webhooks.push(WebhookDue { endpoint, job, url: webhook.url, end_number: webhook.end_number });
}
