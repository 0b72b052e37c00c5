//! A handler that runs jobs in batches, behind a real worker and endpoint.

use std::time::{Duration, Instant};

use end_to_end_tests::{Stack, WorkerOptions, eventually};
use serde_json::{Value, json};

/// Jobs in a batch of the test handler.
const BATCH: usize = 16;

async fn stack() -> Stack {
    Stack::start("puppet-handler", WorkerOptions::default().env("PUPPET_BATCH", "1")).await
}

/// Submits a job that occupies the model until a file exists, then `jobs`, which then run together. Returns their ids when they
/// begin.
async fn begin_together(stack: &Stack, jobs: &[Value]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let first = stack.client.submit(json!({"do": "wait_for", "path": gate})).await;
    // The model has begun with it: a job that arrives earlier would be in the same batch.
    eventually("the model to wait", async || gate.with_extension("waits").exists().then_some(())).await;
    let mut ids = Vec::new();
    for job in jobs {
        ids.push(stack.client.submit(job.clone()).await);
    }
    eventually("all jobs are in the process", async || {
        let busy = stack.worker.health().await["worker"]["slots"]["busy"].as_u64();
        (busy == Some(jobs.len() as u64 + 1)).then_some(())
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(stack.client.finished(&first).await["status"], "COMPLETED");
    ids
}

/// Runs jobs together, and returns their results.
pub(crate) async fn run_together(stack: &Stack, jobs: &[Value]) -> Vec<Value> {
    let mut results = Vec::new();
    for id in begin_together(stack, jobs).await {
        results.push(stack.client.finished(&id).await);
    }
    results
}

/// Runs sixteen jobs together, one of which fails with this kind of error. `slots` is how many jobs the worker takes.
pub(crate) async fn one_bad_job_fails_alone(stack: &Stack, bad: &str, kind: &str, slots: usize) {
    let mut jobs = vec![json!({"do": "ok"}); BATCH];
    jobs[5] = json!({"do": bad});
    let results = run_together(stack, &jobs).await;
    for (index, result) in results.iter().enumerate() {
        let expected = if index == 5 { "FAILED" } else { "COMPLETED" };
        assert_eq!(result["status"], expected, "{bad}, job {index}: {result}");
    }
    let error = super::failures::error(&results[5]);
    assert_eq!(error["error_type"], kind, "{error}");
    eventually("every slot is ready", async || {
        let ready = stack.worker.health().await["worker"]["slots"]["ready"].as_u64();
        (ready == Some(slots as u64)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_a_batch_without_a_flag_and_one_bad_job_fails_alone() {
    for (bad, kind) in
        [("segv", "crashed"), ("oom_text", "oom"), ("panic", "inference_error"), ("validation", "validation")]
    {
        one_bad_job_fails_alone(&stack().await, bad, kind, 2 * BATCH).await;
    }
}

/// Far longer than the worker's grace for a cancel, and shorter than the time that it gives to jobs that can still finish.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_deaf_to_a_cancel_is_ended_and_its_other_jobs_run_again() {
    for mode in ["PUPPET_BATCH", "PUPPET_STEP"] {
        let options = WorkerOptions::flags(&["--cancel-grace", "300ms"]).env(mode, "1");
        let stack = Stack::start("puppet-handler", options).await;
        let jobs = ["ok", "ignore_cancel", "ok", "ok"].map(|what| json!({"do": what}));
        let ids = begin_together(&stack, &jobs).await;
        let begin = Instant::now();
        stack.client.cancel(&ids[1]).await;
        let mut states = Vec::new();
        for id in &ids {
            states.push(stack.client.finished(id).await["status"].clone());
        }
        assert_eq!(states, ["COMPLETED", "CANCELLED", "COMPLETED", "COMPLETED"], "{mode}");
        assert!(begin.elapsed() < PATIENCE, "{mode}: after {:?}", begin.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_several_models_only_jobs_of_the_others_may_finish_before_a_deaf_one_is_ended() {
    let options = WorkerOptions::flags(&["--cancel-grace", "300ms", "--slots", "2"]).env("PUPPET_BATCH", "1");
    let stack = Stack::start("puppet-handler", options).await;
    let folder = tempfile::tempdir().unwrap();
    let gates = ["first", "second"].map(|name| folder.path().join(name));
    let mut gated = Vec::new();
    for gate in &gates {
        let id = stack.client.submit(json!({"do": "wait_for", "path": gate})).await;
        eventually("a model to begin", async || {
            let batching = stack.worker.health().await["worker"]["processes"][0]["batching"].clone();
            (batching["running"] == gated.len() + 1).then_some(())
        })
        .await;
        gated.push(id);
    }
    let mut ids = Vec::new();
    for what in ["ok", "ignore_cancel", "ok"] {
        ids.push(stack.client.submit(json!({ "do": what })).await);
    }
    eventually("all jobs are in the process", async || {
        (stack.worker.health().await["worker"]["slots"]["busy"] == 5).then_some(())
    })
    .await;
    // One model takes all three, while the other one waits.
    std::fs::write(&gates[0], "").unwrap();
    assert_eq!(stack.client.finished(&gated[0]).await["status"], "COMPLETED");
    eventually("the batch to run", async || {
        let batching = stack.worker.health().await["worker"]["processes"][0]["batching"].clone();
        (batching["running"] == 4).then_some(())
    })
    .await;
    stack.client.cancel(&ids[1]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stack.client.status(&ids[0]).await["status"], "IN_PROGRESS", "the other model may finish its job");
    let begin = Instant::now();
    std::fs::write(&gates[1], "").unwrap();
    assert_eq!(stack.client.finished(&gated[1]).await["status"], "COMPLETED");
    for (id, expected) in ids.iter().zip(["COMPLETED", "CANCELLED", "COMPLETED"]) {
        assert_eq!(stack.client.finished(id).await["status"], expected);
    }
    assert!(begin.elapsed() < PATIENCE, "after {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_visible_in_health_and_metrics() {
    let stack = stack().await;
    let batching = async || stack.worker.health().await["worker"]["processes"][0]["batching"].clone();
    assert_eq!(batching().await, json!({"maxJobs": BATCH, "running": 0, "waiting": 0, "batches": 0}));
    let mut jobs = vec![json!({"do": "ok"}); BATCH];
    jobs[BATCH - 1] = json!({"do": "sleep_ms", "ms": 300});
    run_together(&stack, &jobs).await;
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
