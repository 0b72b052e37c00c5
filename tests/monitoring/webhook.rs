//! Alerts without a stack: rules of the programs themselves, and a webhook.

use std::time::Duration;

use end_to_end_tests::{
    Endpoint, FakeQueue, Postgres, Receiver, Worker, WorkerOptions, binary, eventually, run_tool, until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A file with these rules.
fn rules(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path.to_string_lossy().into_owned())
}

fn titled(title: &str) -> impl Fn(&Value) -> bool {
    move |body| body["title"] == title
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_posts_an_alert_when_jobs_fail_and_another_when_they_do_not() {
    let receiver = Receiver::start().await;
    let (_folder, path) = rules("[failure_rate]\nmin_jobs = 2\nwindow = \"3s\"\nfor = \"0s\"");
    let endpoint = Endpoint::start(&[]).await;
    let options = WorkerOptions::flags(&["--alert-rules", &path])
        .env("RUNPOD_WORKER_ALERT_WEBHOOK", &format!("{}/s3cret-path", receiver.url));
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), options);
    worker.ready().await;
    let client = endpoint.client();
    for _ in 0..2 {
        assert_eq!(client.run(json!({"do": "error"})).await["status"], "FAILED");
    }
    let firing = receiver.gets("/s3cret-path", "the alert", titled("worker-1: failure_rate is firing")).await;
    let mut keys: Vec<&String> = firing.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["message", "severity", "timestamp", "title"]);
    assert_eq!(firing["severity"], "critical");
    assert!(
        firing["message"].as_str().unwrap().starts_with("share of valid jobs that failed within 3s: 1."),
        "{firing}"
    );
    // The window passes and nothing fails any more.
    receiver.gets("/s3cret-path", "the end", titled("worker-1: failure_rate is resolved")).await;
    let log = worker.daemon.log();
    assert!(log.contains("failure_rate") && !log.contains("s3cret-path"), "{log}");
}

