//! Handlers that break the rules of the connection. Only the job that was running pays.

use std::time::{Duration, Instant};

use end_to_end_tests::{Stack, WorkerOptions};
use serde_json::{Value, json};

use super::error;

async fn stack(fault: &str) -> Stack {
    Stack::start("puppet-handler", WorkerOptions::default().env("PUPPET_START", &format!("raw_{fault}"))).await
}

/// Runs the same faulty job twice; answers the documents, and whether both ran in one process.
async fn twice(stack: &Stack) -> ([Value; 2], bool) {
    let before = stack.worker.handler_pid().await;
    let jobs = [stack.client.run(json!({"do": "ok"})).await, stack.client.run(json!({"do": "ok"})).await];
    // The second one has run to its end, so a process that was to be replaced has been.
    (jobs, stack.worker.handler_pid().await == before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_over_the_limit_fails_its_job_and_keeps_the_process() {
    let (jobs, same_process) = twice(&stack("oversize_result").await).await;
    for job in &jobs {
        let failed = error(job);
        assert_eq!(failed["error_type"], "protocol");
        assert!(failed["error_message"].as_str().unwrap().contains("return a link"), "{failed}");
    }
    assert!(same_process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_out_of_step_fails_its_job_and_replaces_the_process() {
    let (jobs, same_process) = twice(&stack("oversize_header").await).await;
    for job in &jobs {
        assert_eq!(error(job)["error_type"], "protocol", "{job}");
    }
    assert!(!same_process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_means_nothing_replaces_the_process() {
    let (jobs, same_process) = twice(&stack("bad_header").await).await;
    for job in &jobs {
        // The right result follows the bad frame at once, and counts when it is read before the process is gone.
        assert!(job["status"] == "COMPLETED" || error(job)["error_type"] == "protocol", "{job}");
    }
    assert!(!same_process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_cut_off_fails_its_job() {
    let (jobs, same_process) = twice(&stack("truncated").await).await;
    for job in &jobs {
        let kind = error(job)["error_type"].clone();
        assert!(kind == "crashed" || kind == "protocol", "{job}");
    }
    assert!(!same_process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_result_counts_even_if_the_process_dies_right_after() {
    let stack = stack("result_then_segv").await;
    // Each may be sent to its predecessor's process in the moment of its death. It was not begun there, so it runs again.
    for _ in 0..4 {
        let job = stack.client.run(json!({"do": "ok"})).await;
        assert_eq!((&job["status"], &job["output"]), (&json!("COMPLETED"), &json!({"ok": true})), "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_jobs_and_late_messages_are_dropped() {
    for fault in ["wrong_job", "out_of_order"] {
        let (jobs, same_process) = twice(&stack(fault).await).await;
        for job in &jobs {
            assert_eq!((&job["status"], &job["output"]), (&json!("COMPLETED"), &json!({"ok": true})), "{fault}: {job}");
        }
        assert!(same_process, "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_noticed_although_a_grandchild_keeps_the_socket_open() {
    let stack = stack("grandchild").await;
    let begin = Instant::now();
    let crashed = error(&stack.client.run(json!({"do": "ok"})).await);
    assert_eq!(crashed["error_type"], "crashed");
    assert!(begin.elapsed() < Duration::from_secs(20), "it lives for ten minutes");
}
