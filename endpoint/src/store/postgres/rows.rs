//! The statements that read, and what their rows mean.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio_postgres::Row;

use crate::store::clock::Timestamp;
use crate::store::payload::{Part, Payload};
use crate::store::queue::Elsewhere;
use crate::store::workers::OpenPolls;

/// The database's clock, in microseconds. Replicas' clocks may differ.
pub(super) const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now";

/// The same, the last moment at which some replica could write, and whether the endpoint is paused.
pub(super) const STATE: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now, \
    (SELECT at FROM beat) AS beat, coalesce((SELECT paused FROM endpoints WHERE name = $1), false) AS paused";

pub(super) const NUMBERS: &str = "SELECT nextval('numbers') FROM generate_series(1, $1::int)";

pub(super) const USAGE: &str = "SELECT coalesce(sum(jobs), 0)::bigint AS jobs, coalesce(sum(bytes), 0)::bigint AS bytes, \
    coalesce(sum(streamed), 0)::bigint AS streamed, coalesce(sum(in_queue), 0)::bigint AS in_queue, \
    coalesce(sum(in_progress), 0)::bigint AS in_progress, coalesce(sum(completed), 0)::bigint AS completed, \
    coalesce(sum(failed), 0)::bigint AS failed, coalesce(sum(retried), 0)::bigint AS retried, \
    coalesce((SELECT paused FROM endpoints WHERE name = $1), false) AS paused, \
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM counters WHERE endpoint = $1";

/// Jobs by id, those that workers hold, and those that were submitted with a key.
pub(super) const LOCK_JOBS: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs WHERE number IN \
    (SELECT number FROM jobs WHERE endpoint = $1 AND id = ANY($2::text[]) \
     UNION SELECT number FROM jobs WHERE endpoint = $1 AND holder = ANY($3::text[]) \
     UNION SELECT number FROM jobs WHERE endpoint = $1 AND idempotency = ANY($4::bytea[])) ORDER BY number FOR UPDATE";

/// The next jobs in the queue that no other unit has locked.
pub(super) const LOCK_NEXT: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND waiting AND (low, place) >= ($3, $4) ORDER BY low, place LIMIT $2 FOR UPDATE SKIP LOCKED";

/// Waiting jobs that no worker has lost.
pub(super) const LOCK_UNTAKEN: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND waiting AND untaken ORDER BY low, place LIMIT $2 FOR UPDATE SKIP LOCKED";

pub(super) const LOCK_RUNNING: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND holder IS NOT NULL ORDER BY number FOR UPDATE";

/// A lock on a name holds for a worker that has no row yet, too.
pub(super) const LOCK_WORKERS: &str = "SELECT pg_advisory_xact_lock(key) FROM (SELECT DISTINCT \
    hashtextextended($1 || '/' || name, 7) AS key FROM unnest($2::text[]) AS name ORDER BY key) AS keys";

pub(super) const WORKERS: &str = "SELECT w.id, w.record, coalesce(sum(greatest(p.jobs, 0)), 0)::bigint AS jobs, \
    coalesce(sum(greatest(p.stops, 0)), 0)::bigint AS stops, \
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM workers w LEFT JOIN polls p ON p.endpoint = w.endpoint AND p.worker = w.id \
    WHERE w.endpoint = $1 AND ($3 OR w.id = ANY($2::text[])) GROUP BY w.endpoint, w.id";

pub(super) const HELD: &str = "SELECT holder, id FROM jobs WHERE endpoint = $1 AND holder IS NOT NULL \
    AND ($3 OR holder = ANY($2::text[]))";

pub(super) const ITEMS: &str = "SELECT job, body FROM chunks WHERE job = ANY($1::bigint[]) ORDER BY job, n";

/// Held from before anything is sent that could commit until the transaction has ended. Whoever asks for its outcome waits here: what was
/// sent may arrive after the question.
pub(super) const LOCK_LANE: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2 || '/' || $3::smallint, 11))";

/// Locks the row, so that the answer waits for the standbys as a commit does.
pub(super) const TOKEN: &str =
    "SELECT token FROM counters WHERE endpoint = $1 AND replica = $2 AND lane = $3 FOR UPDATE";

pub(super) const JOB: &str = "SELECT number, id, next_item, unread_bytes, record, \
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM jobs WHERE endpoint = $1 AND id = $2";

pub(super) const PAYLOADS: &str = "SELECT p.job, p.part, p.body FROM payloads p \
    JOIN unnest($1::bigint[], $2::smallint[]) AS wanted(job, part) ON p.job = wanted.job AND p.part = wanted.part";