/// Fifteen mistakes, then as many good jobs as bad ones: the share that fires is that of the others, at the worker and at the endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_callers_fire_no_alert_and_are_counted_apart() {
    let receiver = Receiver::start().await;
    let (_folder, path) = rules("[failure_rate]\nabove = 0.4\nmin_jobs = 4\nwindow = \"10m\"\nfor = \"0s\"");
    let flags = ["--alert-rules", &path, "--alert-webhook", &receiver.url];
    let endpoint = Endpoint::start(&flags).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::flags(&flags));
    worker.ready().await;
    // The rules are evaluated once a second, and count what changes between two looks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let client = endpoint.client();
    for number in 0..15 {
        let mistake = ["validation", "unknown_model", "not a thing that the handler does"][number % 3];
        assert_eq!(client.run(json!({"do": mistake})).await["status"], "FAILED");
    }
    let of = |address: String| async move { reqwest::get(address).await.unwrap().text().await.unwrap() };
    let (at_worker, at_endpoint) = (worker.metrics().await, of(endpoint.base.replace("/v2", "/metrics")).await);
    for (kind, jobs) in [("validation", 10), ("model_not_found", 5)] {
        let line = format!("runpod_endpoint_caller_mistakes_total{{endpoint=\"test\",kind=\"{kind}\"}} {jobs}\n");
        assert!(at_endpoint.contains(&line), "{line} is not in {at_endpoint}");
        let typed = |line: &&str| line.starts_with("inference_errors_total{") && line.contains(&format!("=\"{kind}\""));
        let counted: Vec<&str> = at_worker.lines().filter(typed).collect();
        assert!(counted.len() == 1 && counted[0].ends_with(&format!(" {jobs}")), "{counted:?}");
    }

    for input in [json!({"do": "ok"}), json!({"do": "ok"}), json!({"do": "error"}), json!({"do": "error"})] {
        client.run(input).await;
    }
    for source in ["worker-1", "test"] {
        let title = format!("{source}: failure_rate is firing");
        let firing = receiver.gets("/", "the alert", |body| body["title"] == *title).await;
        assert!(firing["message"].as_str().unwrap().contains("within 10m: 0.5."), "{firing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alert_of_an_unhealthy_worker_arrives_before_the_worker_ends() {
    let receiver = Receiver::start().await;
    let queue = FakeQueue::start();
    let options = WorkerOptions::flags(&["--alert-webhook", &receiver.url, "--alert-format", "slack"])
        .env("PUPPET_START", "load_fail");
    let mut worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    let told = receiver.gets("/", "the alert", |body| body["text"].to_string().contains("unhealthy is firing")).await;
    assert!(told["text"].as_str().unwrap().starts_with("*worker-1: unhealthy is firing* (critical)"), "{told}");
    assert_eq!(worker.daemon.wait(Duration::from_secs(60)).code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_posts_an_alert_about_its_queue_and_a_receiver_that_hangs_delays_nothing() {
    let receiver = Receiver::start().await;
    let (_folder, path) = rules("[queue_depth]\nabove = 2\nfor = \"1s\"\n[no_idle_worker]\nenabled = false");
    let flags = ["--alert-rules", &path, "--alert-webhook", &receiver.url, "--alert-format", "discord"];
    let endpoint = Endpoint::start(&flags).await;
    let client = endpoint.client();
    for _ in 0..3 {
        client.submit(json!({})).await;
    }
    let said = |word: &'static str| move |body: &Value| body["content"].to_string().contains(word);
    let firing = receiver.gets("/", "the alert", said("test: queue_depth is firing")).await;
    assert!(firing["content"].as_str().unwrap().contains("jobs waiting: 3."), "{firing}");
    client.post("/purge-queue", Value::Null).await;
    receiver.gets("/", "the end", said("test: queue_depth is resolved")).await;

    // Nothing listens on port 1.
    let flags = ["--alert-rules", &path, "--alert-webhook", "http://127.0.0.1:1/s3cret"];
    let mut lonely = Endpoint::start(&flags).await;
    for _ in 0..3 {
        lonely.client().submit(json!({})).await;
    }
    eventually("the alert in the log", || async {
        lonely.daemon.log().contains("An alert was not delivered").then_some(())
    })
    .await;
    assert_eq!(lonely.client().health().await["jobs"]["inQueue"], 3);
    lonely.daemon.signal(Signal::TERM);
    assert!(lonely.daemon.wait(Duration::from_secs(60)).success());
    assert!(!lonely.daemon.log().contains("s3cret"), "{}", lonely.daemon.log());
}

/// Two endpoints see the same, and jobs fail at one of them: each message is posted once. That an endpoint cannot use its data is known
/// to it alone.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_share_a_queue_post_once_and_say_when_their_database_is_away() {
    let Some(server) = Postgres::start() else { return };
    let receiver = Receiver::start().await;
    let (_folder, path) = rules(
        "[queue_depth]\nabove = 2\nfor = \"0s\"\n[failure_rate]\nmin_jobs = 2\nfor = \"0s\"\nwindow = \"10m\"\n\
         [no_idle_worker]\nenabled = false\n[data_unavailable]\nfor = \"0s\"",
    );
    let database = server.database();
    let flags = ["--database", &database, "--alert-rules", &path, "--alert-webhook", &receiver.url];
    let (a, b) = (Endpoint::start(&flags).await, Endpoint::start(&flags).await);
    let client = b.client();
    for _ in 0..3 {
        client.submit(json!({"do": "error"})).await;
    }
    receiver.gets("/", "the alert", titled("test: queue_depth is firing")).await;
    let worker = Worker::start(&b, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    for title in ["test: queue_depth is resolved", "test: failure_rate is firing"] {
        receiver.gets("/", "the alert", titled(title)).await;
    }
    for endpoint in [&a, &b] {
        endpoint.daemon.logs("share of valid jobs that failed within 10m: 1.").await;
    }
    let count = |what: &str| {
        let titles = receiver.posted().into_iter().filter_map(|one| serde_json::from_slice::<Value>(&one.body).ok());
        titles.filter(|body| body["title"].as_str().unwrap().contains(what)).count()
    };
    server.kill();
    until("both to say that it is away", || count("data_unavailable is firing") == 2).await;
    server.run();
    until("both to say that it is back", || count("data_unavailable is resolved") == 2).await;
    // By now a message that was posted twice would have arrived.
    for title in ["queue_depth is firing", "queue_depth is resolved", "failure_rate is firing"] {
        assert_eq!(count(title), 1, "{title}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_rules_values_and_bodies_and_a_test_message_arrives() {
    let receiver = Receiver::start().await;
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    let client = endpoint.client();
    client.run(json!({"do": "error"})).await;

    let (_folder, path) = rules("[failure_rate]\nmin_jobs = 1");
    let program = binary("runpod-worker");
    let alerts = |args: &[&str]| {
        let words: Vec<&str> = ["alerts"].iter().chain(args).copied().collect();
        let output = run_tool(&program.to_string_lossy(), &words);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    for url in [worker.http.clone(), format!("{}/test", endpoint.base)] {
        let (code, text) = alerts(&["--dry-run", "--rules", &path, "--url", &url]);
        assert_eq!(code, Some(0), "{text}");
        for part in ["[queue_depth]", "FIRES if it lasts for 1m", "failure_rate is firing", "the webhook is not set"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
    let (code, text) = alerts(&["--dry-run", "--url", "http://127.0.0.1:1"]);
    assert!(code == Some(1) && text.contains("check --url"), "{text}");
    let (code, text) = alerts(&["--test"]);
    assert!(code == Some(64) && text.contains("no webhook to test"), "{text}");
    let (code, text) = alerts(&["--test", "--webhook", &receiver.url]);
    assert_eq!(code, Some(0), "{text}");
    receiver.gets("/", "the test message", titled("runpod-worker: test")).await;
}
