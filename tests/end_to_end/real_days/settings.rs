//! Values that cannot work together are refused at start with the reason, or one is derived from the other.

use std::time::Duration;

use end_to_end_tests::{Daemon, Endpoint, Worker, WorkerOptions, binary, free_port, run_tool};
use serde_json::json;

/// The exit status for a wrong configuration.
const WRONG: Option<i32> = Some(64);

/// Checks a worker's configuration; the exit status and what it said.
fn worker(flags: &[&str]) -> (Option<i32>, String) {
    let args = [&["run", "--check-config"], flags, &["--", "/bin/true"]].concat();
    let output = run_tool(&binary("runpod-worker").to_string_lossy(), &args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Starts an endpoint that must end at once; the exit status and what it said.
fn endpoint(flags: &[&str]) -> (Option<i32>, String) {
    let bind = format!("127.0.0.1:{}", free_port());
    let args: Vec<String> = [&["serve", "--bind", &bind], flags].concat().into_iter().map(str::to_owned).collect();
    let mut daemon = Daemon::start("endpoint", &binary("runpod-endpoint"), &args, &[]);
    (daemon.wait(Duration::from_secs(20)).code(), daemon.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_short_lease_asks_its_workers_for_frequent_heartbeats() {
    let endpoint = Endpoint::start(&["--lease", "5s"]).await;
    let env = endpoint.printed_worker_env().await;
    let interval = env.iter().find(|(name, _)| name == "RUNPOD_PING_INTERVAL").map(|(_, value)| value.as_str());
    let interval: u64 = interval.expect("the interval is printed").parse().unwrap();
    assert!(interval * 2 <= 5000, "{interval} ms between heartbeats and a lease of 5 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_an_interval_of_its_own_keeps_its_jobs_under_a_short_lease() {
    let endpoint = Endpoint::start(&["--lease", "5s"]).await;
    let client = endpoint.client();
    let mut env = endpoint.worker_env("remote");
    env.retain(|(name, _)| name != "RUNPOD_PING_INTERVAL");
    env.push(("RUNPOD_PING_INTERVAL".to_owned(), "60000".to_owned()));
    let worker = Worker::start_with(env, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    let job = client.run(json!({"do": "sleep_ms", "ms": 9000})).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
    assert_eq!(client.health().await["jobs"]["retried"], 0);
    let log = worker.daemon.log();
    assert_eq!(log.matches("The lease of the queue is short").count(), 1, "{log}");
}

#[test]
fn pairs_of_endpoint_settings_that_cannot_work_together_are_refused_with_the_reason() {
    for (flags, word) in [
        (&["--lease", "1s"][..], "lease"),
        (&["--workers-min", "3", "--workers-max", "2", "--worker-bin", "/bin/true", "--", "handler"], "workers-m"),
    ] {
        let (code, log) = endpoint(flags);
        assert_eq!(code, WRONG, "{flags:?}\n{log}");
        assert!(log.contains(word), "{flags:?}\n{log}");
    }
}

#[test]
fn pairs_of_worker_settings_that_cannot_work_together_are_refused_with_both_names() {
    for (flags, words) in [
        (&["--spool", "always", "--spool-dir", "none"][..], ["--spool", "--spool-dir"]),
        (&["--refresh-worker", "--on-refresh", "restart-handler"], ["--refresh-worker", "--on-refresh"]),
        (&["--device", "cpu", "--min-gpu-memory", "1GiB"], ["--device", "--min-gpu-memory"]),
    ] {
        let (code, text) = worker(flags);
        assert_eq!(code, WRONG, "{flags:?}\n{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{flags:?}\n{text}");
    }
}
