//! Jobs as rows.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, named_params};
use serde_json::value::RawValue;

use crate::store::Status;
use crate::store::content::Part;
use crate::store::job::{Payload, Place, Run, State};
use crate::store::state::Row;

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
    :forget_at, :cost)";

pub(super) fn put(connection: &Connection, endpoint: u32, row: &Row) -> rusqlite::Result<()> {
    let (state, run, forget_at) = match &row.state {
        State::Queued(_) => (Status::InQueue, None, None),
        State::Running(run) => (Status::InProgress, Some(run), None),
        State::Finished { status, forget_at } => (*status, None, Some(*forget_at)),
    };
    connection.prepare_cached(PUT)?.execute(named_params! {
        ":key": key(endpoint, row.number),
        ":id": &*row.id,
        ":place": integer(row.place.number),
        ":low_priority": row.place.low_priority,
        ":state": state.name(),
        ":submitted": millis(row.submitted),
        ":expires": millis(row.expires),
        ":retention": millis(row.retention),
        ":execution_timeout": millis(row.execution_timeout.unwrap_or_default()),
        ":webhook": row.webhook,
        ":webhook_due": row.webhook_due,
        ":traceparent": row.traceparent.as_deref(),
        ":attempt": row.attempt,
        ":retries": row.retries,
        ":delay": row.delay.map(millis),
        ":execution": row.execution.map(millis),
        ":worker": row.worker.as_deref(),
        ":error": row.error,
        ":cancel_told": row.cancel_told,
        ":input_bytes": length(row.input_bytes),
        ":s3_config_bytes": row.s3_config_bytes.map(length),
        ":output_bytes": row.output_bytes.map(length),
        ":poller": run.map(|run| &*run.poller),
        ":holder": run.map(|run| &*run.worker),
        ":since": run.map(|run| millis(run.since)),
        ":execution_deadline": run.map(|run| millis(run.execution_deadline)),
        ":leased": run.map(|run| run.lease.is_some()),
        ":forget_at": forget_at.map(millis),
        ":cost": row.cost.as_deref().map(RawValue::get),
    })?;
    Ok(())
}

/// Reads a row of `SELECT * FROM jobs`.
pub(super) fn get(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u32, Row)> {
    let (endpoint, number) = split_key(row.get("key")?);
    let text = |name| row.get::<_, Option<Arc<str>>>(name);
    let length_of = |name| row.get::<_, Option<i64>>(name);
    let place = Place { low_priority: row.get("low_priority")?, number: natural(row.get("place")?) };
    let state: String = row.get("state")?;
    let state = match status(&state)? {
        Status::InQueue => State::Queued(place),
        Status::InProgress => State::Running(Run {
            poller: row.get("poller")?,
            worker: row.get("holder")?,
            since: duration(row.get("since")?),
            execution_deadline: duration(row.get("execution_deadline")?),
            lease: row.get::<_, bool>("leased")?.then_some(Duration::ZERO),
        }),
        status => State::Finished { status, forget_at: duration(row.get("forget_at")?) },
    };
    let job = Row {
        number,
        id: row.get("id")?,
        place,
        state,
        submitted: duration(row.get("submitted")?),
        expires: duration(row.get("expires")?),
        retention: duration(row.get("retention")?),
        execution_timeout: Some(duration(row.get("execution_timeout")?)).filter(|timeout| !timeout.is_zero()),
        webhook: row.get("webhook")?,
        webhook_due: row.get("webhook_due")?,
        traceparent: text("traceparent")?,
        attempt: small(row.get("attempt")?),
        retries: small(row.get("retries")?),
        delay: length_of("delay")?.map(duration),
        execution: length_of("execution")?.map(duration),
        worker: text("worker")?,
        error: row.get("error")?,
        cost: row.get::<_, Option<String>>("cost")?.map(payload).transpose()?,
        cancel_told: row.get("cancel_told")?,
        input_bytes: bytes(row.get("input_bytes")?),
        s3_config_bytes: length_of("s3_config_bytes")?.map(bytes),
        output_bytes: length_of("output_bytes")?.map(bytes),
        payloads: Vec::new(),
    };
    Ok((endpoint, job))
}

/// JSON text from a column.
pub(super) fn payload(text: String) -> rusqlite::Result<Payload> {
    let value = RawValue::from_string(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into()))?;
    Ok(value.into())
}

fn status(name: &str) -> rusqlite::Result<Status> {
    let all =
        [Status::InQueue, Status::InProgress, Status::Completed, Status::Failed, Status::Cancelled, Status::TimedOut];
    all.into_iter().find(|status| status.name() == name).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, format!("there is no job state {name}").into())
    })
}
