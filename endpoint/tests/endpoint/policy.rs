//! Limits of one job and the life of its record.

use std::time::Duration;

use axum::http::StatusCode;
use runpod_endpoint::api::{Keys, Options};
use runpod_endpoint::store::{Limits, MemoryStore, Status};
use serde_json::json;
use tokio::time::sleep;

use crate::support::Api;

#[tokio::test(start_paused = true)]
async fn a_job_over_its_execution_timeout_fails_and_is_stopped() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1, "policy": {"executionTimeout": 5000}}"#).await;
    sleep(Duration::from_secs(60)).await;
    // A worker that does not end it, as the official one.
    api.take("w1").await;
    let stop = api.get("job-stop/w1").await.json();
    assert_eq!(stop, json!({"jobsToStop": [id]}));
    let document = api.status(&id).await;
    assert_eq!((&document["status"], &document["error"]), (&json!("FAILED"), &json!("executionTimeout exceeded")));
    assert_eq!((&document["delayTime"], &document["executionTime"]), (&json!(60_000), &json!(15_000)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_has_the_first_word_about_a_timeout() {
    const ERROR: &str = r#"{"error_type":"timeout","error_message":"the deadline passed"}"#;
    for (timeout_status, status) in [(Status::Failed, "FAILED"), (Status::TimedOut, "TIMED_OUT")] {
        let limits = Limits { timeout_status, ..Limits::default() };
        let api = Api::build(Keys::default(), Options::default(), MemoryStore::new(limits));
        let id = api.run(r#"{"input": 1, "policy": {"executionTimeout": 5000}}"#).await;
        let job = api.get("job-take/w1").await.json();
        assert_eq!(job["policy"], json!({"executionTimeout": 5000}));
        // The handler was asked to stop at its deadline, and killed a while later.
        sleep(Duration::from_secs(11)).await;
        assert_eq!(api.state(&id).await, "IN_PROGRESS");
        api.done("w1", &id, &json!({ "error": ERROR }).to_string()).await;
        let document = api.status(&id).await;
        assert_eq!((&document["status"], &document["error"]), (&json!(status), &json!(ERROR)));
        assert_eq!(api.get("health").await.json()["jobs"]["failed"], 1);
        let totals = api.app.store.observe("ep").await.unwrap().totals;
        let counted = (totals.failed + totals.timed_out, totals.execution_timeouts);
        assert_eq!(counted, (1, 1), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn ttl_removes_a_job_in_any_state() {
    let api = Api::new();
    let body = r#"{"input": 1, "policy": {"ttl": 10000}}"#;
    let [done, running, waiting] = [api.run(body).await, api.run(body).await, api.run(body).await];
    api.take("w1").await;
    api.done("w1", &done, "{}").await;
    api.take("w1").await;
    sleep(Duration::from_millis(9990)).await;
    for (id, status) in [(&done, "COMPLETED"), (&running, "IN_PROGRESS"), (&waiting, "IN_QUEUE")] {
        assert_eq!(api.state(id).await, status);
    }
    sleep(Duration::from_millis(20)).await;
    for id in [&done, &running, &waiting] {
        assert_eq!(api.get(&format!("status/{id}")).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(api.get("job-stop/w1").await.json(), json!({"jobsToStop": [running]}));
    assert_eq!(api.done("w1", &running, "{}").await.status, StatusCode::OK);
    let jobs = api.get("health").await.json()["jobs"].clone();
    assert_eq!((&jobs["inQueue"], &jobs["inProgress"]), (&json!(0), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_still_waits_when_ttl_ends_is_told() {
    let reply = Api::new().post("runsync", r#"{"input": 1, "policy": {"ttl": 10000}}"#).await;
    assert_eq!((reply.status, reply.field("status")), (StatusCode::OK, "TIMED_OUT".to_owned()));
    assert!(reply.field("error").contains("`ttl`"), "{}", reply.text);
}

#[tokio::test(start_paused = true)]
async fn policies_outside_of_their_range_are_refused() {
    let api = Api::new();
    for policy in [
        r#"{"executionTimeout": 4999}"#,
        r#"{"executionTimeout": 604800001}"#,
        r#"{"ttl": 9999}"#,
        r#"{"ttl": -1}"#,
        r#"{"ttl": "1h"}"#,
    ] {
        let reply = api.post("run", format!(r#"{{"input": 1, "policy": {policy}}}"#)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{policy}");
    }
    api.run(r#"{"input": 1, "policy": {"executionTimeout": 5000, "ttl": 604800000}}"#).await;
    api.run(r#"{"input": 1, "policy": {"executionTimeout": null, "lowPriority": false}}"#).await;
    api.run(r#"{"input": 1, "policy": null}"#).await;
}

#[tokio::test(start_paused = true)]
async fn results_stay_readable_for_their_retention() {
    let api = Api::new();
    let asynchronous = api.run(r#"{"input": 1}"#).await;
    let synchronous = api.post("runsync?wait=1000", r#"{"input": 1}"#).await.field("id");
    for (id, minutes) in [(asynchronous, 30), (synchronous, 5)] {
        api.take("w1").await;
        api.done("w1", &id, r#"{"output": 1}"#).await;
        sleep(Duration::from_secs(minutes * 60 - 1)).await;
        assert_eq!(api.state(&id).await, "COMPLETED");
        sleep(Duration::from_secs(2)).await;
        assert_eq!(api.get(&format!("status/{id}")).await.status, StatusCode::NOT_FOUND, "{minutes} minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_shorten_the_life_of_a_finished_record_only() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    let path = format!("status/{id}?ttl=1000");
    api.get(&path).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(api.take("w1").await, id, "a waiting job is not shortened");
    api.done("w1", &id, "{}").await;
    assert_eq!(api.get(&path).await.field("status"), "COMPLETED");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_wants_nothing_kept_gets_the_result_once() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    let path = format!("status/{id}?ttl=0");
    api.take("w1").await;
    assert_eq!(api.get(&path).await.field("status"), "IN_PROGRESS");
    api.done("w1", &id, r#"{"output": 7}"#).await;
    assert_eq!(api.get(&path).await.json()["output"], 7);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND);
}
