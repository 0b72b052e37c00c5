//! Jobs as rows.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, named_params};
use serde_json::value::RawValue;

use crate::store::batch::BatchState;
use crate::store::ending::Ending;
use crate::store::job::{Handovers, Notices, Position, Record, Report, Run, State};
use crate::store::payload::{Part, Payload};
use crate::store::queue::BatchRecord;
use crate::store::request::{Digest, Idempotency, Policy, Request};
use crate::store::status::Status;
use crate::store::views::Attempt;

/// Bits of a key that hold the job's number; those above hold the endpoint's key.
const NUMBER_BITS: u32 = 44;

/// The key of a job in every table.
pub(super) fn key(endpoint: u32, number: u64) -> i64 {
    (i64::from(endpoint) << NUMBER_BITS) | integer(number)
}

/// The endpoint and the number of a job.
pub(super) fn split_key(key: i64) -> (u32, u64) {
    let number = key & ((1 << NUMBER_BITS) - 1);
    (u32::try_from(key >> NUMBER_BITS).unwrap_or_default(), natural(number))
}

pub(super) fn table(part: Part) -> &'static str {
    match part {
        Part::Input => "inputs",
        Part::S3Config => "s3_configs",
        Part::Output => "outputs",
    }
}

/// SQLite's integers have a sign.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(natural(millis))
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn bytes(length: i64) -> usize {
    usize::try_from(length).unwrap_or_default()
}

fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

const PUT: &str = "INSERT OR REPLACE INTO jobs VALUES (:key, :id, :place, :low_priority, :state, :submitted, :expires, \
    :retention, :execution_timeout, :webhook, :webhook_due, :traceparent, :attempt, :retries, :delay, :execution, :worker, :error, \
    :cancel_told, :input_bytes, :s3_config_bytes, :output_bytes, :poller, :holder, :since, :execution_deadline, :leased, \
    :forget_at, :cost, :webhook_given_up, :webhook_error, :batch, :ttl, :far_id, :idempotency_key, :body_digest, :share, \
    :handovers, :handover_since, :far_cancel)";

pub(super) fn put(connection: &Connection, endpoint: u32, record: &Record<usize>) -> rusqlite::Result<()> {
    let Record { id, number, request, submitted, expires, position, state, attempt, ending, notices, handovers } =
        record;
    let (state, run, forget_at) = match state {
        State::Queued => (Status::InQueue, None, None),
        State::Running(run) => (Status::InProgress, Some(run), None),
        State::Finished { status, forget_at } => (*status, None, Some(*forget_at)),
    };
    let given_up = match &notices.report {
        Report::GivenUp { at, reason, .. } => Some((millis(*at), &**reason)),
        Report::None | Report::Due { .. } => None,
    };
    connection.prepare_cached(PUT)?.execute(named_params! {
        ":key": key(endpoint, *number),
        ":id": &**id,
        ":place": integer(position.number),
        ":low_priority": position.low_priority,
        ":state": state.name(),
        ":submitted": millis(*submitted),
        ":expires": millis(*expires),
        ":retention": millis(request.retention),
        ":execution_timeout": millis(request.policy.execution_timeout.unwrap_or_default()),
        ":webhook": request.webhook.as_deref(),
        ":webhook_due": matches!(notices.report, Report::Due { .. }),
        ":traceparent": request.traceparent.as_deref(),
        ":attempt": attempt.number,
        ":retries": attempt.retries,
        ":delay": attempt.delay.map(millis),
        ":execution": attempt.execution.map(millis),
        ":worker": attempt.worker.as_deref(),
        ":error": ending.error,
        ":cancel_told": notices.cancel_reported,
        ":input_bytes": length(request.input),
        ":s3_config_bytes": request.s3_config.map(length),
        ":output_bytes": ending.output.map(length),
        ":poller": run.map(|run| &*run.poller),
        ":holder": run.map(|run| &*run.worker),
        ":since": run.map(|run| millis(run.since)),
        ":execution_deadline": run.and_then(|run| run.execution_deadline).map(millis),
        ":leased": run.map(|run| run.lease.is_some()),
        ":forget_at": forget_at.map(millis),
        ":idempotency_key": request.idempotency.as_ref().map(|idempotency| idempotency.key),
        ":body_digest": request.idempotency.as_ref().map(|idempotency| idempotency.body),
        ":share": request.share.as_deref(),
        ":cost": ending.cost.as_ref().map(|cost| cost.get()),
        ":webhook_given_up": given_up.map(|(at, _)| at),
        ":webhook_error": given_up.map(|(_, reason)| reason),
        ":batch": request.batch.as_deref(),
        ":ttl": millis(request.policy.ttl),
        ":far_id": run.and_then(|run| run.far_id.as_deref()),
        ":handovers": handovers.over,
        ":handover_since": handovers.since.map(millis),
        ":far_cancel": handovers.cancel.as_deref(),
    })?;
    Ok(())
}

