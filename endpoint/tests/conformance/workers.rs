//! The unmodified official worker against the endpoint.

use serde_json::{Value, json};

use crate::program::Endpoint;

fn status(document: &Value) -> &str {
    document["status"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn results_of_a_plain_handler_arrive_as_they_were_returned() {
    let endpoint = Endpoint::start(&[]).await;
    let _worker = endpoint.worker("plain", &[]);
    let done = endpoint.runsync(&json!({"number": 21})).await;
    assert_eq!((status(&done), &done["output"]), ("COMPLETED", &json!({"doubled": 42})));
    for name in ["delayTime", "executionTime"] {
        assert!(done[name].is_u64(), "{done}");
    }
    assert_eq!(done["workerId"], "worker-1");

    let empty = endpoint.runsync(&json!({"return": {}})).await;
    assert_eq!((status(&empty), empty.get("output")), ("COMPLETED", None));
    let part = endpoint.runsync(&json!({"return": {"error": "half", "done": 1}})).await;
    assert_eq!((status(&part), &part["error"], &part["output"]), ("FAILED", &json!("half"), &json!({"done": 1})));
    let nan = endpoint.runsync(&json!({"nan": true})).await;
    assert_eq!((status(&nan), &nan["output"]), ("COMPLETED", &json!({"value": null, "text": "NaN"})));
}

#[tokio::test]
async fn an_exception_fails_the_job_with_its_six_fields_and_the_worker_goes_on() {
    let endpoint = Endpoint::start(&[]).await;
    let _worker = endpoint.worker("plain", &[]);
    let failed = endpoint.runsync(&json!({"fail": true})).await;
    assert_eq!(status(&failed), "FAILED");
    let error: Value = serde_json::from_str(failed["error"].as_str().unwrap()).unwrap();
    for field in ["error_type", "error_message", "error_traceback", "hostname", "worker_id", "runpod_version"] {
        assert!(error[field].is_string(), "{field}: {error}");
    }
    assert_eq!((&error["error_message"], &error["worker_id"]), (&json!("told to fail"), &json!("worker-1")));
    assert_eq!(status(&endpoint.runsync(&json!({"number": 1})).await), "COMPLETED");
}

#[tokio::test]
async fn progress_shows_as_output_until_the_result_replaces_it() {
    let endpoint = Endpoint::start(&[]).await;
    let _worker = endpoint.worker("plain", &[]);
    let id = endpoint.run(&json!({"progress": 1.5, "number": 2})).await;
    let path = format!("status/{id}");
    let running = endpoint.until(&path, |job| job["output"] == json!({"percent": 50})).await;
    assert_eq!(status(&running), "IN_PROGRESS");
    let done = endpoint.until(&path, |job| status(job) != "IN_PROGRESS").await;
    assert_eq!((status(&done), &done["output"]), ("COMPLETED", &json!({"doubled": 4})));
}

#[tokio::test]
async fn a_cancelled_job_is_stopped_on_an_asynchronous_worker_which_takes_the_next_one() {
    let endpoint = Endpoint::start(&[]).await;
    let _worker = endpoint.worker("async", &[]);
    let id = endpoint.run(&json!({"sleep": 3600})).await;
    let path = format!("status/{id}");
    endpoint.until(&path, |job| status(job) == "IN_PROGRESS").await;
    assert_eq!(status(&endpoint.post(&format!("cancel/{id}"), &json!({})).await), "CANCELLED");
    let next = endpoint.runsync(&json!({"sleep": 0})).await;
    assert_eq!(status(&next), "COMPLETED", "the worker has one place, so the stop signal freed it");
    assert_eq!(status(&endpoint.get(&path).await), "CANCELLED");
}

#[tokio::test]
async fn a_job_over_its_execution_timeout_is_ended_for_a_worker_that_does_not_know_of_timeouts() {
    let endpoint = Endpoint::start(&[]).await;
    let _worker = endpoint.worker("async", &[]);
    let request = json!({"input": {"sleep": 3600}, "policy": {"executionTimeout": 5000}});
    let id = endpoint.post("run", &request).await["id"].as_str().unwrap().to_owned();
    let failed = endpoint.until(&format!("status/{id}"), |job| status(job) == "FAILED").await;
    assert_eq!(failed["error"], "executionTimeout exceeded");
    assert_eq!(status(&endpoint.runsync(&json!({"sleep": 0})).await), "COMPLETED", "its place is free again");
}

#[tokio::test]
async fn a_concurrent_worker_ends_up_holding_four_jobs_and_counts_as_one() {
    let endpoint = Endpoint::start(&[]).await;
    let _worker = endpoint.worker("concurrent", &[]);
    for _ in 0..5 {
        endpoint.run(&json!({"sleep": 3600})).await;
    }
    let health = endpoint.until("health", |health| health["jobs"]["inProgress"] == 4).await;
    assert_eq!((&health["workers"]["running"], &health["jobs"]["inQueue"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_worker_that_refreshes_leaves_after_its_job_and_gets_no_other() {
    let endpoint = Endpoint::start(&[]).await;
    let mut worker = endpoint.worker("refresh", &[]);
    let first = endpoint.runsync(&json!({"number": 1})).await;
    assert_eq!(status(&first), "COMPLETED");
    let second = endpoint.run(&json!({"number": 2})).await;
    assert_eq!(worker.end().await.code(), Some(0));
    assert_eq!(status(&endpoint.get(&format!("status/{second}")).await), "IN_QUEUE");
    let _fresh = endpoint.worker("plain", &[("RUNPOD_POD_ID", "worker-2")]);
    let done = endpoint.until(&format!("status/{second}"), |job| status(job) == "COMPLETED").await;
    assert_eq!(done["workerId"], "worker-2");
}

#[tokio::test]
async fn a_worker_that_fails_its_check_is_unhealthy_and_takes_nothing() {
    let endpoint = Endpoint::start(&[]).await;
    let id = endpoint.run(&json!({"number": 1})).await;
    let mut worker = endpoint.worker("unfit", &[]);
    endpoint.until("health", |health| health["workers"]["unhealthy"] == 1).await;
    assert_eq!(worker.end().await.code(), Some(1));
    assert_eq!(status(&endpoint.get(&format!("status/{id}")).await), "IN_QUEUE");
}

#[tokio::test]
async fn a_crashed_workers_job_is_dispatched_once_more_and_then_fails() {
    let endpoint = Endpoint::start(&["--lease", "5s"]).await;
    let id = endpoint.run(&json!({"sleep": 3600})).await;
    let path = format!("status/{id}");
    for (worker, retries) in [("first", Value::Null), ("second", json!(1))] {
        let mut process = endpoint.worker("async", &[("RUNPOD_POD_ID", worker)]);
        let taken = endpoint.until(&path, |job| job["workerId"] == worker).await;
        assert_eq!((status(&taken), &taken["retries"]), ("IN_PROGRESS", &retries));
        // Leases are watched for workers that send heartbeats; this one has its own process and may come late.
        process.says("Heartbeat Sent").await;
        process.crash();
    }
    let failed = endpoint.until(&path, |job| status(job) == "FAILED").await;
    assert_eq!((&failed["error"], &failed["retries"]), (&json!("job timed out after 1 retries"), &json!(1)));
}

#[tokio::test]
async fn a_worker_without_a_name_and_heartbeats_still_works() {
    let endpoint = Endpoint::start(&[]).await;
    let _worker = endpoint.worker("plain", &[("RUNPOD_POD_ID", "")]);
    assert_eq!(status(&endpoint.runsync(&json!({"number": 1})).await), "COMPLETED");
}

#[tokio::test]
async fn urls_without_a_query_and_with_an_unexpanded_name_work() {
    let endpoint = Endpoint::start(&[]).await;
    let url = |path: &str| format!("{}/{path}", endpoint.base);
    let (take, done) = (url("job-take/$RUNPOD_POD_ID"), url("job-done/$RUNPOD_POD_ID/$ID"));
    let env = [("RUNPOD_WEBHOOK_GET_JOB", &*take), ("RUNPOD_WEBHOOK_POST_OUTPUT", &*done)];
    let _worker = endpoint.worker("concurrent", &env);
    let ids = [endpoint.run(&json!({"n": 1})).await, endpoint.run(&json!({"n": 2})).await];
    for id in ids {
        endpoint.until(&format!("status/{id}"), |job| status(job) == "COMPLETED").await;
    }
    // The stop channel has the same shape.
    let id = endpoint.run(&json!({"sleep": 3600})).await;
    endpoint.until(&format!("status/{id}"), |job| status(job) == "IN_PROGRESS").await;
    endpoint.post(&format!("cancel/{id}"), &json!({})).await;
    let last = endpoint.runsync(&json!({"n": 3})).await;
    assert_eq!(status(&last), "COMPLETED");
}

#[tokio::test]
async fn keys_are_sent_bare_by_workers_and_as_bearer_by_clients() {
    let endpoint = Endpoint::start(&["--api-key", "any", "--worker-key", "w-secret"]).await;
    let _worker = endpoint.worker("generator", &[("RUNPOD_AI_API_KEY", "w-secret")]);
    assert_eq!(endpoint.get("health").await["status"], 401);
    let seen = endpoint.client(&["sync"]).await;
    assert_eq!(seen["status"], "COMPLETED");
}
