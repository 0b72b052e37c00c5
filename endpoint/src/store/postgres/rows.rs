//! The statements that read, and what their rows mean.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio_postgres::Row;

use crate::store::clock::Timestamp;
use crate::store::payload::{Part, Payload};
use crate::store::queue::Elsewhere;
use crate::store::stream::StreamLeft;
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
    coalesce(sum(mistakes), 0)::bigint AS mistakes, coalesce(sum(timeouts), 0)::bigint AS timeouts, \
    coalesce((SELECT paused FROM endpoints WHERE name = $1), false) AS paused, \
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM counters WHERE endpoint = $1";

/// Jobs by id, those that these workers hold, those that were submitted with a key, those of batches, and, if `$6`, those that any worker
/// holds. An array, which is always looked up in the index: a join may read the whole table instead.
pub(super) const LOCK_JOBS: &str = "SELECT number, id, record FROM jobs WHERE number = ANY(ARRAY(\
     SELECT number FROM jobs WHERE endpoint = $1 AND id = ANY($2::text[]) \
     UNION SELECT number FROM jobs WHERE endpoint = $1 AND holder = ANY($3::text[]) \
     UNION SELECT number FROM jobs WHERE endpoint = $1 AND idempotency = ANY($4::bytea[]) \
     UNION SELECT number FROM jobs WHERE endpoint = $1 AND batch = ANY($5::text[]) \
     UNION SELECT number FROM jobs WHERE $6::boolean AND endpoint = $1 AND holder IS NOT NULL)) ORDER BY number FOR UPDATE";

/// The next jobs in the queue that no other unit has locked.
pub(super) const LOCK_NEXT: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND waiting AND (low, round, place) >= ($3, $4, $5) ORDER BY low, round, place LIMIT $2 FOR UPDATE SKIP LOCKED";

/// The next jobs that have waited for long enough, and may not run for longer than `$5`. Those that have not are left to others: a job
/// that is locked here is stepped over. Where clients take turns, older jobs stand behind younger ones.
pub(super) const LOCK_OVERDUE: &str = "SELECT number, id, record FROM jobs WHERE waiting AND number = ANY(ARRAY(\
     SELECT number FROM (SELECT number, id, submitted, run_time, round, place FROM jobs WHERE endpoint = $1 AND waiting AND NOT low \
      ORDER BY low, round, place LIMIT (SELECT CASE WHEN $5::bigint IS NOT NULL \
       OR EXISTS (SELECT 1 FROM jobs WHERE endpoint = $1 AND waiting AND round > 0) \
       THEN 10000 ELSE $4::bigint + cardinality($3::text[]) END)) AS first \
     WHERE submitted <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2::bigint AND id <> ALL($3) \
     AND ($5 IS NULL OR run_time <= $5) ORDER BY round, place LIMIT $4::bigint)) \
    ORDER BY round, place FOR UPDATE SKIP LOCKED";

/// A job that has waited for long enough, however long it may run.
pub(super) const ANY_OVERDUE: &str = "SELECT 1 FROM jobs WHERE endpoint = $1 AND waiting AND NOT low \
    AND submitted <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2::bigint AND id <> ALL($3::text[]) \
    AND NOT coalesce((SELECT paused FROM endpoints WHERE name = $1), false) LIMIT 1";

/// Jobs that still have to be cancelled at another endpoint.
pub(super) const CANCELLED_ELSEWHERE: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND cancelled_elsewhere ORDER BY number";

/// Waiting jobs that no worker has lost.
pub(super) const LOCK_UNTAKEN: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND waiting AND untaken ORDER BY low, round, place LIMIT $2 FOR UPDATE SKIP LOCKED";

/// A lock on a name holds for a worker that has no row yet, too.
pub(super) const LOCK_WORKERS: &str = "SELECT pg_advisory_xact_lock(key) FROM (SELECT DISTINCT \
    hashtextextended($1 || '/' || name, 7) AS key FROM unnest($2::text[]) AS name ORDER BY key) AS keys";

/// Workers by their ids. Apart from [`ALL_WORKERS`]: a statement that serves both reads all of them.
pub(super) const WORKERS: &str = "SELECT id, record, coalesce(polls.jobs, 0) AS jobs, coalesce(polls.stops, 0) AS stops, \
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM workers \
    LEFT JOIN LATERAL (SELECT sum(greatest(jobs, 0))::bigint AS jobs, sum(greatest(stops, 0))::bigint AS stops FROM polls \
     WHERE polls.endpoint = workers.endpoint AND polls.worker = workers.id) AS polls ON true \
    WHERE endpoint = $1 AND id = ANY($2::text[])";

