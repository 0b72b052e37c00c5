//! What operators do: pause, repeat what failed, send webhooks again. Long lists are worked off in units of bounded size.

use std::sync::Arc;

use async_trait::async_trait;

use super::PostgresStore;
use super::rows::{self, count};
use super::store::ignore_unknown;
use super::work::Need;
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::operations::Operations;
use crate::store::payload::Filed;
use crate::store::queue::Queue;
use crate::store::request::JobId;
use crate::store::views::{GivenUp, JobRow, Page, RetriedFailed};
use crate::store::webhook_queue::WebhookEnd;

/// Jobs in one unit.
const STEP: i64 = 200;

fn ids(rows: &[tokio_postgres::Row]) -> Vec<JobId> {
    rows.iter().map(|row| Arc::from(row.get::<_, &str>("id"))).collect()
}

/// Queues failed jobs again until one is refused, which is not counted as left, nor are those after it. Another endpoint may have changed
/// some meanwhile, and those of cancelled batches stay as they are.
fn retry_all(queue: &mut Queue<Filed>, now: Timestamp, jobs: &[JobId]) -> RetriedFailed {
    let mut all = RetriedFailed::default();
    for id in jobs {
        match queue.retry(now, id) {
            Ok(_) => all.retried += 1,
            Err(StoreError::JobNotFound | StoreError::NotRetryable(_)) => {}
            Err(refusal) => {
                let goes_on = refusal == StoreError::BatchCancelled;
                all.refusal = Some(refusal);
                if !goes_on {
                    return all;
                }
                all.left += 1;
            }
        }
    }
    all
}

impl PostgresStore {
    /// How many jobs have failed, and the number of the newest of them.
    async fn count_failed(&self, endpoint: &str) -> Result<(i64, i64), StoreError> {
        let row = self.shared.query(rows::COUNT_FAILED, &[&endpoint]).await?;
        Ok(row.first().map(|row| (row.get(0), row.get(1))).unwrap_or_default())
    }

    /// Keeps as many webhooks that were given up as the limit allows, those of the newest jobs.
    async fn bound_given_up(&self, endpoint: &str) -> Result<(), StoreError> {
        let local = self.shared.local(endpoint);
        let max = count(local.limits.max_given_up);
        let jobs = ids(&self.shared.query(rows::GIVEN_UP, &[&endpoint, &max, &STEP]).await?);
        if jobs.is_empty() {
            return Ok(());
        }
        let need = Need { jobs: jobs.clone(), ..Need::default() };
        self.shared.run(&local, need, move |queue, now| jobs.iter().for_each(|id| queue.let_go(now, id))).await
    }
}

#[async_trait]
impl Operations for PostgresStore {
    async fn set_paused(&self, endpoint: &str, paused: bool) -> Result<(), StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        self.shared.run(&local, Need::default(), move |queue, _| queue.set_paused(paused)).await
    }

    async fn failed(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<JobRow>, StoreError> {
        self.shared.look_failed(endpoint, count(offset), count(limit)).await
    }

    async fn retry_failed(&self, endpoint: &str) -> Result<RetriedFailed, StoreError> {
        let (_, newest) = self.count_failed(endpoint).await?;
        let (mut last, mut all) = (0_i64, RetriedFailed::default());
        loop {
            let some = self.shared.query(rows::NEXT_FAILED, &[&endpoint, &last, &newest, &STEP]).await?;
            let Some(end) = some.last() else { return Ok(all) };
            last = end.get("number");
            let jobs = ids(&some);
            let need = Need { jobs: jobs.clone(), numbers: jobs.len(), bounds: true, ..Need::default() };
            let retry = move |queue: &mut Queue<Filed>, now| retry_all(queue, now, &jobs);
            all.add(self.shared.run(&self.shared.local(endpoint), need, retry).await?);
            if all.refusal.as_ref().is_some_and(|refusal| *refusal != StoreError::BatchCancelled) {
                let (left, _) = self.count_failed(endpoint).await?;
                return Ok(RetriedFailed { left: rows::size(left), ..all });
            }
        }
    }

    async fn webhook_ended(
        &self,
        endpoint: &str,
        id: &str,
        end_number: u64,
        end: WebhookEnd,
    ) -> Result<(), StoreError> {
        let is_given_up = matches!(end, WebhookEnd::GivenUp(_));
        let ended = self.on_job(endpoint, id, Need::default(), move |queue, now, id| {
            queue.webhook_ended(now, id, end_number, end.clone());
        });
        ignore_unknown(ended.await)?;
        if is_given_up { self.bound_given_up(endpoint).await } else { Ok(()) }
    }

    async fn given_up(&self, endpoint: &str, offset: usize, limit: usize) -> Result<Page<GivenUp>, StoreError> {
        self.shared.look_given_up(endpoint, count(offset), count(limit)).await
    }

    async fn resend_webhook(&self, endpoint: &str, id: &str) -> Result<(), StoreError> {
        self.on_job(endpoint, id, Need::default(), |queue, now, id| queue.resend_webhook(now, id)).await?
    }

    async fn resend_webhooks(&self, endpoint: &str) -> Result<Vec<JobId>, StoreError> {
        let mut sent = Vec::new();
        let all = ids(&self.shared.query(rows::GIVEN_UP, &[&endpoint, &0_i64, &i64::MAX]).await?);
        for some in all.chunks(usize::try_from(STEP).unwrap_or(1)) {
            let jobs = some.to_vec();
            let need = Need { jobs: jobs.clone(), ..Need::default() };
            let resend = move |queue: &mut Queue<Filed>, now| {
                jobs.iter().filter(|id| queue.resend_webhook(now, id).is_ok()).cloned().collect::<Vec<_>>()
            };
            sent.extend(self.shared.run(&self.shared.local(endpoint), need, resend).await?);
        }
        Ok(sent)
    }
}
