//! What is over by time: jobs, workers that were silent for long, and batches. The state machine decides what becomes of them, as before
//! every operation.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::batch_rows;
use super::shared::Shared;
use super::work::Need;
use crate::store::error::StoreError;
use crate::store::request::JobId;

/// Records ended in one step, and jobs in one unit.
const MAX_DUE: i64 = 1000;
const UNIT: usize = 200;

/// Steps in one round: a replica that does nothing else for long counts as dead. The rest is for the next round.
const MAX_STEPS: usize = 5;

/// Steps in which batches are deleted in one round.
const MAX_BATCH_STEPS: usize = 100;

const DUE: &str = "SELECT endpoint, id FROM jobs WHERE due <= $1 ORDER BY due LIMIT $2";
const SILENT: &str = "SELECT endpoint, id FROM workers WHERE forget_at <= $1 LIMIT $2";

/// Jobs whose time is over. Those of an endpoint that cannot be ended keep none of another one.
pub(super) async fn end_jobs(shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    for _ in 0..MAX_STEPS {
        let due = shared.query(DUE, &[&now, &MAX_DUE]).await?;
        let mut by_endpoint: BTreeMap<String, Vec<JobId>> = BTreeMap::new();
        for row in &due {
            by_endpoint.entry(row.get(0)).or_default().push(Arc::from(row.get::<_, &str>(1)));
        }
        for (endpoint, ids) in by_endpoint {
            let local = shared.local(&endpoint);
            for ids in ids.chunks(UNIT) {
                let need = Need { jobs: ids.to_vec(), ..Need::default() };
                outcome = shared.run(&local, need, |_, _| ()).await.and(outcome);
            }
        }
        if outcome.is_err() || due.len() < usize::try_from(MAX_DUE).unwrap_or_default() {
            break;
        }
    }
    outcome
}

/// Workers that were silent for long.
pub(super) async fn forget_workers(shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
    let silent = shared.query(SILENT, &[&now, &MAX_DUE]).await?;
    let forget = silent.iter().map(|row| {
        let local = shared.local(row.get(0));
        async move { shared.run(&local, Need::worker(row.get(1)), |_, _| ()).await }
    });
    join_all(forget).await.into_iter().collect()
}

/// Batches whose life is over, with their jobs.
pub(super) async fn delete_batches(shared: &Arc<Shared>, now: i64) -> Result<(), StoreError> {
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
