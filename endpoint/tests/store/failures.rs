//! What others do to the database: sessions that hold locks, tables that change under a replica that runs.

use std::sync::Arc;
use std::time::Duration;

use end_to_end_tests::{Postgres as Server, until};
use runpod_endpoint::store::{Heartbeat, Limits, Setup, Status, Store, StoreError};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{EP, SOON, done, job_with, new_job, open_database, status, submit, take_ids, view};

/// How long the beat of the replicas has stood still, in seconds.
const STANDS_STILL: &str = "SELECT extract(epoch FROM clock_timestamp())::bigint - at / 1000000 FROM beat";

/// Longer than the five seconds after which time stands still.
const LEASE: Duration = Duration::from_secs(8);

fn seconds(server: &Server, url: &str, sql: &str) -> u64 {
    server.sql(url, sql).parse().unwrap()
}

/// Jobs that a worker holds are not lost because nobody could report: neither before nor after the time is put on top.
async fn keeps_its_jobs(lock: &str) {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let limits = Limits { lease: LEASE, ..Limits::default() };
    let store: Arc<dyn Store> = Arc::new(open_database(&url, &limits.into()).unwrap());
    let held = Heartbeat { jobs: vec!["a".into()], ..Heartbeat::default() };
    submit(&*store, "a").await;
    assert_eq!(take_ids(&*store, "w", 1).await, ["a"]);
    store.heartbeat(EP, "w", held.clone()).await.unwrap();

    let session = server.hold(&url, &format!("BEGIN; {lock}"));
    let long = LEASE.as_secs() + 3;
    until("the beat to stand still", || seconds(server, &url, STANDS_STILL) > long).await;
    drop(session);
    timeout(SOON, async { while store.heartbeat(EP, "w", held.clone()).await.is_err() {} }).await.unwrap();
    let job = view(&*store, "a").await;
    assert_eq!((job.status, store.health(EP).await.unwrap().retried), (Status::InProgress, 0));
    until("the beat to go on", || seconds(server, &url, STANDS_STILL) < 3).await;
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    assert_eq!(status(&*store, "a").await, Status::Completed);
    assert_eq!(store.health(EP).await.unwrap().retried, 0);
}

#[tokio::test]
async fn a_table_that_somebody_has_locked_costs_no_worker_its_jobs() {
    keeps_its_jobs("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE").await;
}

#[tokio::test]
async fn time_that_stands_still_costs_no_worker_its_jobs() {
    keeps_its_jobs("SELECT 1 FROM beat FOR UPDATE").await;
}

/// Clients are told to come again, and what was refused is not queued behind their backs for ever.
#[tokio::test]
async fn a_table_that_somebody_has_locked_is_an_error_and_no_endless_wait() {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let store: Arc<dyn Store> = Arc::new(open_database(&url, &Setup::default()).unwrap());
    submit(&*store, "a").await;
    let session = server.hold(&url, "BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE");
    let refused = timeout(SOON, store.submit(EP, new_job("b"))).await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    let unread = timeout(SOON, store.view(EP, "a", None)).await.unwrap().unwrap_err();
    assert!(matches!(unread, StoreError::Unavailable(_)), "{unread}");
    drop(session);
    let taken = timeout(SOON, async {
        loop {
            match store.take(EP, "w", 9, Duration::ZERO).await {
                Ok(jobs) if !jobs.is_empty() => return jobs,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    assert_eq!(&*taken.await.unwrap()[0].id, "a");
}

#[tokio::test]
async fn an_old_snapshot_of_another_session_stops_nothing() {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let store: Arc<dyn Store> = Arc::new(open_database(&url, &Setup::default()).unwrap());
    submit(&*store, "first").await;
    let _session = server.hold(&url, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobs");
    run_jobs(&store, 100).await;
    assert_eq!(store.health(EP).await.unwrap().in_queue, 0);
}

/// Submits jobs and runs them in the order in which they come.
async fn run_jobs(store: &Arc<dyn Store>, jobs: usize) {
    for number in 0..jobs {
        submit(&**store, &format!("job-{number}")).await;
        for job in store.take(EP, "w", 2, Duration::ZERO).await.unwrap() {
            store.finish(EP, "w", &job.id, done("1")).await.unwrap();
        }
    }
    let health = store.health(EP).await.unwrap();
    assert!(health.completed >= jobs as u64 && health.failed == 0, "{health:?}");
}

/// A newer program may add columns, tables and indexes.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_goes_on_while_a_newer_one_changes_the_tables() {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let store: Arc<dyn Store> = Arc::new(open_database(&url, &Setup::default()).unwrap());
    let mut running = JoinSet::new();
    let old = Arc::clone(&store);
    running.spawn(async move { run_jobs(&old, 300).await });
    let tables = server.sql(&url, "SELECT relname FROM pg_stat_user_tables");
    for table in tables.lines() {
        server.sql(
            &url,
            &format!("ALTER TABLE {table} ADD COLUMN later text, ADD COLUMN more bigint NOT NULL DEFAULT 7"),
        );
    }
    server.sql(&url, "CREATE INDEX jobs_later ON jobs (later); CREATE TABLE later (one text)");
    server.sql(&url, "UPDATE runpod_endpoint_version SET version = version + 1");
    running.join_all().await;
    let refused = open_database(&url, &Setup::default()).err().unwrap().to_string();
    assert!(refused.contains("upgrade runpod-endpoint"), "{refused}");
    // Rows that it writes now have what is new by default.
    submit(&*store, "last").await;
    assert_eq!(server.sql(&url, "SELECT more FROM jobs WHERE id = 'last'"), "7");
    assert_eq!(take_ids(&*store, "w", 1).await, ["last"]);
}

#[tokio::test]
async fn what_the_database_refuses_of_one_operation_fails_no_other_one() {
    const EACH: usize = 40;
    let Some(server) = Server::shared() else { return };
    let store: Arc<dyn Store> = Arc::new(open_database(&server.database(), &Setup::default()).unwrap());
    // Many at once, so that they are of the same units.
    let mut submissions = JoinSet::new();
    for number in 0..2 * EACH {
        let (store, is_good) = (Arc::clone(&store), number % 2 == 0);
        let job = job_with(&format!("job-{number}"), |request| {
            request.share = Some(if is_good { "a" } else { "a\0" }.into());
        });
        submissions.spawn(async move { (is_good, store.submit(EP, job).await.map(|_| ())) });
    }
    for (is_good, outcome) in timeout(SOON, submissions.join_all()).await.unwrap() {
        match outcome {
            Ok(()) => assert!(is_good, "a text with a NUL was stored"),
            Err(StoreError::Refused(reason)) => assert!(!is_good && reason.contains("0x00"), "{is_good}: {reason}"),
            Err(other) => panic!("{is_good}: {other}"),
        }
    }
    assert_eq!(store.health(EP).await.unwrap().in_queue, EACH);
    assert_eq!(store.ready(), Ok(()), "the database is not away");
}