/// Reads a row of `SELECT * FROM jobs`.
pub(super) fn get(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u32, Record<usize>)> {
    let (endpoint, number) = split_key(row.get("key")?);
    let text = |name| row.get::<_, Option<Arc<str>>>(name);
    let number_of = |name| row.get::<_, Option<i64>>(name);
    let time = |name| row.get(name).map(duration);
    let position = Position { low_priority: row.get("low_priority")?, round: 0, number: natural(row.get("place")?) };
    let digest = |name| row.get::<_, Option<Digest>>(name);
    let (submitted, expires) = (time("submitted")?, time("expires")?);
    let request = Request {
        input: bytes(row.get("input_bytes")?),
        s3_config: number_of("s3_config_bytes")?.map(bytes),
        webhook: text("webhook")?,
        traceparent: text("traceparent")?,
        batch: text("batch")?,
        policy: Policy {
            execution_timeout: Some(time("execution_timeout")?).filter(|timeout| !timeout.is_zero()),
            ttl: number_of("ttl")?.map_or_else(|| expires.saturating_sub(submitted), duration),
            low_priority: position.low_priority,
        },
        retention: time("retention")?,
        idempotency: digest("idempotency_key")?
            .zip(digest("body_digest")?)
            .map(|(key, body)| Idempotency { key, body }),
        share: text("share")?,
    };
    let attempt = Attempt {
        number: small(row.get("attempt")?),
        retries: small(row.get("retries")?),
        delay: number_of("delay")?.map(duration),
        execution: number_of("execution")?.map(duration),
        worker: text("worker")?,
    };
    let ending = Ending {
        output: number_of("output_bytes")?.map(bytes),
        error: row.get("error")?,
        cost: row.get::<_, Option<String>>("cost")?.map(payload).transpose()?,
    };
    // Until when the record is kept for it is decided anew: time in which nobody could deliver does not count.
    let report = match number_of("webhook_given_up")?.map(duration) {
        _ if row.get("webhook_due")? => Report::Due { until: Duration::ZERO },
        Some(at) => Report::GivenUp { at, until: at, reason: text("webhook_error")?.unwrap_or_default() },
        None => Report::None,
    };
    let notices = Notices { report, cancel_reported: row.get("cancel_told")? };
    let state = match status(&row.get::<_, String>("state")?)? {
        Status::InQueue => State::Queued,
        Status::InProgress => State::Running(Run {
            poller: row.get("poller")?,
            worker: row.get("holder")?,
            since: time("since")?,
            execution_deadline: number_of("execution_deadline")?.map(duration),
            lease: row.get::<_, bool>("leased")?.then_some(Duration::ZERO),
            far_id: text("far_id")?,
        }),
        status => State::Finished { status, forget_at: time("forget_at")? },
    };
    let handovers = Handovers {
        over: small(row.get("handovers")?),
        since: number_of("handover_since")?.map(duration),
        cancel: text("far_cancel")?,
    };
    let id = row.get("id")?;
    Ok((
        endpoint,
        Record { id, number, request, submitted, expires, position, state, attempt, ending, notices, handovers },
    ))
}

pub(super) fn put_batch(connection: &Connection, endpoint: u32, batch: &BatchRecord) -> rusqlite::Result<()> {
    let BatchRecord { id, number, name, state, created, expires } = batch;
    let sql = "INSERT OR REPLACE INTO batches VALUES (:key, :id, :name, :state, :created, :expires)";
    connection.prepare_cached(sql)?.execute(named_params! {
        ":key": key(endpoint, *number),
        ":id": &**id,
        ":name": name.as_deref(),
        ":state": state.stored_name(),
        ":created": millis(*created),
        ":expires": expires.map(millis),
    })?;
    Ok(())
}

/// Reads a row of `SELECT * FROM batches`.
pub(super) fn get_batch(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u32, BatchRecord)> {
    let (endpoint, number) = split_key(row.get("key")?);
    let stored: String = row.get("state")?;
    let state = BatchState::ALL.into_iter().find(|state| state.stored_name() == stored);
    let state = state.ok_or_else(|| unknown(&format!("batch state {stored}")))?;
    let created = duration(row.get("created")?);
    let expires = row.get::<_, Option<i64>>("expires")?.map(duration);
    Ok((endpoint, BatchRecord { id: row.get("id")?, number, name: row.get("name")?, state, created, expires }))
}

/// JSON text from a column.
pub(super) fn payload(text: String) -> rusqlite::Result<Payload> {
    let value = RawValue::from_string(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into()))?;
    Ok(value.into())
}

fn status(name: &str) -> rusqlite::Result<Status> {
    Status::ALL.into_iter().find(|status| status.name() == name).ok_or_else(|| unknown(&format!("job state {name}")))
}

fn unknown(what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, format!("there is no {what}").into())
}
