//! Fitness checks, recycling and refreshing.

use std::net::TcpListener;
use std::time::Duration;

use end_to_end_tests::{Endpoint, FakeQueue, Stack, Worker, WorkerOptions, binary, eventually, free_port, run_tool};
use serde_json::{Value, json};

/// Runs `runpod-worker check` with these variables and flags; returns its exit status and what it printed.
fn check(variables: &[&str], flags: &[&str], handler: &str) -> (i32, String) {
    let (worker, handler) = (binary("runpod-worker"), binary(handler));
    let mut args = vec!["RUNPOD_MIN_MEMORY_GB=0.01", "RUNPOD_MIN_DISK_PERCENT=0"];
    args.extend(variables);
    let (worker, handler) = (worker.to_string_lossy(), handler.to_string_lossy());
    args.extend([&*worker, "check"]);
    args.extend(flags);
    args.extend(["--", &*handler]);
    let run = run_tool("env", &args);
    (run.status.code().unwrap(), String::from_utf8_lossy(&run.stdout).into_owned())
}

fn assert_line(text: &str, words: &[&str]) {
    assert!(
        text.lines().any(|line| words.iter().all(|word| line.contains(word))),
        "no line with {words:?} in:\n{text}"
    );
}

#[test]
fn check_prints_each_check_and_what_to_do() {
    let (code, text) = check(&[], &[], "puppet-handler");
    assert_eq!(code, 0, "{text}");
    assert_line(&text, &["ok ", "memory", "available"]);
    assert_line(&text, &["ok ", "disk", "free"]);
    assert_line(&text, &["skipped", "network", "--check-network"]);
    assert_line(&text, &["ok ", "puppet"]);

    let (code, text) = check(&["PUPPET_CHECK=fail", "RUNPOD_MIN_MEMORY_GB=100000"], &[], "puppet-handler");
    assert_eq!(code, 1, "{text}");
    assert_line(&text, &["FAILED", "memory", "100000.0 GiB"]);
    assert_line(&text, &["fix:", "RUNPOD_MIN_MEMORY_GB"]);
    assert_line(&text, &["FAILED", "puppet", "as asked"]);
    assert_line(&text, &["fix:", "PUPPET_CHECK"]);

    let skip = ["RUNPOD_SKIP_AUTO_SYSTEM_CHECKS=true", "RUNPOD_MIN_MEMORY_GB=100000"];
    let (code, text) = check(&skip, &[], "puppet-handler");
    assert_eq!(code, 0, "{text}");
    assert_line(&text, &["skipped", "memory", "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS"]);

    let (code, text) = check(&["RUNPOD_SKIP_FITNESS_CHECKS=1", "PUPPET_CHECK=fail"], &[], "puppet-handler");
    assert_eq!(code, 0, "{text}");
    assert_line(&text, &["skipped", "memory", "RUNPOD_SKIP_FITNESS_CHECKS"]);
}

#[test]
fn check_contacts_only_the_address_that_it_was_given() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (code, text) = check(&[], &["--check-network", &address], "echo");
    assert_eq!(code, 0, "{text}");
    assert_line(&text, &["ok ", "network", &address]);
    let nobody = format!("127.0.0.1:{}", free_port());
    let (code, text) = check(&[], &["--check-network", &nobody], "echo");
    assert_eq!(code, 1, "{text}");
    assert_line(&text, &["FAILED", "network", &nobody]);
}

#[test]
fn check_says_what_is_wrong_with_the_handler_itself() {
    let (code, text) = check(&["PUPPET_START=wrong_protocol"], &[], "puppet-handler");
    assert_eq!(code, 1, "{text}");
    assert_line(&text, &["FAILED", "handler", "protocol 999"]);
    let (code, text) = check(&["PUPPET_START=exit"], &[], "puppet-handler");
    assert_eq!(code, 1, "{text}");
    assert_line(&text, &["FAILED", "handler", "exit code 3"]);
}

