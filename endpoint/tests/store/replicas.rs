//! Two replicas on one database: whatever is done at one can be continued, waited for and read at the other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use end_to_end_tests::Postgres as Server;
use futures_util::StreamExt;
use runpod_endpoint::store::{
    Heartbeat, HistoryQuery, Idempotency, Limits, Model, Setup, Status, Store, StoreError, Task, WebhookEnd,
    WebhookQueue,
};
use tokio::time::timeout;

use crate::support::{
    EP, Engine, Postgres, SOON, done, failed, has_postgres, job_with, new_job, open_database, output_of, payload,
    status, submit, take, take_ids, until, view,
};

/// Two replicas; `None` where there is no PostgreSQL.
pub(crate) fn two() -> Option<[Arc<dyn Store>; 2]> {
    has_postgres().then(|| {
        let engine = Postgres::new();
        [engine.open(Limits::default()), engine.open(Limits::default())]
    })
}

/// Runs `act` once somebody waits in `wait`, and returns how long the news took from one to the other.
pub(crate) async fn news<T>(wait: impl Future<Output = T>, act: impl Future<Output = ()>) -> (T, Duration) {
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
    let Some(replicas) = two() else { return };
    wakes_whoever_waits(&replicas).await;
}

/// The hints do not get through: whoever waits looks once a second.
#[tokio::test]
async fn a_hint_that_is_lost_does_not_leave_anybody_waiting() {
    let Some(server) = Server::shared() else { return };
    let url = server.database();
    let name = url.rsplit('/').next().unwrap();
    // The owner of the database, who is no superuser: rights count for nobody else.
    let user = format!("owner_of_{name}");
    server.sql(&url, &format!("CREATE ROLE {user} LOGIN PASSWORD 'hunter2'; ALTER DATABASE {name} OWNER TO {user}"));
    let owned = server.url_of(&user, "hunter2", name);
    let replicas = [(); 2].map(|()| Arc::new(open_database(&owned, &Setup::default()).unwrap()) as Arc<dyn Store>);
    server.sql(&url, "REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC");
    assert_eq!(server.try_sql(&owned, "SELECT pg_notify('x', 'y')"), None, "a hint gets through");
    wakes_whoever_waits(&replicas).await;
    // With hints nobody waits for that look. A ratio: how long each takes depends on the machine.
    let (without, with) = (hand_overs(&replicas).await, hand_overs(&two().unwrap()).await);
    assert!(with * 3 < without, "{with:?} with hints, {without:?} without");
}

/// How long some jobs took in all from one replica to the other.
async fn hand_overs([a, b]: &[Arc<dyn Store>; 2]) -> Duration {
    let mut all = Duration::ZERO;
    for number in 0..8 {
        let id = format!("hand-over-{number}");
        let (taken, took) = news(b.take(EP, "w", 1, SOON * 10), submit(&**a, &id)).await;
        assert_eq!(&*taken.unwrap()[0].id, id);
        all += took;
    }
    all
}

