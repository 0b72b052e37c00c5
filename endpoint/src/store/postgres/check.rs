//! What is to be known of a database before jobs are entrusted to it, and what of it is set up badly.

use deadpool_postgres::Client;

use super::connect::{self, DatabaseError, DatabaseUrl};
use super::{notify, schema};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub value: String,
    /// What is wrong with it and what to do; `None` when it is as it should be.
    pub fix: Option<String>,
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
        fix: "a power failure may lose or damage everything: ALTER SYSTEM SET fsync = on",
    },
    Rule {
        name: "full_page_writes",
        is_good: |value| value == "on",
        fix: "a power failure may damage the database: ALTER SYSTEM SET full_page_writes = on",
    },
    Rule {
        name: "synchronous_commit",
        is_good: |value| value != "off" && value != "local",
        fix: "jobs that were acknowledged may be lost: ALTER SYSTEM SET synchronous_commit = on",
    },
    Rule {
        name: "synchronous_standby_names",
        is_good: |value| !value.is_empty(),
        fix: "without a synchronous standby, the loss of this server's disk loses acknowledged jobs: \
              set synchronous_standby_names = 'ANY 1 (…)', or keep backups",
    },
    Rule {
        name: "autovacuum",
        is_good: |value| value == "on",
        fix: "dead rows will slow the queue down: ALTER SYSTEM SET autovacuum = on",
    },
    Rule {
        name: "max_connections",
        is_good: |value| value.parse().is_ok_and(|value: u32| value >= 50),
        fix: "each endpoint opens up to 18 connections: ALTER SYSTEM SET max_connections = 100, and restart the server",
    },
];

/// The age of a transaction from which on it keeps dead rows alive for too long, in seconds.
const LONG: f64 = 60.0;

/// Brings the tables to this program's version; returns the one that was found.
///
/// # Errors
/// When the database cannot be used.
pub async fn migrate_database(url: &DatabaseUrl) -> Result<i32, DatabaseError> {
    let pool = connect::pool(url, connect::tls()?)?;
    let client = connect::first(&pool, url).await?;
    schema::migrate(&client, url).await
}

/// Looks at the server, its settings and what this user may do. Changes nothing.
///
/// # Errors
/// When the database cannot be reached.
pub async fn check_database(url: &DatabaseUrl) -> Result<Vec<Finding>, DatabaseError> {
    let tls = connect::tls()?;
    let pool = connect::pool(url, tls.clone())?;
    let client = connect::first(&pool, url).await?;
    let ask = async |sql: &str| -> Result<String, DatabaseError> {
        let row = client.query_one(sql, &[]).await.map_err(|error| url.explain(&error))?;
        Ok(row.get(0))
    };
    let mut findings = vec![Finding { name: "server_version", value: ask("SHOW server_version").await?, fix: None }];
    for Rule { name, is_good, fix } in RULES {
        let value = ask(&format!("SHOW {name}")).await?;
        let fix = (!is_good(&value)).then(|| fix.to_owned());
        findings.push(Finding { name, value, fix });
    }
    let may_create = ask("SELECT has_schema_privilege('public', 'CREATE')::text").await?;
    let fix =
        (may_create != "true").then(|| "run as a superuser: GRANT CREATE ON SCHEMA public TO this user".to_owned());
    findings.push(Finding { name: "may create tables", value: may_create, fix });
    findings.push(long_transaction(&client, url).await?);
    let arrives = notify::probe(url, &tls, &client).await;
    let (value, fix) = match arrives {
        Ok(()) => ("arrive".to_owned(), None),
        Err(DatabaseError::Pooler) => ("do not arrive".to_owned(), Some(DatabaseError::Pooler.to_string())),
        Err(error) => return Err(error),
    };
    findings.push(Finding { name: "notifications", value, fix });
    Ok(findings)
}

async fn long_transaction(client: &Client, url: &DatabaseUrl) -> Result<Finding, DatabaseError> {
    let sql = "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 FROM pg_stat_activity \
        WHERE pid <> pg_backend_pid() AND datname = current_database()";
    let row = client.query_one(sql, &[]).await.map_err(|error| url.explain(&error))?;
    let age: f64 = row.get(0);
    let fix = (age > LONG).then(|| {
        "dead rows cannot be removed meanwhile and slow the queue down: end it, or set idle_in_transaction_session_timeout for its user"
            .to_owned()
    });
    Ok(Finding { name: "oldest transaction", value: format!("{age:.0} s"), fix })
}
