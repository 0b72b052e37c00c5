//! Handlers that die, hang or panic. The worker stays.

use end_to_end_tests::{Stack, WorkerOptions, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// The error object inside a FAILED job.
fn error(job: &Value) -> Value {
    assert_eq!(job["status"], "FAILED", "{job}");
    serde_json::from_str(job["error"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_handler_fails_its_job_and_nothing_else() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let id = stack.client.submit(json!({"do": "sleep_ms", "ms": 600_000})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    let worker = stack.worker.daemon.pid();
    let handler = stack.worker.handler_pid().await.unwrap();
    let pings = |health: &Value| health["worker"]["lastPing"]["sent"].as_u64().unwrap();
    let before = pings(&stack.worker.health().await);

    kill_process(Pid::from_raw(handler).unwrap(), Signal::KILL).unwrap();
    let crashed = error(&stack.client.finished(&id).await);
    assert_eq!(crashed["error_type"], "crashed");
    assert!(crashed["error_message"].as_str().unwrap().contains("SIGKILL"), "{crashed}");

    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert_ne!(stack.worker.handler_pid().await, Some(handler), "it is a new process");
    assert_eq!(stack.worker.daemon.pid(), worker);
    assert!(stack.worker.daemon.is_running());
    eventually("the heartbeat to go on", || async {
        let health = stack.worker.health().await;
        (pings(&health) > before + 1 && health["worker"]["lastPing"]["failures"] == 0).then_some(())
    })
    .await;
    let health = stack.client.health().await;
    assert_eq!((&health["jobs"]["completed"], &health["jobs"]["failed"]), (&json!(1), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segfault_names_its_signal_and_quotes_the_last_words() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let crashed = error(&stack.client.run(json!({"do": "segv"})).await);
    assert_eq!(crashed["error_type"], "crashed");
    assert!(crashed["error_message"].as_str().unwrap().contains("SIGSEGV"), "{crashed}");
    assert!(crashed["error_traceback"].as_str().unwrap().contains("puppet"), "{crashed}");
    assert_eq!(crashed["worker_id"], "worker-1");
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_job_with_message_and_backtrace_and_keeps_the_process() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let before = stack.worker.handler_pid().await;
    let panicked = error(&stack.client.run(json!({"do": "panic"})).await);
    assert_eq!(panicked["error_type"], "inference_error");
    assert!(panicked["error_traceback"].as_str().unwrap().contains("puppet_handler"), "{panicked}");
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    assert_eq!(stack.worker.handler_pid().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_its_deadline_is_killed_and_times_out() {
    let options = WorkerOptions::flags(&["--job-timeout", "1s", "--cancel-grace", "500ms"]);
    let stack = Stack::start("puppet-handler", options).await;
    let late = error(&stack.client.run(json!({"do": "spin"})).await);
    assert_eq!(late["error_type"], "timeout");
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_that_ignores_it_is_killed() {
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--cancel-grace", "500ms"])).await;
    let before = stack.worker.handler_pid().await;
    let id = stack.client.submit(json!({"do": "spin"})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    stack.client.cancel(&id).await;
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    assert_ne!(stack.worker.handler_pid().await, before);
    assert_eq!(stack.client.status(&id).await["status"], "CANCELLED");
}
