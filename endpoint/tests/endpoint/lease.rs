//! Lost jobs: who notices, and what happens to them.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tokio::time::sleep;

use crate::support::Api;

const INTERVAL: Duration = Duration::from_secs(10);

/// Heartbeats of `worker` that name `jobs`, for a while.
async fn beat(api: &Api, worker: &str, jobs: &str, times: u32) {
    for _ in 0..times {
        sleep(INTERVAL).await;
        assert_eq!(api.ping(worker, jobs).await.status, StatusCode::OK);
    }
}

async fn taken_by_a_beating_worker(api: &Api) -> String {
    api.ping("w1", "").await;
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.take("w1").await, id);
    id
}

#[tokio::test(start_paused = true)]
async fn a_job_missing_from_heartbeats_is_dispatched_once_more_and_then_fails() {
    let api = Api::new();
    let id = taken_by_a_beating_worker(&api).await;
    beat(&api, "w1", "", 3).await;
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0, "three heartbeats are not enough to judge");
    beat(&api, "w1", "", 1).await;
    let between = api.status(&id).await;
    assert_eq!((&between["status"], &between["retries"]), (&json!("IN_PROGRESS"), &json!(1)));
    assert_eq!(api.take("w1").await, id);
    beat(&api, "w1", "", 4).await;
    let failed = api.status(&id).await;
    assert_eq!(failed["error"], "job timed out after 1 retries");
    assert_eq!((&failed["status"], &failed["retries"]), (&json!("FAILED"), &json!(1)));
    assert_eq!((&failed["executionTime"], &failed["delayTime"]), (&json!(40_000), &json!(40_000)));
    let jobs = api.get("health").await.json()["jobs"].clone();
    assert_eq!((&jobs["retried"], &jobs["failed"]), (&json!(1), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_job_named_in_heartbeats_is_kept() {
    let api = Api::new();
    let id = taken_by_a_beating_worker(&api).await;
    beat(&api, "w1", &format!("{id}%2Cother"), 12).await;
    assert_eq!(api.status(&id).await.get("retries"), None);
    beat(&api, "w1", &id, 1).await;
    assert_eq!(api.state(&id).await, "IN_PROGRESS");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_another_worker_extend_nothing() {
    let api = Api::new();
    let id = taken_by_a_beating_worker(&api).await;
    beat(&api, "w2", &id, 4).await;
    assert_eq!(api.status(&id).await["retries"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_job_goes_ahead_of_the_others() {
    let api = Api::new();
    let lost = taken_by_a_beating_worker(&api).await;
    let next = api.run(r#"{"input": 2}"#).await;
    beat(&api, "w1", "", 4).await;
    assert_eq!([api.take("w2").await, api.take("w2").await], [lost, next]);
}

#[tokio::test(start_paused = true)]
async fn a_re_dispatched_stream_starts_over() {
    let api = Api::new();
    let id = taken_by_a_beating_worker(&api).await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": "old"}"#).await;
    beat(&api, "w1", "", 4).await;
    api.take("w2").await;
    api.post(&format!("job-stream/w2/{id}"), r#"{"output": "new"}"#).await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": "ghost"}"#).await;
    let read = api.get(&format!("stream/{id}")).await.text;
    assert_eq!(read, r#"{"status":"IN_PROGRESS","stream":[{"output":"new"}]}"#);
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_heartbeats_can_finish_jobs() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(api.status(&id).await.get("retries"), None);
    api.done("w1", &id, r#"{"output": 1}"#).await;
    assert_eq!(api.state(&id).await, "COMPLETED");
}

#[tokio::test(start_paused = true)]
async fn a_first_heartbeat_after_the_take_starts_the_lease() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.ping("w1", "").await;
    beat(&api, "w1", "", 4).await;
    assert_eq!(api.status(&id).await["retries"], 1);
}
