//! Two endpoints on one database, as two hosts would run them.

use end_to_end_tests::{
    Client, Endpoint, Postgres, Worker, WorkerOptions, binary, eventually, not_tested, run_tool, until,
};
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
async fn a_full_disk_of_the_database_loses_nothing_that_was_acknowledged() {
    let Some(server) = Postgres::start_on_small_disk(120) else { return };
    let database = server.database();
    let endpoint = Endpoint::start(&["--database", &database]).await;
    let client = endpoint.client();
    let mut worker = worker(&endpoint, "worker");
    worker.ready().await;
    let ballast = server.folder().join("ballast");
    // As much as there is room for.
    run_tool("dd", &["if=/dev/zero", &format!("of={}", ballast.display()), "bs=1M", "conv=fsync"]);

    let (http, url, mut rng) = (reqwest::Client::new(), client.url("/run"), fastrand::Rng::new());
    let mut ids = Vec::new();
    let refused = loop {
        // Nothing that could be compressed.
        let pad: String = std::iter::repeat_with(|| rng.alphanumeric()).take(200_000).collect();
        let request = json!({"input": {"do": "ok", "pad": pad}});
        let reply = http.post(&url).json(&request).send().await.unwrap();
        if reply.status() != 200 {
            break reply;
        }
        ids.push(reply.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned());
        assert!(ids.len() < 500, "the disk is never full");
    };
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    // The one that waits is not lost because the disk is full for some time.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(worker.daemon.is_running(), "the worker ended by itself");

    std::fs::remove_file(&ballast).unwrap();
    let answers = || {
        // Without room for its log the server ends.
        if !server.is_running() {
            server.run();
        }
        server.try_sql("postgres", "SELECT 1").is_some()
    };
    until("the server to answer", answers).await;
    for id in &ids {
        completed(&client, id).await;
    }
    let jobs = client.health().await["jobs"].clone();
    assert_eq!(jobs["failed"], 0, "{jobs}");
    assert!(worker.daemon.is_running(), "the worker ended by itself");
}

/// The library that shows a program another time.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_clock_is_wrong_agrees_with_the_others() {
    let Some(server) = Postgres::shared() else { return };
    if !std::path::Path::new(FAKETIME).is_file() {
        return not_tested("a wrong clock: apt-get install libfaketime");
    }
    let database = server.database();
    let flags = ["--database", &*database];
    let right = Endpoint::start(&flags).await;
    // Timers run as they do where a clock is wrong: it is the time of day that differs.
    let wrong = |offset| [("LD_PRELOAD", FAKETIME), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let early = Endpoint::start_with(&flags, &wrong("-2d")).await;
    let late = Endpoint::start_with(&flags, &wrong("+2d")).await;
    let clients = [right.client(), early.client(), late.client()];
    let mut days = Vec::new();
    for client in &clients {
        let reply = reqwest::get(client.url("/health")).await.unwrap();
        days.push(reply.headers()["date"].to_str().unwrap()[..16].to_owned());
    }
    assert!(days[0] != days[1] && days[0] != days[2] && days[1] != days[2], "no clock is wrong: {days:?}");

    // Submitted at each, run at another one, read at the third.
    let mut ids = Vec::new();
    for client in &clients {
        let request =
            json!({"input": {"do": "sleep_ms", "ms": 50}, "policy": {"ttl": 60_000, "executionTimeout": 20_000}});
        ids.push(client.submit_request(request).await);
    }
    let workers = [worker(&late, "late"), worker(&early, "early"), worker(&right, "right")];
    for (at, id) in ids.iter().enumerate() {
        for reader in 0..3 {
            let job = clients[(at + reader) % 3].finished(id).await;
            assert_eq!(job["status"], "COMPLETED", "{job}");
            for time in ["delayTime", "executionTime"] {
                assert!(job[time].as_u64().is_some_and(|millis| millis < 60_000), "{time}: {job}");
            }
        }
    }
    for worker in &workers {
        worker.ready().await;
    }
    let seen = |health: &Value| health["workers"]["idle"] == 3;
    for client in &clients {
        client.get_when("/health", seen).await;
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

/// The exit status, and what was printed.
fn command(args: &[&str]) -> (Option<i32>, String, String) {
    let output = run_tool(&binary("runpod-endpoint").to_string_lossy(), args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_is_wrong_with_a_database_ends_the_start_in_one_line() {
    let Some(server) = Postgres::shared() else { return };
    let wrong = server.url_of("jobs", "hunter2", "postgres");
    let missing = ["--database-password-file", "/no/such/file"];
    for (url, more, status, words) in [
        (&*wrong, &[][..], 1, "correct the user, or the password"),
        (&server.url("no_such_database"), &[], 1, "createdb no_such_database"),
        ("mysql://jobs@localhost/jobs", &[], 64, "give postgres://"),
        (&wrong, &missing, 64, "/no/such/file"),
    ] {
        let args = [&["serve", "--bind", "127.0.0.1:0", "--database", url], more].concat();
        let (code, _, error) = command(&args);
        assert_eq!((code, error.lines().count()), (Some(status), 1), "{error}");
        assert!(error.contains(words) && !error.contains("hunter2"), "{words:?} is not in {error:?}");
    }
}

#[test]
fn the_check_names_what_is_set_up_badly_and_shows_no_password() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let (code, report, error) = command(&["database", "migrate", "--database", &url]);
    assert_eq!((code, report.lines().count()), (Some(0), 1), "{error}");
    let (code, report, error) = command(&["database", "check", "--database", &url]);
    assert_eq!(code, Some(1), "{error}");
    for line in ["fsync = \"off\": FIX: ", "autovacuum = \"on\": ok", "notifications = \"arrive\": ok"] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let (_, settings, _) = command(&["serve", "--database", &url, "--check-config"]);
    assert!(settings.contains("database"), "{settings}");
    assert!(![report, error, settings].concat().contains(server.password()));
}
