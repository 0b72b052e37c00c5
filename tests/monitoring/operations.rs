//! What docs/operations.md shows of each state of a worker is what `curl` gets.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{
    Client, Daemon, Endpoint, FakeQueue, Receiver, Reply, Worker, WorkerOptions, binary, eventually, repository,
};
use rustix::process::Signal;
use serde_json::{Value, json};

fn curl(url: &str) -> String {
    let mut curl = Daemon::start("curl", Path::new("curl"), &["-s".to_owned(), url.to_owned()], &[]);
    curl.wait(Duration::from_secs(30));
    curl.log()
}

/// Waits until the worker is in this state, with its slot in that one, and writes down what it shows.
async fn capture(state: &str, slot: &str, worker: &Worker) -> String {
    let (health, metrics) = eventually(&format!("a worker that is {state}"), || async {
        let health: Value = serde_json::from_str(&curl(&format!("{}/health", worker.http))).ok()?;
        let metrics = curl(&format!("{}/metrics", worker.http));
        let state_line = format!("runpod_worker_state{{state=\"{state}\"}} 1");
        let slot_line = format!("runpod_worker_slots{{state=\"{slot}\"}} 1");
        let fits = health["worker"]["state"] == state && [state_line, slot_line].iter().all(|l| metrics.contains(l));
        fits.then_some((health, metrics))
    })
    .await;
    let reason = health["worker"].get("reason").map(|reason| format!(",\"reason\":{reason}")).unwrap_or_default();
    let mut text = format!("# {state}\n");
    let _ = writeln!(text, "worker   /health   \"workers\":{}", health["workers"]);
    let _ = writeln!(text, "                   \"worker\":{{\"state\":\"{state}\"{reason},…}}");
    let shown = |line: &&str| {
        (line.starts_with("runpod_worker_state{") || line.starts_with("runpod_worker_slots{")) && line.ends_with(" 1")
    };
    for (index, line) in metrics.lines().filter(shown).enumerate() {
        let _ = writeln!(text, "         {:9} {line}", if index == 0 { "/metrics" } else { "" });
    }
    text
}

/// The same, and what the endpoint shows once it counts the worker so.
async fn capture_both(state: &str, slot: &str, worker: &Worker, client: &Client, counted: &str) -> String {
    let text = capture(state, slot, worker).await;
    let health = eventually(&format!("the endpoint to count a worker as {counted}"), || async {
        let health = client.health().await;
        (health["workers"][counted] == 1).then_some(health)
    })
    .await;
    format!("{text}endpoint /health   {health}\n")
}

/// All states, in the order of a worker's life.
async fn every_state() -> String {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let puppet = binary("puppet-handler");
    let slow = WorkerOptions::default().env("PUPPET_START", "load_slow").env("PUPPET_LOAD_MS", "10000");
    let mut worker = Worker::start(&endpoint, &puppet, slow);
    let mut captured = vec![capture_both("initializing", "loading", &worker, &client, "initializing").await];
    worker.ready().await;
    captured.push(capture_both("idle", "ready", &worker, &client, "idle").await);
    let id = client.submit(json!({"do": "check_cancel"})).await;
    client.reaches(&id, "IN_PROGRESS").await;
    captured.push(capture_both("running", "busy", &worker, &client, "running").await);
    worker.daemon.signal(Signal::TERM);
    captured.push(capture_both("draining", "busy", &worker, &client, "running").await);
    client.cancel(&id).await;
    worker.daemon.wait(Duration::from_secs(60));

    let queue = FakeQueue::start();
    queue.take(Reply::status(429).header("retry-after", "600"));
    let worker = Worker::start_with(queue.worker_env(), &puppet, WorkerOptions::default());
    captured.push(capture("throttled", "ready", &worker).await);

    // It exits soon after this state; a result that is not accepted keeps it for a while.
    let queue = FakeQueue::start();
    for number in 0..50 {
        queue.job(&format!("job-{number}"), &json!({"do": "segv"}));
        queue.done(Reply::never());
    }
    let worker = Worker::start_with(queue.worker_env(), &puppet, WorkerOptions::flags(&["--flush-grace", "30s"]));
    captured.push(capture("unhealthy", "absent", &worker).await);
    captured.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_shows_every_state_as_it_is() {
    let captured = every_state().await;
    let guide = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let shown = guide.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(shown, captured, "put this into docs/operations.md:\n{captured}");
}

/// A shell block of the guide that contains `word`, run with the programs of this build on the path.
fn run_block(word: &str, changes: &[(&str, &str)]) -> String {
    let guide = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let mut blocks = guide.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut script = blocks.find(|block| block.contains(word)).unwrap_or_else(|| panic!("no block: {word}")).to_owned();
    for (from, to) in changes {
        assert!(script.contains(from), "no {from} in {script}");
        script = script.replace(from, to);
    }
    let programs = binary("runpod-worker").parent().unwrap().to_string_lossy().into_owned();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let mut shell =
        Daemon::start("sh", Path::new("/bin/sh"), &["-ec".to_owned(), script], &[("PATH".to_owned(), path)]);
    let status = shell.wait(Duration::from_secs(60));
    assert!(status.success(), "{}", shell.log());
    shell.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_guide_work() {
    let receiver = Receiver::start().await;
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    endpoint.client().run(json!({"do": "ok"})).await;
    let root = endpoint.base.trim_end_matches("/v2");
    let (at, local) = (("http://127.0.0.1:8001", &*worker.http), ("/v2/local", "/v2/test"));
    let seen = run_block("curl -s http://127.0.0.1:8001/ready", &[at, ("http://127.0.0.1:8000", root), local]);
    for part in ["\"state\":\"idle\"", "runpod_worker_state{", "\"completed\":1", "runpod_endpoint_queue_depth{"] {
        assert!(seen.contains(part), "{part} is not in {seen}");
    }
    let seen = run_block("alerts --test", &[at, ("https://hooks.example.org/…", &receiver.url)]);
    assert!(seen.contains("delivered: ") && seen.contains("the webhook is set"), "{seen}");
    receiver.gets("/", "the test message", |body| body["title"] == "runpod-worker: test").await;
}