pub(super) const ALL_WORKERS: &str = "SELECT w.id, w.record, coalesce(sum(greatest(p.jobs, 0)), 0)::bigint AS jobs, \
     coalesce(sum(greatest(p.stops, 0)), 0)::bigint AS stops, \
     (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM workers w \
     LEFT JOIN polls p ON p.endpoint = w.endpoint AND p.worker = w.id WHERE w.endpoint = $1 GROUP BY w.endpoint, w.id";

/// Which jobs these workers hold. Those that wait at another endpoint are in the queue for their clients.
pub(super) const HELD: &str = "SELECT holder, id, status = 'IN_QUEUE' AS waits FROM jobs \
     WHERE endpoint = $1 AND holder = ANY($2::text[])";

pub(super) const ALL_HELD: &str = "SELECT holder, id, status = 'IN_QUEUE' AS waits FROM jobs \
     WHERE endpoint = $1 AND holder IS NOT NULL";

pub(super) const STREAMS: &str =
    "SELECT job, first_item, next_item, unread_bytes FROM streams WHERE job = ANY($1::bigint[])";

/// The unread items. Those that were read are dead rows until they are vacuumed, and are not looked at.
pub(super) const ITEMS: &str = "SELECT s.job, c.body FROM streams s JOIN chunks c ON c.job = s.job AND c.n >= s.first_item \
    WHERE s.job = ANY($1::bigint[]) ORDER BY c.job, c.n";

/// A stream with its unread items; one row without an item where there are none.
pub(super) const STREAM: &str = "SELECT s.job, s.first_item, s.next_item, s.unread_bytes, c.body FROM streams s \
    LEFT JOIN chunks c ON c.job = s.job AND c.n >= s.first_item WHERE s.job = $1 ORDER BY c.n";

/// After which round new ones come: for new jobs without a share, of either priority. Apart from [`LAST_ROUNDS`], which the server plans anew
/// each time.
pub(super) const LAST_ROUND: &str = "SELECT kind.low, NULL::text AS share, CASE WHEN kind.low THEN served.low ELSE served.urgent END AS served, \
    coalesce((SELECT max(round) FROM jobs WHERE endpoint = $1 AND waiting AND round > 0 AND low = kind.low), 0) AS last \
    FROM (VALUES (false), (true)) AS kind(low), (SELECT coalesce(max(served), 0) AS urgent, coalesce(max(served_low), 0) AS low \
     FROM counters WHERE endpoint = $1) AS served";

/// After which round of its share each one comes: for new jobs of these shares, for jobs by id, and for those of batches. Where nobody takes turns,
/// the indexes that this looks into are empty.
pub(super) const LAST_ROUNDS: &str = "WITH served AS (SELECT coalesce(max(served), 0) AS urgent, coalesce(max(served_low), 0) AS low \
    FROM counters WHERE endpoint = $1), \
    wanted AS (SELECT low, share FROM unnest($2::boolean[], $3::text[]) AS new(low, share) \
     UNION SELECT low, share FROM jobs WHERE endpoint = $1 AND id = ANY($4::text[]) \
     UNION SELECT low, share FROM jobs WHERE endpoint = $1 AND batch = ANY($5::text[])) \
    SELECT wanted.low, wanted.share, CASE WHEN wanted.low THEN served.low ELSE served.urgent END AS served, coalesce(CASE \
     WHEN wanted.share IS NULL THEN (SELECT max(round) FROM jobs WHERE endpoint = $1 AND waiting AND round > 0 AND low = wanted.low) \
     ELSE (SELECT max(round) FROM jobs WHERE endpoint = $1 AND waiting AND round > 0 AND low = wanted.low AND share = wanted.share) \
     END, 0) AS last FROM wanted, served";

/// Held from before anything is sent that could commit until the transaction has ended. Whoever asks for its outcome waits here: what was
/// sent may arrive after the question.
pub(super) const LOCK_LANE: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2 || '/' || $3::smallint, 11))";

/// Locks the row, so that the answer waits for the standbys as a commit does.
pub(super) const TOKEN: &str =
    "SELECT token FROM counters WHERE endpoint = $1 AND replica = $2 AND lane = $3 FOR UPDATE";

pub(super) const JOB: &str = "SELECT number, id, record, \
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM jobs WHERE endpoint = $1 AND id = $2";

