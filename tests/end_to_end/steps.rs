//! A handler that advances jobs step by step, behind a real worker and endpoint.

use end_to_end_tests::{Stack, WorkerOptions, eventually};
use serde_json::json;

use super::batches::{one_bad_job_fails_alone, run_together};

/// Most running jobs of the test handler, and how many wait in the process.
const RUNNING: usize = 16;
const WAITING: usize = 4;

async fn stack() -> Stack {
    Stack::start("puppet-handler", WorkerOptions::default().env("PUPPET_STEP", "1")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_jobs_stream_side_by_side() {
    let stack = stack().await;
    let jobs = vec![json!({"do": "stream", "n": 20}); RUNNING - 1];
    let results = run_together(&stack, &jobs).await;
    let mut streams = Vec::new();
    for result in &results {
        assert_eq!(result["status"], "COMPLETED", "{result}");
        let steps: Vec<u64> = stack
            .client
            .stream(result["id"].as_str().unwrap())
            .await
            .iter()
            .map(|item| item.as_u64().unwrap())
            .collect();
        assert_eq!((steps.len(), steps.is_sorted()), (20, true), "{steps:?}");
        streams.push((steps[0], steps[19]));
    }
    let (last_begin, first_end) =
        (streams.iter().map(|(begin, _)| begin).max(), streams.iter().map(|(_, end)| end).min());
    assert!(last_begin < first_end, "all of them ran in the same steps: {streams:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_after_one_step_and_a_late_one_takes_its_place_in_the_next() {
    let stack = stack().await;
    // All places but one.
    let mut ids = Vec::new();
    for _ in 1..RUNNING {
        ids.push(stack.client.submit(json!({"do": "check_cancel"})).await);
    }
    for id in &ids {
        stack.client.reaches(id, "IN_PROGRESS").await;
    }
    let gate = stack.client.submit(json!({"do": "wait_for", "path": "/nowhere"})).await;
    stack.client.reaches(&gate, "IN_PROGRESS").await;
    let late = stack.client.submit(json!({"do": "stream", "n": 1})).await;
    eventually("all jobs are in the process", async || {
        let busy = stack.worker.health().await["worker"]["slots"]["busy"].as_u64();
        (busy == Some(RUNNING as u64 + 1)).then_some(())
    })
    .await;
    // This ends the step in which the gate waits.
    stack.client.cancel(&ids[3]).await;
    let (gate, late) = (stack.client.finished(&gate).await, stack.client.finished(&late).await);
    let (gate, late) = (&gate["output"], &late["output"]);
    assert_eq!(late["first"].as_u64(), gate["first"].as_u64().map(|step| step + 1), "{gate} {late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_running_and_waiting_jobs_without_a_flag_and_one_bad_job_fails_alone() {
    for (bad, kind) in [("segv", "crashed"), ("oom_text", "oom"), ("error", "inference_error")] {
        one_bad_job_fails_alone(&stack().await, bad, kind, RUNNING + WAITING).await;
    }
}
