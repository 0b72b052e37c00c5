//! Two endpoints on one database, as two hosts would run them.

use end_to_end_tests::{Client, Endpoint, Postgres, Worker, WorkerOptions, binary, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Jobs in the queue when an endpoint is killed.
const JOBS: usize = 20;

fn worker(endpoint: &Endpoint, id: &str) -> Worker {
    Worker::start_with(endpoint.worker_env(id), &binary("puppet-handler"), WorkerOptions::default())
}

async fn completed(client: &Client, id: &str) {
    let ended = client.finished(id).await;
    assert_eq!(ended["status"], "COMPLETED", "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_killed_leaves_its_jobs_to_the_other() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database();
    let flags = ["--database", &*database, "--lease", "5s"];
    let (mut a, b) = (Endpoint::start(&flags).await, Endpoint::start(&flags).await);
    let workers = [worker(&a, "worker-a"), worker(&b, "worker-b")];
    for worker in &workers {
        worker.ready().await;
    }
    let clients = [a.client(), b.client()];
    let read_elsewhere = clients[0].submit(json!({"do": "ok"})).await;
    completed(&clients[1], &read_elsewhere).await;

    let mut ids = Vec::new();
    for number in 0..JOBS {
        ids.push(clients[number % 2].submit(json!({"do": "sleep_ms", "ms": 300})).await);
    }
    let both_work = |health: &Value| health["workers"]["running"] == 2;
    clients[1].get_when("/health", both_work).await;
    a.daemon.signal(Signal::KILL);
    for id in &ids {
        completed(&clients[1], id).await;
    }
    let jobs = clients[1].health().await["jobs"].clone();
    assert_eq!((&jobs["completed"], &jobs["failed"]), (&json!(JOBS + 1), &json!(0)), "lost or ended twice: {jobs}");

    a.restart(Signal::KILL).await;
    let again = a.client().submit(json!({"do": "ok"})).await;
    completed(&clients[1], &again).await;
    for endpoint in [&a, &b] {
        assert!(!endpoint.daemon.log().contains(server.password()), "the password is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_a_503_until_it_is_back() {
    let Some(server) = Postgres::start() else { return };
    let database = server.database();
    let endpoint = Endpoint::start(&["--database", &database]).await;
    let client = endpoint.client();
    let kept = client.submit(json!({"do": "ok"})).await;
    server.kill();
    let url = client.url("/run");
    let refused = eventually("a refusal", || async {
        let reply = reqwest::Client::new().post(&url).json(&json!({"input": {}})).send().await.ok()?;
        (reply.status() == 503).then_some(reply)
    })
    .await;
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    let text = refused.text().await.unwrap();
    assert!(text.contains("the database is away") && !text.contains(server.password()), "{text}");
    server.run();
    client.reaches(&kept, "IN_QUEUE").await;
    let later = client.submit(json!({"do": "ok"})).await;
    let worker = worker(&endpoint, "worker");
    worker.ready().await;
    for id in [&kept, &later] {
        completed(&client, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shared_database_cannot_do_is_a_501_and_the_rest_works() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database();
    let (a, b) = (Endpoint::start(&["--database", &database]).await, Endpoint::start(&["--database", &database]).await);
    let (here, there) = (a.client(), b.client());
    let http = reqwest::Client::new();
    let refused = http.post(here.url("/batch")).json(&json!([])).send().await.unwrap();
    assert_eq!(refused.status(), 501);
    let text = refused.text().await.unwrap();
    assert!(text.contains("batches are not supported with --database"), "{text}");

    assert!(http.post(here.url("/pause")).send().await.unwrap().status().is_success());
    let mut ids = Vec::new();
    for client in [&here, &there] {
        let submission = http.post(client.url("/run")).header("idempotency-key", "one").json(&json!({"input": {}}));
        let reply: Value = submission.send().await.unwrap().json().await.unwrap();
        ids.push(reply["id"].clone());
    }
    assert_eq!(ids[0], ids[1], "one submission, made at two endpoints");
    let health = there.health().await;
    assert_eq!((&health["paused"], &health["jobs"]["inQueue"]), (&json!(true), &json!(1)), "{health}");
}
