//! Jobs that go well, and the worker's own beginning and end.

use std::collections::BTreeMap;
use std::time::Duration;

use end_to_end_tests::{Stack, WorkerOptions, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_travels_from_submission_to_its_output() {
    let stack = Stack::start("echo", WorkerOptions::default()).await;
    let job = stack.client.run(json!({"text": "hello"})).await;
    assert_eq!((&job["status"], &job["output"]), (&json!("COMPLETED"), &json!({"text": "hello"})));
    assert_eq!(job["workerId"], "worker-1");
    assert!(job["delayTime"].is_u64() && job["executionTime"].is_u64(), "{job}");

    let health = stack.worker.health().await;
    assert_eq!(health["jobs"], json!({"completed": 1, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}));
    let metrics = stack.worker.metrics().await;
    assert!(metrics.contains("runpod_jobs_total{status=\"completed\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_are_neither_lost_nor_repeated_nor_mixed_up() {
    let stack = Stack::start("echo", WorkerOptions::flags(&["--slots", "4"])).await;
    let mut ids = BTreeMap::new();
    for number in 0..1000 {
        let text = format!("job number {number}");
        let id = stack.client.submit(json!({"text": text})).await;
        assert!(ids.insert(id, text).is_none(), "an id was given twice");
    }
    for (id, text) in &ids {
        let job = stack.client.finished(id).await;
        assert_eq!((&job["status"], &job["output"]), (&json!("COMPLETED"), &json!({"text": text})), "{job}");
    }
    let expected = json!({"completed": 1000, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0});
    assert_eq!(stack.client.health().await["jobs"], expected);
    eventually("the worker to have delivered everything", || async {
        let health = stack.worker.health().await;
        (health["jobs"] == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_in_order_and_before_the_result() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let id = stack.client.submit(json!({"do": "stream", "n": 50})).await;
    let items = stack.client.stream(&id).await;
    let expected: Vec<Value> = (1..=50).map(Value::from).collect();
    assert_eq!(items, expected);
    assert_eq!(stack.client.status(&id).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_the_running_job_finish() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let id = stack.client.submit(json!({"do": "sleep_ms", "ms": 1500})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    stack.worker.daemon.signal(Signal::TERM);
    let job = stack.client.finished(&id).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_a_running_job_with_its_handler_process() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let id = stack.client.submit(json!({"do": "sleep_ms", "ms": 600_000})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    let handler = stack.worker.handler_pid().await.unwrap();
    stack.worker.daemon.signal(Signal::TERM);
    eventually("the drain to begin", || async {
        (stack.worker.health().await["worker"]["state"] == "draining").then_some(())
    })
    .await;
    stack.worker.daemon.signal(Signal::TERM);
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(10)).code(), Some(0));
    let gone = rustix::process::test_kill_process(rustix::process::Pid::from_raw(handler).unwrap()).is_err();
    assert!(gone, "the handler outlived its worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_and_the_next_one_runs() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let id = stack.client.submit(json!({"do": "check_cancel"})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    assert_eq!(stack.client.cancel(&id).await["status"], "CANCELLED");
    let before = stack.worker.handler_pid().await;
    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert_eq!(stack.worker.handler_pid().await, before, "a job that stops when asked keeps its process");
    assert_eq!(stack.client.status(&id).await["status"], "CANCELLED");
}