/// A worker that fails a check reports it to the platform, exits with 1 and takes no job.
async fn refuses_to_work(options: WorkerOptions, log_words: &[&str]) {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let id = client.submit(json!({"do": "ok"})).await;
    let mut worker = Worker::start(&endpoint, &binary("puppet-handler"), options);
    assert_eq!(worker.daemon.wait(Duration::from_secs(40)).code(), Some(1), "{}", worker.daemon.log());
    assert_line(&worker.daemon.log(), log_words);
    assert_eq!(client.status(&id).await["status"], "IN_QUEUE");
    assert_eq!(client.health().await["workers"]["unhealthy"], 1, "the platform was not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_on_a_machine_that_fails_a_check_takes_no_job() {
    let options =
        WorkerOptions::default().env("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "false").env("RUNPOD_MIN_MEMORY_GB", "100000");
    refuses_to_work(options, &["ERROR", "memory", "RUNPOD_MIN_MEMORY_GB"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_handler_fails_its_check_takes_no_job() {
    let options = WorkerOptions::default().env("PUPPET_CHECK", "fail");
    refuses_to_work(options, &["ERROR", "puppet", "as asked"]).await;
}

fn pid(job: &Value) -> i64 {
    assert_eq!(job["status"], "COMPLETED", "{job}");
    job["output"]["pid"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_replaced_after_so_many_jobs_and_no_job_notices() {
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--max-jobs", "2"])).await;
    let mut pids = Vec::new();
    for _ in 0..5 {
        pids.push(pid(&stack.client.run(json!({"do": "ok"})).await));
    }
    assert!(pids[0] == pids[1] && pids[2] == pids[3], "{pids:?}");
    assert!(pids[1] != pids[2] && pids[3] != pids[4], "{pids:?}");
    let metrics = stack.worker.metrics().await;
    assert!(metrics.contains(r#"runpod_worker_recycles_total{cause="max_jobs"} 2"#), "{metrics}");
    assert_eq!(stack.worker.health().await["jobs"]["retried"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_leaks_is_replaced() {
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--max-rss", "200MiB"])).await;
    let first = pid(&stack.client.run(json!({"do": "leak", "bytes": 10_000_000})).await);
    assert_eq!(pid(&stack.client.run(json!({"do": "leak", "bytes": 300_000_000})).await), first);
    eventually("the process to be replaced", || async {
        let now = stack.worker.handler_pid().await;
        now.filter(|now| i64::from(*now) != first)
    })
    .await;
    assert_ne!(pid(&stack.client.run(json!({"do": "ok"})).await), first);
    assert!(stack.worker.metrics().await.contains(r#"runpod_worker_recycles_total{cause="max_rss"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_worker_ends_the_worker_after_one_job() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--refresh-worker"])).await;
    let id = stack.client.submit(json!({"do": "ok"})).await;
    let next = stack.client.submit(json!({"do": "ok"})).await;
    assert_eq!(stack.client.finished(&id).await["status"], "COMPLETED");
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
    assert_eq!(stack.client.status(&next).await["status"], "IN_QUEUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_of_a_job_for_a_fresh_worker_is_posted_with_its_result() {
    let queue = FakeQueue::start();
    let _worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), WorkerOptions::default());
    queue.job("content", &json!({"do": "ok"}));
    assert_eq!(queue.result("content").await["stopPod"], Value::Null);
    queue.job("weary", &json!({"do": "refresh"}));
    assert_eq!(queue.result("weary").await["stopPod"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_asks_for_a_fresh_worker_gets_one() {
    // Without RUNPOD_ENDPOINT_ID no other worker would be started: the handler is replaced.
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let first = pid(&stack.client.run(json!({"do": "refresh"})).await);
    assert_ne!(pid(&stack.client.run(json!({"do": "ok"})).await), first);
    drop(stack);

    // With it the platform starts another one: the worker ends.
    let options = WorkerOptions::default().env("RUNPOD_ENDPOINT_ID", "test");
    let mut stack = Stack::start("puppet-handler", options).await;
    let id = stack.client.submit(json!({"do": "refresh"})).await;
    assert_eq!(stack.client.finished(&id).await["status"], "COMPLETED");
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stays_for_its_other_jobs_gets_new_ones_after_them() {
    // Its request to be replaced reaches the endpoint late, and its other process still has a job.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("faults.toml");
    std::fs::write(&script, "[[fault]]\non = \"job-done\"\nkind = \"delay\"\nafter = \"4s\"\ntimes = 1\n").unwrap();
    let endpoint = Endpoint::start(&["--faults", &script.to_string_lossy()]).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::flags(&["--processes", "2"]));
    worker.ready().await;
    let client = endpoint.client();
    let beside = client.submit(json!({"do": "sleep_ms", "ms": 6000})).await;
    let weary = client.submit(json!({"do": "refresh"})).await;
    let next = client.submit(json!({"do": "ok"})).await;
    for id in [weary, beside, next] {
        let job = client.finished(&id).await;
        assert_eq!((&job["status"], &job["output"]["attempt"]), (&json!("COMPLETED"), &json!(1)), "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_replaced_at_once_under_its_name_gets_jobs() {
    let options = WorkerOptions::default().env("RUNPOD_ENDPOINT_ID", "test");
    let mut stack = Stack::start("puppet-handler", options.clone()).await;
    let first = pid(&stack.client.run(json!({"do": "refresh"})).await);
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
    let _next = Worker::start(&stack.endpoint, &binary("puppet-handler"), options);
    assert_ne!(pid(&stack.client.run(json!({"do": "ok"})).await), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_beside_one_that_ends_the_worker_may_finish() {
    // The neighbour outlives both: only its own time may bound it.
    let flags = ["--slots", "2", "--drain-grace", "200ms", "--cancel-grace", "200ms"];
    let options = WorkerOptions::flags(&flags).env("RUNPOD_ENDPOINT_ID", "test");
    let mut stack = Stack::start("puppet-handler", options).await;
    let beside = stack.client.submit(json!({"do": "sleep_ms", "ms": 3000})).await;
    let weary = stack.client.submit(json!({"do": "refresh"})).await;
    for id in [weary, beside] {
        assert_eq!(stack.client.finished(&id).await["status"], "COMPLETED");
    }
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
}
