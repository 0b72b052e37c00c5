//! Two endpoints on one database, as two hosts would run them.

use end_to_end_tests::{
    Client, Daemon, Endpoint, PATIENCE, Postgres, Receiver, Worker, WorkerOptions, binary, eventually, free_port,
    not_tested, run_tool, until,
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
    let ready = reqwest::get(endpoint.base.replace("/v2", "/ready")).await.unwrap();
    assert_eq!(ready.status(), 503);
    for text in [text, ready.text().await.unwrap()] {
        assert!(text.contains("the database is away"), "{text}");
        for secret in [server.password(), "127.0.0.1", &server.port().to_string(), "jobs_", "\"jobs\""] {
            assert!(!text.contains(secret), "clients read {secret}: {text}");
        }
    }
    assert!(endpoint.daemon.log().contains("no PostgreSQL answers at 127.0.0.1"), "{}", endpoint.daemon.log());
    server.run();
    client.reaches(&kept, "IN_QUEUE").await;
    let later = client.submit(json!({"do": "ok"})).await;
    let worker = worker(&endpoint, "worker");
    worker.ready().await;
    for id in [&kept, &later] {
        completed(&client, id).await;
    }
}

/// Nobody misses it: an alert would last for an hour.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_stops_in_order_is_gone_at_once() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database();
    let (mut a, _b) =
        (Endpoint::start(&["--database", &database]).await, Endpoint::start(&["--database", &database]).await);
    let replicas = || server.sql(&database, "SELECT count(*) FROM replicas");
    assert_eq!(replicas(), "2");
    a.daemon.signal(Signal::TERM);
    assert!(a.daemon.wait(std::time::Duration::from_secs(30)).success());
    assert_eq!(replicas(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_starts_before_its_database_waits_for_it() {
    let Some(server) = Postgres::start() else { return };
    let database = server.database();
    server.kill();
    let args = ["serve", "--bind", &format!("127.0.0.1:{}", free_port()), "--database", &database];
    let start = |more: &[&str]| {
        let args: Vec<String> = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        Daemon::start("endpoint", &binary("runpod-endpoint"), &args, &[])
    };
    let mut hasty = start(&["--database-wait", "0s"]);
    assert_eq!(hasty.wait(PATIENCE).code(), Some(1));
    assert_eq!(hasty.log().lines().count(), 1, "{}", hasty.log());

    let mut stopped = start(&[]);
    stopped.logs("The database cannot be used yet").await;
    stopped.signal(Signal::TERM);
    assert!(stopped.wait(PATIENCE).success(), "{}", stopped.log());

    let patient = start(&[]);
    patient.logs("The database cannot be used yet").await;
    server.run();
    patient.logs("The database can be used.").await;
    let ready = format!("http://{}/ready", args[2]);
    eventually("the endpoint to be ready", || async {
        reqwest::get(&ready).await.ok().filter(|reply| reply.status().is_success())
    })
    .await;
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
async fn a_batch_a_key_and_a_pause_are_the_same_at_every_endpoint() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database();
    let (a, b) = (Endpoint::start(&["--database", &database]).await, Endpoint::start(&["--database", &database]).await);
    let (here, there) = (a.client(), b.client());
    let http = reqwest::Client::new();
    assert!(http.post(here.url("/pause")).send().await.unwrap().status().is_success());
    let mut ids = Vec::new();
    for client in [&here, &there] {
        let job = json!({"input": {"do": "ok"}});
        let submission = http.post(client.url("/run")).header("idempotency-key", "one").json(&job);
        let reply: Value = submission.send().await.unwrap().json().await.unwrap();
        ids.push(reply["id"].clone());
    }
    assert_eq!(ids[0], ids[1], "one submission, made at two endpoints");
    let health = there.health().await;
    assert_eq!((&health["paused"], &health["jobs"]["inQueue"]), (&json!(true), &json!(1)), "{health}");

    let job = json!({"input": {"do": "ok"}});
    let draft = here.post("/batch", json!([job, job])).await;
    let batch = format!("/batch/{}", draft["id"].as_str().unwrap());
    let added = there.post(&format!("{batch}/requests"), json!({"requests": [job]})).await;
    assert_eq!((&added["requestTotal"], &added["status"]), (&json!(3), &json!("DRAFT")), "{added}");
    there.post(&format!("{batch}/finalize"), json!({})).await;
    let worker = worker(&a, "worker");
    worker.ready().await;
    assert!(http.post(there.url("/resume")).send().await.unwrap().status().is_success());
    for client in [&here, &there] {
        client.get_when(&batch, |batch| batch["requestCompleted"] == 3).await;
        let page = client.get(&format!("{batch}/requests?limit=2&offset=1")).await;
        assert_eq!((page["requests"].as_array().map(Vec::len), &page["total"]), (Some(2), &json!(3)), "{page}");
        assert_eq!(page["requests"][0]["status"], "COMPLETED", "{page}");
    }
}

/// What an operator bounds and looks at, and what a receiver gets, through whichever endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn bounds_metrics_console_and_webhooks_are_those_of_the_whole_queue() {
    let Some(server) = Postgres::shared() else { return };
    let (database, receiver) = (server.database(), Receiver::start().await);
    let flags = ["--database", &*database, "--max-queued", "2", "--webhook-allow", "127.0.0.0/8", "--retention", "1h"];
    let (a, b) = (Endpoint::start(&flags).await, Endpoint::start(&flags).await);
    let (here, there) = (a.client(), b.client());
    let job = |id: &str| json!({"input": {"do": "ok"}, "webhook": format!("{}/{id}", receiver.url)});
    let mut ids = Vec::new();
    for (client, id) in [(&here, "one"), (&there, "two")] {
        ids.push(client.submit_request(job(id)).await);
    }
    let http = reqwest::Client::new();
    for client in [&here, &there] {
        let refused = http.post(client.url("/run")).json(&job("three")).send().await.unwrap();
        assert_eq!(refused.status(), 429, "{refused:?}");
    }
    for endpoint in [&a, &b] {
        let root = endpoint.base.trim_end_matches("/v2");
        let metrics = http.get(format!("{root}/metrics")).send().await.unwrap().text().await.unwrap();
        let is_depth = |line: &&str| line.starts_with("runpod_endpoint_queue_depth{") && line.contains("\"test\"");
        let depth = metrics.lines().find(is_depth);
        assert!(depth.is_some_and(|line| line.ends_with(" 2.0")), "{metrics}");
        let console = http.get(format!("{root}/console/test/overview")).send().await.unwrap();
        let console: Value = console.json().await.unwrap();
        assert_eq!(console["jobs"].as_array().map(Vec::len), Some(2), "{console}");
    }
    // Its jobs end at the other endpoint than where the first was submitted, and so its webhooks are that one's.
    let worker = worker(&b, "worker");
    worker.ready().await;
    for id in &ids {
        completed(&here, id).await;
    }
    let last = here.submit_request(job("last")).await;
    completed(&there, &last).await;
    receiver.finds("the last webhook", |posted| posted.iter().any(|one| one.path == "/last").then_some(())).await;
    let mut paths: Vec<_> = receiver.posted().into_iter().map(|one| one.path).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/last", "/one", "/two"], "each end once");
}

/// The far endpoint runs the job once, whoever follows it.
#[tokio::test(flavor = "multi_thread")]
async fn the_late_jobs_of_an_endpoint_that_is_killed_are_followed_by_the_other() {
    let Some(server) = Postgres::shared() else { return };
    let far = Endpoint::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let (file, gate) = (folder.path().join("endpoints.toml"), folder.path().join("gate"));
    let config = format!("[[endpoint]]\nid = \"test\"\noverflow = {{ url = \"{}/test\", after = \"0s\" }}", far.base);
    std::fs::write(&file, config).unwrap();
    let database = server.database();
    let file = file.to_string_lossy();
    let flags = ["--database", &*database, "--config", &*file];
    let mut near = [Endpoint::start(&flags).await, Endpoint::start(&flags).await];
    let sends = |endpoint: &Endpoint| endpoint.daemon.log().contains("sends the late jobs");
    eventually("one of them to send late jobs", async || near.iter().any(sends).then_some(())).await;
    if !sends(&near[0]) {
        near.reverse();
    }
    assert!(!sends(&near[1]), "both do");
    let far_worker = worker(&far, "far-worker");
    far_worker.ready().await;
    let (leader, other) = (near[0].client(), near[1].client());
    let id = leader.submit(json!({"do": "wait_for", "path": gate})).await;
    other.reaches(&id, "IN_PROGRESS").await;
    near[0].daemon.signal(Signal::KILL);
    eventually("the other one to take over", async || sends(&near[1]).then_some(())).await;
    std::fs::write(&gate, "").unwrap();
    completed(&other, &id).await;
    let later = other.submit(json!({"do": "ok"})).await;
    completed(&other, &later).await;
    let jobs = far.client().health().await["jobs"].clone();
    assert_eq!((&jobs["completed"], &jobs["inProgress"]), (&json!(2), &json!(0)), "a job ran twice: {jobs}");
}
