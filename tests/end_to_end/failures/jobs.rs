//! Failures that a job brings with it. The process stays, unless its device does not.

use end_to_end_tests::{Stack, WorkerOptions};
use serde_json::json;

use super::error;

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_every_kind_fail_their_job_and_keep_the_process() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let before = stack.worker.handler_pid().await;
    for (what, kind, words) in [
        ("validation", "validation", "input.do: refused as asked"),
        ("no such deed", "validation", "unknown variant"),
        ("error", "inference_error", "the puppet fails as asked"),
        ("unknown_model", "model_not_found", "puppet-2"),
        ("oom_text", "oom", "Tried to allocate 2.00 GiB"),
    ] {
        let failed = error(&stack.client.run(json!({ "do": what })).await);
        assert_eq!(failed["error_type"], kind, "{what}: {failed}");
        assert!(failed["error_message"].as_str().unwrap().contains(words), "{what}: {failed}");
        assert_eq!(failed["worker_id"], "worker-1");
        assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED", "after {what}");
    }
    assert_eq!(stack.worker.handler_pid().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_job_with_message_and_backtrace_and_keeps_the_process() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let before = stack.worker.handler_pid().await;
    let panicked = error(&stack.client.run(json!({"do": "panic"})).await);
    assert_eq!(panicked["error_type"], "inference_error");
    assert!(panicked["error_message"].as_str().unwrap().contains("the puppet panics as asked"), "{panicked}");
    assert!(panicked["error_traceback"].as_str().unwrap().contains("puppet_handler"), "{panicked}");
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    assert_eq!(stack.worker.handler_pid().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_in_a_row_out_of_device_memory_replace_the_process() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let before = stack.worker.handler_pid().await;
    for _ in 0..2 {
        assert_eq!(error(&stack.client.run(json!({"do": "oom_text"})).await)["error_type"], "oom");
    }
    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert_ne!(
        next["output"]["pid"].as_i64(),
        before.map(i64::from),
        "memory that is not given back needs a new process"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_costs_its_process_at_once() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let before = stack.worker.handler_pid().await;
    let lost = error(&stack.client.run(json!({"do": "device_lost"})).await);
    assert_eq!(lost["error_type"], "device_lost");
    assert!(lost["error_message"].as_str().unwrap().contains("illegal memory access"), "{lost}");
    let next = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(next["status"], "COMPLETED");
    assert_ne!(next["output"]["pid"].as_i64(), before.map(i64::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_speaks_of_a_lost_device_costs_nothing_while_the_device_works() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let before = stack.worker.handler_pid().await;
    // As many as would be crashes enough to make the worker unhealthy, and one more.
    for what in ["cuda_text", "cuda_panic"].repeat(3) {
        let failed = error(&stack.client.run(json!({"do": what})).await);
        assert_eq!(failed["error_type"], "inference_error", "{failed}");
        assert!(failed["error_message"].as_str().unwrap().contains("illegal memory access"), "{failed}");
    }
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["output"]["pid"].as_i64(), before.map(i64::from));
}
