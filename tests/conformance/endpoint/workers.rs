//! The unmodified official worker against the endpoint.

use std::time::Duration;

use end_to_end_tests::{Client, Daemon, Endpoint, eventually};
use serde_json::{Value, json};

use crate::official::{self, Python};

/// Longest time for a worker to end.
const END: Duration = Duration::from_secs(90);

fn status(document: &Value) -> &str {
    document["status"].as_str().unwrap_or_default()
}

async fn start(args: &[&str]) -> (Endpoint, Client) {
    let endpoint = Endpoint::start(&[&["--hold", "3s"], args].concat()).await;
    let client = endpoint.local();
    (endpoint, client)
}

/// The official worker with the handler of this name; `env` replaces what the endpoint recommends, an empty value removes it.
async fn start_worker(python: Python, endpoint: &Endpoint, handler: &str, env: &[(&str, &str)]) -> Daemon {
    let mut platform = endpoint.printed_worker_env().await;
    platform.push(("RUNPOD_PING_INTERVAL".to_owned(), "1000".to_owned()));
    for (name, value) in env {
        platform.retain(|(known, _)| known != name);
        if !value.is_empty() {
            platform.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    official::worker(python, platform, handler)
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_plain_handler_arrive_as_they_were_returned() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "plain", &[]).await;
        let done = client.runsync(json!({"number": 21})).await;
        assert_eq!((status(&done), &done["output"]), ("COMPLETED", &json!({"doubled": 42})));
        for name in ["delayTime", "executionTime"] {
            assert!(done[name].is_u64(), "{done}");
        }
        assert_eq!(done["workerId"], "worker-1");

        let empty = client.runsync(json!({"return": {}})).await;
        assert_eq!((status(&empty), empty.get("output")), ("COMPLETED", None));
        let part = client.runsync(json!({"return": {"error": "half", "done": 1}})).await;
        assert_eq!((status(&part), &part["error"], &part["output"]), ("FAILED", &json!("half"), &json!({"done": 1})));
        let nan = client.runsync(json!({"nan": true})).await;
        assert_eq!((status(&nan), &nan["output"]), ("COMPLETED", &json!({"value": null, "text": "NaN"})));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_fails_the_job_with_its_six_fields_and_the_worker_goes_on() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "plain", &[]).await;
        let failed = client.runsync(json!({"fail": true})).await;
        assert_eq!(status(&failed), "FAILED");
        let error: Value = serde_json::from_str(failed["error"].as_str().unwrap()).unwrap();
        for field in ["error_type", "error_message", "error_traceback", "hostname", "worker_id", "runpod_version"] {
            assert!(error[field].is_string(), "{field}: {error}");
        }
        assert_eq!((&error["error_message"], &error["worker_id"]), (&json!("told to fail"), &json!("worker-1")));
        assert_eq!(status(&client.runsync(json!({"number": 1})).await), "COMPLETED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_shows_as_output_until_the_result_replaces_it() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "plain", &[]).await;
        let id = client.submit(json!({"progress": 1.5, "number": 2})).await;
        let path = format!("/status/{id}");
        let running = client.get_when(&path, |job| job["output"] == json!({"percent": 50})).await;
        assert_eq!(status(&running), "IN_PROGRESS");
        let done = client.get_when(&path, |job| status(job) != "IN_PROGRESS").await;
        assert_eq!((status(&done), &done["output"]), ("COMPLETED", &json!({"doubled": 4})));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_stopped_on_an_asynchronous_worker_which_takes_the_next_one() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "async", &[]).await;
        let id = client.submit(json!({"sleep": 3600})).await;
        let path = format!("/status/{id}");
        client.get_when(&path, |job| status(job) == "IN_PROGRESS").await;
        assert_eq!(status(&client.cancel(&id).await), "CANCELLED");
        let next = client.runsync(json!({"sleep": 0})).await;
        assert_eq!(status(&next), "COMPLETED", "the worker has one place, so the stop signal freed it");
        assert_eq!(status(&client.get(&path).await), "CANCELLED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_its_execution_timeout_is_ended_for_a_worker_that_does_not_know_of_timeouts() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "async", &[]).await;
        let request = json!({"input": {"sleep": 3600}, "policy": {"executionTimeout": 5000}});
        let id = client.submit_request(request).await;
        let failed = client.get_when(&format!("/status/{id}"), |job| status(job) == "FAILED").await;
        assert_eq!(failed["error"], "executionTimeout exceeded");
        assert_eq!(status(&client.runsync(json!({"sleep": 0})).await), "COMPLETED", "its place is free again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_worker_ends_up_holding_four_jobs_and_counts_as_one() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "concurrent", &[]).await;
        for _ in 0..5 {
            client.submit(json!({"sleep": 3600})).await;
        }
        let health = client.get_when("/health", |health| health["jobs"]["inProgress"] == 4).await;
        assert_eq!((&health["workers"]["running"], &health["jobs"]["inQueue"]), (&json!(1), &json!(1)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_refreshes_leaves_after_its_job_and_gets_no_other() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let mut worker = start_worker(python, &endpoint, "refresh", &[]).await;
        let first = client.runsync(json!({"number": 1})).await;
        assert_eq!(status(&first), "COMPLETED");
        let second = client.submit(json!({"number": 2})).await;
        assert_eq!(worker.wait(END).code(), Some(0));
        assert_eq!(status(&client.status(&second).await), "IN_QUEUE");
        let _fresh = start_worker(python, &endpoint, "plain", &[("RUNPOD_POD_ID", "worker-2")]).await;
        let done = client.get_when(&format!("/status/{second}"), |job| status(job) == "COMPLETED").await;
        assert_eq!(done["workerId"], "worker-2");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_fails_its_check_is_unhealthy_and_takes_nothing() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let id = client.submit(json!({"number": 1})).await;
        let mut worker = start_worker(python, &endpoint, "unfit", &[]).await;
        client.get_when("/health", |health| health["workers"]["unhealthy"] == 1).await;
        assert_eq!(worker.wait(END).code(), Some(1));
        assert_eq!(status(&client.status(&id).await), "IN_QUEUE");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_workers_job_is_dispatched_once_more_and_then_fails() {
    official::each(|python| async move {
        let (endpoint, client) = start(&["--lease", "5s"]).await;
        let id = client.submit(json!({"sleep": 3600})).await;
        let path = format!("/status/{id}");
        for (worker, retries) in [("first", Value::Null), ("second", json!(1))] {
            let process = start_worker(python, &endpoint, "async", &[("RUNPOD_POD_ID", worker)]).await;
            let taken = client.get_when(&path, |job| job["workerId"] == worker).await;
            assert_eq!((status(&taken), &taken["retries"]), ("IN_PROGRESS", &retries));
            // Leases are watched for workers that send heartbeats; this one has its own process and may come late.
            let beats = || async { process.log().contains("Heartbeat Sent").then_some(()) };
            eventually("a heartbeat", beats).await;
            // As a crash of the machine would: heartbeats included.
            drop(process);
        }
        let failed = client.get_when(&path, |job| status(job) == "FAILED").await;
        assert_eq!((&failed["error"], &failed["retries"]), (&json!("job timed out after 1 retries"), &json!(1)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_name_and_heartbeats_still_works() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "plain", &[("RUNPOD_POD_ID", "")]).await;
        assert_eq!(status(&client.runsync(json!({"number": 1})).await), "COMPLETED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_without_a_query_and_with_an_unexpanded_name_work() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let url = |path: &str| format!("{}/local/{path}", endpoint.base);
        let (take, done) = (url("job-take/$RUNPOD_POD_ID"), url("job-done/$RUNPOD_POD_ID/$ID"));
        let env = [("RUNPOD_WEBHOOK_GET_JOB", &*take), ("RUNPOD_WEBHOOK_POST_OUTPUT", &*done)];
        let _worker = start_worker(python, &endpoint, "concurrent", &env).await;
        let ids = [client.submit(json!({"n": 1})).await, client.submit(json!({"n": 2})).await];
        for id in ids {
            client.get_when(&format!("/status/{id}"), |job| status(job) == "COMPLETED").await;
        }
        // The stop channel has the same shape.
        let id = client.submit(json!({"sleep": 3600})).await;
        client.get_when(&format!("/status/{id}"), |job| status(job) == "IN_PROGRESS").await;
        client.cancel(&id).await;
        let last = client.runsync(json!({"n": 3})).await;
        assert_eq!(status(&last), "COMPLETED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_sent_bare_by_workers_and_as_bearer_by_clients() {
    official::each(|python| async move {
        let (endpoint, client) = start(&["--api-key", "any", "--worker-key", "w-secret"]).await;
        let _worker = start_worker(python, &endpoint, "generator", &[("RUNPOD_AI_API_KEY", "w-secret")]).await;
        assert_eq!(client.health().await["status"], 401);
        let seen = official::python_client(python, "endpoint/client.py", &endpoint.base, &["sync"]);
        assert_eq!(seen["status"], "COMPLETED");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_inputs_reach_the_handler() {
    official::each(|python| async move {
        let (endpoint, client) = start(&[]).await;
        let _worker = start_worker(python, &endpoint, "async", &[]).await;
        let empty = client.runsync(json!({})).await;
        assert_eq!((status(&empty), empty.get("output")), ("COMPLETED", None));
        // What the client of version 2.0 sends for no input.
        let marked = client.runsync(json!({"__empty": true})).await;
        assert_eq!((status(&marked), &marked["output"]), ("COMPLETED", &json!({"__empty": true})));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_over_the_limit_fails_its_job_at_once() {
    official::each(|python| async move {
        let (endpoint, client) = start(&["--max-result-mib", "1"]).await;
        let _worker = start_worker(python, &endpoint, "plain", &[]).await;
        let failed = client.runsync(json!({"return": "x".repeat(2 << 20)})).await;
        assert_eq!(status(&failed), "FAILED");
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains("of 2.0 MiB") && error.contains("limit of 1 MiB"), "{error}");
        assert_eq!(status(&client.runsync(json!({"number": 1})).await), "COMPLETED");
    })
    .await;
}
