//! The tables and their versions. They only move forward, one replica at a time, while older replicas run.

use deadpool_postgres::Client;

use super::connect::{DatabaseError, DatabaseUrl, MIN_VERSION};

/// The newest version that this program knows.
const VERSION: i32 = 2;

/// Statements that bring the tables from version 0, 1 … to the next one. Each must leave older programs working.
const STEPS: [&str; 2] = [
    include_str!("schema.sql"),
    "ALTER TABLE jobs ADD COLUMN cancelled_elsewhere boolean NOT NULL DEFAULT false; \
     CREATE INDEX jobs_cancelled_elsewhere ON jobs (endpoint, number) WHERE cancelled_elsewhere;",
];

/// Keeps other replicas from migrating at the same moment, and from starting while jobs are moved.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(7309453286513713)";

/// Checks the server and brings the tables to this program's version; returns the version that was found.
pub(super) async fn migrate(client: &Client, url: &DatabaseUrl) -> Result<i32, DatabaseError> {
    let explain = |error: tokio_postgres::Error| url.explain(&error);
    check_server(client, url).await?;
    client.batch_execute("BEGIN").await.map_err(explain)?;
    let outcome = migrate_locked(client, url).await;
    let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(explain)?;
    outcome
}

async fn migrate_locked(client: &Client, url: &DatabaseUrl) -> Result<i32, DatabaseError> {
    let explain = |error: tokio_postgres::Error| url.explain(&error);
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
    let known = "SELECT to_regclass('runpod_endpoint_version') IS NOT NULL, to_regclass('jobs') IS NOT NULL";
    let row = client.query_one(known, &[]).await.map_err(explain)?;
    let (is_ours, has_jobs): (bool, bool) = (row.get(0), row.get(1));
    if !is_ours {
        return if has_jobs { Err(DatabaseError::Foreign) } else { Ok(None) };
    }
    let row = client.query_one("SELECT version FROM runpod_endpoint_version", &[]).await.map_err(explain)?;
    check_version(row.get(0))?;
    Ok(Some(row.get(0)))
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
    fn there_is_a_step_to_each_version() {
        assert_eq!(usize::try_from(VERSION).unwrap(), STEPS.len());
    }
}
