//! A handler that runs jobs in batches, behind a real worker and endpoint.

use end_to_end_tests::{Stack, WorkerOptions};
use serde_json::{Value, json};

/// Jobs in a batch of the test handler.
const BATCH: usize = 16;

async fn stack() -> Stack {
    Stack::start("puppet-handler", WorkerOptions::default().env("PUPPET_BATCH", "1")).await
}

/// Submits a job that occupies the model until the file exists, then `jobs`, which form the next batch. Returns their results.
async fn run_as_one_batch(stack: &Stack, jobs: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let first = stack.client.submit(json!({"do": "wait_for", "path": gate})).await;
    stack.client.reaches(&first, "IN_PROGRESS").await;
    let mut ids = Vec::new();
    for job in jobs {
        ids.push(stack.client.submit(job.clone()).await);
    }
    for id in &ids {
        stack.client.reaches(id, "IN_PROGRESS").await;
    }
    std::fs::write(&gate, "").unwrap();
    let mut results = Vec::new();
    for id in &ids {
        results.push(stack.client.finished(id).await);
    }
    assert_eq!(stack.client.finished(&first).await["status"], "COMPLETED");
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_a_batch_without_a_flag_and_one_bad_job_fails_alone() {
    for (bad, kind) in
        [("segv", "crashed"), ("oom_text", "oom"), ("panic", "inference_error"), ("validation", "validation")]
    {
        let stack = stack().await;
        let mut jobs = vec![json!({"do": "ok"}); BATCH];
        jobs[5] = json!({"do": bad});
        let results = run_as_one_batch(&stack, &jobs).await;
        for (index, result) in results.iter().enumerate() {
            let expected = if index == 5 { "FAILED" } else { "COMPLETED" };
            assert_eq!(result["status"], expected, "{bad}, job {index}: {result}");
        }
        let error = super::failures::error(&results[5]);
        assert_eq!(error["error_type"], kind, "{error}");
        let slots = &stack.worker.health().await["worker"]["slots"];
        assert_eq!(slots["ready"], 2 * BATCH, "{slots}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_visible_in_health_and_metrics() {
    let stack = stack().await;
    let batching = async || stack.worker.health().await["worker"]["processes"][0]["batching"].clone();
    assert_eq!(batching().await, json!({"maxJobs": BATCH, "running": 0, "waiting": 0, "batches": 0}));
    let mut jobs = vec![json!({"do": "ok"}); BATCH];
    jobs[BATCH - 1] = json!({"do": "sleep_ms", "ms": 300});
    run_as_one_batch(&stack, &jobs).await;
    let seen = batching().await;
    assert_eq!(
        (&seen["maxCost"], &seen["budget"], &seen["running"]),
        (&json!(1024), &json!(1024), &json!(0)),
        "{seen}"
    );
    assert_eq!((&seen["batches"], &seen["meanBatch"]), (&json!(2), &json!(8.5)), "{seen}");
    assert_eq!(seen["lastBatch"], json!({"jobs": BATCH, "cost": BATCH, "closedBy": "full"}));
    let metrics = stack.worker.metrics().await;
    for line in [
        "runpod_batch_size_count 2",
        "runpod_batch_size_sum 17.0",
        "runpod_batch_wait_seconds_count 17",
        "runpod_batches_total{reason=\"full\"} 1",
        "runpod_batches_total{reason=\"idle\"} 1",
        "runpod_batch_cost_budget{process=\"0\"} 1024",
        "runpod_batch_cost_limit{process=\"0\"} 1024",
        "runpod_batch_jobs{process=\"0\",state=\"waiting\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}