pub(super) const PAYLOADS: &str = "SELECT p.job, p.part, p.body FROM payloads p \
    JOIN unnest($1::bigint[], $2::smallint[]) AS wanted(job, part) ON p.job = wanted.job AND p.part = wanted.part";

/// The waiting jobs in their order, then those that workers hold. Each half uses its own index, however many jobs there are.
pub(super) const PENDING: &str = "(SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND waiting ORDER BY low, round, place LIMIT $2) \
    UNION ALL (SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND holder IS NOT NULL LIMIT $2) LIMIT $2";

pub(super) const LIST: &str = "SELECT number, id, record FROM \
    (SELECT * FROM jobs WHERE endpoint = $1 ORDER BY number DESC LIMIT $2) AS newest \
    WHERE ($3::text IS NULL OR status = $3) AND strpos(id, $4) > 0 ORDER BY number DESC LIMIT $5";

/// The newest jobs before one.
pub(super) const OLDER: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND number < $2 ORDER BY number DESC LIMIT $3";

/// Records whose time is over may not be deleted yet.
pub(super) const FAILED: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND status IN ('FAILED', 'TIMED_OUT') AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
    ORDER BY number DESC OFFSET $2 LIMIT $3";

/// How many there are, and the newest one.
pub(super) const COUNT_FAILED: &str = "SELECT count(*), coalesce(max(number), 0) FROM jobs \
    WHERE endpoint = $1 AND status IN ('FAILED', 'TIMED_OUT') AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The oldest of some failed jobs.
pub(super) const NEXT_FAILED: &str = "SELECT id, number FROM jobs WHERE endpoint = $1 AND status IN ('FAILED', 'TIMED_OUT') \
    AND number > $2 AND number <= $3 ORDER BY number LIMIT $4";

pub(super) const GIVEN_UP: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND given_up AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint ORDER BY number DESC OFFSET $2 LIMIT $3";

pub(super) const COUNT_GIVEN_UP: &str = "SELECT count(*) FROM jobs WHERE endpoint = $1 AND given_up AND due > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Ended jobs that may make room, the nearest to their end of life first: all of them, or those alone whose webhook was given up.
pub(super) const ENDED: &str = "SELECT id FROM jobs WHERE endpoint = $1 AND NOT waiting AND holder IS NULL \
    AND webhook_owner IS NULL AND (given_up OR $2) ORDER BY due LIMIT $3";

/// The first urgent job that waits; where clients take turns, `$2`, enough to have the oldest one among them.
pub(super) const FIRST: &str = "SELECT number, id, record FROM jobs \
    WHERE endpoint = $1 AND waiting AND NOT low ORDER BY round, place \
    LIMIT (SELECT CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE endpoint = $1 AND waiting AND round > 0) THEN $2::bigint ELSE 1 END)";

/// A turn: taken again, or taken over once it has ended.
pub(super) const TAKE_TURN: &str = "INSERT INTO turns SELECT $1::text, $4::text, $2::text, now.us + $3::bigint \
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS now \
    ON CONFLICT (endpoint, task) DO UPDATE SET replica = excluded.replica, until = excluded.until \
    WHERE turns.replica = excluded.replica OR turns.until < excluded.until - $3::bigint RETURNING endpoint";

pub(super) const URGENT: &str =
    "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE endpoint = $1 AND waiting AND NOT low LIMIT $2) AS found";

/// The jobs of low priority that workers hold.
pub(super) const HELD_LOW: &str = "SELECT count(*) FROM jobs WHERE endpoint = $1 AND holder IS NOT NULL AND low";

pub(super) fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn count(value: usize) -> i64 {
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

/// Where a stream stands.
pub(super) fn stream(row: &Row) -> StreamLeft {
    StreamLeft {
        first: natural(row.get("first_item")),
        next: natural(row.get("next_item")),
        bytes: size(row.get("unread_bytes")),
    }
}

/// JSON text from a column.
pub(super) fn payload(text: String) -> serde_json::Result<Payload> {
    Ok(RawValue::from_string(text)?.into())
}

/// What counts against the bounds; batches where they were asked for.
pub(super) fn usage(row: &Row, batches: Option<&Row>) -> Elsewhere {
    let of_batches = |column| batches.map(|row| size(row.get(column))).unwrap_or_default();
    Elsewhere {
        jobs: size(row.get("jobs")),
        waiting: size(row.get("in_queue")).saturating_sub(of_batches("waiting")),
        bytes: size(row.get("bytes")),
        streamed: size(row.get("streamed")),
        batches: of_batches("active"),
        jobs_of_batches: of_batches("jobs"),
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
