//! The tables and their versions. They only move forward, one replica at a time, while older replicas run.

use std::time::Duration;

use deadpool_postgres::Client;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::connect::DatabaseUrl;
use super::database_error::{DatabaseError, MIN_VERSION};

/// The newest version that this program knows.
const VERSION: i32 = 3;

/// Statements that bring the tables from version 0, 1 … to the next one. Each must leave older programs working.
const STEPS: [&str; 3] = [
    include_str!("schema.sql"),
    "ALTER TABLE jobs ADD COLUMN cancelled_elsewhere boolean NOT NULL DEFAULT false; \
     CREATE INDEX jobs_cancelled_elsewhere ON jobs (endpoint, number) WHERE cancelled_elsewhere;",
    "ALTER TABLE counters ADD COLUMN mistakes bigint NOT NULL DEFAULT 0, ADD COLUMN timeouts bigint NOT NULL DEFAULT 0",
];

/// What the statements create, besides the table with the version: whatever else has such a name is another program's.
pub(super) const NAMES: [&str; 14] = [
    "endpoints",
    "numbers",
    "jobs",
    "batches",
    "payloads",
    "streams",
    "chunks",
    "workers",
    "polls",
    "counters",
    "replicas",
    "turns",
    "beat",
    "runpod_endpoint_version",
];

/// Tries of a migration that other transactions get in the way of.
const MAX_CONFLICTS: u32 = 10;

/// Keeps other replicas from migrating at the same moment, and from starting while jobs are moved.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(7309453286513713)";

/// Why a migration did not come about.
enum Obstacle {
    /// A deadlock, or rows that others have changed: nothing was changed, and it may go better at once.
    Conflict(DatabaseError),
    Final(DatabaseError),
}

impl From<DatabaseError> for Obstacle {
    fn from(error: DatabaseError) -> Self {
        Self::Final(error)
    }
}

/// Checks the server and brings the tables to this program's version; returns the version that was found.
pub(super) async fn migrate(client: &Client, url: &DatabaseUrl) -> Result<i32, DatabaseError> {
    check_server(client, url).await?;
    let mut conflicts = 0;
    loop {
        match try_to_migrate(client, url).await {
            Ok(found) => return Ok(found),
            Err(Obstacle::Conflict(_)) if conflicts < MAX_CONFLICTS => {
                conflicts += 1;
                sleep(Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_bytes()[0]))).await;
            }
            Err(Obstacle::Conflict(error) | Obstacle::Final(error)) => return Err(error),
        }
    }
}

async fn try_to_migrate(client: &Client, url: &DatabaseUrl) -> Result<i32, Obstacle> {
    let obstacle = |error: tokio_postgres::Error| {
        let conflicts = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
        let is_conflict = error.code().is_some_and(|code| conflicts.contains(code));
        let explained = url.explain(&error);
        if is_conflict { Obstacle::Conflict(explained) } else { Obstacle::Final(explained) }
    };
    client.batch_execute("BEGIN").await.map_err(obstacle)?;
    let outcome = migrate_locked(client, url, &obstacle).await;
    let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(obstacle)?;
    outcome
}

async fn migrate_locked(
    client: &Client,
    url: &DatabaseUrl,
    explain: &impl Fn(tokio_postgres::Error) -> Obstacle,
) -> Result<i32, Obstacle> {
    client.execute(LOCK, &[]).await.map_err(explain)?;
    let found = version(client, url).await?;
    if found == Some(VERSION) {
        return Ok(VERSION);
    }
    if found.is_none() {
        let create = "CREATE TABLE runpod_endpoint_version (version integer NOT NULL); \
            INSERT INTO runpod_endpoint_version VALUES (0)";
        client.batch_execute(create).await.map_err(explain)?;
    }
    let found = found.unwrap_or_default();
    let done = usize::try_from(found).unwrap_or_default();
    for step in STEPS.iter().skip(done) {
        client.batch_execute(step).await.map_err(explain)?;
    }
    client.execute("UPDATE runpod_endpoint_version SET version = $1", &[&VERSION]).await.map_err(explain)?;
    tracing::info!(from = found, to = VERSION, "The tables of the database are up to date.");
    Ok(found)
}

/// The version of the tables; `None` where there are none.
pub(super) async fn version(client: &Client, url: &DatabaseUrl) -> Result<Option<i32>, DatabaseError> {
    let explain = |error: tokio_postgres::Error| url.explain(&error);
    let known = "SELECT to_regclass('runpod_endpoint_version') IS NOT NULL, coalesce((SELECT string_agg(relname, ', ' ORDER BY relname) \
        FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relname = ANY($1::text[])), '')";
    let row = client.query_one(known, &[&&NAMES[..]]).await.map_err(explain)?;
    let (is_ours, foreign): (bool, String) = (row.get(0), row.get(1));
    if !is_ours {
        return if foreign.is_empty() { Ok(None) } else { Err(DatabaseError::Foreign(foreign)) };
    }
    let row = client.query_opt("SELECT version FROM runpod_endpoint_version", &[]).await.map_err(explain)?;
    let found = row.ok_or_else(|| DatabaseError::Foreign("an empty runpod_endpoint_version".to_owned()))?.get(0);
    check_version(found)?;
    Ok(Some(found))
}

/// The version of the server, unless it is too old.
pub(super) async fn check_server(client: &Client, url: &DatabaseUrl) -> Result<String, DatabaseError> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version')";
    let row = client.query_one(sql, &[]).await.map_err(|error| url.explain(&error))?;
    let (number, name): (i32, String) = (row.get(0), row.get(1));
    check_number(number, &name)?;
    Ok(name)
}

fn check_number(number: i32, name: &str) -> Result<(), DatabaseError> {
    let too_old = u32::try_from(number).unwrap_or_default() < MIN_VERSION * 10_000;
    if too_old { Err(DatabaseError::TooOld(name.to_owned())) } else { Ok(()) }
}

fn check_version(found: i32) -> Result<(), DatabaseError> {
    if found > VERSION { Err(DatabaseError::Newer { found, known: VERSION }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_and_newer_tables_are_refused() {
        let old = check_number(130_014, "13.14").unwrap_err().to_string();
        assert!(old.contains("13.14") && old.contains("14 or newer"), "{old}");
        assert!(check_number(140_000, "14.0").is_ok());
        let newer = check_version(VERSION + 1).unwrap_err().to_string();
        assert!(newer.contains("upgrade runpod-endpoint"), "{newer}");
    }

    #[test]
    fn every_name_that_is_created_is_known() {
        let created = STEPS.iter().flat_map(|step| step.lines()).filter_map(|line| {
            let rest = line.strip_prefix("CREATE TABLE ").or_else(|| line.strip_prefix("CREATE SEQUENCE "))?;
            rest.split_whitespace().next()
        });
        let created: Vec<&str> = created.chain(["runpod_endpoint_version"]).collect();
        assert_eq!(created, NAMES);
    }

    #[test]
    fn there_is_a_step_to_each_version() {
        assert_eq!(usize::try_from(VERSION).unwrap(), STEPS.len());
    }
}