/// The waiting jobs in their order, then those that workers hold. Each half uses its own index, however many jobs there are.
pub(super) const PENDING: &str = "(SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND waiting ORDER BY low, place LIMIT $2) \
    UNION ALL (SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND holder IS NOT NULL LIMIT $2) LIMIT $2";

pub(super) const LIST: &str = "SELECT number, id, next_item, unread_bytes, record FROM \
    (SELECT * FROM jobs WHERE endpoint = $1 ORDER BY number DESC LIMIT $2) AS newest \
    WHERE ($3::text IS NULL OR status = $3) AND strpos(id, $4) > 0 ORDER BY number DESC LIMIT $5";

/// The newest jobs before one.
pub(super) const OLDER: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND number < $2 ORDER BY number DESC LIMIT $3";

/// Records whose time is over may not be deleted yet.
pub(super) const FAILED: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND status IN ('FAILED', 'TIMED_OUT') AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
    ORDER BY number DESC OFFSET $2 LIMIT $3";

/// How many there are, and the newest one.
pub(super) const COUNT_FAILED: &str = "SELECT count(*), coalesce(max(number), 0) FROM jobs \
    WHERE endpoint = $1 AND status IN ('FAILED', 'TIMED_OUT') AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The oldest of some failed jobs.
pub(super) const NEXT_FAILED: &str = "SELECT id, number FROM jobs WHERE endpoint = $1 AND status IN ('FAILED', 'TIMED_OUT') \
    AND number > $2 AND number <= $3 ORDER BY number LIMIT $4";

pub(super) const GIVEN_UP: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND given_up AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint ORDER BY number DESC OFFSET $2 LIMIT $3";

pub(super) const COUNT_GIVEN_UP: &str = "SELECT count(*) FROM jobs WHERE endpoint = $1 AND given_up AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Ended jobs that may make room, the nearest to their end of life first: all of them, or those alone whose webhook was given up.
pub(super) const ENDED: &str = "SELECT id FROM jobs WHERE endpoint = $1 AND NOT waiting AND holder IS NULL \
    AND webhook_owner IS NULL AND (given_up OR $2) ORDER BY due LIMIT $3";

/// The first waiting job, urgent ones alone if `$2`.
pub(super) const FIRST: &str = "SELECT number, id, next_item, unread_bytes, record FROM jobs \
    WHERE endpoint = $1 AND waiting AND NOT (low AND $2) ORDER BY low, place LIMIT 1";

/// The turn to add workers of an endpoint: taken again, or taken over once it has ended.
pub(super) const TAKE_TURN: &str = "INSERT INTO turns SELECT $1::text, $2::text, now.us + $3::bigint \
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS now \
    ON CONFLICT (endpoint) DO UPDATE SET replica = excluded.replica, until = excluded.until \
    WHERE turns.replica = excluded.replica OR turns.until < excluded.until - $3::bigint RETURNING endpoint";

pub(super) const URGENT: &str =
    "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE endpoint = $1 AND waiting AND NOT low LIMIT $2) AS found";

pub(super) fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or_default()
}

pub(super) fn time(micros: i64) -> Timestamp {
    Duration::from_micros(natural(micros))
}

pub(super) fn micros(time: Timestamp) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn part(part: Part) -> i16 {
    match part {
        Part::Input => 0,
        Part::S3Config => 1,
        Part::Output => 2,
    }
}

/// JSON text from a column.
pub(super) fn payload(text: String) -> serde_json::Result<Payload> {
    Ok(RawValue::from_string(text)?.into())
}

/// What counts against the bounds.
pub(super) fn usage(row: &Row) -> Elsewhere {
    Elsewhere {
        jobs: size(row.get("jobs")),
        waiting: size(row.get("in_queue")),
        bytes: size(row.get("bytes")),
        streamed: size(row.get("streamed")),
    }
}

/// A worker as it was when it was locked.
#[derive(Debug)]
pub(super) struct LoadedWorker {
    pub(super) id: Arc<str>,
    pub(super) record: String,
    pub(super) polls: OpenPolls,
}

impl LoadedWorker {
    pub(super) fn of(row: &Row) -> Self {
        Self {
            id: Arc::from(row.get::<_, &str>("id")),
            record: row.get("record"),
            polls: OpenPolls { jobs: size(row.get("jobs")), stops: size(row.get("stops")) },
        }
    }
}
