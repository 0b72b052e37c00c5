//! Workers that take jobs and cannot begin them: hooks of RunPod's SDK 2.0, and the error loop of its app runtime.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::support::Api;

fn error_body(event: &str) -> String {
    let error = json!({"event": event, "error_type": "RuntimeError", "error_message": "no weights"});
    json!({"error": error.to_string()}).to_string()
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stopped_while_it_starts_gives_its_job_back() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.take("w1").await, id);
    api.done("w1", &id, &error_body("prestart_cancelled")).await;
    assert_eq!(api.state(&id).await, "IN_QUEUE");
    assert_eq!(api.take("w1").await, "", "its process is ending");
    assert_eq!(api.take("w2").await, id);
    api.done("w2", &id, r#"{"output": 1}"#).await;
    let done = api.status(&id).await;
    assert_eq!((&done["status"], &done["retries"]), (&json!("COMPLETED"), &json!(null)), "it cost no retry");
}

#[tokio::test(start_paused = true)]
async fn a_job_is_not_given_back_for_ever() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    for number in 1..=10 {
        let worker = format!("w{number}");
        assert_eq!(api.take(&worker).await, id);
        api.done(&worker, &id, &error_body("prestart_cancelled")).await;
    }
    assert_eq!(api.state(&id).await, "FAILED");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_start_fails_one_job_and_the_others_wait_for_a_better_one() {
    let api = Api::new();
    let first = api.run(r#"{"input": 1}"#).await;
    let second = api.run(r#"{"input": 2}"#).await;
    api.ping("w1", "").await;
    assert_eq!(api.take("w1").await, first);
    assert_eq!(api.take("w1").await, second);
    api.done("w1", &second, &error_body("prestart_failed")).await;
    let failed = api.status(&second).await;
    assert_eq!(failed["status"], "FAILED");
    assert!(failed["error"].as_str().unwrap().contains("no weights"), "{failed}");
    assert_eq!(api.state(&first).await, "IN_QUEUE", "its process has gone");
    assert_eq!(api.get("health").await.json()["workers"]["unhealthy"], 1);
    assert_eq!(api.take("w1").await, "");
    // A late report of the job that is no longer its own changes nothing.
    api.done("w1", &first, &error_body("prestart_failed")).await;
    assert_eq!(api.take("w2").await, first);
}

#[tokio::test(start_paused = true)]
async fn where_another_worker_is_there_the_job_is_tried_on_it_once() {
    let api = Api::new();
    assert_eq!(api.take("w2").await, "");
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.take("w1").await, id);
    api.done("w1", &id, &error_body("prestart_failed")).await;
    assert_eq!(api.state(&id).await, "IN_PROGRESS", "clients see a retry as progress");
    assert_eq!(api.take("w2").await, id);
    api.done("w2", &id, &error_body("prestart_failed")).await;
    assert_eq!(api.state(&id).await, "FAILED");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_run_a_job_has_started_whatever_an_error_says() {
    let api = Api::new();
    let ids = [api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await, api.run(r#"{"input": 3}"#).await];
    api.take("w1").await;
    api.done("w1", &ids[0], r#"{"output": 1}"#).await;
    api.take("w1").await;
    api.done("w1", &ids[1], &error_body("prestart_cancelled")).await;
    assert_eq!(api.state(&ids[1]).await, "FAILED");
    assert_eq!(api.take("w1").await, ids[2], "it goes on");
}

/// RunPod's app runtime leaves the placeholders in its URLs, sends no heartbeat, and fails jobs for as long as it runs.
#[tokio::test(start_paused = true)]
async fn a_worker_that_only_fails_gets_no_more_than_three_jobs() {
    let api = Api::new();
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(api.run(&json!({"input": number}).to_string()).await);
    }
    let bootstrap = json!({"error": json!({"error_type": "BootstrapError"}).to_string()}).to_string();
    for id in &ids[..3] {
        assert_eq!(api.get("job-take/$ID?gpu=LOCAL").await.field("id"), *id);
        api.post(&format!("job-done/$RUNPOD_POD_ID/{id}?gpu=LOCAL"), bootstrap.clone()).await;
        assert_eq!(api.state(id).await, "FAILED");
    }
    assert_eq!(api.get("health").await.json()["workers"]["unhealthy"], 1);
    assert_eq!(api.get("job-take/$ID?gpu=LOCAL").await.status, 204);
    // Started again, it has another chance.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(api.get("job-take/$ID?gpu=LOCAL").await.field("id"), ids[3]);
}

#[tokio::test(start_paused = true)]
async fn failures_of_a_worker_that_sends_heartbeats_or_has_completed_a_job_are_those_of_its_jobs() {
    let api = Api::new();
    for (worker, beats) in [("w1", true), ("w2", false)] {
        if beats {
            api.ping(worker, "").await;
        } else {
            let id = api.run(r#"{"input": 0}"#).await;
            api.take(worker).await;
            api.done(worker, &id, r#"{"output": 1}"#).await;
        }
        for _ in 0..5 {
            let id = api.run(r#"{"input": 1}"#).await;
            assert_eq!(api.take(worker).await, id, "{worker}");
            api.done(worker, &id, r#"{"error": "no"}"#).await;
        }
    }
}

/// A worker without heartbeats.
#[tokio::test(start_paused = true)]
async fn a_worker_that_finds_mistakes_of_callers_is_not_one_that_only_fails() {
    let api = Api::new();
    for number in 0..6 {
        let id = api.run(&json!({"input": number}).to_string()).await;
        assert_eq!(api.take("w1").await, id);
        let kind = if number % 2 == 0 { "validation" } else { "model_not_found" };
        let error = json!({"error": json!({"error_type": kind}).to_string()});
        api.done("w1", &id, &error.to_string()).await;
        assert_eq!(api.state(&id).await, "FAILED");
    }
    assert_eq!(api.get("health").await.json()["workers"]["unhealthy"], 0);
}

#[tokio::test(start_paused = true)]
async fn empty_inputs_reach_the_worker_as_they_are() {
    let api = Api::new();
    for input in [json!({}), json!({"__empty": true})] {
        api.run(&json!({"input": input}).to_string()).await;
        assert_eq!(api.get("job-take/w1").await.json()["input"], input);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_with_logs_and_traceback_of_the_official_size_is_returned_whole() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    let error =
        json!({"error_type": "E", "logs": "l".repeat(16_384), "error_traceback": "ä".repeat(16_384)}).to_string();
    api.done("w1", &id, &json!({"error": error}).to_string()).await;
    assert_eq!(api.status(&id).await["error"], error);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_report_as_the_first_request_leaves_no_ghost() {
    let api = Api::new();
    let report = api.get("ping/w1?status=unhealthy&check=disk&reason=full&runpod_version=2.0.0rc2").await;
    assert_eq!(report.status, 200);
    assert_eq!(api.get("health").await.json()["workers"]["unhealthy"], 1);
    sleep(Duration::from_secs(301)).await;
    let workers = api.get("health").await.json()["workers"].clone();
    assert!(workers.as_object().unwrap().values().all(|count| *count == 0), "{workers}");
}
