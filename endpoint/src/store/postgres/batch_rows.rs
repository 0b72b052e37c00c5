//! The rows of batches. A batch has one row with the counts of its jobs, which is locked by whoever changes one of them.

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::failure::Failure;
use super::rows::{self, integer, micros, natural, size, time};
use crate::store::batch::{BatchCounts, BatchState};
use crate::store::counts::BatchRequests;
use crate::store::queue::{BatchRecord, KeptBatch};

/// Locked after jobs and before workers, in the order of their numbers.
pub(super) const LOCK: &str =
    "SELECT * FROM batches WHERE endpoint = $1 AND id = ANY($2::text[]) ORDER BY number FOR UPDATE";

/// What counts against the bounds on batches, and not against that on jobs that wait; and how many run.
pub(super) const USAGE: &str = "SELECT count(*) FILTER (WHERE state = 'DRAFT' OR waiting + in_progress > 0) AS active, \
    coalesce(sum(waiting + in_progress + completed + failed + cancelled), 0)::bigint AS jobs, \
    coalesce(sum(waiting) FILTER (WHERE state <> 'DRAFT'), 0)::bigint AS waiting, \
    coalesce(sum(in_progress), 0)::bigint AS in_progress FROM batches WHERE endpoint = $1";

/// One whose time is over may not be deleted yet.
pub(super) const FIND: &str = "SELECT * FROM batches WHERE endpoint = $1 AND id = $2 \
    AND (expires IS NULL OR expires > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";

pub(super) const NEWEST: &str = "SELECT * FROM batches WHERE endpoint = $1 \
    AND (expires IS NULL OR expires > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
    ORDER BY number DESC OFFSET $2 LIMIT $3";

pub(super) const COUNT: &str = "SELECT count(*) FROM batches WHERE endpoint = $1 \
    AND (expires IS NULL OR expires > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";

/// The jobs of a batch in the order in which they were added.
pub(super) const JOBS: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND batch = $2 ORDER BY number OFFSET $3 LIMIT $4";

/// Every batch of an endpoint.
pub(super) const ALL: &str = "SELECT * FROM batches WHERE endpoint = $1 ORDER BY number";

/// Batches whose life is over, each with some of its jobs.
pub(super) const DUE: &str = "SELECT endpoint, id, ARRAY(SELECT jobs.id FROM jobs WHERE jobs.endpoint = batches.endpoint \
    AND batch = batches.id LIMIT $2) AS jobs FROM batches WHERE expires <= $1 LIMIT 1";

pub(super) const PUT: &str = "INSERT INTO batches SELECT number, $1, id, name, state, created, expires, waiting, in_progress, \
    completed, failed, cancelled FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], \
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]) \
    AS new(number, id, name, state, created, expires, waiting, in_progress, completed, failed, cancelled) \
    ON CONFLICT (number) DO UPDATE SET name = excluded.name, state = excluded.state, expires = excluded.expires, \
    waiting = excluded.waiting, in_progress = excluded.in_progress, completed = excluded.completed, \
    failed = excluded.failed, cancelled = excluded.cancelled";

pub(super) const DELETE: &str = "DELETE FROM batches WHERE number = ANY($1::bigint[])";

/// The requests of batches that have not ended.
pub(super) fn requests(usage: &Row) -> BatchRequests {
    BatchRequests { waiting: size(usage.get("waiting")), in_progress: size(usage.get("in_progress")) }
}

/// A batch as it was when its row was read.
pub(super) fn batch(row: &Row) -> Result<KeptBatch, Failure> {
    let (name, state): (Option<&str>, &str) = (row.get("name"), row.get("state"));
    let known = BatchState::ALL.into_iter().find(|known| known.stored_name() == state);
    let state =
        known.ok_or_else(|| Failure::Refused(format!("a batch is {state:?}; is a newer version running?").into()))?;
    let count = |column| size(row.get(column));
    Ok(KeptBatch {
        record: BatchRecord {
            id: row.get::<_, &str>("id").into(),
            number: natural(row.get("number")),
            name: name.map(Into::into),
            state,
            created: time(row.get("created")),
            expires: row.get::<_, Option<i64>>("expires").map(time),
        },
        counts: BatchCounts {
            waiting: count("waiting"),
            in_progress: count("in_progress"),
            completed: count("completed"),
            failed: count("failed"),
            cancelled: count("cancelled"),
        },
    })
}

/// Writes batches, column by column.
pub(super) async fn put(
    client: &ClientWrapper,
    endpoint: &str,
    batches: &[KeptBatch],
) -> Result<(), tokio_postgres::Error> {
    let statement = client.prepare_cached(PUT).await?;
    let records = || batches.iter().map(|batch| &batch.record);
    let counts = |count: fn(&BatchCounts) -> usize| -> Vec<i64> {
        batches.iter().map(|batch| rows::count(count(&batch.counts))).collect()
    };
    let number: Vec<i64> = records().map(|record| integer(record.number)).collect();
    let id: Vec<&str> = records().map(|record| &*record.id).collect();
    let name: Vec<Option<&str>> = records().map(|record| record.name.as_deref()).collect();
    let state: Vec<&str> = records().map(|record| record.state.stored_name()).collect();
    let created: Vec<i64> = records().map(|record| micros(record.created)).collect();
    let expires: Vec<Option<i64>> = records().map(|record| record.expires.map(micros)).collect();
    let (waiting, in_progress) = (counts(|counts| counts.waiting), counts(|counts| counts.in_progress));
    let (completed, failed) = (counts(|counts| counts.completed), counts(|counts| counts.failed));
    let cancelled = counts(|counts| counts.cancelled);
    let values: [&(dyn ToSql + Sync); 12] = [
        &endpoint,
        &number,
        &id,
        &name,
        &state,
        &created,
        &expires,
        &waiting,
        &in_progress,
        &completed,
        &failed,
        &cancelled,
    ];
    client.execute(&statement, &values).await.map(|_| ())
}
