//! What is to be known of a database before jobs are entrusted to it, and what of it is set up badly.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deadpool_postgres::Client;
use tokio_postgres::Row;

use super::connect::{self, Bound, DatabaseUrl};
use super::database_error::{DatabaseError, grant_schema, grant_tables};
use super::room::PER_REPLICA;
use super::{notify, rows, schema};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub value: String,
    /// What is to be said about it.
    pub verdict: Verdict,
}

/// What is to be said about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Good,
    /// A choice that has a price; the text names both.
    Note(String),
    /// Something is wrong; the text says what to do.
    Fix(String),
}

impl Verdict {
    fn of(is_good: bool, fix: impl FnOnce() -> String) -> Self {
        if is_good { Self::Good } else { Self::Fix(fix()) }
    }
}

/// How a setting should be, and what to do when it is not.
struct Rule {
    name: &'static str,
    is_good: fn(&str) -> bool,
    fix: &'static str,
}

const RULES: [Rule; 6] = [
    Rule {
        name: "fsync",
        is_good: |value| value == "on",
        fix: "a power failure may lose or damage everything: ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()",
    },
    Rule {
        name: "full_page_writes",
        is_good: |value| value == "on",
        fix: "a power failure may damage the database: ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()",
    },
    Rule {
        name: "synchronous_commit",
        is_good: |value| value != "off" && value != "local",
        fix: "jobs that were acknowledged may be lost: ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf(), and remove \
              the setting from this user and this database",
    },
    Rule {
        name: "autovacuum",
        is_good: |value| value == "on",
        fix: "dead rows will slow the queue down: ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()",
    },
    Rule {
        name: "track_counts",
        is_good: |value| value == "on",
        fix: "autovacuum does nothing without it: ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()",
    },
    Rule {
        name: "server_encoding",
        is_good: |value| value == "UTF8",
        fix: "texts of jobs may be refused: createdb --encoding UTF8 --template template0 NAME",
    },
];

/// Connections that two endpoints, and a check with its two, may need.
const CONNECTIONS: usize = 2 * PER_REPLICA + 2;

/// The age of a transaction from which on it keeps dead rows alive for too long, in seconds.
const LONG: f64 = 60.0;

/// How far the database's clock may be from this machine's, and how close to whole hours a distance is when a time zone is mistaken.
const CLOCK_DISTANCE: Duration = Duration::from_secs(5);
const HOUR: u64 = 3600;

/// How many connections this user may open, and what sets that bound.
const LIMITS: &str = "SELECT least(settings.most, role.rolconnlimit, base.datconnlimit)::bigint AS most, \
    settings.most::bigint AS server, role.rolconnlimit AS role, base.datconnlimit AS base FROM \
    (SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most) AS settings, \
    (SELECT CASE WHEN rolconnlimit < 0 THEN 2147483647 ELSE rolconnlimit END FROM pg_roles WHERE rolname = current_user) AS role, \
    (SELECT CASE WHEN datconnlimit < 0 THEN 2147483647 ELSE datconnlimit END FROM pg_database WHERE datname = current_database()) AS base";
/// Where tables are, or would be created.
const SCHEMA: &str = "SELECT coalesce((SELECT relnamespace::regnamespace::text FROM pg_class \
    WHERE oid = to_regclass('runpod_endpoint_version')), quote_ident(current_schema()), 'public') AS schema, \
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create";
/// Tables of ours that this user may not use, and those of which the rows, or the long texts, are not vacuumed by themselves.
const TABLES: &str = "SELECT coalesce(string_agg(relname, ', ' ORDER BY relname) FILTER (WHERE CASE relkind \
    WHEN 'S' THEN NOT (has_sequence_privilege(oid, 'SELECT') AND has_sequence_privilege(oid, 'USAGE') \
        AND has_sequence_privilege(oid, 'UPDATE')) \
    ELSE NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE') \
        AND has_table_privilege(oid, 'DELETE')) END), '') AS closed, \
    coalesce(string_agg(relname, ', ' ORDER BY relname) FILTER (WHERE EXISTS (SELECT FROM pg_class AS part, \
        LATERAL pg_options_to_table(part.reloptions) WHERE part.oid IN (ours.oid, ours.reltoastrelid) \
        AND option_name = 'autovacuum_enabled' AND NOT option_value::boolean)), '') AS unvacuumed FROM pg_class AS ours \
    WHERE relname = ANY($1::text[]) \
    AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('runpod_endpoint_version'))";
/// Not everybody may see in which way a standby is connected, only that it is.
const STANDBYS: &str = "SELECT current_setting('synchronous_standby_names') AS names, count(*) AS connected, \
    count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS synchronous, \
    pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all, quote_ident(current_user) AS name FROM pg_stat_replication";

