//! Two replicas on one database: whatever is done at one can be continued, waited for and read at the other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use end_to_end_tests::Postgres as Server;
use runpod_endpoint::store::{Heartbeat, Limits, Setup, Status, Store, StoreError, WebhookQueue};
use tokio::time::timeout;

use crate::support::{
    EP, Engine, Postgres, SOON, done, has_postgres, job_with, new_job, open_database, output_of, payload, status,
    submit, take, take_ids, until, view,
};

/// Two replicas; `None` where there is no PostgreSQL.
fn two() -> Option<[Arc<dyn Store>; 2]> {
    has_postgres().then(|| {
        let engine = Postgres::new();
        [engine.open(Limits::default()), engine.open(Limits::default())]
    })
}

/// Runs `act` once somebody waits in `wait`, and returns how long the news took from one to the other.
async fn news<T>(wait: impl Future<Output = T>, act: impl Future<Output = ()>) -> (T, Duration) {
    let mut acted = Instant::now();
    let acting = async {
        // Long enough for the wait to have begun at the other replica.
        tokio::time::sleep(Duration::from_millis(300)).await;
        acted = Instant::now();
        act.await;
    };
    let (outcome, ()) = timeout(SOON, async { tokio::join!(wait, acting) }).await.unwrap();
    (outcome, acted.elapsed())
}

#[tokio::test]
async fn what_waits_at_one_replica_is_woken_by_the_other() {
    let Some([a, b]) = two() else { return };
    let (taken, _) = news(b.take(EP, "w", 1, SOON * 10), submit(&*a, "a")).await;
    assert_eq!(&*taken.unwrap()[0].id, "a");
    let (read, _) = news(a.drain(EP, "a", SOON * 10), async {
        b.stream_item(EP, "w", "a", payload("1")).await.unwrap();
    })
    .await;
    assert_eq!(read.unwrap().1[0].get(), "1");
    let (stops, _) = news(b.stops(EP, "w", SOON * 10), async {
        submit(&*a, "b").await;
        take(&*a, "w", 1).await;
        a.cancel(EP, "b").await.unwrap();
    })
    .await;
    assert_eq!(stops.unwrap(), ["b".into()]);
    let (ended, _) = news(a.wait_finished(EP, "a", SOON * 10), async {
        b.finish(EP, "w", "a", done("2")).await.unwrap();
    })
    .await;
    assert_eq!(output_of(&ended.unwrap()), Some("2"));
}

#[tokio::test]
async fn every_call_works_through_any_replica() {
    let Some([a, b]) = two() else { return };
    for id in ["one", "two", "three"] {
        submit(&*a, id).await;
    }
    assert_eq!(b.submit(EP, new_job("one")).await.unwrap_err(), StoreError::DuplicateJob);
    assert_eq!(take_ids(&*b, "w", 1).await, ["one"]);
    assert_eq!(take_ids(&*a, "w", 1).await, ["two"]);
    let ids = ["one".into(), "two".into()];
    assert_eq!(b.hand_back(EP, "w", &ids[1..]).await, Ok(1));
    assert_eq!(take_ids(&*a, "v", 1).await, ["two"], "at its old place");
    b.progress(EP, "w", "one", Some(payload("\"half\""))).await.unwrap();
    assert_eq!(output_of(&view(&*a, "one").await), Some("\"half\""));
    assert_eq!(b.purge(EP).await, Ok(1));
    for store in [&a, &b] {
        let health = store.health(EP).await.unwrap();
        assert_eq!((health.in_queue, health.in_progress, health.workers.running), (0, 2, 2));
        assert_eq!(store.endpoints().await.unwrap(), [EP]);
        assert_eq!(status(&**store, "three").await, Status::Cancelled);
    }
}

