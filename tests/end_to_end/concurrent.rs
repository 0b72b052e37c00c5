//! An async handler, which runs many jobs at once, behind a real worker and endpoint.

use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Client, Stack, Worker, WorkerOptions, eventually};
use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

async fn stack(flags: &[&str], env: &[(&str, &str)]) -> Stack {
    let mut options = WorkerOptions::flags(flags).env("PUPPET_ASYNC", "1");
    for (name, value) in env {
        options = options.env(name, value);
    }
    Stack::start("puppet-handler", options).await
}

/// Waits until so many slots are busy, and as many as said are ready.
async fn has_slots(worker: &Worker, busy: usize, ready: usize) {
    eventually(&format!("{busy} busy and {ready} ready slots"), || async {
        let slots = &worker.health().await["worker"]["slots"];
        (slots["busy"] == busy && slots["ready"] == ready).then_some(())
    })
    .await;
}

async fn reads(path: &Path, text: &str) {
    let is_there = || async { std::fs::read_to_string(path).is_ok_and(|found| found == text).then_some(()) };
    eventually(&format!("{text:?} in {}", path.display()), is_there).await;
}

async fn ends(client: &Client, ids: &[String]) -> Vec<Value> {
    join_all(ids.iter().map(|id| client.finished(id))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_are_in_flight_without_a_flag_and_without_a_thread_for_each() {
    let stack = stack(&[], &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    for _ in 0..20 {
        let submit = || stack.client.submit(json!({"do": "wait_for", "path": gate}));
        join_all((0..50).map(|_| submit())).await;
    }
    has_slots(&stack.worker, 1000, 0).await;
    let status = format!("/proc/{}/status", stack.worker.handler_pid().await.unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
    assert!(threads.trim().parse::<u32>().unwrap() < 64, "{threads} threads");
    std::fs::write(&gate, "").unwrap();
    stack.client.get_when("/health", |health| health["jobs"]["completed"] == 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_drops_the_future_and_a_panic_fails_only_its_job() {
    let stack = stack(&[], &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let (path, gate) = (folder.path().join("guard"), folder.path().join("gate"));
    let cancelled = stack.client.submit(json!({"do": "guard", "path": path})).await;
    let neighbour = stack.client.submit(json!({"do": "wait_for", "path": gate})).await;
    reads(&path, "waits").await;
    let failed = stack.client.run(json!({"do": "panic"})).await;
    assert_eq!(failed["status"], "FAILED", "{failed}");
    assert_eq!(super::failures::error(&failed)["error_type"], "inference_error");
    stack.client.cancel(&cancelled).await;
    reads(&path, "dropped").await;
    let streamed = stack.client.submit(json!({"do": "stream", "n": 100})).await;
    assert_eq!(stack.client.stream(&streamed).await, (1..=100).map(|item| json!(item)).collect::<Vec<_>>());
    std::fs::write(&gate, "").unwrap();
    let neighbour = stack.client.finished(&neighbour).await;
    assert_eq!((&neighbour["status"], &neighbour["output"]["attempt"]), (&json!("COMPLETED"), &json!(1)));
    assert_eq!(stack.client.status(&cancelled).await["status"], "CANCELLED");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_lowers_and_raises_how_many_jobs_it_runs_at_once() {
    let stack = stack(&[], &[("RUNPOD_MAX_CONCURRENCY", "10")]).await;
    has_slots(&stack.worker, 0, 10).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let lower = stack.client.submit(json!({"do": "concurrency", "jobs": 2, "after": file("lower")})).await;
    let raise = stack.client.submit(json!({"do": "concurrency", "jobs": 5000, "after": file("raise")})).await;
    has_slots(&stack.worker, 2, 8).await;
    std::fs::write(file("lower"), "").unwrap();
    stack.client.finished(&lower).await;
    has_slots(&stack.worker, 1, 1).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(stack.client.submit(json!({"do": "wait_for", "path": file("gate")})).await);
    }
    has_slots(&stack.worker, 2, 0).await;
    assert_eq!(stack.client.health().await["jobs"]["inQueue"], 3, "the worker has not asked for them");
    std::fs::write(file("raise"), "").unwrap();
    stack.client.finished(&raise).await;
    has_slots(&stack.worker, 4, 6).await;
    assert_eq!(stack.worker.health().await["worker"]["processes"][0]["slots"], 10, "the environment is the limit");
    std::fs::write(file("gate"), "").unwrap();
    for end in ends(&stack.client, &ids).await {
        assert_eq!(end["status"], "COMPLETED", "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_blocks_its_thread_can_be_cancelled_and_its_neighbours_go_on() {
    let stack = stack(&[], &[]).await;
    let pid = stack.worker.handler_pid().await;
    let blocks = stack.client.submit(json!({"do": "block"})).await;
    stack.worker.daemon.logs("has blocked its thread for").await;
    stack.client.cancel(&blocks).await;
    for _ in 0..3 {
        assert_eq!(stack.client.run(json!({"do": "sleep_ms", "ms": 10})).await["status"], "COMPLETED");
    }
    has_slots(&stack.worker, 0, 1000).await;
    assert_eq!(stack.worker.handler_pid().await, pid, "the process is the same");
}

/// As many as the runtime has threads; they are blocked for ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_block_all_threads_fail_and_their_neighbour_runs_again() {
    let stack = stack(&[], &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let neighbour = stack.client.submit(json!({"do": "wait_for", "path": gate})).await;
    stack.client.reaches(&neighbour, "IN_PROGRESS").await;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(4, 32);
    let blockers = join_all((0..threads).map(|_| stack.client.submit(json!({"do": "block"})))).await;
    for end in ends(&stack.client, &blockers).await {
        let error = super::failures::error(&end);
        assert_eq!(error["error_type"], "inference_error", "{error}");
        assert!(error["error_message"].as_str().unwrap().contains("spawn_blocking"), "{error}");
    }
    std::fs::write(&gate, "").unwrap();
    let neighbour = stack.client.finished(&neighbour).await;
    assert_eq!(neighbour["status"], "COMPLETED", "{neighbour}");
    assert_eq!(neighbour["output"]["attempt"], 2, "{neighbour}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_jobs_finish_and_drops_those_that_do_not() {
    let mut stack = stack(&["--drain-grace", "2s"], &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard");
    let finishes = stack.client.submit(json!({"do": "sleep_ms", "ms": 1000})).await;
    let dropped = stack.client.submit(json!({"do": "guard", "path": path})).await;
    reads(&path, "waits").await;
    stack.client.reaches(&finishes, "IN_PROGRESS").await;
    stack.worker.daemon.signal(Signal::TERM);
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
    reads(&path, "dropped").await;
    assert_eq!(stack.client.status(&finishes).await["status"], "COMPLETED");
    assert_eq!(stack.client.status(&dropped).await["status"], "IN_QUEUE", "handed back");
}