/// Brings the tables to this program's version; returns the one that was found.
///
/// # Errors
/// When the database cannot be used.
pub async fn migrate_database(url: &DatabaseUrl) -> Result<i32, DatabaseError> {
    let tls = connect::tls()?;
    let pool = connect::pool(url, tls.clone())?;
    let client = connect::first(&pool, url).await?;
    // Through a pooler of the wrong kind the tables would be created by several sessions.
    notify::probe(url, &tls, &client).await?;
    schema::migrate(&client, url).await
}

/// Looks at the server, its settings and what this user may do. Changes nothing.
///
/// # Errors
/// When the database cannot be reached, or cannot be used as it is.
pub async fn check_database(url: &DatabaseUrl) -> Result<Vec<Finding>, DatabaseError> {
    let tls = connect::tls()?;
    let pool = connect::pool(url, tls.clone())?;
    let client = connect::first(&pool, url).await?;
    let look = Look { client: &client, url };
    let server_version = schema::check_server(&client, url).await?;
    // First of all: what is found through a pooler of the wrong kind may come from several sessions.
    notify::probe(url, &tls, &client).await?;
    let mut findings = vec![
        Finding { name: "server_version", value: server_version, verdict: Verdict::Good },
        Finding { name: "notifications", value: "arrive".to_owned(), verdict: Verdict::Good },
    ];
    for Rule { name, is_good, fix } in RULES {
        let value: String = look.row(&format!("SHOW {name}")).await?.get(0);
        let verdict = Verdict::of(is_good(&value), || fix.to_owned());
        findings.push(Finding { name, value, verdict });
    }
    findings.push(look.standbys().await?);
    findings.push(look.connections().await?);
    let tables = schema::version(&client, url).await?;
    findings.extend(look.rights(tables).await?);
    findings.push(look.oldest_transaction().await?);
    findings.push(look.clock().await?);
    Ok(findings)
}

struct Look<'a> {
    client: &'a Client,
    url: &'a DatabaseUrl,
}

