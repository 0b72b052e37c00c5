//! Real libtorch at its limits. What a CPU can do too is tested without a GPU; the rest is reported as not tested.

use end_to_end_tests::{Stack, WorkerOptions, gpu_not_tested, has_gpu};
use serde_json::{Value, json};

use crate::failures::error;

const MIB: i64 = 1024 * 1024;
/// Device memory may move by this much: pages and caches of the driver.
const SLACK: i64 = 64 * MIB;

async fn stack(flags: &[&str]) -> Stack {
    Stack::start("gpu-handler", WorkerOptions::flags(flags)).await
}

/// Runs a job that allocates some memory; its output.
async fn hold(stack: &Stack) -> Value {
    let job = stack.client.run(json!({"do": "hold", "bytes": 64 * MIB})).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
    job["output"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_in_libtorch_fails_its_job_and_the_process_goes_on() {
    let stack = stack(&[]).await;
    let before = hold(&stack).await;
    let failed = error(&stack.client.run(json!({"do": "oom"})).await);
    assert_eq!(failed["error_type"], "oom", "{failed}");
    let after = hold(&stack).await;
    assert_eq!(before["pid"], after["pid"]);
    assert_eq!(before["allocated"], after["allocated"], "nothing stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computation_without_end_is_killed_at_its_deadline_and_the_device_is_free() {
    let stack = stack(&["--job-timeout", "5s", "--cancel-grace", "500ms"]).await;
    let before = hold(&stack).await;
    let late = error(&stack.client.run(json!({"do": "endless"})).await);
    assert_eq!(late["error_type"], "timeout", "{late}");
    assert_ne!(hold(&stack).await["pid"], before["pid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_out_of_bounds_in_a_kernel_loses_the_device_and_a_new_process_has_it_again() {
    if !has_gpu() {
        gpu_not_tested("a lost device needs an NVIDIA GPU");
        return;
    }
    let stack = stack(&[]).await;
    let before = hold(&stack).await;
    let lost = error(&stack.client.run(json!({"do": "out_of_bounds"})).await);
    assert_eq!(lost["error_type"], "device_lost", "{lost}");
    let after = hold(&stack).await;
    assert_ne!(before["pid"], after["pid"]);
    assert_eq!(before["device"], after["device"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn device_memory_is_back_where_it_was_after_20_replacements() {
    if !has_gpu() {
        gpu_not_tested("device memory after replacements: it needs an NVIDIA GPU");
        return;
    }
    let stack = stack(&["--max-jobs", "1"]).await;
    let first = hold(&stack).await;
    let mut last = first.clone();
    for _ in 0..20 {
        let next = hold(&stack).await;
        assert_ne!(next["pid"], last["pid"], "each job has a process of its own");
        last = next;
    }
    let free = |output: &Value| output["free"].as_i64().unwrap();
    assert!((free(&first) - free(&last)).abs() <= SLACK, "free at first {first}, at last {last}");
}