#[tokio::test]
async fn a_worker_is_one_and_the_same_at_every_replica() {
    let Some([a, b]) = two() else { return };
    a.admit(EP, "w", Some("first")).await.unwrap();
    let held = Arc::clone(&a);
    let poll = tokio::spawn(async move { held.take(EP, "w", 1, SOON).await });
    while b.health(EP).await.unwrap().workers.idle == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = b.admit(EP, "w", Some("second")).await.unwrap_err();
    assert!(matches!(refused, StoreError::WorkerIdInUse(_)), "{refused}");
    poll.abort();
    let admitted = async {
        while b.admit(EP, "w", Some("second")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, admitted).await.expect("the poll has ended, and the id is still in use");
}

#[tokio::test]
async fn many_clients_and_workers_at_two_replicas_lose_nothing_and_do_nothing_twice() {
    const JOBS: usize = 100;
    let Some([a, b]) = two() else { return };
    let mut tasks = tokio::task::JoinSet::new();
    for (number, store) in [&a, &b, &a, &b].into_iter().enumerate() {
        let (client, worker) = (Arc::clone(store), Arc::clone(store));
        tasks.spawn(async move {
            for job in 0..JOBS / 4 {
                submit(&*client, &format!("{number}-{job}")).await;
            }
            Vec::new()
        });
        tasks.spawn(async move {
            let (name, mut ids) = (format!("w{number}"), Vec::new());
            while worker.health(EP).await.unwrap().completed < JOBS as u64 {
                for job in worker.take(EP, &name, 3, Duration::from_millis(50)).await.unwrap() {
                    worker.finish(EP, &name, &job.id, done(job.request.input.get())).await.unwrap();
                    ids.push(job.id);
                }
            }
            ids
        });
    }
    let ids = timeout(SOON * 3, tasks.join_all()).await.unwrap().concat();
    assert_eq!((ids.len(), ids.iter().collect::<HashSet<_>>().len()), (JOBS, JOBS));
}

#[tokio::test]
async fn workers_are_added_by_one_replica_at_a_time() {
    let Some([a, b]) = two() else { return };
    assert!(a.is_shared());
    let both_seen = || a.database().is_some_and(|figures| figures.replicas == 2);
    end_to_end_tests::until("the first replica to see the second", both_seen).await;
    assert_eq!((a.scaling_turn(EP).await, b.scaling_turn(EP).await), (Ok(true), Ok(false)));
    assert_eq!((a.scaling_turn(EP).await, b.scaling_turn("other").await), (Ok(true), Ok(true)));
    let passed_on = async {
        while b.scaling_turn(EP).await != Ok(true) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, passed_on).await.expect("a turn that is not taken again ends");
    assert_eq!(a.scaling_turn(EP).await, Ok(false));
}

#[tokio::test]
async fn a_lost_job_is_found_by_whichever_replica_looks_first() {
    if !has_postgres() {
        return;
    }
    let engine = Postgres::new();
    let limits = Limits { lease: Duration::from_millis(50), ..Limits::default() };
    let (a, b) = (engine.open(limits), engine.open(limits));
    a.heartbeat(EP, "w", Heartbeat::default()).await.unwrap();
    submit(&*a, "a").await;
    assert_eq!(take_ids(&*a, "w", 1).await, ["a"]);
    drop(a);
    let again = timeout(SOON, b.take(EP, "v", 1, SOON)).await.unwrap().unwrap();
    assert_eq!((&*again[0].id, again[0].attempt), ("a", 2));
    assert_eq!(b.health(EP).await.unwrap().retried, 1);
}

#[tokio::test]
async fn the_webhook_of_a_replica_that_is_gone_is_delivered_by_another() {
    if !has_postgres() {
        return;
    }
    let engine = Postgres::new();
    let (queue, mut due) = WebhookQueue::channel();
    let a = engine.open(Limits::default());
    let job = job_with("a", |request| request.webhook = Some("http://127.0.0.1:9/".into()));
    a.submit(EP, job).await.unwrap();
    take(&*a, "w", 1).await;
    a.finish(EP, "w", "a", done("1")).await.unwrap();
    drop(a);
    let b = engine.open_with(&Setup { webhooks: queue, ..Setup::default() });
    let due = timeout(SOON * 2, due.recv()).await.unwrap().unwrap();
    assert_eq!((&*due.endpoint, &*due.job), (EP, "a"));
    b.webhook_settled(EP, "a").await.unwrap();
}

#[tokio::test]
async fn a_server_that_crashes_loses_nothing_and_requests_fail_meanwhile() {
    let Some(server) = Server::start() else { return };
    let url = server.database();
    let store: Arc<dyn Store> = Arc::new(open_database(&url, &Setup::default()).unwrap());
    for id in ["a", "b"] {
        submit(&*store, id).await;
    }
    assert_eq!(take_ids(&*store, "w", 1).await, ["a"]);
    server.kill();
    let refused = timeout(SOON, store.submit(EP, new_job("c"))).await.unwrap().unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable(_)), "{refused}");
    assert!(!refused.to_string().contains(server.password()), "{refused}");
    let counted = store.health(EP).await;
    assert!(matches!(counted, Err(StoreError::Unavailable(_))), "what is unknown is not none: {counted:?}");
    assert!(store.ready().is_err() && !store.database().unwrap().is_up);
    server.run();
    until(&*store, "a", |job| job.is_ok_and(|job| job.status == Status::InProgress)).await;
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    assert_eq!(take_ids(&*store, "w", 9).await, ["b"], "what was refused is not queued");
    assert!(store.ready().is_ok() && store.database().unwrap().is_up);
}

#[tokio::test]
async fn what_is_wrong_with_a_database_is_said_in_one_line_with_the_fix() {
    let Some(server) = Server::shared() else { return };
    let good = server.database();
    let name = good.rsplit('/').next().unwrap();
    drop(open_database(&good, &Setup::default()).unwrap());
    let newer = server.database();
    server.sql(
        &newer,
        "CREATE TABLE runpod_endpoint_version (version integer); INSERT INTO runpod_endpoint_version VALUES (99)",
    );
    let foreign = server.database();
    server.sql(&foreign, "CREATE TABLE jobs (id integer)");
    let read_only = server.database();
    let read_only_name = read_only.rsplit('/').next().unwrap();
    server.sql("postgres", &format!("ALTER DATABASE {read_only_name} SET default_transaction_read_only = on"));
    let unused = end_to_end_tests::free_port();
    for (url, words) in [
        (server.url_of("jobs", "wrong", name), "correct the user, or the password"),
        (server.url_of("nobody", "wrong", name), "correct the user, or the password"),
        (server.url("no_such_database"), "createdb no_such_database"),
        (format!("postgres://jobs:secret@127.0.0.1:{unused}/jobs"), "no PostgreSQL answers at 127.0.0.1"),
        (format!("{good}?sslmode=require"), "sslmode=disable"),
        (newer, "upgrade runpod-endpoint"),
        (foreign, "a database of its own"),
        (read_only, "name the primary"),
    ] {
        let error = open_database(&url, &Setup::default()).err().unwrap_or_else(|| panic!("{words}")).to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{words:?} is not in {error:?}");
        assert!(!error.contains("secret") && !error.contains(server.password()), "{error}");
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused_at_the_start() {
    let Some(server) = Server::shared() else { return };
    let Some((pooler, port)) = server.transaction_pooler() else { return };
    end_to_end_tests::until("the pooler to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let url = server.database().replace(&format!(":{}/", server.port()), &format!(":{port}/"));
    let error = open_database(&url, &Setup::default()).err().expect("it was accepted").to_string();
    assert!(error.contains("set the pooler to session mode") && !error.contains('\n'), "{error}\n{}", pooler.log());
    assert!(!error.contains(server.password()), "{error}");
}