async fn wakes_whoever_waits([a, b]: &[Arc<dyn Store>; 2]) {
    let (taken, _) = news(b.take(EP, "w", 1, SOON * 10), submit(&**a, "a")).await;
    assert_eq!(&*taken.unwrap()[0].id, "a");
    let (read, _) = news(a.drain(EP, "a", SOON * 10), async {
        b.stream_item(EP, "w", "a", payload("1")).await.unwrap();
    })
    .await;
    assert_eq!(read.unwrap().1[0].get(), "1");
    let (stops, _) = news(b.stops(EP, "w", SOON * 10), async {
        submit(&**a, "b").await;
        take(&**a, "w", 1).await;
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
async fn what_operators_do_at_one_replica_holds_at_every_other() {
    let Some([a, b]) = two() else { return };
    a.set_paused(EP, true).await.unwrap();
    submit(&*b, "a").await;
    assert_eq!(take_ids(&*b, "w", 1).await, [""; 0]);
    assert!(b.health(EP).await.unwrap().paused);
    let (taken, _) = news(b.take(EP, "w", 1, SOON * 10), async { a.set_paused(EP, false).await.unwrap() }).await;
    assert_eq!(&*taken.unwrap()[0].id, "a");
    a.finish(EP, "w", "a", failed("no")).await.unwrap();
    assert_eq!(b.failed(EP, 0, 9).await.unwrap().total, 1);
    let query = HistoryQuery { text: "NO".to_owned(), limit: 9, ..HistoryQuery::default() };
    assert_eq!(b.search(EP, &query).await.unwrap().rows.len(), 1);
    assert_eq!(b.retry_failed(EP).await.unwrap().retried, 1);
    assert_eq!(take_ids(&*a, "w", 1).await, ["a"]);
    let model = Model { name: "m".to_owned(), version: "1".to_owned() };
    let heartbeat = Heartbeat { model: Some(model.clone()), ..Heartbeat::default() };
    a.heartbeat(EP, "w", heartbeat).await.unwrap();
    assert_eq!(b.observe(EP).await.unwrap().model.as_deref(), Some(&model));
}

#[tokio::test]
async fn a_submission_with_a_key_is_one_job_at_every_replica() {
    let Some([a, b]) = two() else { return };
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let store = Arc::clone(if number % 2 == 0 { &a } else { &b });
        callers.spawn(async move {
            let key = Idempotency { key: [1; 32], body: [1; 32] };
            let job = job_with(&format!("job-{number}"), |request| request.idempotency = Some(key));
            store.submit(EP, job).await.unwrap().id
        });
    }
    let ids = timeout(SOON, callers.join_all()).await.unwrap();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(a.health(EP).await.unwrap().in_queue, 1);
}

#[tokio::test]
async fn a_search_goes_on_where_the_page_before_ended() {
    if !has_postgres() {
        return;
    }
    let store = Postgres::new().open(Limits::default());
    let submitting = (0..2100).map(|number| {
        let store = Arc::clone(&store);
        async move { submit(&*store, &format!("job-{number}")).await }
    });
    // All at once would wait for connections for longer than a request may.
    futures_util::stream::iter(submitting).buffer_unordered(64).for_each(|_| std::future::ready(())).await;
    let mut query = HistoryQuery { limit: 50, text: "job-1".to_owned(), ..HistoryQuery::default() };
    let (mut found, mut pages) = (HashSet::new(), 0);
    loop {
        let page = store.search(EP, &query).await.unwrap();
        assert!(page.rows.iter().all(|row| found.insert(row.view.id.to_string())), "a job is found twice");
        pages += 1;
        query.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 1 + 10 + 100 + 1000);
    assert!(pages > 2, "{pages}");
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
async fn a_poll_admits_its_process_with_the_first_look() {
    let Some([a, b]) = two() else { return };
    let units = |store: &Arc<dyn Store>| store.database().unwrap().transactions;
    for job in ["one", "two"] {
        submit(&*a, job).await;
    }
    let before = units(&a);
    let taken = a.take_as(EP, "w", Some("first"), 1, Duration::ZERO).await.unwrap();
    assert_eq!(units(&a) - before, 1, "one transaction admits, takes and reads the input");
    assert_eq!(taken[0].request.input.get(), new_job("one").request.input.get());
    let refused = b.take_as(EP, "w", Some("second"), 1, Duration::ZERO).await.unwrap_err();
    assert!(matches!(refused, StoreError::WorkerIdInUse(_)), "{refused}");
    let health = b.health(EP).await.unwrap();
    assert_eq!((health.in_queue, health.in_progress), (1, 1), "a process that is refused takes nothing");
    // A poll that was refused is not open: it would keep the id in use for ever.
    let held = Arc::clone(&b);
    let poll = tokio::spawn(async move { held.take_as(EP, "w", Some("first"), 1, SOON).await });
    assert_eq!(timeout(SOON, poll).await.unwrap().unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn heartbeats_share_a_unit_and_admit_their_processes_as_stop_polls_do() {
    let Some([a, b]) = two() else { return };
    let units = || a.database().unwrap().transactions;
    let workers: Vec<String> = (0..40).map(|number| format!("w{number}")).collect();
    for worker in &workers {
        a.take_as(EP, worker, Some("first"), 1, Duration::ZERO).await.unwrap();
    }
    let before = units();
    let beats = workers.iter().map(|worker| a.heartbeat_as(EP, worker, Some("first"), Heartbeat::default()));
    let beats = futures_util::future::join_all(beats).await;
    assert!(beats.iter().all(Result::is_ok), "{beats:?}");
    assert!(units() - before <= 4, "{} transactions for 40 heartbeats", units() - before);
    for outcome in [
        b.heartbeat_as(EP, "w1", Some("second"), Heartbeat::default()).await.map(drop),
        b.stops_as(EP, "w1", Some("second"), Duration::ZERO).await.map(drop),
    ] {
        assert!(matches!(outcome, Err(StoreError::WorkerIdInUse(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_worker_gets_large_inputs_beside_small_ones() {
    let Some([a, _]) = two() else { return };
    let inputs: Vec<_> = [700_000, 10, 700_000, 20].map(|length| format!("\"{}\"", "x".repeat(length))).into();
    for (number, input) in inputs.iter().enumerate() {
        let mut job = new_job(&number.to_string());
        job.request.input = payload(input);
        a.submit(EP, job).await.unwrap();
    }
    let taken = a.take(EP, "w", inputs.len(), Duration::ZERO).await.unwrap();
    let got: Vec<_> = taken.iter().map(|job| job.request.input.get()).collect();
    assert_eq!(got, inputs);
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
    assert_eq!((a.turn(EP, Task::Scaling).await, b.turn(EP, Task::Scaling).await), (Ok(true), Ok(false)));
    assert_eq!((a.turn(EP, Task::Scaling).await, b.turn("other", Task::Scaling).await), (Ok(true), Ok(true)));
    let passed_on = async {
        while b.turn(EP, Task::Scaling).await != Ok(true) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, passed_on).await.expect("a turn that is not taken again ends");
    assert_eq!(a.turn(EP, Task::Scaling).await, Ok(false));
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
    assert_eq!(&*due.url, "http://127.0.0.1:9/");
    // It is given up there, seen and sent again through another one, and that one delivers it.
    b.webhook_ended(EP, "a", due.end_number, WebhookEnd::GivenUp("refused".into())).await.unwrap();
    let (queue, mut due) = WebhookQueue::channel();
    let c = engine.open_with(&Setup { webhooks: queue, ..Setup::default() });
    let given_up = c.given_up(EP, 0, 9).await.unwrap();
    assert_eq!((&*given_up.entries[0].job, &*given_up.entries[0].reason, given_up.total), ("a", "refused", 1));
    assert_eq!(c.resend_webhooks(EP).await.unwrap(), ["a".into()]);
    let due = timeout(SOON, due.recv()).await.unwrap().unwrap();
    c.webhook_ended(EP, "a", due.end_number, WebhookEnd::Delivered).await.unwrap();
    assert!(b.webhook(EP, "a").await.unwrap().is_none());
    assert_eq!(b.given_up(EP, 0, 9).await.unwrap().total, 0);
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
        (server.url("no_such_database"), "--template template0 no_such_database"),
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

/// Names that must be quoted, and fewer connections than a replica would open.
#[tokio::test]
async fn a_role_with_capitals_and_few_connections_is_enough() {
    let Some(server) = Server::start() else { return };
    let url = server.database();
    let name = url.rsplit('/').next().unwrap();
    server.sql(&url, "CREATE ROLE \"Jobs-1\" LOGIN PASSWORD 'hunter2'");
    server.sql(&url, "CREATE SCHEMA AUTHORIZATION \"Jobs-1\"");
    let store = open_database(&server.url_of("Jobs-1", "hunter2", name), &Setup::default()).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    server.sql(&url, "ALTER ROLE \"Jobs-1\" CONNECTION LIMIT 3");
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'Jobs-1'";
    server.sql(&url, terminate);
    until_submitted(&store, "first").await;
    // Each of another endpoint: they do not share units, and want a connection each.
    let all = (0..20).map(|number| {
        let store = Arc::clone(&store);
        async move { store.submit(&format!("ep{number}"), new_job("a")).await.map(drop) }
    });
    for outcome in futures_util::future::join_all(all).await {
        assert_eq!(outcome, Ok(()));
    }
}

async fn until_submitted(store: &Arc<dyn Store>, id: &str) {
    end_to_end_tests::eventually("the database to be back", || async {
        match store.submit(EP, new_job(id)).await {
            Ok(_) | Err(StoreError::DuplicateJob) => Some(()),
            Err(_) => None,
        }
    })
    .await;
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