impl Look<'_> {
    async fn row(&self, sql: &str) -> Result<Row, DatabaseError> {
        self.client.query_one(sql, &[]).await.map_err(|error| self.url.explain(&error))
    }

    async fn standbys(&self) -> Result<Finding, DatabaseError> {
        let row = self.row(STANDBYS).await?;
        let (names, user): (String, String) = (row.get("names"), row.get("name"));
        let seen: i64 = row.get(if row.get("sees_all") { "synchronous" } else { "connected" });
        let verdict = match (names.is_empty(), seen) {
            (true, _) => Verdict::Note(
                "without a synchronous standby, the loss of this server's disk loses acknowledged jobs: set \
                 synchronous_standby_names = 'ANY 1 (…)', or keep backups"
                    .to_owned(),
            ),
            (false, 0) => Verdict::Fix(
                "none of these standbys is connected, and every change waits for one: start a standby with such a name"
                    .to_owned(),
            ),
            (false, _) if row.get("sees_all") => Verdict::Good,
            (false, _) => Verdict::Note(format!(
                "a standby is connected; whether it is one of these is not seen: GRANT pg_read_all_stats TO {user}"
            )),
        };
        Ok(Finding { name: "synchronous_standby_names", value: names, verdict })
    }

    async fn connections(&self) -> Result<Finding, DatabaseError> {
        let row = self.row(LIMITS).await?;
        let most: i64 = row.get("most");
        let bound_by = match () {
            () if row.get::<_, i64>("server") == most => Bound::Server,
            () if i64::from(row.get::<_, i32>("role")) == most => Bound::Role,
            () => Bound::Database,
        };
        let name = self.row("SELECT current_user::text, current_database()::text").await?;
        let fix = bound_by.advice(name.get(0), name.get(1));
        let verdict = Verdict::of(most >= rows::count(CONNECTIONS), || {
            format!(
                "each endpoint opens up to {PER_REPLICA} connections, so two of them and this check need {CONNECTIONS}: {fix}"
            )
        });
        Ok(Finding { name: "connections allowed", value: most.to_string(), verdict })
    }

    async fn rights(&self, tables: Option<i32>) -> Result<Vec<Finding>, DatabaseError> {
        let found = self.row(SCHEMA).await?;
        let (schema, may_create): (String, bool) = (found.get("schema"), found.get("may_create"));
        let user: String = self.row("SELECT current_user::text").await?.get(0);
        let verdict = match (may_create, tables) {
            (true, _) => Verdict::Good,
            (false, None) => {
                Verdict::Fix(format!("run as a superuser in this database: {}", grant_schema(&user, &schema)))
            }
            (false, Some(_)) => Verdict::Note(
                "a newer runpod-endpoint may need other tables: run `database migrate` as their owner before it starts"
                    .to_owned(),
            ),
        };
        let mut findings = vec![
            Finding {
                name: "version of the tables",
                value: tables.map_or_else(|| "none yet".to_owned(), |version| version.to_string()),
                verdict: Verdict::Good,
            },
            Finding { name: "may create tables", value: may_create.to_string(), verdict },
        ];
        if tables.is_some() {
            let row = self.client.query_one(TABLES, &[&&schema::NAMES[..]]).await;
            let row = row.map_err(|error| self.url.explain(&error))?;
            let (closed, unvacuumed): (String, String) = (row.get("closed"), row.get("unvacuumed"));
            let verdict = Verdict::of(closed.is_empty(), || {
                format!("run as their owner: {}; better, use one user for all endpoints", grant_tables(&user, &schema))
            });
            findings.push(Finding { name: "tables without rights", value: closed, verdict });
            let verdict = Verdict::of(unvacuumed.is_empty(), || {
                "dead rows will slow the queue down: ALTER TABLE of each RESET (autovacuum_enabled, \
                 toast.autovacuum_enabled)"
                    .to_owned()
            });
            findings.push(Finding { name: "tables without autovacuum", value: unvacuumed, verdict });
        }
        Ok(findings)
    }

    async fn oldest_transaction(&self) -> Result<Finding, DatabaseError> {
        let sql = "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 AS age, \
            pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all, quote_ident(current_user) AS name FROM pg_stat_activity \
            WHERE pid <> pg_backend_pid() AND datname = current_database()";
        let row = self.row(sql).await?;
        let (age, user): (f64, String) = (row.get("age"), row.get("name"));
        let verdict = match (age <= LONG, row.get("sees_all")) {
            (true, true) => Verdict::Good,
            (true, false) => {
                Verdict::Note(format!("those of other users are not seen: GRANT pg_read_all_stats TO {user}"))
            }
            (false, _) => Verdict::Fix(
                "dead rows cannot be removed meanwhile and slow the queue down: end it, or set idle_in_transaction_session_timeout \
                 for its user"
                    .to_owned(),
            ),
        };
        Ok(Finding { name: "oldest transaction", value: format!("{age:.0} s"), verdict })
    }

    async fn clock(&self) -> Result<Finding, DatabaseError> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let asked = now();
        let theirs = rows::time(self.row(rows::CLOCK).await?.get("now"));
        // It was read somewhere between the two.
        let ours = theirs.clamp(asked, now());
        Ok(clock_finding(theirs, ours))
    }
}

/// Endpoints use the database's clock for everything, so what is wrong with it is wrong with every time that clients see.
fn clock_finding(theirs: Duration, ours: Duration) -> Finding {
    let distance = theirs.abs_diff(ours);
    let direction = if theirs < ours { "behind" } else { "ahead" };
    let beside_hours = (distance.as_secs() + CLOCK_DISTANCE.as_secs()) % HOUR;
    let is_zone = distance >= Duration::from_secs(HOUR / 2) && beside_hours <= 2 * CLOCK_DISTANCE.as_secs();
    let cause = if is_zone { " Whole hours look like a local time that was set as if it were UTC." } else { "" };
    let verdict = Verdict::of(distance <= CLOCK_DISTANCE, || {
        format!(
            "the life of jobs and the times in the console follow the database's clock: set both machines by NTP.{cause}"
        )
    });
    Finding { name: "clock of the server", value: format!("{:.1} s {direction}", distance.as_secs_f64()), verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_hours_wrong_is_told_from_one_that_drifts() {
        let ours = Duration::from_secs(1_700_000_000);
        let fix = |theirs: Duration| match clock_finding(theirs, ours).verdict {
            Verdict::Fix(text) => text,
            verdict => format!("{verdict:?}"),
        };
        assert_eq!(fix(ours + Duration::from_secs(4)), "Good");
        assert_eq!(fix(ours - Duration::from_secs(4)), "Good");
        let drifted = fix(ours - Duration::from_secs(90));
        assert!(drifted.contains("NTP") && !drifted.contains("UTC"), "{drifted}");
        for seconds in [2 * HOUR, 2 * HOUR - 3, 2 * HOUR + 3] {
            let zone = fix(ours + Duration::from_secs(seconds));
            assert!(zone.contains("UTC"), "{seconds}: {zone}");
        }
        assert_eq!(clock_finding(ours - Duration::from_secs(90), ours).value, "90.0 s behind");
    }
}
