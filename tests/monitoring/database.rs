//! Endpoints that share a database, and incidents of that database, under a real Prometheus.

use std::path::Path;

use end_to_end_tests::{Daemon, Endpoint, Postgres, Worker, WorkerOptions, binary};
use rustix::process::Signal;
use serde_json::json;

use crate::live::{Traffic, has_data, is_of_database, panels, selectors};
use crate::stack::Prometheus;

const NO_ALERTMANAGER: &str = "127.0.0.1:9";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it makes a database slow and full for minutes: `make soak`"]
async fn incidents_of_a_database_fire_their_alerts_and_end() {
    let Some(server) = Postgres::start() else { return };
    let database = server.database();
    let flags = ["--database", &*database];
    let (endpoint, mut other) = (Endpoint::start(&flags).await, Endpoint::start(&flags).await);
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    let standby = server.standby();
    let prometheus = Prometheus::start(&[&worker.http], &endpoint.base, NO_ALERTMANAGER).await;
    let prometheus = &prometheus;
    let traffic = Traffic::of(&endpoint.client(), json!({"do": "ok"}));
    every_query_has_data(prometheus).await;
    prometheus.has_answer("both endpoints", "runpod_endpoint_database_replicas == 2").await;
    prometheus.has_answer("the standby", "runpod_endpoint_database_standbys == 1").await;

    let missing = ["RunpodReplicaMissing", "RunpodStandbyMissing"];
    over(prometheus, &missing).await;
    other.daemon.signal(Signal::KILL);
    standby.kill();
    fire(prometheus, &missing).await;
    other.restart(Signal::KILL).await;
    standby.run();
    over(prometheus, &missing).await;

    slow_transactions(prometheus, &database).await;
    dead_rows(prometheus, &server, &database).await;
    drop(traffic);

    over(prometheus, &["RunpodDatabaseDown"]).await;
    server.sql("postgres", "ALTER SYSTEM SET max_connections = 30");
    server.kill();
    fire(prometheus, &["RunpodDatabaseDown"]).await;
    server.run();
    over(prometheus, &["RunpodDatabaseDown"]).await;
    many_connections(prometheus, &database).await;
}

async fn fire(prometheus: &Prometheus, alerts: &[&str]) {
    for alert in alerts {
        prometheus.fires(alert).await;
    }
}

async fn over(prometheus: &Prometheus, alerts: &[&str]) {
    for alert in alerts {
        prometheus.is_over(alert).await;
    }
}

async fn every_query_has_data(prometheus: &Prometheus) {
    let mut queried = 0;
    for (panel, queries) in panels() {
        for query in queries.iter().filter(|query| is_of_database(query)) {
            queried += 1;
            has_data(prometheus, &panel, query).await;
        }
    }
    assert!(queried >= 8, "the panels are elsewhere");
    let rules = prometheus.rules().await;
    for rule in &rules {
        let query = rule["query"].as_str().unwrap();
        for selector in selectors(query).iter().filter(|selector| is_of_database(selector)) {
            has_data(prometheus, &rule["name"].to_string(), selector).await;
        }
    }
}

/// The server looks whether a client is still there, and ends what it was doing.
const CHECK_CLIENT: &str = "SET client_connection_check_interval = '500ms'";

/// A session that does this until it is dropped.
fn session(database: &str, sql: &str) -> Daemon {
    let args = ["-X", "-d", database, "-c", CHECK_CLIENT, "-c", sql].map(str::to_owned);
    Daemon::start("psql", Path::new("/usr/bin/psql"), &args, &[])
}

/// Everybody who writes has to wait for another program, again and again. It locks again at once: on a busy machine the start of a program
/// takes so long that the quick transactions in between would hide the slow ones.
async fn slow_transactions(prometheus: &Prometheus, database: &str) {
    const ALERT: &str = "RunpodDatabaseSlow";
    prometheus.is_over(ALERT).await;
    let lock = "DO $$ BEGIN LOOP LOCK TABLE jobs IN EXCLUSIVE MODE; PERFORM pg_sleep(1); COMMIT; END LOOP; END $$";
    let in_the_way = session(database, lock);
    prometheus.fires(ALERT).await;
    drop(in_the_way);
    prometheus.is_over(ALERT).await;
}

/// What is written and taken back is dead at once.
async fn dead_rows(prometheus: &Prometheus, server: &Postgres, database: &str) {
    const ALERT: &str = "RunpodDatabaseDeadRows";
    prometheus.is_over(ALERT).await;
    server.sql(database, "ALTER TABLE jobs SET (autovacuum_enabled = off)");
    server.sql(
        database,
        "BEGIN; INSERT INTO jobs SELECT copy.* FROM (SELECT jobs AS job FROM jobs LIMIT 1) AS one, generate_series(1, 120000) AS n, \
         LATERAL jsonb_populate_record(job, jsonb_build_object('number', -n, 'id', n)) AS copy; ROLLBACK",
    );
    prometheus.fires(ALERT).await;
    server.sql(database, "VACUUM jobs");
    prometheus.is_over(ALERT).await;
}

/// Other programs take what connections there are.
async fn many_connections(prometheus: &Prometheus, database: &str) {
    const ALERT: &str = "RunpodDatabaseConnections";
    prometheus.is_over(ALERT).await;
    // Nobody else could connect to end what they do.
    let crowd = [(); 26].map(|()| session(database, "SELECT pg_sleep(600)"));
    prometheus.fires(ALERT).await;
    drop(crowd);
    prometheus.is_over(ALERT).await;
}
